-- name: create
-- Put an agent version to work on a queue.
insert into deployments (dep_id, agent_id, version, env, queue, target)
values (%(dep_id)s, %(agent_id)s, %(version)s, %(env)s, %(queue)s, %(target)s::jsonb)
on conflict (dep_id) do nothing
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
    revision
from deployments
where env = %(env)s and (status ->> 'active')::boolean
order by dep_id;
