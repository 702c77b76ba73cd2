-- name: receive
-- Insert each arrival's run, input and delivery, or join the run it already has (I2).
with arrival as (
    select * from rows from (
        jsonb_to_recordset(%(rows)s::jsonb) as (
            run_id uuid, agent_id text, version text, dep_id text, input_ref jsonb, status text,
            reason text, detail text, trace_id text, traceparent text, tracestate text,
            enqueued_at timestamptz, effect_key text, owner text, delivery_count int,
            inherits_from uuid, received_at timestamptz, sender text, message jsonb, traced boolean,
            revision bigint
        ),
        unnest(%(documents)s::bytea[]),
        unnest(%(digests)s::bytea[])
    ) with ordinality as t (
        run_id, agent_id, version, dep_id, input_ref, status, reason, detail, trace_id,
        traceparent, tracestate, enqueued_at, effect_key, owner, delivery_count, inherits_from,
        received_at, sender, message, traced, revision, document, body_sha256, nth
    )
),
inserted as (
    insert into runs (
        run_id, agent_id, version, dep_id, input_ref, status, reason, detail, trace_id,
        traceparent, tracestate, enqueued_at, effect_key, received_at, sender, revision, ended_at,
        waiting_reason
    )
    select
        run_id, agent_id, coalesce(origin.version, arrival.version), dep_id, input_ref, status,
        reason, detail, trace_id, traceparent, tracestate, enqueued_at, effect_key, received_at,
        sender, case when origin.version is null then arrival.revision else origin.revision end,
        case when status = 'dead_lettered' then now() end,
        case when status = 'queued' then 'not planned yet' end
    from arrival
    left join lateral ( -- what goes on from an effect must come to the same one (I4)
        select o.version, o.revision from runs as o
        where o.run_id = arrival.inherits_from
            and o.dep_id = arrival.dep_id
            and exists (
                select from steps where steps.run_id = o.run_id and steps.kind = 'effect'
            )
    ) as origin on true
    order by run_id -- as every writer: another replica may insert the same runs now
    on conflict (run_id) do nothing
    returning run_id
),
input as (
    insert into run_inputs (run_id, document, body_sha256, message)
    select arrival.run_id, arrival.document, arrival.body_sha256, arrival.message
    from arrival join inserted using (run_id)
    on conflict (run_id) do nothing
),
traced as (
    insert into traces_due (run_id, due_at)
    select arrival.run_id, now() + interval '1 second'
    from arrival join inserted using (run_id)
    where arrival.traced
    on conflict (run_id) do nothing
),
inherited as ( -- a replay goes on from what its original has paid for and sent (I4)
    insert into steps (
        run_id, seq, kind, digest, intent, effect_key, reserved_tokens, call, answer, usage, epoch,
        started_at, ended_at, inherited_from
    )
    select
        a.run_id, s.seq, s.kind, s.digest, s.intent, s.effect_key, s.reserved_tokens, s.call,
        s.answer, s.usage, 0, s.started_at, s.ended_at, coalesce(s.inherited_from, s.run_id)
    from arrival as a join inserted using (run_id) join steps as s on s.run_id = a.inherits_from
    where s.kind = 'effect' or length(s.answer) > 0
    on conflict (run_id, seq) do nothing
),
delivered as (
    insert into deliveries (run_id, owner, delivery_count, sequence_number)
    select run_id, owner, delivery_count, (input_ref ->> 'sequence_number')::bigint
    from arrival order by nth
    returning delivery_id, run_id
),
-- the broker delivers a message again only when the earlier lock is gone, its owner perhaps too
superseded as (
    update deliveries as earlier
    set settled_at = now(), disposition = 'superseded'
    from arrival
    where earlier.run_id = arrival.run_id
        and earlier.sequence_number = (arrival.input_ref ->> 'sequence_number')::bigint
        and earlier.delivery_count <= arrival.delivery_count
        and earlier.settled_at is null
)
select
    delivered.run_id::text as run_id,
    delivered.delivery_id,
    (inserted.run_id is not null) as is_new,
    now() as recorded_at,
    coalesce(runs.status, arrival.status) as status,
    case when runs.run_id is null then arrival.reason else runs.reason end as reason,
    case when runs.run_id is null then arrival.detail else runs.detail end as detail
from delivered
join (select distinct on (run_id) * from arrival order by run_id, nth) as arrival using (run_id)
left join inserted using (run_id)
left join runs using (run_id)
order by delivered.delivery_id;

-- name: verdicts
-- Read how runs ended, for those who must settle their messages.
select
    run_id::text as run_id,
    status,
    reason,
    detail
