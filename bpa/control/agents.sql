-- name: create_agent
-- Create an agent with its first version, or tell that it is there.
with made as (
    insert into agents (agent_id, name, instructions, model_profile)
    values (%(agent_id)s, %(name)s, %(instructions)s, %(model_profile)s::jsonb)
    on conflict (agent_id) do nothing
    returning agent_id
)
insert into agent_versions (agent_id, version, spec)
select agent_id, %(version)s, %(spec)s::jsonb from made
returning agent_id, version, created_at;

-- name: create_version
-- Add a version to an agent; a version never changes once it is there.
insert into agent_versions (agent_id, version, spec)
select agent_id, %(version)s, %(spec)s::jsonb from agents where agent_id = %(agent_id)s
on conflict (agent_id, version) do nothing
returning agent_id, version, created_at;

-- name: versions
-- List the versions of one agent, or of all.
select
    agent_id,
    version,
    spec,
    created_at
from agent_versions
where (%(agent_id)s::text is null or agent_id = %(agent_id)s)
    and (%(version)s::text is null or version = %(version)s)
order by agent_id, created_at;
