-- How runs ended of late, whose they are and what they used, without a look at the runs themselves
-- (which are thirty times as large): for trends, completions, sums of costs and the use of budgets. One
-- entry in a run's whole life, always at the end of the index.
create index runs_ended_lately on runs (ended_at) include (
    status, enqueued_at, cost_usd, run_id, agent_id, version, dep_id, reason, tokens_used
)
where status in ('completed', 'dead_lettered');
