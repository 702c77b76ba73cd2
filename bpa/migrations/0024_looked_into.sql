-- What came with a run's message beside its body: content type, correlation id, application properties;
-- null where an earlier release received it. It stands by the input, so that the rows of runs, which
-- are updated often, stay small.
alter table run_inputs add column message jsonb;

-- What was done to a run, and by whom, is shown with it.
create index audit_of_subject on audit (subject, audit_id);
