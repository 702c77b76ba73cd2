-- What runs used and how they ended, by when they ended: completions and the use of budgets over a month
-- are read from this index alone. Like the others of runs that have ended, it takes one entry in a run's
-- whole life.
create index runs_ended_at on runs (ended_at) include (
    dep_id, agent_id, version, status, reason, tokens_used, cost_usd
)
where status in ('completed', 'dead_lettered');
