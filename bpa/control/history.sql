-- name: whole
-- Read runs whole, but for the lists of what happened to them.
select
    runs.*,
    runs.run_id::text as run_id,
    agent_versions.spec ->> 'name' as agent_name,
    runs.cost_usd::text as cost_usd,
    coalesce(runs.outcome ->> 'vendor', runs.input_ref ->> 'vendor') as vendor,
    coalesce(runs.outcome ->> 'invoice_id', runs.input_ref ->> 'invoice_id') as invoice_id,
    runs.input_ref ->> 'message_id' as message_id,
    case
        when runs.status = 'queued' and runs.not_before > now() then runs.not_before
    end as waiting_until,
    coalesce(leases.waiting_since, leases.granted_at) as lease_waiting_since,
    leases.granted_at as lease_granted_at,
    leases.acknowledged_at as lease_acknowledged_at,
    leases.expires_at as lease_expires_at,
    made.replayed_run_id::text as replay_of,
    made.requested_at as replay_asked_at,
    made.sent_at as replay_sent_at,
    replayed.traceparent as replayed_traceparent,
    following.run_id::text as replayed_as
from runs
left join agent_versions on agent_versions.agent_id = runs.agent_id
    and agent_versions.version = runs.version
left join leases using (run_id)
left join replays as made using (run_id)
left join runs as replayed on replayed.run_id = made.replayed_run_id
left join replays as following on following.replayed_run_id = runs.run_id
where runs.run_id = any(%(run_ids)s::uuid[]);

-- name: attempts_of
-- Read the leases of runs that have ended, in order.
select
    run_id::text as run_id,
    epoch,
    node_id,
    waiting_since,
    granted_at,
    acknowledged_at,
    ended_at,
    ending,
    reason,
    detail,
    timings,
    replayed,
    excess,
    heard
from executions where run_id = any(%(run_ids)s::uuid[])
order by run_id, epoch;

-- name: steps_of
-- Read the journals of runs, each in order.
select
    run_id::text as run_id,
    seq,
    kind,
    digest,
    effect_key,
    reserved_tokens,
    call,
    usage,
    cost_usd::text as cost_usd,
    epoch,
    answered_epoch,
    (answer is not null) as answered,
    case kind
        when 'model' then coalesce(answer = '', false)
        else answer is null and ended_at is not null
    end as refused,
    replays,
    inherited_from::text as inherited_from,
    started_at,
    ended_at
from steps where run_id = any(%(run_ids)s::uuid[])
order by run_id, seq;

-- name: deliveries_of
-- Read the deliveries of runs, each's in order.
select
    run_id::text as run_id,
    delivery_id,
    sequence_number,
    owner,
    delivery_count,
    received_at,
    settled_at,
    disposition
from deliveries where run_id = any(%(run_ids)s::uuid[])
order by run_id, delivery_id;

-- name: message_of
-- Read what came with a run's message beside its body.
select message from run_inputs where run_id = %(run_id)s::uuid;

-- name: links_of
-- Read all that one message came to be by its replays: the original, then each replay.
with original as (
    select coalesce(max(original_run_id::text)::uuid, %(run_id)s::uuid) as run_id
    from replays where run_id = %(run_id)s::uuid
),
links as (
    select
        run_id,
        0 as replay_number,
        false as edited,
        null as requested_by,
        null::timestamptz as requested_at
    from original
    union all
    select run_id, replay_number, edited, requested_by, requested_at
    from replays where original_run_id = (select run_id from original)
)
select
    links.run_id::text as run_id,
    replay_number,
    edited,
    requested_by,
    requested_at,
    runs.status,
    runs.reason
from links left join runs using (run_id)
order by replay_number;

-- name: totals
-- Count runs by status and reason, with latency and cost, for the demo's account and an overview.
select
    status,
    reason,
    count(*) as runs,
    coalesce(sum((costs ->> 'tokens_in')::bigint), 0) as tokens_in,
    coalesce(sum((costs ->> 'tokens_out')::bigint), 0) as tokens_out,
    coalesce(sum((costs ->> 'unknown_calls')::bigint), 0) as unknown_calls,
    coalesce(sum((costs ->> 'unknown_tokens')::bigint), 0) as unknown_tokens,
    coalesce(sum(cost_usd), 0)::text as cost_usd,
    percentile_cont(0.5) within group (
        order by extract(epoch from ended_at - least(enqueued_at, ended_at)) * 1000
    ) as latency_p50_ms,
    percentile_cont(0.95) within group (
        order by extract(epoch from ended_at - least(enqueued_at, ended_at)) * 1000
    ) as latency_p95_ms
from runs
where created_at >= coalesce(%(since)s::timestamptz, '-infinity')
group by grouping sets ((status, reason));
