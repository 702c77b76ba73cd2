-- Which message a delivery was one of: a run may have several (a replay that was sent twice), and a
-- later delivery of one message ends the earlier ones of that message alone.

alter table deliveries add column sequence_number bigint; -- null where an earlier release wrote it
