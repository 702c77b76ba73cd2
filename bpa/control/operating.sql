-- name: take
-- Take the next items of an operation that its rate allows, a second's worth at most, for so many
-- seconds: whoever dies with them leaves them to others after that. The rate is kept here, by
-- Postgres's clock, so that any number of replicas keep it together.
with due as (
    select operation_id, rate_per_s from operations as o
    where o.state = 'running' and o.next_at <= now()
        and exists (
            select from operation_items as i
            where i.operation_id = o.operation_id and i.result is null and i.due_at <= now()
        )
    order by o.next_at
    limit 1
    for update of o skip locked
),
chosen as (
    select i.operation_id, i.nth from operation_items as i
    -- as one value, not a join: the index then gives them in order, whatever the statistics say
    where i.operation_id = (select operation_id from due)
        and i.result is null and i.due_at <= now()
    order by i.nth
    limit (
        select least(%(at_most)s, greatest(1, floor(coalesce(rate_per_s, %(at_most)s))))::int
        from due
    )
    for update of i skip locked
),
taken as (
    update operation_items as i
    set due_at = now() + make_interval(secs => %(for_s)s::float8), tries = i.tries + 1
    from chosen
    where i.operation_id = chosen.operation_id and i.nth = chosen.nth
    returning i.operation_id, i.nth, i.subject, i.tries
),
paced as (
    update operations as o
    set next_at = now()
        + make_interval(secs => coalesce((select count(*) from taken) / o.rate_per_s, 0))
    from due
    where o.operation_id = due.operation_id
    returning o.operation_id, o.action, o.detail, o.requested_by, o.created_at
)
select
    paced.operation_id::text as operation_id,
    paced.action,
    paced.detail,
    paced.requested_by,
    taken.nth,
    taken.subject,
    taken.tries
from paced join taken using (operation_id)
order by taken.nth;

-- name: letters_replayed
-- Find which of these dead letters were replayed since the operation was asked for: by itself, before
-- it was cut off and could say so, or by somebody else.
select
    replays.queue,
    replays.sequence_number,
    replays.run_id::text as run_id
from unnest(%(queues)s::text[], %(numbers)s::bigint[]) as letter (queue, sequence_number)
join replays using (queue, sequence_number)
where replays.requested_at >= (
    select created_at from operations where operation_id = %(operation_id)s::uuid
);

-- name: runs_replayed
-- Find which of these runs were replayed since the operation was asked for, likewise.
select
    replayed_run_id::text as replayed_run_id,
    run_id::text as run_id
from replays
where replayed_run_id = any(%(run_ids)s::uuid[])
    and requested_at >= (
        select created_at from operations where operation_id = %(operation_id)s::uuid
    );

-- name: record
-- Write down what became of items, each once, and count them; the last one ends the operation.
with told as (
    select * from jsonb_to_recordset(%(rows)s::jsonb) as t (
        nth int, result text, why text, run_id uuid, again_s float8
    )
),
finished as (
    update operation_items as i
    set result = told.result, why = told.why, run_id = told.run_id, done_at = now()
    from told
    where i.operation_id = %(operation_id)s::uuid and i.nth = told.nth
        and i.result is null and told.result is not null
    returning i.result
),
postponed as (
    update operation_items as i
    set why = told.why, run_id = told.run_id,
        due_at = now() + make_interval(secs => told.again_s)
    from told
    where i.operation_id = %(operation_id)s::uuid and i.nth = told.nth
        and i.result is null and told.result is null
),
tally as (
    select result, count(*) as many from finished group by result
),
counted as (
    update operations as o
    set trouble = '',
        finished = o.finished + (select count(*) from finished),
        counts = o.counts || coalesce(
            (
                select jsonb_object_agg(result, coalesce((o.counts ->> result)::int, 0) + many)
                from tally
            ),
            '{}'
        ),
        state = case
            when o.state = 'running' and o.finished + (select count(*) from finished) = o.items
                then 'done'
            else o.state
        end,
        ended_at = case
            when o.state = 'running' and o.finished + (select count(*) from finished) = o.items
                then now()
            else o.ended_at
        end
    where o.operation_id = %(operation_id)s::uuid
    returning o.operation_id
)
select (select count(*) from finished) as finished from counted;

-- name: interrupted
-- Say why nothing goes on, and when these items and the operation may be tried again.
with given_back as (
    update operation_items
    set due_at = now() + make_interval(secs => %(again_s)s::float8), tries = tries - 1
    where operation_id = %(operation_id)s::uuid and nth = any(%(numbers)s::int[])
        and result is null
)
update operations
set trouble = %(trouble)s,
    next_at = greatest(next_at, now() + make_interval(secs => %(again_s)s::float8))
where operation_id = %(operation_id)s::uuid;

-- name: forget
-- Remove an operation that ended long ago, or that nobody started, with its items; one at a time, since
-- it may have very many.
delete from operations
where operation_id = (
    select operation_id from operations
    where ended_at < now() - make_interval(days => %(kept_days)s)
        or state = 'held' and created_at < now() - make_interval(hours => %(held_hours)s)
    order by created_at
    limit 1
)
returning operation_id;

-- name: soon
-- Tell in how many seconds the rate of some operation allows its next items.
select extract(epoch from min(next_at) - now())::float8 as soon_s
from operations where state = 'running' and next_at > now();

-- name: reason
-- Read why a run was dead-lettered.
select reason from runs where run_id = %(run_id)s::uuid;
