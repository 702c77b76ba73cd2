-- name: acknowledge
-- Turn an offer into a lease: the node has it, from now on for one time to live (I6).
with report as (
    select * from unnest(%(run_ids)s::uuid[], %(epochs)s::bigint[]) as t (run_id, epoch)
),
held as (
    update leases
    set acknowledged_at = coalesce(leases.acknowledged_at, now()),
        expires_at = now() + make_interval(secs => %(ttl_s)s)
    from report
    where leases.run_id = report.run_id
        and leases.epoch = report.epoch
        and leases.expires_at > now()
    returning leases.run_id, leases.epoch
),
started as (
    update runs
    set status = 'running', executions = executions + 1
    from held
    where runs.run_id = held.run_id and runs.status = 'offered'
)
select run_id::text as run_id, epoch from held;

-- name: lapse
-- End leases by (run, epoch) through no fault of the run; the epoch rises, so late reports fail.
-- What was found to be over is looked at again: a renewal may have come first.
with report as (
    select * from jsonb_to_recordset(%(rows)s::jsonb) as t (
        run_id uuid, epoch bigint, cause text, status text, reason text, detail text,
        waiting_reason text, infra_failures int, delay_s double precision
    )
),
lost as (
    select report.* from report
    join leases using (run_id, epoch)
    where case report.cause
        when 'expired' then leases.expires_at <= now()
        when 'refused' then leases.acknowledged_at is null
    end
),
moved as (
    update runs as r
    set status = lost.status,
        reason = lost.reason,
        detail = lost.detail,
        waiting_reason = lost.waiting_reason,
        lease_epoch = r.lease_epoch + 1,
        infra_failures = r.infra_failures + lost.infra_failures,
        not_before = now() + make_interval(secs => lost.delay_s),
        ended_at = case when lost.status = 'dead_lettered' then now() end,
        tokens_used = spent.tokens,
        cost_usd = spent.usd,
        costs = spent.costs
    from lost
    cross join lateral run_spent(lost.run_id) as spent
    where r.run_id = lost.run_id
        and r.lease_epoch = lost.epoch
        and r.status in ('offered', 'running')
    returning r.run_id, r.node_id, r.dep_id, r.agent_id, r.version, r.status, r.reason,
        r.detail, r.trace_id, r.enqueued_at, r.ended_at
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
        f.acknowledged_at, lost.cause, lost.reason, coalesce(lost.detail, lost.waiting_reason)
    from freed as f join lost using (run_id, epoch)
)
select
    moved.*,
    moved.run_id::text as run_id,
    extract(epoch from moved.ended_at - least(moved.enqueued_at, moved.ended_at)) * 1000
        as latency_ms,
    (
        select d.owner from deliveries as d
        where d.run_id = moved.run_id and d.settled_at is null
        order by d.delivery_id desc limit 1
    ) as owner
from moved;

-- name: over
-- Find leases whose time is over by Postgres's own clock. Those of an earlier boot of a node last as
-- long as any: its process may live and work on (docs/decisions/0015).
select
    leases.run_id::text as run_id,
    leases.epoch,
    leases.node_id,
    leases.acknowledged_at is null as never_acknowledged,
    coalesce(nodes.drain_deadline_at <= now(), false) as was_to_hand_back,
    leases.missing_at is not null as missing,
    runs.agent_failures,
    runs.crashes,
    runs.infra_failures
from leases
join runs using (run_id)
left join nodes on nodes.node_id = leases.node_id
where leases.expires_at <= now()
order by leases.expires_at
limit %(most)s;

-- name: renew
-- Renew in one statement what a node says it holds; what does not come back is lost (I6). A node
-- that keeps leases for a time to live after it was told to hand them back keeps them no longer.
-- A lease that two heartbeats of its node do not list is over: one may have been sent before the
-- node had it.
with held as (
    select * from unnest(%(run_ids)s::uuid[], %(epochs)s::bigint[]) as t (run_id, epoch)
),
beat as (
    update nodes
    set heartbeat_at = now(),
        status = status || jsonb_build_object('closing', %(closing)s::boolean)
    where node_id = %(node_id)s and boot_id = %(boot_id)s
    returning
        cordoned_at is not null as cordoned,
        drain_deadline_at is not null as draining,
        coalesce(drain_deadline_at <= now(), false) as hand_back,
        coalesce(drain_deadline_at + make_interval(secs => %(ttl_s)s) <= now(), false) as overdue
),
locked as materialized ( -- in the order of all writers: the node, then leases; see lock_runs
    select run_id from leases
    where exists (select from beat)
        and node_id = %(node_id)s
        and boot_id = %(boot_id)s
    order by run_id
    for no key update
),
renewed as (
    update leases
    set expires_at = now() + make_interval(secs => %(ttl_s)s), missing_at = null
    from held join locked using (run_id) cross join beat
    where leases.run_id = held.run_id
        and leases.epoch = held.epoch
        and leases.boot_id = %(boot_id)s
        and leases.acknowledged_at is not null
        and leases.expires_at > now()
        and not beat.overdue
    returning leases.run_id, leases.epoch
),
missing as (
    update leases
    set missing_at = coalesce(missing_at, now()),
        expires_at = case
            when missing_at <= now() - make_interval(secs => %(every_s)s / 2)
                then least(expires_at, now())
            else expires_at
        end
    from locked
    where leases.run_id = locked.run_id
        and leases.boot_id = %(boot_id)s
        and leases.acknowledged_at is not null
        and (leases.run_id, leases.epoch) not in (select run_id, epoch from held)
)
select
    beat.cordoned,
    beat.draining,
    beat.hand_back,
    renewed.run_id::text as run_id,
    renewed.epoch,
    runs.cancel_asked_at is not null as cancelling
from beat
left join renewed on true
left join runs on runs.run_id = renewed.run_id;
