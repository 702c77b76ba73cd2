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
-- Look at the runs that made the calls as well.
join runs as r on r.run_id = s.run_id
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
