-- name: hasten
-- Have this session neither wait for the disk nor check what it puts there, and sort in memory.
select
    set_config('synchronous_commit', 'off', false),
    set_config('session_replication_role', 'replica', false),
    set_config('maintenance_work_mem', '512MB', false),
    set_config('work_mem', '128MB', false);

-- name: bare
-- Take away the indexes but for the keys: made of all rows at once they take a fifth of the time. In
-- one transaction with the truncation, what is put there is written once, to the tables alone.
do $$
declare
    found record;
begin
    truncate runs, deliveries, executions, steps, replays cascade;
    create temporary table taken_away on commit drop as
    select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as definition
    from pg_index
    where indrelid in (
            'runs'::regclass, 'deliveries'::regclass, 'executions'::regclass, 'steps'::regclass
        )
        and not exists (select from pg_constraint where conindid = indexrelid);
    for found in select * from taken_away loop
        execute format('drop index %s', found.name);
    end loop;
end
$$;

-- name: deployed
-- Make the agents and deployments whose runs they are, in an environment that nobody serves.
with agents as (
    insert into agents (agent_id, name, instructions, model_profile)
    select 'agent-' || n, 'Agent ' || n, 'Classify.', '{}' from generate_series(0, 5) as n
    on conflict do nothing
),
versions as (
    insert into agent_versions (agent_id, version, spec)
    select
        'agent-' || n, '1.0.0', jsonb_build_object(
            'agentId', 'agent-' || n, 'version', '1.0.0', 'name', 'Agent ' || n,
            'instructions', 'Classify.', 'modelProfile', jsonb_build_object(
                'provider', 'anthropic', 'model', 'claude-haiku-4-5', 'maxOutputTokens', 400
            )
        )
    from generate_series(0, 5) as n
    on conflict do nothing
)
insert into deployments (dep_id, agent_id, version, env, queue, target)
select
    'agent-' || n || '-prod', 'agent-' || n, '1.0.0', 'prod', 'queue-' || n,
    (%(target)s::jsonb - 'inputSchema') || jsonb_build_object(
        'agentId', 'agent-' || n, 'environment', 'prod', 'queue', 'queue-' || n
    )
from generate_series(0, 5) as n
on conflict do nothing;

-- name: runs
-- Put so many runs into a time, as if they had been worked on: 3 % dead letters, 3 %
-- executed more than once, 450 vendors of which few send much, twelve nodes and six deployments, each
-- rarer than the last, and the newest still waiting.
insert into runs (
    run_id, agent_id, version, dep_id, node_id, input_ref, status, timings, costs, trace_id,
    created_at, effect_key, traceparent, enqueued_at, lease_epoch, executions, waiting_reason, reason,
    detail, outcome, tokens_used, cost_usd, started_at, ended_at, received_at
)
select
    run_id,
    'agent-' || dep,
    '1.0.0',
    'agent-' || dep || '-prod',
    case when status <> 'queued' then 'node-' || floor(12 * luck * luck)::int end,
    jsonb_build_object(
        'namespace', 'sbemulatorns', 'queue', 'queue-' || dep, 'sequence_number', n,
        'enqueued_ms', (extract(epoch from at) * 1000)::bigint, 'message_id', message_id,
        'bytes', 1200, 'dialect', 'json', 'invoice_id', invoice_id, 'vendor', vendor
    ),
    status,
    '{"plan": 3.1, "sandbox_start": 8.2, "model": 812.4, "http_out": 21.7, "stage": "posting"}',
    '{"tokens_in": 1200, "tokens_out": 310, "usd": "0.00275", "unpriced_tokens": 0,
        "unknown_calls": 0, "unknown_tokens": 0}',
    trace_id,
    at,
    run_id || ':' || n,
    '00-' || trace_id || '-b7ad6b7169203331-01',
    at - interval '40 ms',
    case when status = 'queued' then 0 else executions end,
    case when status = 'queued' then 0 else executions end,
    case when status = 'queued' then 'no node has a free slot' end,
    case when status = 'dead_lettered' then reason end,
    case when status = 'dead_lettered' then 'the target answered 422: ' || vendor end,
    case when status = 'completed' then jsonb_build_object(
        'status', 200, 'tries', 1, 'vendor', vendor, 'route', 'it', 'confidence', 0.93,
        'invoice_id', invoice_id, 'total', '1234.50', 'currency', 'EUR'
    ) end,
    case when status = 'queued' then 0 else 1200 + (luck * 600)::int end,
    case when status = 'queued' then 0 else round((0.00275 + 0.1 * tail)::numeric, 6) end,
    case when status <> 'queued' then at + interval '20 ms' end,
    case when status <> 'queued' then at + interval '300 ms' + interval '4 s' * tail end,
    at - interval '5 ms'
