-- Leases to the letter: one lock order, nodes whose stream broke, leases that a node does not know,
-- runs that must be alone on their node, and runs that are being cancelled.

-- Whoever writes runs or their leases calls this first, with all of them: runs before leases, each
-- in the order of their ids, so that no two writers can wait for each other. Each statement in here
-- sees what was committed while the one before it waited.
create function lock_runs(ids uuid[]) returns void
language plpgsql as $$
begin
    perform 1 from runs where run_id = any(ids) order by run_id for no key update;
    perform 1 from leases where run_id = any(ids) order by run_id for no key update;
end
$$;

alter table nodes
add column stream uuid, -- the latest stream of offers that this boot opened
add column stream_ended_at timestamptz; -- that very stream broke: its process may be gone

alter table leases
add column missing_at timestamptz, -- first heartbeat of its own node that did not list it
add column alone boolean not null default false; -- nothing else may be placed beside it

alter table runs
add column cancel_asked_at timestamptz, -- somebody wants it ended; its node is told politely
add column cancel_asked_by text,
add column cancel_detail text;

create index runs_cancelling on runs (cancel_asked_at)
where cancel_asked_at is not null and status in ('offered', 'running');
