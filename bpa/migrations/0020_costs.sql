-- What the sums of the ledger are made of, as columns: an index can hold columns and nothing of a
-- jsonb, and a sum over a month then reads the index alone. Postgres keeps them itself, also for rows
-- that the previous release's code writes.
alter table steps
add column accounted_at timestamptz generated always as (coalesce(ended_at, started_at)) stored,
add column unanswered boolean generated always as (answer is null) stored,
add column model text generated always as (call ->> 'model') stored,
add column reserved_usd numeric
generated always as ((call ->> 'reserved_usd')::numeric) stored,
add column input_tokens bigint generated always as ((usage ->> 'input_tokens')::bigint) stored,
add column output_tokens bigint generated always as ((usage ->> 'output_tokens')::bigint) stored,
add column cache_read_tokens bigint
generated always as ((usage ->> 'cache_read_tokens')::bigint) stored,
add column cache_write_tokens bigint
generated always as ((usage ->> 'cache_write_tokens')::bigint) stored,
add column unpriced_tokens bigint
generated always as ((usage ->> 'unpriced_tokens')::bigint) stored;

-- The ledger: each model call that was, or may have been, paid for by the run itself. One that was
-- refused used nothing; one that a replay inherited was paid for by its original.
create index steps_ledger on steps (accounted_at) include (
    run_id, seq, epoch, unanswered, model, cost_usd, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, unpriced_tokens, reserved_tokens, reserved_usd
)
where kind = 'model' and inherited_from is null and answer is distinct from '';
