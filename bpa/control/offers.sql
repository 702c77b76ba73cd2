-- name: pending
-- Read all that a node needs for the leases it was granted and has not been offered.
select
    runs.run_id::text as run_id,
    leases.node_id,
    leases.boot_id,
    leases.epoch,
    runs.dep_id,
    deployments.env,
    coalesce(granted.spec, deployments.target) as target,
    coalesce(received.spec, granted.spec, deployments.target) as received_as,
    agent_versions.spec,
    run_inputs.document,
    runs.effect_key,
    runs.executions,
    (
        runs.executions > 0
        or exists (select from replays where replays.run_id = runs.run_id)
    ) as has_journal,
    runs.worked_s,
    runs.traceparent,
    runs.tracestate,
    runs.agent_id,
    runs.version,
    extract(epoch from now() - least(runs.enqueued_at, now()))::float8 as queued_s,
    jsonb_build_object(
        'closings', coalesce(breaker.closings, 0),
        'watched', coalesce(breaker.state <> 'closed', false),
        'probe', coalesce(
            breaker.state = 'open'
            and (breaker.probe_run, breaker.probe_epoch) = (leases.run_id, leases.epoch), false
        )
    ) as admission
from leases
join runs using (run_id)
join run_inputs using (run_id)
join deployments on deployments.dep_id = runs.dep_id
left join deployment_revisions as granted
    on granted.dep_id = runs.dep_id and granted.revision = leases.revision
left join deployment_revisions as received
    on received.dep_id = runs.dep_id and received.revision = runs.revision
join agent_versions on agent_versions.agent_id = runs.agent_id
    and agent_versions.version = runs.version
left join lateral (
    select * from breakers
    where (breakers.deployments ->> runs.dep_id)::bigint
        = target_revision(runs.dep_id, leases.revision)
    order by state = 'closed', state desc, host
    limit 1
) as breaker on true
where leases.acknowledged_at is null
    and (leases.run_id = any(%(run_ids)s::uuid[]) or leases.node_id = %(node_id)s)
order by runs.created_at;

-- name: journals
-- Read the recorded steps of runs that were executed before or inherited some, for their replay.
select
    run_id::text as run_id,
    seq,
    kind,
    digest,
    intent,
    effect_key,
    reserved_tokens,
    call,
    answer,
    usage,
    coalesce(round(extract(epoch from ended_at) * 1000), 0)::bigint as ended_at_ms,
    inherited_from is not null as inherited
from steps where run_id = any(%(run_ids)s::uuid[])
order by run_id, seq;

-- name: unanswered
-- Find grants to these nodes that nobody acknowledged for a while: their offers may be lost.
select run_id::text as run_id, epoch, node_id
from leases
where acknowledged_at is null
    and node_id = any(%(node_ids)s)
    and granted_at < now() - make_interval(secs => %(older_s)s);

-- name: open_stream
-- Note the latest stream of a boot, and that its process lives.
update nodes
set stream = %(stream)s::uuid, stream_ended_at = null
where node_id = %(node_id)s and boot_id = %(boot_id)s
returning node_id;

-- name: end_stream
-- Note that a boot's latest stream broke; one that it has replaced since then says nothing.
update nodes set stream_ended_at = now()
where node_id = %(node_id)s and stream = %(stream)s::uuid and stream_ended_at is null;

-- name: announce
-- Tell the replica that holds a node's stream of a grant to it.
select pg_notify('offers', %(node_id)s);
