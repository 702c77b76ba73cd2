-- Sums of costs by day: without these the planner takes every call for a day of its own, and sorts them.
create statistics if not exists steps_days on ((accounted_at at time zone 'UTC')::date) from steps;
analyze steps (accounted_at);

-- Executions that a budget refused a call, which are few: for the use of budgets.
create index executions_refused on executions (run_id) where excess is not null;
