-- How runs went of late, and whose they are, without a look at the runs themselves (which are thirty
-- times as large): for trends, counts and sums of costs. One entry when a run ends, always at the end of
-- the index.
create index runs_ended_lately on runs (ended_at)
include (status, enqueued_at, cost_usd, run_id, agent_id, dep_id)
where status in ('completed', 'dead_lettered');
