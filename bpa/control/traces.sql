-- name: claim
-- Take runs whose spans are due, for as long as an export may take; other replicas leave them.
update traces_due
set due_at = now() + make_interval(secs => %(hold_s)s)
where run_id in (
    select run_id from traces_due
    where due_at <= now()
    order by due_at
    limit %(most)s
    for update skip locked
)
returning run_id::text as run_id, told;

-- name: look_again
-- Come back to runs that have not ended yet, each after its time, for what comes after what was told.
update traces_due
set due_at = now() + make_interval(secs => again.after_s), told = again.told
from unnest(%(run_ids)s::uuid[], %(after_s)s::float8[], %(told)s::int[])
    as again (run_id, after_s, told)
where traces_due.run_id = again.run_id;

-- name: give_up
-- Forget runs that ended long ago and whose turn has not come since: nobody takes spans that fast.
with forgotten as (
    delete from traces_due using runs
    where runs.run_id = traces_due.run_id
        and traces_due.due_at < now() - make_interval(secs => %(after_s)s::float8)
        and runs.ended_at < now() - make_interval(secs => %(after_s)s::float8)
    returning 1
)
select count(*) as runs from forgotten;

-- name: done
-- Forget runs whose spans are exported, or will not be.
delete from traces_due where run_id = any(%(run_ids)s::uuid[]);
