-- name: look
-- Read what pages show live: of each thing a mark that differs once it has changed. Runs that have
-- ended are in it for ten seconds from their creation, so that a short one is not missed.
(
    select
        'run' as kind,
        run_id::text as id,
        status,
        dep_id,
        concat_ws(
            '|', lease_epoch, cancel_asked_at, waiting_reason, parked ->> 'host',
            case when status = 'running' then (
                select concat_ws('|', max(seq), count(ended_at))
                from steps where steps.run_id = runs.run_id
            ) end
        ) as mark
    from runs
    where status in ('queued', 'offered', 'running')
    order by status = 'queued', created_at desc
    limit %(limit)s
)
union all
(
    select 'run', run_id::text, status, dep_id, ''
    from runs
    where created_at > now() - interval '10 s' and status in ('completed', 'dead_lettered')
    order by created_at desc
    limit %(limit)s
)
union all
select
    'node', node_id, '', '',
    concat_ws(
        '|', boot_id, metadata, capacity, status, cordoned_at, drain_deadline_at, stream_ended_at,
        heartbeat_at < now() - make_interval(secs => %(silent_after_s)s),
        (select count(*) from leases where leases.node_id = nodes.node_id)
    )
from nodes
union all
select 'queue', queue, '', '', concat_ws('|', measured_at, trouble) from queues
union all
select 'deployment', dep_id, '', '', concat_ws('|', revision, status) from deployments
union all
select
    'breaker', host, '', '',
    concat_ws('|', state, closings, probe_at, probe_run, failed_probes, ramp, passed, failed_at)
from breakers
union all
select 'operation', operation_id::text, '', '', concat_ws('|', state, finished, trouble)
from operations
where ended_at is null or ended_at > now() - interval '1 min';

-- name: ended
-- Read of runs that were alive how they ended.
select run_id::text as run_id, status, dep_id
from runs
where run_id = any(%(run_ids)s::uuid[]) and status in ('completed', 'dead_lettered');