from runs
where run_id = any(%(run_ids)s::uuid[]) and status in ('completed', 'dead_lettered');

-- name: record_steps
-- Append intents and answers under the epoch of their lease; a stale epoch changes nothing and does
-- not come back (I3), nor does a step change that is recorded otherwise (I4).
with report as (
    select * from rows from (
        jsonb_to_recordset(%(rows)s::jsonb) as (
            run_id uuid, epoch bigint, seq int, kind text, digest text, effect_key text,
            reserved_tokens int, call jsonb, usage jsonb, cost_usd numeric, started_at_ms bigint,
            ended_at_ms bigint
        ),
        unnest(%(intents)s::bytea[]),
        unnest(%(answers)s::bytea[])
    ) as t (
        run_id, epoch, seq, kind, digest, effect_key, reserved_tokens, call, usage, cost_usd,
        started_at_ms, ended_at_ms, intent, answer
    )
),
held as (
    select r.run_id, r.lease_epoch from runs as r
    join report on report.run_id = r.run_id and report.epoch = r.lease_epoch
    where r.status = 'running'
    for share of r
),
recorded as (
    insert into steps (
        run_id, seq, kind, digest, intent, effect_key, reserved_tokens, call, answer, usage,
        cost_usd, epoch, answered_epoch, started_at, ended_at
    )
    select
        run_id, seq, kind, digest, intent, effect_key, reserved_tokens, call, answer, usage,
        cost_usd, epoch, case when answer is not null then epoch end,
        to_timestamp(started_at_ms / 1000.0),
        -- a node's clock may have been set back meanwhile
        case when ended_at_ms <> 0
            then to_timestamp(greatest(ended_at_ms, started_at_ms) / 1000.0)
        end
    from report
    where (run_id, epoch) in (select run_id, lease_epoch from held)
    on conflict (run_id, seq) do update
    set answer = coalesce(steps.answer, excluded.answer),
        -- what goes with the answer that is kept, or with the latest request that has none yet
        call = case
            when steps.answer is null then coalesce(excluded.call, steps.call)
            else coalesce(steps.call, excluded.call)
        end,
        usage = coalesce(steps.usage, excluded.usage),
        cost_usd = case when steps.answer is null then excluded.cost_usd else steps.cost_usd end,
        ended_at = case
            when steps.answer is not null then steps.ended_at
            when excluded.ended_at is not null then greatest(excluded.ended_at, steps.started_at)
        end,
        epoch = case when excluded.answer is null then excluded.epoch else steps.epoch end,
        answered_epoch = coalesce(steps.answered_epoch, excluded.answered_epoch)
    where steps.kind = excluded.kind
        and steps.digest = excluded.digest
        and steps.intent is not distinct from excluded.intent
        and steps.effect_key is not distinct from excluded.effect_key
        and coalesce(steps.answer = excluded.answer, true)
    returning run_id, seq
)
select
    report.run_id::text as run_id,
    report.epoch,
    report.seq,
    recorded.seq is not null as recorded
from report
join held on held.run_id = report.run_id and held.lease_epoch = report.epoch
left join recorded on recorded.run_id = report.run_id and recorded.seq = report.seq;

-- name: progress
-- Note the stage an execution is in, under its epoch.
update runs
set timings = timings || jsonb_build_object('stage', %(stage)s::text)
where run_id = %(run_id)s::uuid and lease_epoch = %(epoch)s and status = 'running'
returning run_id::text as run_id;

-- name: counters
-- Read what has gone wrong with a run so far, by kind (I10).
select
    run_id::text as run_id,
    agent_failures,
    crashes,
    infra_failures
from runs where run_id = any(%(run_ids)s::uuid[]);

