-- name: runs
-- Put so many runs into the last thirty days, as if they had been worked on: 3 % dead letters, 1 %
-- executed more than once, 300 vendors, twelve nodes and five deployments, each rarer than the last.
insert into runs (
    run_id, agent_id, version, dep_id, node_id, input_ref, status, timings, costs, trace_id,
    created_at, effect_key, traceparent, enqueued_at, lease_epoch, executions, waiting_reason, reason,
    detail, outcome, tokens_used, cost_usd, started_at, ended_at, received_at
)
select
    run_id,
    'agent-' || dep,
    '1.0.0',
    'agent-' || dep || '-dev',
    'node-' || (12 * random() * random())::int,
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
    1,
    case when random() < 0.01 then 2 else 1 end,
    case when status = 'queued' then 'no node has a free slot' end,
    case when status = 'dead_lettered' then reason end,
    case when status = 'dead_lettered' then 'the target answered 422: ' || vendor end,
    case when status = 'completed' then jsonb_build_object(
        'status', 200, 'tries', 1, 'vendor', vendor, 'route', 'it', 'confidence', 0.93,
        'invoice_id', invoice_id, 'total', '1234.50', 'currency', 'EUR'
    ) end,
    1510,
    0.00275 + random() * random() * random() * random() * random() * random() * 0.1,
    at + interval '20 ms',
    case when status <> 'queued' then at + interval '900 ms' end,
    at - interval '5 ms'
from (
    select
        n,
        gen_random_uuid() as run_id,
        gen_random_uuid()::text as message_id,
        md5(n::text) as trace_id,
        'INV-' || (2020 + mod(n, 7)) || '-' || lpad(n::text, 7, '0') as invoice_id,
        (array['Acme', 'Nordwind', 'Müller', 'Contoso', 'Fabrikam', 'Globex'])[1 + mod(n, 6)]
        || ' ' || (array['Tools', 'Paper', 'Steel', 'Foods', 'Rail'])[1 + mod(n / 6, 5)]
        || ' ' || mod(n / 30, 10) || ' ' || (array['GmbH', 'AG', 'Ltd'])[1 + mod(n, 3)] as vendor,
        (5 * random() * random())::int as dep,
        case
            when n > %(many)s - 200 then 'queued'
            when random() < 0.03 then 'dead_lettered'
            else 'completed'
        end as status,
        (array['NonRetryableHttpStatus', 'BudgetExceeded', 'RetriesExhausted', 'AgentError'])[
            1 + mod((4 * random() * random())::int, 4)
        ] as reason,
        now() - interval '30 days' * (1 - n / %(many)s::float) as at
    from generate_series(1, %(many)s) as n
) as made;

-- name: history
-- Give each run what it leaves behind: a delivery, an execution, two steps.
with delivered as (
    insert into deliveries (
        run_id, owner, delivery_count, received_at, settled_at, disposition, sequence_number
    )
    select run_id, 'replica-1', 1, created_at, ended_at,
        case status when 'completed' then 'complete' when 'dead_lettered' then 'dead_letter' end,
        (input_ref ->> 'sequence_number')::bigint
    from runs
),
executed as (
    insert into executions (
        run_id, epoch, node_id, waiting_since, granted_at, acknowledged_at, ended_at, ending
    )
    select run_id, 1, node_id, created_at, started_at, started_at, ended_at, 'completed'
    from runs where ended_at is not null
)
insert into steps (
    run_id, seq, kind, digest, effect_key, reserved_tokens, call, answer, usage, cost_usd, epoch,
    answered_epoch, started_at, ended_at
)
select
    run_id, seq, case seq when 1 then 'model' else 'effect' end, md5(seq::text),
    case seq when 2 then effect_key end, 1600,
    case seq
        when 1 then '{"type": "model", "provider": "anthropic", "model": "claude-haiku-4-5",
            "max_tokens": 400}'
        else '{"type": "effect", "host": "https://target", "method": "POST"}'
    end::jsonb,
    '{}', '{"input_tokens": 1200, "output_tokens": 310}', case seq when 1 then cost_usd else 0 end,
    1, 1, started_at, ended_at
from runs cross join generate_series(1, 2) as seq
where ended_at is not null;

-- name: analyze
-- Have the planner know of them, as autovacuum does within minutes.
vacuum (analyze) runs, deliveries, executions, steps;
