-- The ledger's sums. A statement is one of by_*, then sums, one of the lines, chosen, for a next page
-- one of after_*, and one of the pages or orders.

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
    s.agent_id as key,
    null::bigint as epoch,

-- name: by_deployment
-- Sum up each deployment.
select
    s.dep_id as key,
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

-- name: lines
-- Of all calls: steps_ledger answers it alone, or steps_pkey leads to the newest runs.
from (
    select * from steps
    where kind = 'model' and inherited_from is null and answer is distinct from ''
) as s

-- name: lines_with_runs
-- Of the calls of runs, a page of them: each run is looked up.
from (
    select steps.*, runs.agent_id, runs.dep_id
    from steps join runs using (run_id)
    where kind = 'model' and inherited_from is null and answer is distinct from ''
) as s

-- name: lines_of_all
-- Of all calls with whose they are, half a day at a time, so that what is joined fits in memory. Most
-- runs end soon after their calls, and runs_ended_lately holds all that is asked of them; others are
-- looked up. Without the offset all halves would be joined as one.
from (
    select min(accounted_at) as first_at, max(accounted_at) as last_at from steps
    where kind = 'model' and inherited_from is null and answer is distinct from ''
) as kept
cross join lateral generate_series(
    greatest(kept.first_at, %(since)s::timestamptz),
    case when kept.first_at is not null then least(kept.last_at, %(until)s::timestamptz) end,
    interval '12 hours'
) as halves (began_at)
cross join lateral (
    select
        run_id,
        seq,
        epoch,
        accounted_at,
        unanswered,
        model,
        steps.cost_usd,
        input_tokens,
        output_tokens,
        cache_read_tokens,
        cache_write_tokens,
        unpriced_tokens,
        reserved_tokens,
        reserved_usd,
        coalesce(
            ended.agent_id, (select runs.agent_id from runs where runs.run_id = steps.run_id)
        ) as agent_id,
        coalesce(
            ended.dep_id, (select runs.dep_id from runs where runs.run_id = steps.run_id)
        ) as dep_id
    from steps
    left join (
        select run_id, agent_id, dep_id from runs
        where status in ('completed', 'dead_lettered')
            and ended_at >= began_at and ended_at < began_at + interval '13 hours'
    ) as ended using (run_id)
    where kind = 'model' and inherited_from is null and answer is distinct from ''
        and accounted_at >= began_at and accounted_at < began_at + interval '12 hours'
    offset 0
) as s

-- name: chosen
-- Choose the calls; the last one of an execution that holds its lease may still be answered.
left join leases as l on s.unanswered and l.run_id = s.run_id and l.epoch = s.epoch
where s.accounted_at >= coalesce(%(since)s::timestamptz, '-infinity')
    and s.accounted_at < coalesce(%(until)s::timestamptz, 'infinity')
    and (%(model)s::text is null or s.model = %(model)s)
    and not (
        s.unanswered
        and l.run_id is not null
        and not exists (
            select from steps as later where later.run_id = s.run_id and later.seq > s.seq
        )
    )

-- name: chosen_runs
-- Choose by whose the calls are.
and (%(agent)s::text is null or s.agent_id = %(agent)s)
and (%(deployment)s::text is null or s.dep_id = %(deployment)s)

-- name: after_run
-- From a place on.
and s.run_id < %(after_run)s::uuid

-- name: after_attempt
-- From a place on; steps_pkey leads to the run.
and (s.run_id, s.epoch) < (%(after_run)s::uuid, %(after_epoch)s::bigint)

-- name: page_of_runs
-- A page of runs, newest first: grouped by what steps_pkey is in order of.
group by s.run_id
order by s.run_id desc
limit %(limit)s

-- name: page_of_attempts
-- A page of executions, newest first.
group by s.run_id, s.epoch
order by s.run_id desc, s.epoch desc
limit %(limit)s

-- name: days_newest_first
-- Order by day, of which the statistics steps_days say that there are few.
group by (s.accounted_at at time zone 'UTC')::date
order by (s.accounted_at at time zone 'UTC')::date desc
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
-- Where that are many, the percentiles are those of a sample, the same one each time.
with ended as materialized (
    select
        dep_id,
        count(*) as runs,
        max(tokens_used) as tokens_max,
        max(cost_usd) as usd_max,
        count(*) filter (where reason = 'DeadlineExceeded') as out_of_time
    from runs
    where status in ('completed', 'dead_lettered')
        and ended_at >= coalesce(%(since)s::timestamptz, '-infinity')
        and ended_at < coalesce(%(until)s::timestamptz, 'infinity')
        and (%(agent)s::text is null or agent_id = %(agent)s)
        and (%(deployment)s::text is null or dep_id = %(deployment)s)
    group by dep_id
),
sampled as (
    select
        dep_id,
        percentile_disc(array[0.5, 0.95]) within group (order by tokens_used) as tokens,
        percentile_disc(array[0.5, 0.95]) within group (order by cost_usd) as usd
    from runs join ended using (dep_id)
    where status in ('completed', 'dead_lettered')
        and ended_at >= coalesce(%(since)s::timestamptz, '-infinity')
        and ended_at < coalesce(%(until)s::timestamptz, 'infinity')
        and (%(agent)s::text is null or agent_id = %(agent)s)
        and abs(uuid_hash(run_id)::bigint) %% greatest(1, ended.runs / %(sample)s::bigint) = 0
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
    sampled.tokens || ended.tokens_max as tokens,
    (sampled.usd || ended.usd_max)::text[] as usd,
    ended.out_of_time,
    coalesce(refused.tokens, 0) as out_of_tokens,
    coalesce(refused.usd, 0) as out_of_usd,
    coalesce(refused.calls, 0) as out_of_calls
from ended
join sampled using (dep_id)
left join refused using (dep_id)
left join deployments using (dep_id)
order by ended.runs desc, 1
limit %(limit)s;
