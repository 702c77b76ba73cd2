-- name: look
-- Note who looks at a run's contents, and read what they follow from.
with noted as (
    insert into audit (actor, action, subject, detail)
    select %(actor)s, 'run.look', run_id::text, jsonb_build_object('shown', %(shown)s::text)
    from runs where run_id = %(run_id)s::uuid
)
select
    runs.run_id::text as run_id,
    run_inputs.document,
    agent_versions.spec,
    coalesce(received.spec, deployments.target) as target
from runs
left join run_inputs using (run_id)
left join agent_versions on agent_versions.agent_id = runs.agent_id
    and agent_versions.version = runs.version
left join deployments on deployments.dep_id = runs.dep_id
left join deployment_revisions as received
    on received.dep_id = runs.dep_id and received.revision = runs.revision
where runs.run_id = %(run_id)s::uuid;

-- name: kept
-- Read what a run's journal keeps of requests and answers.
select
    seq,
    kind,
    digest,
    intent,
    answer
from steps where run_id = %(run_id)s::uuid
order by seq;

-- name: notes
-- Read what people did to a run: the latest notes of the audit, in order.
select * from (
    select
        audit_id,
        at,
        actor,
        action,
        detail
    from audit where subject = %(run_id)s
    order by audit_id desc
    limit 200
) as latest
order by audit_id;