-- name: finish
-- Write down the end of an execution under its epoch, and free its lease.
with report as (
    select * from jsonb_to_recordset(%(rows)s::jsonb) as t (
        run_id uuid, epoch bigint, status text, reason text, detail text, outcome jsonb,
        worked_s double precision, timings jsonb, agent_failures int, crashes int,
        infra_failures int, delay_s double precision, waiting_reason text,
        effect_seq int, effect_answer text, effect_call jsonb, effect_ended_at_ms bigint,
        replayed int[], parked jsonb, spared int, ending text, ending_reason text,
        ending_detail text, excess jsonb, heard jsonb
    )
),
moved as (
    update runs as r
    set status = report.status,
        reason = report.reason,
        detail = case
            when report.reason = 'Cancelled' -- whoever asked said why; its node, what is in doubt
                then concat_ws('; ', nullif(r.cancel_detail, ''), nullif(report.detail, ''))
            else report.detail
        end,
        outcome = report.outcome,
        worked_s = r.worked_s + report.worked_s,
        timings = r.timings || report.timings,
        agent_failures = r.agent_failures + report.agent_failures,
        crashes = r.crashes + report.crashes,
        infra_failures = r.infra_failures + report.infra_failures,
        not_before = now() + make_interval(secs => report.delay_s),
        waiting_reason = report.waiting_reason,
        waiting_nodes = null,
        parked = report.parked || jsonb_build_object('since', now()),
        spared = r.spared + report.spared,
        ended_at = case when report.status in ('completed', 'dead_lettered') then now() end,
        tokens_used = spent.tokens,
        cost_usd = spent.usd,
        costs = spent.costs
    from report
    cross join lateral run_spent(report.run_id) as spent
    where r.run_id = report.run_id
        and r.lease_epoch = report.epoch
        and r.status = 'running'
    returning r.run_id, r.lease_epoch as epoch, r.node_id, r.dep_id, r.agent_id, r.version,
        r.status, r.reason, r.detail, r.enqueued_at, r.ended_at, r.costs, r.traceparent, r.trace_id
),
answered as (
    update steps
    set answer = decode(report.effect_answer, 'base64'),
        call = coalesce(report.effect_call, steps.call),
        usage = '{}',
        answered_epoch = report.epoch,
        ended_at = greatest(to_timestamp(report.effect_ended_at_ms / 1000.0), steps.started_at)
    from moved join report using (run_id, epoch)
    where steps.run_id = report.run_id
        and steps.seq = report.effect_seq
        and steps.kind = 'effect'
        and steps.answer is null
),
replayed as (
    update steps
    set replays = steps.replays + 1
    from moved join report using (run_id, epoch)
    where steps.run_id = report.run_id
        and steps.seq = any(report.replayed)
        and steps.answer is not null
),
freed as (
    delete from leases using moved where leases.run_id = moved.run_id returning leases.*
),
kept as (
    insert into executions (
        run_id, epoch, node_id, waiting_since, granted_at, acknowledged_at, ending, reason,
        detail, timings, replayed, excess, heard
    )
    select
        f.run_id, f.epoch, f.node_id, coalesce(f.waiting_since, f.granted_at), f.granted_at,
        f.acknowledged_at, report.ending, report.ending_reason, report.ending_detail,
        report.timings, report.replayed, report.excess, report.heard
    from freed as f join report using (run_id, epoch)
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

-- name: already_finished
-- Tell which of these reports were written down before, when their answer was lost on the way.
select r.run_id::text as run_id, t.epoch
from runs as r
join unnest(%(run_ids)s::uuid[], %(epochs)s::bigint[]) as t (run_id, epoch)
    on t.run_id = r.run_id and t.epoch = r.lease_epoch
where r.status not in ('offered', 'running');

-- name: ask_cancel
-- Note that somebody wants a living run ended, once; whoever works on it hears of it.
with asked as (
    update runs
    set cancel_asked_at = now(), cancel_asked_by = %(actor)s, cancel_detail = %(detail)s
    where run_id = %(run_id)s::uuid
        and status in ('queued', 'offered', 'running')
        and cancel_asked_at is null
    returning run_id, status
),
noted as (
    insert into audit (actor, action, subject, detail)
    select %(actor)s, 'run.cancel', run_id::text,
        jsonb_build_object('detail', %(detail)s::text, 'status', status)
    from asked
)
select status from asked;

-- name: cancellations_due
-- Find the runs to cancel that nobody works on, or that their node did not end in time.
select run_id::text as run_id
from runs
where cancel_asked_at is not null
    and (
        status = 'queued'
        or status in ('offered', 'running')
        and cancel_asked_at <= now() - make_interval(secs => %(grace_s)s)
    )
order by cancel_asked_at
limit 500;

-- name: cancel
-- End runs by the will of whoever asked for it; the epoch rises, so a node that has one is fenced.
with moved as (
    update runs
    set status = 'dead_lettered',
        reason = 'Cancelled',
        detail = concat_ws(
            '; ',
            cancel_detail,
            case when status <> 'queued' then 'node ' || node_id || ' did not end it in time' end,
            (
                select 'an effect may have been applied under the key ' || steps.effect_key
                from steps
                where steps.run_id = runs.run_id and kind = 'effect' and answer is null
                limit 1
            )
        ),
        lease_epoch = lease_epoch + 1,
        waiting_reason = null,
        waiting_nodes = null,
        ended_at = now(),
        tokens_used = spent.tokens,
        cost_usd = spent.usd,
        costs = spent.costs
    from unnest(%(run_ids)s::uuid[]) as due (run_id)
    cross join lateral run_spent(due.run_id) as spent
    where runs.run_id = due.run_id
        and cancel_asked_at is not null
        and (
            status = 'queued'
            or status in ('offered', 'running')
            and cancel_asked_at <= now() - make_interval(secs => %(grace_s)s::float8)
        )
    returning runs.run_id, node_id, dep_id, agent_id, version, status, reason, detail, trace_id,
        enqueued_at, ended_at
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
        f.acknowledged_at, 'cancelled', moved.reason, moved.detail
    from freed as f join moved using (run_id)
)
select
    *,
    run_id::text as run_id,
    extract(epoch from ended_at - least(enqueued_at, ended_at)) * 1000 as latency_ms,
    (
        select d.owner from deliveries as d
        where d.run_id = moved.run_id and d.settled_at is null
        order by d.delivery_id desc limit 1
    ) as owner
from moved;

-- name: status
-- Read what a run is now.
select status, trace_id from runs where run_id = %(run_id)s::uuid;

-- name: hurry
-- End the backoff of a waiting run: an operator wants it tried now.
with moved as (
    update runs
    set not_before = least(not_before, now())
    where run_id = %(run_id)s::uuid and status = 'queued'
    returning run_id
),
noted as (
    insert into audit (actor, action, subject)
    select %(actor)s, 'run.retry', run_id::text from moved
)
select run_id::text as run_id from moved;

-- name: bury
-- End living runs whose messages are dead letters, all that were ever received; the epoch rises, so
-- who works on one is fenced. A run that has another message lives on by that.
with dead as (
    select * from jsonb_to_recordset(%(rows)s::jsonb) as t (run_id uuid, reason text, detail text)
),
moved as (
    update runs
    set status = 'dead_lettered',
        reason = dead.reason,
        detail = concat_ws(
            '; ',
            dead.detail,
            (
                select case when answer is null then 'an effect may have been applied under the key '
                    else 'an effect was applied under the key ' end || steps.effect_key
                from steps
                where steps.run_id = runs.run_id and kind = 'effect'
                order by seq desc
                limit 1
            )
        ),
        lease_epoch = lease_epoch + 1,
        waiting_reason = null,
        waiting_nodes = null,
        ended_at = now(),
        tokens_used = spent.tokens,
        cost_usd = spent.usd,
        costs = spent.costs
    from dead
    cross join lateral run_spent(dead.run_id) as spent
    where runs.run_id = dead.run_id
        and status in ('queued', 'offered', 'running')
        and not exists (
            select from deliveries as other
            where other.run_id = runs.run_id
                and other.sequence_number is not null
                and not exists (
                    select from deliveries as gone
                    where gone.run_id = other.run_id
                        and gone.sequence_number = other.sequence_number
                        and gone.disposition = 'dead_letter'
                )
        )
    returning runs.run_id, node_id, dep_id, agent_id, version, status, runs.reason, runs.detail,
        trace_id, enqueued_at, ended_at
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
        f.acknowledged_at, 'buried', moved.reason, moved.detail
    from freed as f join moved using (run_id)
)
select
    *,
    run_id::text as run_id,
    extract(epoch from ended_at - least(enqueued_at, ended_at)) * 1000 as latency_ms,
    (
        select d.owner from deliveries as d
        where d.run_id = moved.run_id and d.settled_at is null
        order by d.delivery_id desc limit 1
    ) as owner
from moved;

-- name: settled
-- Note how deliveries were settled; with a message that is gone, every other delivery of it is over.
-- What is known to be a dead letter stays one: a lock found lost afterwards tells nothing new.
with report as (
    select * from unnest(%(ids)s::bigint[], %(dispositions)s::text[]) as t (
        delivery_id, disposition
    )
),
superseded as (
    update deliveries as d
    set settled_at = now(), disposition = 'superseded'
    from report join deliveries as gone using (delivery_id)
    where report.disposition in ('complete', 'dead_letter')
        and d.run_id = gone.run_id
        and d.sequence_number = gone.sequence_number
        and d.settled_at is null
        and d.delivery_id not in (select delivery_id from report)
)
update deliveries as d
set settled_at = now(), disposition = report.disposition
from report
where d.delivery_id = report.delivery_id and d.disposition is distinct from 'dead_letter';

-- name: announce_end
-- Tell the replica that holds a run's message of the run's end.
select pg_notify('run_ended', %(run_id)s);
