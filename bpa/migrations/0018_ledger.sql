-- What a step says of its call: the request's part with the intent, the rest with the answer. Domain's
-- ModelCall or EffectCall, without secrets and contents; null in what nodes of an earlier release
-- report, and in effects that were recorded before.
alter table steps add column call jsonb;

update steps
set call = jsonb_build_object(
    'type', 'model',
    'provider', coalesce(asked.profile ->> 'provider', 'anthropic'),
    'model', coalesce(asked.profile ->> 'model', 'claude-haiku-4-5'),
    'max_tokens', coalesce((asked.profile ->> 'maxOutputTokens')::int, 400)
)
from (
    select runs.run_id, agent_versions.spec -> 'modelProfile' as profile
    from runs join agent_versions using (agent_id, version)
) as asked
where asked.run_id = steps.run_id and steps.kind = 'model';
