-- What the breaker of a deployment's target leaves to its runs; no row where it leaves all. What a
-- deployment runs that has been changed since it failed there takes none of it: it may go elsewhere.
create or replace function breaker_gate(dep text, dep_revision bigint)
returns table (
    host text, state text, closings bigint, probe_run uuid, probe_epoch bigint,
    probe_at timestamptz, ramp int, last_error text, room int, untried boolean
)
language sql stable
begin atomic
    select
        b.host,
        b.state,
        b.closings,
        b.probe_run,
        b.probe_epoch,
        b.probe_at,
        b.ramp,
        b.last_error,
        case
            when b.state = 'closing' then greatest(0, b.ramp - (
                select count(*) from leases as l
                join deployments as d on d.dep_id = l.dep_id
                where (b.deployments ->> l.dep_id)::bigint = d.revision
            ))
            when b.probe_at <= now() and not exists (
                select 1 from leases as l
                where l.run_id = b.probe_run and l.epoch = b.probe_epoch
            ) then 1
            else 0
        end::int,
        exists (
            select 1 from runs as r
            where r.dep_id = dep and r.status = 'queued' and (r.parked ? 'probed') is not true
        )
    from breakers as b
    where b.state <> 'closed' and (b.deployments ->> dep)::bigint = dep_revision
    order by b.state desc, b.host -- an open one before one that closes
    limit 1;
end;
