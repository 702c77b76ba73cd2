-- What exists: agents, their versions, deployments, nodes.

create table agents (
    agent_id text primary key,
    name text not null,
    instructions text not null,
    model_profile jsonb not null,
    created_at timestamptz not null default now()
);

create table agent_versions (
    agent_id text not null references agents,
    version text not null,
    spec jsonb not null,
    created_at timestamptz not null default now(),
    unique (agent_id, version)
);

create table deployments (
    dep_id text primary key,
    agent_id text not null,
    version text not null,
    env text not null,
    queue text not null,
    target jsonb not null, -- the whole DeploymentSpec, as it was posted
    status jsonb not null default '{"active": true}',
    revision bigint not null default 1,
    created_at timestamptz not null default now(),
    foreign key (agent_id, version) references agent_versions (agent_id, version)
);

-- A deployment feeds from one queue per environment; a second active one would compete with it.
create unique index deployments_one_active_per_queue
on deployments (env, queue) where ((status ->> 'active')::boolean);

create table nodes (
    node_id text primary key,
    boot_id text not null,
    metadata jsonb not null, -- labels, version
    capacity jsonb not null, -- slots, cpu_millis, memory_bytes
    status jsonb not null default '{}', -- draining
    registered_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now()
);

-- What happened: runs, their deliveries, leases and steps.

create table runs (
    run_id uuid primary key,
    agent_id text not null,
    version text not null,
    dep_id text not null,
    node_id text, -- who holds or last held it
    input_ref jsonb not null, -- namespace, queue, sequence_number, enqueued_ms, message_id, dialect, bytes
    status text not null
    check (status in ('queued', 'offered', 'running', 'completed', 'dead_lettered')),
    timings jsonb not null default '{}',
    costs jsonb not null default '{}',
    trace_id text not null,
    created_at timestamptz not null default now(),
    -- durable runs need these as well
    effect_key text not null,
    traceparent text not null, -- of the receive span; every other span hangs below it
    tracestate text not null default '',
    enqueued_at timestamptz not null, -- the broker's time
    lease_epoch bigint not null default 0,
    executions int not null default 0,
    agent_failures int not null default 0,
    crashes int not null default 0,
    infra_failures int not null default 0,
    worked_s double precision not null default 0,
    not_before timestamptz, -- backing off until then
    waiting_reason text, -- why it is not running (I11)
    waiting_nodes jsonb, -- the reason of each node that refused it
    reason text, -- of the dead letter
    detail text,
    outcome jsonb,
    tokens_used bigint not null default 0,
    cost_usd numeric not null default 0,
    started_at timestamptz, -- first granted
    ended_at timestamptz
);

create index runs_waiting on runs (created_at, run_id) where status = 'queued';
create index runs_recent on runs (created_at desc, run_id desc);
create index runs_of_deployment_alive
on runs (dep_id) where status in ('queued', 'offered', 'running');

-- The decoded input, apart from runs: rows that are updated often stay small.
create table run_inputs (
    run_id uuid primary key references runs on delete cascade,
    document bytea not null,
    body_sha256 bytea not null
);

create table deliveries (
    delivery_id bigint generated always as identity primary key,
    run_id uuid not null references runs on delete cascade,
    owner text not null, -- the control replica that received it and alone can settle it
    delivery_count int not null,
    received_at timestamptz not null default now(),
    settled_at timestamptz,
    disposition text -- complete, dead_letter, abandon, lost
);

create index deliveries_of_run on deliveries (run_id);
create index deliveries_unsettled on deliveries (owner, run_id) where settled_at is null;

create table leases (
    run_id uuid primary key references runs on delete cascade,
    node_id text not null,
    boot_id text not null,
    dep_id text not null,
    epoch bigint not null,
    cpu_millis int not null,
    memory_bytes bigint not null,
    granted_at timestamptz not null default now(),
    acknowledged_at timestamptz,
    -- written and compared by Postgres's clock alone (I6)
    expires_at timestamptz not null
);

create index leases_of_node on leases (node_id);
create index leases_expiring on leases (expires_at);

create table steps (
    run_id uuid not null references runs on delete cascade,
    seq int not null,
    kind text not null check (kind in ('model', 'effect')),
    digest text not null,
    intent bytea, -- an effect's exact bytes, fixed once (I4)
    effect_key text,
    reserved_tokens int not null default 0,
    answer bytea,
    usage jsonb,
    cost_usd numeric not null default 0,
    epoch bigint not null,
    started_at timestamptz not null,
    ended_at timestamptz,
    primary key (run_id, seq)
);

-- A run uses an effect's key for one step; a replay of its message uses the same key again (I4).
create unique index steps_effect_key on steps (run_id, effect_key) where kind = 'effect';

-- What a run has spent according to its journal: the one source of every cost that is shown.
create function run_spent(run uuid)
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
            coalesce(sum(cost_usd), 0) as usd
        from steps where steps.run_id = run
    )
    select
        tokens_in + tokens_out,
        sums.usd,
        jsonb_build_object(
            'tokens_in', tokens_in, 'tokens_out', tokens_out, 'usd', sums.usd::text,
            'unpriced_tokens', unpriced
        )
    from sums;
end;

-- What the platform knows of itself.

create table settings (
    name text primary key,
    value jsonb not null
);

insert into settings (name, value) values ('hold_generation', '1');

create table audit (
    audit_id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor text not null,
    action text not null,
    subject text not null,
    detail jsonb not null default '{}'
);
