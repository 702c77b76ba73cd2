-- name: nodes
-- List the nodes that are there, or should be: one that closed of its own accord and holds nothing
-- has left, and one that was not heard of for so long is gone.
select
    nodes.node_id,
    coalesce((nodes.capacity ->> 'slots')::int, 0) as slots,
    held.leases,
    greatest(extract(epoch from now() - nodes.heartbeat_at), 0)::float8 as heartbeat_age_s,
    case when held.leases > 0
        then coalesce(
            greatest(extract(epoch from now() - nodes.drain_deadline_at), 0), 0
        )::float8
        else 0
    end as drain_overdue_s
from nodes
cross join lateral (
    select count(*) as leases from leases where leases.node_id = nodes.node_id
) as held
where held.leases > 0
    or (
        nodes.heartbeat_at > now() - make_interval(secs => %(gone_after_s)s)
        and not (
            coalesce(nodes.status ->> 'closing' = 'true', false)
            and (
                nodes.stream_ended_at >= nodes.heartbeat_at
                or nodes.heartbeat_at < now() - make_interval(secs => %(silent_after_s)s)
            ) is true
        )
    )
order by nodes.node_id;
