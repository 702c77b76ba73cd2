-- What happened to a run, kept beyond its leases: each that ended, with who held it and what came of
-- it. The journal tells what was done in it. Traces and the timeline are read from here.
create table executions (
    run_id uuid not null references runs on delete cascade,
    epoch bigint not null,
    node_id text not null,
    waiting_since timestamptz not null, -- from when the run could be placed
    granted_at timestamptz not null,
    acknowledged_at timestamptz, -- null: its node never took it up, so it was no execution
    ended_at timestamptz not null default now(),
    -- the node's outcome (completed, rejected, agent_failed, crashed, node_failed, handed_back,
    -- parked), or what ended it from outside (expired, refused, withdrawn, cancelled, buried)
    ending text not null,
    reason text, -- of the dead letter that the execution made, if it did
    detail text,
    timings jsonb not null default '{}', -- milliseconds, as the node told them
    excess jsonb, -- the budget that a call did not fit: kind, limit, consumed, refused
    replayed int[] not null default '{}', -- steps whose recorded answers it went on from
    primary key (run_id, epoch)
);

alter table leases add column waiting_since timestamptz; -- null where an earlier release wrote it

alter table runs
add column received_at timestamptz, -- when control had the message, by its clock
add column sender text not null default ''; -- traceparent of the span that sent the message

-- Under which lease an effect was answered; it may have been sent under an earlier one as well.
alter table steps add column answered_epoch bigint;

-- Whose spans are to be exported, and when to look; empty where nothing is exported.
create table traces_due (
    run_id uuid primary key references runs on delete cascade,
    due_at timestamptz not null,
    -- stages of a run that goes on and were exported: what is over comes in one order, to which
    -- later stages are added
    told int not null default 0
);

create index traces_due_first on traces_due (due_at);
