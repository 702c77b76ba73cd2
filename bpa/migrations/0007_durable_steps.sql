-- How many executions, later than the one that recorded it, went on from a step's answer.
alter table steps add column replays int not null default 0;

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
        from steps where steps.run_id = run
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
