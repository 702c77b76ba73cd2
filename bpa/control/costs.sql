-- The ledger's sums. A statement is one of by_*, then sums, of_runs where runs are asked for, chosen
-- and one of the orders; the index steps_ledger answers it alone unless runs are asked for.

-- name: by_run
-- Sum up each run.
select
    s.run_id::text as key,
    null::bigint as epoch,

-- name: by_attempt
-- Sum up each execution of each run.
select
    s.run_id::text as key,
    s.epoch,

-- name: by_agent
-- Sum up each agent, over its versions.
select
    r.agent_id as key,
    null::bigint as epoch,

-- name: by_deployment
-- Sum up each deployment.
select
    r.dep_id as key,
    null::bigint as epoch,

-- name: by_model
-- Sum up each model by the name it was asked for; null where a node of an earlier release asked.
select
    s.model as key,
    null::bigint as epoch,

-- name: by_day
-- Sum up each day in UTC: of the answer, or of the request where there is no answer.
select
    (s.accounted_at at time zone 'UTC')::date::text as key,
    null::bigint as epoch,

-- name: sums
-- Count what was answered, and apart from it what has no price and what was never answered.
    count(*) filter (where not s.unanswered) as calls,
    coalesce(sum(s.input_tokens), 0)::bigint as input_tokens,
    coalesce(sum(s.output_tokens), 0)::bigint as output_tokens,
    coalesce(sum(s.cache_read_tokens), 0)::bigint as cache_read_tokens,
    coalesce(sum(s.cache_write_tokens), 0)::bigint as cache_write_tokens,
    sum(s.cost_usd)::text as cost_usd,
    coalesce(sum(s.unpriced_tokens), 0)::bigint as unpriced_tokens,
    count(*) filter (where s.unanswered) as unknown_calls,
    coalesce(sum(s.reserved_tokens) filter (where s.unanswered), 0) as unknown_tokens,
    coalesce(sum(s.reserved_usd) filter (where s.unanswered), 0)::text as unknown_usd,
    coalesce(sum(s.reserved_tokens) filter (where s.unanswered and s.reserved_usd is null), 0)
        as unknown_unpriced_tokens
from steps as s
left join leases as l on s.unanswered and l.run_id = s.run_id and l.epoch = s.epoch

-- name: of_runs
-- Look at the runs that made the calls as well: none had ended long before its last call. An index
-- of those that have ended holds all that is asked of them.
join (
    select run_id, agent_id, dep_id from runs
    where status in ('completed', 'dead_lettered')
        and ended_at >= coalesce(%(since)s::timestamptz, '-infinity') - interval '1 day'
    union all
    select run_id, agent_id, dep_id from runs where status in ('queued', 'offered', 'running')
) as r on r.run_id = s.run_id
    and (%(agent)s::text is null or r.agent_id = %(agent)s)
    and (%(deployment)s::text is null or r.dep_id = %(deployment)s)

-- name: chosen
-- Choose the calls; the last one of an execution that holds its lease may still be answered.
where s.kind = 'model' and s.inherited_from is null and s.answer is distinct from ''
    and s.accounted_at >= coalesce(%(since)s::timestamptz, '-infinity')
    and s.accounted_at < coalesce(%(until)s::timestamptz, 'infinity')
    and (%(model)s::text is null or s.model = %(model)s)
    and (
        %(after_run)s::uuid is null
        or (s.run_id, s.epoch) < (%(after_run)s::uuid, %(after_epoch)s::bigint)
    )
    and not (
        s.unanswered
        and l.run_id is not null
        and not exists (
            select from steps as later where later.run_id = s.run_id and later.seq > s.seq
        )
    )

-- name: newest_first
-- Order by run, execution or day.
group by 1, 2
order by 1 desc, 2 desc
limit %(limit)s

-- name: dearest_first
-- Order by USD, then by the tokens that have no price.
group by 1, 2
order by sum(s.cost_usd) desc, sum(s.unpriced_tokens) desc nulls last, 1
limit %(limit)s

-- name: completions
-- Count the runs that completed, by what the sums are by (a run's model is its agent version's); under
-- null where that has no lines of its own. The index runs_ended_lately answers it alone.
select
    case %(by)s::text
        when 'agent' then ended.agent_id
        when 'deployment' then ended.dep_id
        when 'model' then agent_versions.spec #>> '{modelProfile,model}'
        when 'day' then ended.day::text
    end as key,
    sum(ended.completed)::bigint as completed
from (
    select
        agent_id,
        version,
        dep_id,
        case when %(by)s::text = 'day' then (ended_at at time zone 'UTC')::date end as day,
        count(*) as completed
    from runs
    where status = 'completed'
        and ended_at >= coalesce(%(since)s::timestamptz, '-infinity')
        and ended_at < coalesce(%(until)s::timestamptz, 'infinity')
        and (%(agent)s::text is null or agent_id = %(agent)s)
        and (%(deployment)s::text is null or dep_id = %(deployment)s)
    group by 1, 2, 3, 4
) as ended
left join agent_versions using (agent_id, version)
where %(model)s::text is null or agent_versions.spec #>> '{modelProfile,model}' = %(model)s
group by 1;

-- name: budget_use
-- Sum up what the runs of each deployment used that ended in the time, beside what one may use now.
with ended as (
    select
        dep_id,
        count(*) as runs,
        percentile_disc(array[0.5, 0.95, 1]) within group (order by tokens_used) as tokens,
        percentile_disc(array[0.5, 0.95, 1]) within group (order by cost_usd) as usd,
        count(*) filter (where reason = 'DeadlineExceeded') as out_of_time
    from runs
    where status in ('completed', 'dead_lettered')
        and ended_at >= coalesce(%(since)s::timestamptz, '-infinity')
        and ended_at < coalesce(%(until)s::timestamptz, 'infinity')
        and (%(agent)s::text is null or agent_id = %(agent)s)
        and (%(deployment)s::text is null or dep_id = %(deployment)s)
    group by dep_id
),
refused as (
    select
        runs.dep_id,
        count(*) filter (where executions.excess ->> 'kind' = 'tokens') as tokens,
        count(*) filter (where executions.excess ->> 'kind' = 'usd') as usd,
        count(*) filter (where executions.excess ->> 'kind' = 'calls') as calls
    from runs
    join executions on executions.run_id = runs.run_id and executions.excess is not null
    where runs.status in ('completed', 'dead_lettered') and runs.reason = 'BudgetExceeded'
        and runs.ended_at >= coalesce(%(since)s::timestamptz, '-infinity')
        and runs.ended_at < coalesce(%(until)s::timestamptz, 'infinity')
    group by runs.dep_id
)
select
    ended.dep_id as deployment_id,
    deployments.target -> 'budgets' as budgets,
    ended.runs,
    ended.tokens,
    ended.usd::text[] as usd,
    ended.out_of_time,
    coalesce(refused.tokens, 0) as out_of_tokens,
    coalesce(refused.usd, 0) as out_of_usd,
    coalesce(refused.calls, 0) as out_of_calls
from ended
left join refused using (dep_id)
left join deployments using (dep_id)
order by ended.runs desc, 1
limit %(limit)s;
