-- name: lock_runs
-- Lock runs, then their leases, in the one order that all writers keep to.
select lock_runs(%(run_ids)s::uuid[]);
