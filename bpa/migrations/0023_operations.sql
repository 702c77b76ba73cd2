-- Operations: one act on many runs or dead letters, on a set that was frozen when it was asked for.

create table operations (
    operation_id uuid primary key,
    action text not null check (action in ('cancel', 'retry', 'replay')),
    chosen jsonb not null, -- by what the set was chosen, for people
    detail text not null default '', -- why, in the words of whoever asked
    requested_by text not null,
    state text not null check (state in ('held', 'running', 'stopped', 'done')),
    rate_per_s double precision, -- items a second; null: as fast as it goes
    looked_at_all boolean not null, -- false where dead letters were left that nobody looked at
    items int not null,
    finished int not null default 0, -- items that have their result
    counts jsonb not null default '{}', -- these by result: sums of the rows below
    trouble text not null default '', -- why nothing goes on, such as a broker that does not answer
    created_at timestamptz not null default now(),
    started_at timestamptz,
    ended_at timestamptz,
    stopped_by text,
    next_at timestamptz not null default now() -- when the rate allows the next items
);

-- Those that somebody has to look after are few, whatever there was.
create index operations_at_work on operations (next_at) where state = 'running';
create index operations_recent on operations (created_at desc, operation_id desc);

create table operation_items (
    operation_id uuid not null references operations on delete cascade,
    nth int not null,
    subject text not null, -- a run's id, or a dead letter's
    result text, -- null until it is finished: nothing writes it twice
    why text not null default '',
    run_id uuid, -- the run that came of it
    tries int not null default 0,
    -- when somebody may take it: whoever does moves this on, so that an item whose replica died is
    -- taken again, and one that cannot be done yet is left alone for a while
    due_at timestamptz not null default now(),
    done_at timestamptz,
    primary key (operation_id, nth)
);

create index operation_items_left on operation_items (operation_id, nth) where result is null;

-- Which replay a dead letter had: an operation that was cut off looks whether it made it.
create index replays_of_letter on replays (queue, sequence_number);
