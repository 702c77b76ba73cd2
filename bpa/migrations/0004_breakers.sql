-- The fleet's circuit breakers: which targets fail, and how it is found out that one answers again.

create table breakers (
    host text primary key, -- scheme, host and port
    state text not null default 'closed' check (state in ('open', 'closing', 'closed')),
    closings bigint not null default 0, -- offers carry it: a higher one closes a node's breaker
    deployments jsonb not null default '{}', -- those seen at the host, each with its revision
    opened_at timestamptz,
    probe_at timestamptz,
    -- the probe under way, for as long as its lease is there: a node that dies ends it
    probe_run uuid,
    probe_epoch bigint,
    failed_probes int not null default 0,
    ramp int not null default 0, -- runs at once while it closes
    passed int not null default 0, -- runs answered at this ramp
    passed_at timestamptz,
    exhausted jsonb not null default '{}', -- runs out of tries in a row, and how many those were
    last_error text not null default '',
    failed_at timestamptz
);

alter table runs
add column parked jsonb, -- since when it waits for which host, and what that answered
add column spared int not null default 0; -- how often it waited on although out of tries

create index runs_parked on runs ((parked ->> 'host')) where parked is not null;

-- What the breaker of a deployment's target leaves to its runs; no row where it leaves all.
create function breaker_gate(dep text, dep_revision bigint)
returns table (
    host text, state text, closings bigint, probe_run uuid, probe_epoch bigint,
    probe_at timestamptz, ramp int, last_error text, room int, untried boolean
)
language sql stable
begin atomic
    select
        b.host,
        b.state,
        b.closings,
        b.probe_run,
        b.probe_epoch,
        b.probe_at,
        b.ramp,
        b.last_error,
        case
            when b.state = 'closing' then greatest(0, b.ramp - (
                select count(*) from leases as l where b.deployments ? l.dep_id
            ))
            when b.probe_at <= now() and not exists (
                select 1 from leases as l
                where l.run_id = b.probe_run and l.epoch = b.probe_epoch
            ) then 1
            else 0
        end::int,
        exists (
            select 1 from runs as r
            where r.dep_id = dep and r.status = 'queued' and (r.parked ? 'probed') is not true
        )
    from breakers as b
    where b.state <> 'closed' and (b.deployments ->> dep)::bigint = dep_revision
    order by b.state desc, b.host -- an open one before one that closes
    limit 1;
end;

-- What the leases of a node take of it: the grant counts with it, and has to stay a short statement.
create function node_use(node text)
returns table (used_slots bigint, used_cpu bigint, used_memory numeric, has_loner boolean)
language sql stable
begin atomic
    select
        count(*),
        coalesce(sum(cpu_millis), 0),
        coalesce(sum(memory_bytes), 0),
        coalesce(bool_or(alone), false)
    from leases where leases.node_id = node;
end;
