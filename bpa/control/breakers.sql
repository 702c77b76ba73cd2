-- name: seize
-- Lock the row of a host, which a first failure makes.
insert into breakers (host) values (%(host)s)
on conflict (host) do update set host = excluded.host;

-- name: row
-- Read a host's breaker, and how many runs its deployments may have at work at once.
select
    b.host,
    b.state,
    b.closings,
    b.deployments,
    b.opened_at,
    b.probe_at,
    b.failed_probes,
    b.probe_run::text as probe_run,
    b.probe_epoch,
    b.ramp,
    b.passed,
    b.passed_at,
    b.exhausted,
    b.last_error,
    b.failed_at,
    clock_timestamp() as now,
    (
        select coalesce(sum(
            coalesce((d.target -> 'target' ->> 'slotBudget')::int, 1)
            * coalesce((d.target -> 'target' ->> 'replicas')::int, 1)
        ), 0)::int
        from deployments as d where (b.deployments ->> d.dep_id)::bigint = d.revision
    ) as run_limit
from breakers as b where b.host = %(host)s;

-- name: circumstances
-- Read what is known beside a failure that is reported under a lease.
select
    runs.dep_id,
    target_revision(runs.dep_id, leases.revision) as revision,
    runs.spared,
    (b.probe_run = runs.run_id and b.probe_epoch = leases.epoch) is true as is_probe,
    case
        when b.state = 'closing' then b.passed_at > leases.granted_at
        -- those that were received within ten minutes are enough to tell
        else exists (
            select 1 from runs as other
            where other.created_at > now() - interval '10 minutes'
                and (b.deployments ? other.dep_id or other.dep_id = runs.dep_id)
                and other.status = 'completed'
                and other.ended_at > b.failed_at
        )
    end is true as answered_since
from runs
join leases using (run_id)
join breakers as b on b.host = %(host)s
where runs.run_id = %(run_id)s::uuid and runs.lease_epoch = %(epoch)s and runs.status = 'running';

-- name: write
-- Write down what became of a breaker.
update breakers
set state = %(state)s,
    closings = %(closings)s,
    deployments = %(deployments)s::jsonb,
    opened_at = %(opened_at)s,
    probe_at = %(probe_at)s,
    failed_probes = %(failed_probes)s,
    probe_run = %(probe_run)s::uuid,
    probe_epoch = %(probe_epoch)s,
    ramp = %(ramp)s,
    passed = %(passed)s,
    passed_at = %(passed_at)s,
    exhausted = %(exhausted)s::jsonb,
    last_error = %(last_error)s,
    failed_at = %(failed_at)s
where host = %(host)s;

-- name: page
-- List the breakers with the runs that wait for their hosts, those that are not closed first.
select
    b.host,
    b.state,
    case b.state when 'open' then b.opened_at else b.passed_at end as since,
    case when b.state = 'open' then b.probe_at end as probe_at,
    case
        when b.state = 'open' then (
            select l.run_id::text from leases as l
            where l.run_id = b.probe_run and l.epoch = b.probe_epoch
        )
    end as probe_run_id,
    case when b.state = 'closing' then b.ramp end as ramp,
    b.failed_probes,
    (
        select coalesce(array_agg(dep_id order by dep_id), '{}')
        from jsonb_object_keys(b.deployments) as dep_id
    ) as deployments,
    b.last_error,
    b.failed_at,
    (
        select count(*) from runs
        where runs.parked ->> 'host' = b.host and runs.status = 'queued'
    ) as parked_runs
from breakers as b
order by b.state = 'closed', b.state desc, b.host;
