-- name: look
-- See the fleet and its work in one statement, so that all of it is of one moment.
with held as (
    select
        node_id,
        dep_id,
        count(*) as slots,
        sum(cpu_millis) as cpu_millis,
        sum(memory_bytes) as memory_bytes,
        bool_or(alone) as has_loner
    from leases
    group by node_id, dep_id
),
served as (
    select
        d.dep_id,
        d.revision,
        coalesce((d.status ->> 'active')::boolean, false)
        and not d.status ? 'paused' as active,
        (select coalesce(sum(held.slots), 0) from held where held.dep_id = d.dep_id) as leased,
        (
            select count(*) from (
                select 1 from runs
                where runs.dep_id = d.dep_id and runs.status = 'queued'
                limit %(counted)s
            ) as counted
        ) as waiting,
        case when gate.host is not null then to_jsonb(gate) end as gate
    from deployments as d
    left join lateral breaker_gate(d.dep_id, d.revision) as gate on true
    where d.env = %(env)s
),
waiting as (
    select due.* from served
    cross join lateral (
        select
            run_id,
            dep_id,
            created_at,
            waiting_reason as told,
            infra_failures >= %(alone_from)s as alone,
            row_number() over (order by created_at, run_id) as nth
        from runs
        where runs.dep_id = served.dep_id
            and status = 'queued'
            and cancel_asked_at is null
            and (not_before is null or not_before <= now())
        order by created_at, run_id
        limit %(most)s
    ) as due
    where served.waiting > 0
    order by due.nth, due.created_at -- the cut at the end is as fair as the plan
    limit %(most)s
)
select
    now() as now,
    (
        select (value #>> '{}')::bigint from settings where name = 'hold_generation'
    ) as hold_generation,
    (
        select coalesce(json_agg(node), '[]')::text from (
            select
                nodes.node_id,
                boot_id,
                coalesce(metadata -> 'labels', '{}') as labels,
                coalesce((capacity ->> 'slots')::int, 0) as slots,
                coalesce((capacity ->> 'cpu_millis')::int, 0) as cpu_millis,
                coalesce((capacity ->> 'memory_bytes')::bigint, 0) as memory_bytes,
                cordoned_at is not null as cordoned,
                drain_deadline_at is not null
                or coalesce(status ->> 'closing' = 'true', false) as draining,
                heartbeat_at,
                coalesce(stream_ended_at >= heartbeat_at, false) as disconnected,
                coalesce(used.slots, 0) as used_slots,
                coalesce(used.cpu_millis, 0) as used_cpu_millis,
                coalesce(used.memory_bytes, 0) as used_memory_bytes,
                coalesce(used.has_loner, false) as has_loner
            from nodes
            left join (
                select
                    node_id,
                    sum(slots) as slots,
                    sum(cpu_millis) as cpu_millis,
                    sum(memory_bytes) as memory_bytes,
                    bool_or(has_loner) as has_loner
                from held
                group by node_id
            ) as used on used.node_id = nodes.node_id
            where heartbeat_at > now() - make_interval(secs => %(forgotten_after_s)s)
            order by nodes.node_id
        ) as node
    ) as nodes,
    (
        select coalesce(json_agg(served), '[]')::text from served where active or waiting > 0
    ) as deployments,
    (
        select coalesce(json_agg(waiting order by created_at, run_id), '[]')::text from waiting
    ) as waiting;

-- name: specs
-- Read the specs of deployments that are new or were changed.
select dep_id, revision, target::text as spec
from deployments
where dep_id = any(%(dep_ids)s);
