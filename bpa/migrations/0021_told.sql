-- Which budget the call did not fit that ended the execution: its kind, limit, what was consumed and
-- what was refused.
alter table executions add column excess jsonb;

-- How many stages of a run that goes on were exported: those that are over come in one order, to which
-- later ones are added.
alter table traces_due add column told int not null default 0;
