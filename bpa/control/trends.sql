-- Runs of late, summed up; runs_ended_lately answers it alone, but for those that are alive.

-- name: arrived
-- Count messages by the minute in which the broker had them: of runs that have ended and of others.
select
    date_bin(make_interval(secs => %(step_s)s), enqueued_at, 'epoch') as at,
    count(*) as arrived
from (
    select enqueued_at from runs
    where status in ('completed', 'dead_lettered') and ended_at >= %(since)s
    union all
    select enqueued_at from runs where status in ('queued', 'offered', 'running')
) as came
where enqueued_at >= %(since)s
group by at
order by at;

-- name: ended
-- Count ends by minute, and all of them in a row without one, with latency from broker to end.
with ended as (
    select
        date_bin(make_interval(secs => %(step_s)s), ended_at, 'epoch') as at,
        status,
        cost_usd,
        extract(epoch from greatest(ended_at, enqueued_at) - enqueued_at)::float8 * 1000 as took_ms
    from runs
    where status in ('completed', 'dead_lettered') and ended_at >= %(since)s
)
select
    at,
    count(*) filter (where status = 'completed') as completed,
    count(*) filter (where status = 'dead_lettered') as dead_lettered,
    percentile_cont(0.5) within group (order by took_ms) as p50_ms,
    percentile_cont(0.95) within group (order by took_ms) as p95_ms,
    percentile_cont(0.99) within group (order by took_ms) as p99_ms,
    coalesce(sum(cost_usd), 0)::text as cost_usd
from ended
group by grouping sets ((at), ())
order by at;

-- name: alive
-- Count living runs by status and by what they wait for.
select
    status,
    case when status = 'queued' then coalesce(waiting_reason, 'its turn') end as waits_for,
    count(*) as runs,
    min(created_at) as oldest_at
from runs
where status in ('queued', 'offered', 'running')
group by 1, 2
order by 3 desc, 1, 2
limit 100;
