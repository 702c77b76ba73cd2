-- The reaper looks for runs to cancel among the queued as well: one that went back to the queue by
-- whatever way ends there.
drop index runs_cancelling;

create index runs_cancelling on runs (cancel_asked_at)
where cancel_asked_at is not null and status in ('queued', 'offered', 'running');
