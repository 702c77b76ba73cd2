-- name: start
-- Write an operation and its frozen set down, with who asked. The same id again changes nothing.
with made as (
    insert into operations (
        operation_id, action, chosen, detail, requested_by, state, rate_per_s, looked_at_all,
        items, started_at
    )
    select
        %(operation_id)s::uuid, %(action)s, %(chosen)s::jsonb, %(detail)s, %(actor)s,
        %(state)s::text, %(rate_per_s)s::float8, %(looked_at_all)s,
        cardinality(%(subjects)s::text[]), case when %(state)s::text = 'running' then now() end
    on conflict (operation_id) do nothing
    returning *
),
frozen as (
    insert into operation_items (operation_id, nth, subject)
    select made.operation_id, item.nth, item.subject
    from made
    cross join unnest(%(subjects)s::text[]) with ordinality as item (subject, nth)
),
noted as (
    insert into audit (actor, action, subject, detail)
    select
        requested_by, 'operation.' || state, operation_id::text,
        jsonb_build_object('action', action, 'items', items, 'chosen', chosen, 'detail', detail)
    from made
)
select operation_id::text as operation_id from made;

-- name: begin
-- Start an operation that is held; what was decided meanwhile takes the place of what was not.
with begun as (
    update operations
    set state = 'running',
        started_at = now(),
        next_at = now(),
        detail = coalesce(%(detail)s::text, detail),
        rate_per_s = coalesce(%(rate_per_s)s::float8, rate_per_s)
    where operation_id = %(operation_id)s::uuid and state = 'held'
    returning *
),
noted as (
    insert into audit (actor, action, subject, detail)
    select
        %(actor)s, 'operation.running', operation_id::text,
        jsonb_build_object('action', action, 'items', items, 'detail', detail)
    from begun
)
select operation_id::text as operation_id from begun;

-- name: stop
-- Stop an operation, or let go of one that is held; items that somebody is at are finished.
with over as (
    update operations set state = 'stopped', ended_at = now(), stopped_by = %(actor)s
    where operation_id = %(operation_id)s::uuid and state in ('held', 'running')
    returning *
),
noted as (
    insert into audit (actor, action, subject, detail)
    select %(actor)s, 'operation.stopped', operation_id::text, counts from over
)
select operation_id::text as operation_id from over;

-- name: columns
-- Select what is shown of an operation.
select
    operation_id::text as operation_id,
    action,
    state,
    chosen,
    detail,
    requested_by,
    rate_per_s,
    looked_at_all,
    items,
    finished,
    counts,
    trouble,
    created_at,
    started_at,
    ended_at,
    stopped_by
from operations

-- name: one
-- That one.
where operation_id = %(operation_id)s::uuid

-- name: newest
-- The newest so many, from a place on.
where %(after_id)s::uuid is null
    or (created_at, operation_id) < (%(after_at)s::timestamptz, %(after_id)s::uuid)
order by created_at desc, operation_id desc
limit %(limit)s

-- name: items
-- List the items of an operation in order, all or those with one of these results.
select
    nth,
    subject,
    result,
    why,
    run_id::text as run_id,
    tries,
    done_at
from operation_items
where operation_id = %(operation_id)s::uuid
    and nth > %(after)s
    and (%(results)s::text[] is null or result = any(%(results)s::text[]))
order by nth
limit %(limit)s;

-- name: states
-- Read the states of runs, in the order in which they are named, for what would become of them.
select
    asked.run_id::text as run_id,
    runs.status,
    runs.reason,
    (
        select following.run_id::text from replays as following
        where following.replayed_run_id = asked.run_id
    ) as replayed_as
from unnest(%(run_ids)s::uuid[]) with ordinality as asked (run_id, nth)
left join runs using (run_id)
order by asked.nth;
