-- name: seize
-- Keep a deployment as it is for this transaction: no commit, pause or other edit comes between.
select
    dep_id,
    agent_id,
    env,
    queue,
    target,
    status,
    revision
from deployments where dep_id = %(dep_id)s
for no key update;

-- name: alive
-- Count a deployment's runs that have not ended.
select count(*) as alive from runs
where dep_id = %(dep_id)s and status in ('queued', 'offered', 'running');

-- name: edit
-- Write another revision of a deployment, which is seized, and who wanted it. A breaker that knows
-- the deployment by the revision before knows it by this one, unless that posts elsewhere.
with present as (
    select * from deployments where dep_id = %(dep_id)s
),
known as ( -- the previous release keeps no revision of what it makes
    insert into deployment_revisions (dep_id, revision, spec, created_at, actor, note)
    select dep_id, revision, target, created_at, 'unknown', 'made before revisions were kept'
    from present
    on conflict (dep_id, revision) do nothing
),
changed as (
    update deployments
    set version = %(version)s,
        queue = %(queue)s,
        target = %(spec)s::jsonb,
        revision = revision + 1
    where dep_id = %(dep_id)s
    returning dep_id, revision, target
),
taken_along as (
    update breakers
    set deployments = deployments || jsonb_build_object(changed.dep_id, changed.revision)
    from changed join present using (dep_id)
    where (breakers.deployments ->> changed.dep_id)::bigint = present.revision
        and changed.target #>> '{httpOut,baseUrl}'
        is not distinct from present.target #>> '{httpOut,baseUrl}'
),
noted as (
    insert into audit (actor, action, subject, detail)
    select
        %(actor)s,
        case when %(restores)s::bigint is null then 'deployment.edit' else 'deployment.roll_back' end,
        dep_id,
        jsonb_strip_nulls(jsonb_build_object(
            'revision', revision, 'note', %(note)s::text, 'restores', %(restores)s::bigint
        ))
    from changed
)
insert into deployment_revisions (dep_id, revision, spec, actor, note, restores)
select dep_id, revision, target, %(actor)s, %(note)s, %(restores)s::bigint from changed;

-- name: page
-- List a deployment's revisions, the latest first, each with the spec of the one before it.
select
    r.dep_id,
    r.revision,
    r.spec,
    r.created_at,
    r.actor,
    r.note,
    r.restores,
    r.revision = d.revision as present,
    earlier.spec as earlier_spec
from deployment_revisions as r
join deployments as d using (dep_id)
left join lateral (
    select e.spec from deployment_revisions as e
    where e.dep_id = r.dep_id and e.revision < r.revision
    order by e.revision desc
    limit 1
) as earlier on true
where r.dep_id = %(dep_id)s
    and (%(before)s::bigint is null or r.revision < %(before)s)
    and (%(revision)s::bigint is null or r.revision = %(revision)s)
order by r.revision desc
limit %(most)s;

-- name: spec_at
-- Read what a deployment said at a time, or says now.
select spec from deployment_revisions
where dep_id = %(dep_id)s and created_at <= coalesce(%(at)s::timestamptz, now())
order by revision desc
limit 1;

-- name: at_work
-- Count a deployment's leases by node.
select node_id, count(*) as runs from leases where dep_id = %(dep_id)s group by node_id;

-- name: alive_by_version
-- Count a deployment's runs that have not ended, by the version of the agent that they keep.
select version, count(*) as runs from runs
where dep_id = %(dep_id)s and status in ('queued', 'offered', 'running')
group by version
order by version;

-- name: left_behind
-- Read what is known to lie in a queue.
select active, dead_letters from queues where queue = %(queue)s;
