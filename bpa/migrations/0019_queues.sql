-- What waits in each queue that an active deployment feeds from, as whichever replica's turn it was
-- last read it. The numbers are null until they are known, and again when the queue is gone.
create table queues (
    queue text primary key,
    listed_at timestamptz not null default now(),
    claimed_at timestamptz not null default '-infinity', -- when somebody last took the turn
    measured_at timestamptz, -- when the numbers were true; a reading that fails leaves them
    active bigint,
    active_at_least boolean not null default false,
    scheduled bigint,
    dead_letters bigint,
    dead_letters_at_least boolean not null default false,
    estimated boolean not null default false,
    oldest_enqueued_at timestamptz, -- by the broker's clock
    max_delivery_count integer,
    trouble text, -- of the last reading, also of one that failed
    detail text not null default ''
);
