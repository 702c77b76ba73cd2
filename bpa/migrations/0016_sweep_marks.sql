-- How far the dead letters of a queue are known (bpa/control/sweep_mark.py says what each number
-- means), so that a sweep reads what may be new and not a hundred thousand letters every time.
alter table sweeps
add column new_from bigint not null default 0,
add column passed bigint not null default 0,
add column highest bigint not null default 0,
add column checked_to bigint not null default 0,
add column rest_s double precision not null default 0; -- what the last sweep's cost asks for