from (
    select
        n,
        at,
        luck,
        (
            lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0')
            || '8' || substr(trace_id, 1, 3) || '8' || substr(trace_id, 4, 15)
        )::uuid as run_id,
        gen_random_uuid()::text as message_id,
        trace_id,
        'INV-' || (2020 + mod(n, 7)) || '-' || lpad(n::text, 7, '0') as invoice_id,
        case when n between 1000 and 1004 then 'Zyxwell Rare Papers' else
            (array['Acme', 'Nordwind', 'Müller', 'Contoso', 'Fabrikam', 'Globex'])[
                1 + floor(6 * luck * luck)::int
            ]
            || ' ' || (array['Tools', 'Paper', 'Steel', 'Foods', 'Rail'])[1 + mod(n / 6, 5)]
            || ' ' || mod(n / 30, 5) || ' ' || (array['GmbH', 'AG', 'Ltd'])[1 + mod(n, 3)]
        end as vendor,
        floor(6 * luck * luck)::int as dep,
        case
            when n > %(many)s - %(waiting)s then 'queued'
            when mod(n * 7919, 1000) < 30 then 'dead_lettered'
            else 'completed'
        end as status,
        case when mod(n * 104729, 1000) < 30 then 2 + mod(n, 3) else 1 end as executions,
        (array['NonRetryableHttpStatus', 'BudgetExceeded', 'RetriesExhausted', 'AgentError'])[
            1 + floor(4 * luck * luck)::int
        ] as reason,
        luck ^ 12 as tail
    from (
        select
            n::bigint as n,
            random() as luck,
            md5(n::text || %(salt)s) as trace_id,
            %(since)s::timestamptz
            + (%(until)s::timestamptz - %(since)s::timestamptz) * (n / %(many)s::float) as at
        from generate_series(1, %(many)s) as n
    ) as drawn
) as made;

-- name: history
-- Give each run of that time what it leaves behind: a delivery, its executions, one or two model calls
-- and, where it completed, an effect. One in a thousand calls was never answered.
with made as materialized (
    select
        run_id, node_id, created_at, started_at, ended_at, status, executions, effect_key, cost_usd,
        (input_ref ->> 'sequence_number')::bigint as number
    from runs where created_at > %(since)s and created_at <= %(until)s
),
delivered as (
    insert into deliveries (
        run_id, owner, delivery_count, received_at, settled_at, disposition, sequence_number
    )
    select
        run_id, 'replica-1', 1, created_at, coalesce(ended_at, created_at),
        case status when 'completed' then 'complete' when 'queued' then 'lost' else 'dead_letter' end,
        number
    from made
),
executed as (
    insert into executions (
        run_id, epoch, node_id, waiting_since, granted_at, acknowledged_at, ended_at, ending
    )
    select
        run_id, epoch, node_id, created_at, started_at, started_at, ended_at,
        case when epoch < executions then 'agent_failed' when status = 'completed' then 'completed'
            else 'rejected' end
    from made cross join lateral generate_series(1, executions) as epoch
    where ended_at is not null
)
insert into steps (
    run_id, seq, kind, digest, effect_key, reserved_tokens, call, answer, usage, cost_usd, epoch,
    answered_epoch, started_at, ended_at
)
select
    run_id, seq, kind, md5(seq::text), case kind when 'effect' then effect_key end, 1600,
    case kind
        when 'model' then jsonb_build_object(
            'type', 'model', 'provider', 'anthropic', 'max_tokens', 400, 'reserved_usd', '0.004',
            'model', case mod(number, 20) when 0 then 'claude-opus-4-5' when 1 then
                'claude-sonnet-4-5' else 'claude-haiku-4-5' end
        )
        else '{"type": "effect", "host": "https://target", "method": "POST"}'
    end,
    case when kind = 'effect' or mod(number, 1000) <> 7 then '{}'::bytea end,
    case when kind = 'effect' then null when mod(number, 1000) <> 7 then
        '{"input_tokens": 1200, "output_tokens": 310}'::jsonb end,
    case when seq = 1 and mod(number, 1000) <> 7 then cost_usd else 0 end,
    executions, executions, started_at, ended_at
from made
cross join lateral (
    select 1 as seq, 'model' as kind
    union all
    select 2, 'model' where mod(number, 5) = 0
    union all
    select 3, 'effect' where status = 'completed'
) as step
where ended_at is not null;

-- name: replayed
-- Have every twentieth dead letter of that time been replayed, as the next run that completed.
insert into replays (
    run_id, replayed_run_id, original_run_id, replay_number, queue, sequence_number,
    dead_letter_reason, edited, body_sha256, requested_by
)
select following, run_id, run_id, 1, 'queue-0', 1, reason, false, '', 'bench'
from (
    select
        run_id, status, reason, lead(run_id) over in_time as following,
        lead(status) over in_time as became, (input_ref ->> 'sequence_number')::bigint as number
    from runs where created_at > %(since)s and created_at <= %(until)s
    window in_time as (order by created_at, run_id)
) as pairs
where status = 'dead_lettered' and became = 'completed' and mod(number, 20) = 0
on conflict do nothing;

-- name: indexes
-- List how to make again what was taken away.
select definition from taken_away;

-- name: analyze
-- Have the planner know of them, as autovacuum does within minutes.
vacuum (analyze) runs, deliveries, executions, steps, replays;

-- name: age
-- Tell how many runs there are, about, and how many seconds ago the newest came.
select
    (select greatest(reltuples, 0)::float8 from pg_class where oid = 'runs'::regclass) as runs,
    extract(epoch from now() - max(created_at))::float8 as newest_s
from runs;
