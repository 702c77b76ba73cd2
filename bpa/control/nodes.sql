-- name: register
-- Announce a node. A new boot takes the place of one whose stream broke after it was last heard of,
-- or that was not heard of for two heartbeats; in the way of a living one nothing is changed.
insert into nodes (node_id, boot_id, metadata, capacity)
values (%(node_id)s, %(boot_id)s, %(metadata)s::jsonb, %(capacity)s::jsonb)
on conflict (node_id) do update
set boot_id = excluded.boot_id,
    metadata = excluded.metadata,
    capacity = excluded.capacity,
    status = nodes.status - 'closing',
    registered_at = now(),
    heartbeat_at = now(),
    stream = case when nodes.boot_id = excluded.boot_id then nodes.stream end,
    stream_ended_at = null
where nodes.boot_id = excluded.boot_id
    or nodes.stream_ended_at >= nodes.heartbeat_at
    or nodes.heartbeat_at < now() - make_interval(secs => %(silent_s)s)
returning
    cordoned_at is not null as cordoned,
    drain_deadline_at is not null as draining;

-- name: gone
-- Note that whatever process was this node is no more; what it held need not wait for its end.
with gone as (
    update nodes set stream_ended_at = now() where node_id = %(node_id)s
)
update leases set expires_at = least(expires_at, now()) where node_id = %(node_id)s;

-- name: page
-- List nodes with the leases they hold, and who keeps new ones from them.
select
    nodes.node_id,
    nodes.boot_id,
    nodes.metadata,
    nodes.capacity,
    nodes.status,
    nodes.cordoned_at,
    nodes.drain_started_at,
    nodes.drain_deadline_at,
    extract(epoch from nodes.drain_deadline_at - now())::float8 as drain_left_s,
    nodes.registered_at,
    nodes.heartbeat_at,
    greatest(extract(epoch from now() - nodes.heartbeat_at), 0)::float as heartbeat_age_s,
    (select count(*) from leases where leases.node_id = nodes.node_id) as slots_used,
    cordoned.actor as cordoned_by,
    drained.actor as drain_asked_by
from nodes
left join lateral (
    select actor from audit
    where subject = nodes.node_id
        and action in ('node.cordon', 'node.drain')
        and at >= nodes.cordoned_at
    order by audit_id
    limit 1
) as cordoned on true
left join lateral (
    select actor from audit
    where subject = nodes.node_id and action = 'node.drain' and at >= nodes.drain_started_at
    order by audit_id desc
    limit 1
) as drained on true
where %(node_id)s::text is null or nodes.node_id = %(node_id)s
order by nodes.node_id;
