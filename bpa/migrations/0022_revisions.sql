-- Every revision of a deployment, kept: what it said, who wanted it, when and why.
create table deployment_revisions (
    dep_id text not null references deployments,
    revision bigint not null,
    spec jsonb not null, -- the whole DeploymentSpec
    created_at timestamptz not null default clock_timestamp(),
    actor text not null,
    note text not null default '',
    restores bigint, -- the revision whose spec this one brings back
    primary key (dep_id, revision)
);

insert into deployment_revisions (dep_id, revision, spec, created_at, actor, note)
select dep_id, revision, target, created_at, 'unknown', 'made before revisions were kept'
from deployments;

-- The revision that a run was received under says what its agent is told and may do; the one that a
-- lease was granted under, what it may use and where it posts. Null where the previous release wrote it.
alter table runs add column revision bigint;
alter table leases add column revision bigint;

-- By which revision a breaker knows where a lease posts: the present one, if that posts to the same
-- address, as an edit takes it along then; else the one that the lease was granted under.
create function target_revision(dep text, granted bigint) returns bigint
language sql stable
begin atomic
    select case
        when r.spec is null
            or r.spec #>> '{httpOut,baseUrl}' is not distinct from d.target #>> '{httpOut,baseUrl}'
            then d.revision
        else r.revision
    end
    from deployments as d
    left join deployment_revisions as r on r.dep_id = d.dep_id and r.revision = granted
    where d.dep_id = dep;
end;
