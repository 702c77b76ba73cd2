-- name: lock
-- Let one commit at a time count the leases of these nodes and deployments, and hold off a
-- registration, a drain, a change of a deployment and a rebuild until it is done. Its own statement,
-- because the grant has to see what was committed while this one waited.
with generation as materialized (
    select 1 from settings where name = 'hold_generation' for share
),
locked_nodes as materialized (
    select 1 from nodes where node_id = any(%(node_ids)s) order by node_id for no key update
),
locked_deployments as materialized (
    select 1 from deployments where dep_id = any(%(dep_ids)s) order by dep_id for no key update
)
select
    (select count(*) from generation),
    (select count(*) from locked_nodes),
    (select count(*) from locked_deployments);

-- name: grant
-- Grant what still fits of a batch of proposals, and say of each other one what is in its way.
with proposal as (
    select * from unnest(
        %(run_ids)s::uuid[],
        %(node_ids)s::text[],
        %(boot_ids)s::text[],
        %(dep_ids)s::text[],
        %(revisions)s::bigint[],
        %(run_limits)s::int[],
        %(cpu_millis)s::int[],
        %(memory_bytes)s::bigint[]
    ) with ordinality as t (
        run_id, node_id, boot_id, dep_id, revision, run_limit, cpu_millis, memory_bytes, nth
    )
),
free_run as materialized ( -- what another transaction has in hand is not free
    select run_id from runs
    where run_id = any(%(run_ids)s::uuid[])
        and status = 'queued'
        and not cancel_requested
        and (not_before is null or not_before <= now())
    order by run_id
    for no key update skip locked
),
node as (
    select
        node_id,
        boot_id,
        coalesce((status ->> 'draining')::boolean, false) as draining,
        (capacity ->> 'slots')::int as slots,
        coalesce((capacity ->> 'cpu_millis')::int, 0) as cpu_millis,
        coalesce((capacity ->> 'memory_bytes')::bigint, 0) as memory_bytes,
        used.*
    from nodes
    cross join lateral (
        select
            count(*) as used_slots,
            coalesce(sum(leases.cpu_millis), 0) as used_cpu_millis,
            coalesce(sum(leases.memory_bytes), 0) as used_memory_bytes
        from leases where leases.node_id = nodes.node_id
    ) as used
    where node_id = any(%(node_ids)s::text[])
),
deployment as (
    select
        dep_id,
        revision,
        coalesce((status ->> 'active')::boolean, false) as active,
        (select count(*) from leases where leases.dep_id = deployments.dep_id) as used
    from deployments
    where dep_id = any(%(dep_ids)s::text[])
),
judged as (
    select
        proposal.*,
        case
            when (
                select (value #>> '{}')::bigint from settings where name = 'hold_generation'
            ) is distinct from %(generation)s::bigint then 'generation'
            when free_run.run_id is null then 'run'
            when node.boot_id is distinct from proposal.boot_id or node.draining then 'node'
            when
                deployment.revision is distinct from proposal.revision
                or not deployment.active then 'deployment'
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
        row_number() over of_deployment as places_asked
    from judged
    where refused is null
    window
        of_node as (partition by node_id order by nth),
        of_deployment as (partition by dep_id order by nth)
),
fitting as (
    select counted.* from counted
    join node using (node_id)
    join deployment using (dep_id)
    where node.used_slots + counted.slots_asked <= node.slots
        and deployment.used + counted.places_asked <= counted.run_limit
        and (node.cpu_millis = 0 or node.used_cpu_millis + counted.cpu_asked <= node.cpu_millis)
        and (
            node.memory_bytes = 0
            or node.used_memory_bytes + counted.memory_asked <= node.memory_bytes
        )
),
granted as (
    update runs
    set status = 'offered',
        lease_epoch = runs.lease_epoch + 1,
        node_id = fitting.node_id,
        waiting_reason = null,
        waiting_nodes = null,
        started_at = coalesce(runs.started_at, now())
    from fitting
    where runs.run_id = fitting.run_id
        and runs.status = 'queued'
    returning
        runs.run_id,
        runs.lease_epoch as epoch,
        greatest(runs.created_at, runs.not_before) as waiting_since,
        fitting.node_id,
        fitting.boot_id,
        fitting.dep_id,
        fitting.cpu_millis,
        fitting.memory_bytes
),
leased as (
    insert into leases (run_id, node_id, boot_id, dep_id, epoch, cpu_millis, memory_bytes, expires_at)
    select
        run_id,
        node_id,
        boot_id,
        dep_id,
        epoch,
        cpu_millis,
        memory_bytes,
        now() + make_interval(secs => %(ttl_s)s)
    from granted
    on conflict (run_id) do update -- a queued run has no lease: what is there was left behind
    set node_id = excluded.node_id,
        boot_id = excluded.boot_id,
        dep_id = excluded.dep_id,
        epoch = excluded.epoch,
        cpu_millis = excluded.cpu_millis,
        memory_bytes = excluded.memory_bytes,
        granted_at = excluded.granted_at,
        acknowledged_at = null,
        expires_at = excluded.expires_at
)
select
    granted.epoch,
    extract(epoch from clock_timestamp() - granted.waiting_since)::float8 as waited_s,
    case when granted.epoch is null then coalesce(judged.refused, 'full') end as refused
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
