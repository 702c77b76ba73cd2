-- Replays of dead letters, and journals that a replay's run goes on from.

-- A row commits before its message is sent, and ingest believes the run id in a message only where
-- it finds the row: so a replay that is killed midway and repeated sends two messages for one run.
create table replays (
    run_id uuid primary key, -- of the new message
    -- the run of the dead letter; the broker may have buried a message that never became a run
    replayed_run_id uuid not null,
    original_run_id uuid not null, -- the first of a chain of replays
    replay_number int not null, -- 1 for the first replay of the original
    queue text not null,
    sequence_number bigint not null, -- of the dead letter
    message_id text not null default '', -- of the original message
    dead_letter_reason text not null,
    edited boolean not null,
    body_sha256 bytea not null, -- of the new message's body
    effect_key text, -- inherited; an edited body has its own, which its message's number gives
    requested_by text not null,
    requested_at timestamptz not null default now(),
    sent_at timestamptz, -- the broker has confirmed the new message
    settled_at timestamptz -- the dead letter is gone
);

-- A run has one successor, however many copies of its message are dead letters (I2).
create unique index replays_one_successor on replays (replayed_run_id);
create unique index replays_of_original on replays (original_run_id, replay_number);

-- The run in whose journal a step was recorded; null for a step of the run's own. An inherited step
-- is replayed like any other and costs this run nothing: it was paid for once.
alter table steps add column inherited_from uuid;

-- What a run has spent according to its journal: the one source of every cost that is shown.
-- A model call whose answer was lost is unknown: somebody may have been billed for it, for
-- unknown_tokens at most. It is not in the sums; with it they account for the provider's own.
create or replace function run_spent(run uuid)
returns table (tokens bigint, usd numeric, costs jsonb)
language sql stable
begin atomic
    with sums as (
        select
            coalesce(sum(
                coalesce((usage ->> 'input_tokens')::bigint, 0)
                + coalesce((usage ->> 'cache_read_tokens')::bigint, 0)
                + coalesce((usage ->> 'cache_write_tokens')::bigint, 0)
            ), 0)::bigint as tokens_in,
            coalesce(sum((usage ->> 'output_tokens')::bigint), 0)::bigint as tokens_out,
            coalesce(sum((usage ->> 'unpriced_tokens')::bigint), 0)::bigint as unpriced,
            coalesce(sum(cost_usd), 0) as usd,
            count(*) filter (where kind = 'model' and answer is null) as unknown_calls,
            coalesce(
                sum(reserved_tokens) filter (where kind = 'model' and answer is null), 0
            ) as unknown_tokens
        from steps where steps.run_id = run and inherited_from is null
    )
    select
        tokens_in + tokens_out,
        sums.usd,
        jsonb_build_object(
            'tokens_in', tokens_in, 'tokens_out', tokens_out, 'usd', sums.usd::text,
            'unpriced_tokens', unpriced, 'unknown_calls', unknown_calls,
            'unknown_tokens', unknown_tokens
        )
    from sums;
end;
