-- When each dead-letter queue was last gone through for what the broker put there by itself (I1):
-- one replica does it at a time.
create table sweeps (
    queue text primary key,
    swept_at timestamptz not null
);
