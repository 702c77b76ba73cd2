-- name: drain
-- Cordon a node and set the deadline by which it is to be empty; the present one stays if none is
-- given. Waits for commits that grant to the node: what they granted is seen by what follows.
with before as materialized (
    select
        node_id,
        drain_deadline_at
    from nodes where node_id = %(node_id)s
    for no key update
),
drained as (
    update nodes
    set cordoned_at = coalesce(nodes.cordoned_at, now()),
        drain_started_at = coalesce(nodes.drain_started_at, now()),
        drain_deadline_at = case
            when %(deadline_s)s::float8 is not null
                then now() + make_interval(secs => %(deadline_s)s::float8)
            else coalesce(
                before.drain_deadline_at, now() + make_interval(secs => %(default_s)s::float8)
            )
        end
    from before
    where nodes.node_id = before.node_id
    returning before.drain_deadline_at as deadline_before, nodes.drain_deadline_at as deadline_at
),
noted as (
    insert into audit (actor, action, subject, detail)
    select
        %(actor)s,
        'node.drain',
        %(node_id)s,
        jsonb_build_object('deadline_at', deadline_at, 'deadline_before', deadline_before)
    from drained
)
select
    deadline_before,
    deadline_at
from drained;

-- name: cordon
-- Have a node get no new leases; what it runs it keeps.
with cordoned as (
    update nodes set cordoned_at = coalesce(cordoned_at, now())
    where node_id = %(node_id)s
    returning node_id
),
noted as (
    insert into audit (actor, action, subject) select %(actor)s, 'node.cordon', node_id from cordoned
)
select node_id from cordoned;

-- name: uncordon
-- Let a node get leases again, and call off its drain.
with before as materialized (
    select
        node_id,
        drain_deadline_at
    from nodes where node_id = %(node_id)s
    for no key update
),
uncordoned as (
    update nodes set cordoned_at = null, drain_started_at = null, drain_deadline_at = null
    from before
    where nodes.node_id = before.node_id
    returning nodes.node_id, before.drain_deadline_at as deadline_before
),
noted as (
    insert into audit (actor, action, subject, detail)
    select
        %(actor)s,
        'node.uncordon',
        node_id,
        jsonb_strip_nulls(jsonb_build_object('called_off', deadline_before))
    from uncordoned
)
select deadline_before from uncordoned;

-- name: forget
-- Forget a node that is not heard of any more and holds nothing; what it was is in the audit.
with present as materialized (
    select
        nodes.*,
        heartbeat_at >= now() - make_interval(secs => %(silent_s)s) as lives,
        (select count(*) from leases where leases.node_id = nodes.node_id) as holds
    from nodes where node_id = %(node_id)s
    for update
),
forgotten as (
    delete from nodes using present
    where nodes.node_id = present.node_id and not present.lives and present.holds = 0
    returning nodes.node_id
),
noted as (
    insert into audit (actor, action, subject, detail)
    select
        %(actor)s,
        'node.forget',
        node_id,
        jsonb_build_object('metadata', metadata, 'heartbeat_at', heartbeat_at)
    from present join forgotten using (node_id)
)
select
    lives,
    holds
from present;

-- name: lock_offers
-- Lock what a node was offered and has not acknowledged. A statement of its own, once the node's row
-- is locked: it has to see what was granted until then.
select lock_runs(array(
    select run_id from leases where node_id = %(node_id)s and acknowledged_at is null
));

-- name: take_back
-- Take back what a node was offered and has not acknowledged: the runs wait again, at no cost. A
-- statement of its own again: what was acknowledged while the locks were waited for is a lease.
with moved as (
    update runs as r
    set status = 'queued',
        lease_epoch = r.lease_epoch + 1,
        waiting_reason = 'its node was cordoned before it had acknowledged the offer'
    from leases
    where leases.node_id = %(node_id)s
        and leases.acknowledged_at is null
        and r.run_id = leases.run_id
        and r.lease_epoch = leases.epoch
        and r.status = 'offered'
    returning r.run_id, leases.epoch, r.node_id, r.dep_id, r.agent_id, r.version, r.status,
        r.reason, r.detail, r.trace_id
),
freed as (
    delete from leases using moved where leases.run_id = moved.run_id returning leases.*
),
kept as (
    insert into executions (
        run_id, epoch, node_id, waiting_since, granted_at, acknowledged_at, ending, reason,
        detail
    )
    select
        f.run_id, f.epoch, f.node_id, coalesce(f.waiting_since, f.granted_at), f.granted_at,
        f.acknowledged_at, 'withdrawn', null, 'its node was cordoned'
    from freed as f join moved using (run_id)
)
select
    moved.*,
    moved.run_id::text as run_id
from moved;

-- name: remaining
-- List what a node holds, oldest first, with how far each run has come by its journal.
select
    leases.run_id::text as run_id,
    leases.dep_id,
    leases.epoch,
    leases.granted_at,
    leases.acknowledged_at,
    extract(
        epoch from greatest(now(), leases.acknowledged_at) - leases.acknowledged_at
    )::float8 as held_s,
    runs.worked_s,
    coalesce(granted.spec, deployments.target) as target,
    step.kind as step_kind,
    (step.answer is not null) as step_answered
from leases
join runs using (run_id)
join deployments on deployments.dep_id = leases.dep_id
left join deployment_revisions as granted
    on granted.dep_id = leases.dep_id and granted.revision = leases.revision
left join lateral (
    select
        steps.kind,
        steps.answer
    from steps
    where steps.run_id = leases.run_id and steps.epoch = leases.epoch
    order by steps.seq desc
    limit 1
) as step on true
where leases.node_id = %(node_id)s
order by leases.granted_at, leases.run_id;
