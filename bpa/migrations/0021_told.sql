-- Which budget the call did not fit that ended the execution: its kind, limit, what was consumed and
-- what was refused.
alter table executions add column excess jsonb;
