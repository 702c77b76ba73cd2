-- name: bound_time
-- Have the transaction's statements answered within a time, or not at all.
select set_config('statement_timeout', %(time_ms)s, true);
