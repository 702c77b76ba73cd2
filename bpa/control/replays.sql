-- name: claimed
-- Read the replays whose run ids messages say they carry.
select
    run_id::text as run_id,
    queue,
    edited,
    body_sha256,
    effect_key,
    case when not edited then journal_holder(replayed_run_id)::text end as inherits_from
from replays where run_id = any(%(run_ids)s::uuid[]);

-- name: known
-- Read what is known of the runs of dead letters: how they ended, what was sent to the target, which
-- replay they came from, and which one followed. A run that never was gives a row of nulls.
select
    asked.run_id::text as run_id,
    runs.dep_id,
    runs.input_ref ->> 'queue' as queue,
    (runs.input_ref ->> 'sequence_number')::bigint as sequence_number,
    runs.status,
    runs.reason,
    runs.detail,
    runs.trace_id,
    runs.ended_at,
    runs.effect_key,
    (
        select max(d.settled_at) from deliveries as d
        where d.run_id = asked.run_id and d.disposition = 'dead_letter'
    ) as dead_lettered_at,
    journal.inheritable,
    journal.effects,
    journal.effects_applied,
    source.original_run_id::text as original_run_id,
    source.replay_number,
    source.message_id as original_message_id,
    source.effect_key as source_key,
    following.run_id::text as next_run_id,
    following.replay_number as next_number,
    following.edited as next_edited,
    following.body_sha256 as next_body_sha256,
    following.effect_key as next_effect_key,
    following.requested_by as next_requested_by,
    following.requested_at as next_requested_at,
    following.sent_at as next_sent_at,
    exists (select from runs as r where r.run_id = following.run_id) as next_arrived
from unnest(%(run_ids)s::uuid[]) with ordinality as asked (run_id, nth)
left join runs using (run_id)
left join replays as source using (run_id)
left join replays as following on following.replayed_run_id = asked.run_id
cross join lateral (
    select
        count(*) filter (where kind = 'effect' or length(answer) > 0) as inheritable,
        count(*) filter (where kind = 'effect') as effects,
        count(*) filter (where kind = 'effect' and answer is not null) as effects_applied
    from steps where steps.run_id = journal_holder(asked.run_id)
) as journal
order by asked.nth;

-- name: effects
-- Read what a run, or those it goes on from, intended to send, and whether the answer is known.
select
    seq,
    effect_key,
    inherited_from::text as inherited_from,
    started_at as intended_at,
    case when answer is not null then coalesce(ended_at, started_at) end as applied_at
from steps where run_id = journal_holder(%(run_id)s::uuid) and kind = 'effect'
order by seq;

-- name: begin
-- Write down that a dead letter is replayed, and by whom, before its message is sent. A run has one
-- successor, and one that lives or was never recorded (it may begin yet) none: then nothing comes back.
with begun as (
    insert into replays (
        run_id, replayed_run_id, original_run_id, replay_number, queue, sequence_number,
        message_id, dead_letter_reason, edited, body_sha256, effect_key, requested_by
    )
    select
        %(run_id)s::uuid, %(replayed_run_id)s::uuid, %(original_run_id)s::uuid,
        %(replay_number)s, %(queue)s, %(sequence_number)s, %(message_id)s, %(reason)s,
        %(edited)s, %(body_sha256)s, %(effect_key)s, %(requested_by)s
    where exists (
        select from runs
        where runs.run_id = %(replayed_run_id)s::uuid and runs.status = 'dead_lettered'
    )
    on conflict (replayed_run_id) do nothing
    returning *
),
noted as (
    insert into audit (actor, action, subject, detail)
    select
        requested_by, 'dead_letter.replay', replayed_run_id::text,
        jsonb_build_object(
            'queue', queue, 'sequence_number', sequence_number, 'run_id', run_id,
            'replay_number', replay_number, 'original_run_id', original_run_id,
            'edited', edited, 'reason', dead_letter_reason
        )
    from begun
)
select run_id::text as run_id from begun;

-- name: note
-- Write down who went on with a half-done replay, or removed a dead letter whose work is done.
insert into audit (actor, action, subject, detail)
values (%(actor)s, %(action)s, %(subject)s, %(detail)s::jsonb);

-- name: sent
-- Note that the broker has the new message.
update replays set sent_at = now()
where run_id = %(run_id)s::uuid and sent_at is null;

-- name: settled
-- Note that the dead letter is gone.
update replays set settled_at = now()
where run_id = %(run_id)s::uuid and settled_at is null;
