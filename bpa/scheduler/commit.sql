-- name: lock
-- Let one commit at a time count the leases of these nodes, deployments and failing targets, and
-- hold off a registration, a drain, a change of a deployment or a breaker and a rebuild until it is
-- done. Its own statement, because the grant has to see what was committed while this one waited.
with generation as materialized (
    select 1 from settings where name = 'hold_generation' for share
),
locked_nodes as materialized (
    select 1 from nodes
    where node_id in (select jsonb_array_elements_text(%(node_ids)s::jsonb))
    order by node_id
    for no key update of nodes
),
locked_deployments as materialized (
    select 1 from deployments
    where dep_id in (select jsonb_array_elements_text(%(dep_ids)s::jsonb))
    order by dep_id
    for no key update of deployments
),
locked_breakers as materialized (
    select 1 from breakers
    where state <> 'closed'
        and deployments ?| array(select jsonb_array_elements_text(%(dep_ids)s::jsonb))
    order by host
    for no key update of breakers
)
select
    (select count(*) from generation),
    (select count(*) from locked_nodes),
    (select count(*) from locked_deployments),
    (select count(*) from locked_breakers);

-- name: grant
-- Grant what still fits of a batch of proposals, and say of each other one what is in its way.
-- (Proposals are JSON, as an array's length would have each call planned anew; and the statement
-- stays below the length up to which the driver remembers how to read one: tests/unit/test_queries.)
with proposal as (
    select * from jsonb_to_recordset(%(proposals)s::jsonb) as t (
        nth int, run_id uuid, node_id text, boot_id text, dep_id text, revision bigint,
        run_limit int, cpu_millis int, memory_bytes bigint
    )
),
-- what another transaction has in hand is not free
free_run as (
    select run_id, infra_failures >= %(alone_from)s as alone from proposal
    join runs using (run_id)
    where status = 'queued'
        and cancel_asked_at is null
        and coalesce(not_before <= now(), true)
    order by run_id
    for no key update of runs skip locked
),
node as (
    select
        nodes.*,
        (capacity ->> 'slots')::int as slots,
        nullif((capacity ->> 'cpu_millis')::int, 0) as cpu,
        nullif((capacity ->> 'memory_bytes')::bigint, 0) as memory,
        used.*
    from (select distinct node_id from proposal) as p
    join nodes using (node_id)
    cross join lateral node_use(node_id) as used
),
deployment as (
    select
        d.*,
        (select count(*) from leases where leases.dep_id = d.dep_id) as used,
        host,
        gate.state,
        room
    from (select distinct dep_id from proposal) as p
    join deployments as d using (dep_id)
    left join lateral breaker_gate(dep_id, revision) as gate on true
),
judged as (
    select
        proposal.*,
        free_run.alone,
        host,
        state as breaker,
        case
            when %(generation)s is distinct from (
                select value #>> '{}' from settings where name = 'hold_generation'
            ) then 'generation'
            when free_run.run_id is null then 'run'
            when node.boot_id is distinct from proposal.boot_id
                or node.cordoned_at is not null
                or node.status ->> 'closing' = 'true' then 'node'
            when deployment.revision is distinct from proposal.revision
                -- paused, or retired
                or deployment.status <> '{"active": true}' then 'deployment'
        end as refused
    from proposal
    left join free_run using (run_id)
    left join node using (node_id)
    left join deployment using (dep_id)
),
counted as (
    select
        *,
        row_number() over of_node as slots_asked,
        sum(cpu_millis) over of_node as cpu_asked,
        sum(memory_bytes) over of_node as memory_asked,
        bool_or(alone) over of_node as alone_asked,
        row_number() over of_dep as places_asked,
        row_number() over of_host as host_asked
    from judged
    where refused is null
    window
        of_node as (partition by node_id order by nth),
        of_dep as (partition by dep_id order by nth),
        of_host as (partition by host order by nth)
),
fitting as (
    select counted.* from counted
    join node using (node_id)
    join deployment using (dep_id)
    where used_slots + slots_asked <= slots
        and used + places_asked <= run_limit
        and (host_asked <= room) is not false
        and (used_cpu + cpu_asked <= cpu) is not false
        and (used_memory + memory_asked <= memory) is not false
        and case
            when alone then used_slots + slots_asked = 1
            else not (has_loner or alone_asked)
        end
),
granted as (
    update runs
    set status = 'offered', lease_epoch = lease_epoch + 1, node_id = fitting.node_id,
        waiting_reason = null, waiting_nodes = null, parked = null,
        started_at = coalesce(started_at, now())
    from fitting
    where runs.run_id = fitting.run_id and status = 'queued'
    returning fitting.*, lease_epoch, greatest(created_at, not_before) as waiting_since
),
probing as (
    update breakers
    set probe_run = granted.run_id, probe_epoch = lease_epoch
    from granted
    where breakers.host = granted.host and breaker = 'open'
),
leased as (
    insert into leases (
        run_id, node_id, boot_id, dep_id, revision, epoch, cpu_millis, memory_bytes, alone,
        waiting_since, expires_at
    )
    select
        run_id, node_id, boot_id, dep_id, revision, lease_epoch, cpu_millis, memory_bytes, alone,
        waiting_since, now() + make_interval(secs => %(ttl_s)s)
    from granted
    -- a queued run has no lease: what is there was left behind
    on conflict (run_id) do update set (
        node_id, boot_id, dep_id, revision, epoch, cpu_millis, memory_bytes, alone, waiting_since,
        granted_at, acknowledged_at, missing_at, expires_at
    ) = row(
        excluded.node_id, excluded.boot_id, excluded.dep_id, excluded.revision, excluded.epoch,
        excluded.cpu_millis, excluded.memory_bytes, excluded.alone, excluded.waiting_since, now(),
        null, null, excluded.expires_at
    )
)
select
    granted.lease_epoch as epoch,
    extract(epoch from clock_timestamp() - granted.waiting_since)::float8 as waited_s,
    case when granted.run_id is null then coalesce(judged.refused, 'full') end as refused
from judged
left join granted using (run_id)
order by judged.nth;

-- name: raise_generation
-- Void the holds of the present generation, unless somebody else just did.
update settings
set value = to_jsonb(greatest((value #>> '{}')::bigint, %(present)s::bigint) + 1)
where name = 'hold_generation' and (value #>> '{}')::bigint = %(seen)s
returning (value #>> '{}')::bigint as generation;

-- name: generation
-- Read the present hold generation.
select (value #>> '{}')::bigint as generation from settings where name = 'hold_generation';

-- name: leases
-- Read who holds what.
select run_id::text as run_id, node_id, dep_id from leases;

-- name: explain
-- Write down why runs wait, where that has changed.
with locked as materialized (
    select run_id from runs
    where run_id = any(%(run_ids)s::uuid[]) and status = 'queued'
    order by run_id
    for no key update skip locked
),
explanation as (
    select * from unnest(%(summaries)s::text[], %(nodes)s::jsonb[])
    with ordinality as t (summary, nodes, nth)
),
waiting as (
    select * from unnest(%(run_ids)s::uuid[], %(nths)s::bigint[]) as t (run_id, nth)
)
update runs
set waiting_reason = explanation.summary, waiting_nodes = explanation.nodes
from locked
join waiting using (run_id)
join explanation using (nth)
where runs.run_id = locked.run_id
    and runs.status = 'queued'
    and (runs.waiting_reason, runs.waiting_nodes)
    is distinct from (explanation.summary, explanation.nodes);
