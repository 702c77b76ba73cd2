-- name: create
-- Put an agent version to work on a queue.
with made as (
    insert into deployments (dep_id, agent_id, version, env, queue, target)
    values (%(dep_id)s, %(agent_id)s, %(version)s, %(env)s, %(queue)s, %(target)s::jsonb)
    on conflict (dep_id) do nothing
    returning dep_id, revision, target
)
insert into deployment_revisions (dep_id, revision, spec, actor, note)
select dep_id, revision, target, %(actor)s, 'created' from made
returning dep_id;

-- name: page
-- List deployments with their living runs.
select
    dep_id,
    agent_id,
    version,
    env,
    queue,
    target,
    status,
    revision,
    created_at,
    (
        select count(*) from runs
        where runs.dep_id = deployments.dep_id and status in ('queued', 'offered', 'running')
    ) as alive
from deployments
where (%(dep_id)s::text is null or dep_id = %(dep_id)s)
    and (%(env)s::text is null or env = %(env)s)
order by created_at, dep_id;

-- name: feeding
-- Read the active deployment of each queue of an environment.
select
    dep_id,
    agent_id,
    version,
    queue,
    target,
    revision,
    status ? 'paused' as paused
from deployments
where env = %(env)s and (status ->> 'active')::boolean
order by dep_id;

-- name: pause
-- Have a deployment take and start nothing, or go on with that, unless it has changed since its tag
-- was read. Its revision stays: breakers know it by that, and a pause does not move its target.
with present as materialized (
    select
        dep_id,
        status ? 'paused' as paused,
        revision::text || case when status ? 'paused' then '-paused' else '' end as tag
    from deployments where dep_id = %(dep_id)s
    for no key update
),
changed as (
    update deployments
    set status = case
            when %(paused)s then status || jsonb_build_object(
                'paused', jsonb_build_object('at', now(), 'by', %(actor)s::text)
            )
            else status - 'paused'
        end
    from present
    where deployments.dep_id = present.dep_id
        and present.paused is distinct from %(paused)s
        and (%(tag)s::text is null or present.tag = %(tag)s)
    returning deployments.dep_id
),
noted as (
    insert into audit (actor, action, subject)
    select
        %(actor)s,
        case when %(paused)s then 'deployment.pause' else 'deployment.resume' end,
        dep_id
    from changed
)
select tag from present;
