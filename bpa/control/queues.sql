-- name: list_fed
-- Make a row for each queue that an active deployment of any environment feeds from.
insert into queues (queue)
select distinct d.queue from deployments as d
where (d.status ->> 'active')::boolean
    and not exists (select from queues as q where q.queue = d.queue)
order by d.queue -- in one order, since all replicas do
on conflict (queue) do nothing;

-- name: drop_unfed
-- Forget the queues that none feeds from any more.
delete from queues where queue in (
    select q.queue from queues as q
    where not exists (
        select from deployments as d
        where d.queue = q.queue and (d.status ->> 'active')::boolean
    )
    for update of q skip locked
);

-- name: claim
-- Take the turn at queues whose last reading is old enough, and return what was known of them.
with due as (
    select q.queue from queues as q
    where q.claimed_at <= now() - make_interval(secs => %(every_s)s::float8)
        and exists (
            select from deployments as d
            where d.queue = q.queue and d.env = %(env)s and (d.status ->> 'active')::boolean
        )
    order by q.claimed_at
    limit %(at_most)s
    for update of q skip locked
)
update queues as q set claimed_at = now() from due
where q.queue = due.queue
returning q.queue, q.claimed_at, q.trouble, q.max_delivery_count;

-- name: measured
-- Write down a reading, unless somebody has taken the turn since: numbers, or that there are none
-- since there is no queue. A setting that an estimate cannot tell stays as it was.
update queues
set measured_at = case when %(active)s::bigint is not null then now() end,
    active = %(active)s,
    active_at_least = %(active_at_least)s,
    scheduled = %(scheduled)s,
    dead_letters = %(dead_letters)s,
    dead_letters_at_least = %(dead_letters_at_least)s,
    estimated = %(estimated)s,
    oldest_enqueued_at = %(oldest_enqueued_at)s,
    max_delivery_count = case
        when %(active)s::bigint is not null
            then coalesce(%(max_delivery_count)s, max_delivery_count)
    end,
    trouble = %(trouble)s,
    detail = %(detail)s
where queue = %(queue)s and claimed_at = %(claimed_at)s;

-- name: unmeasured
-- Write down why there is no reading; the numbers before it stay, with their time.
update queues set trouble = %(trouble)s, detail = %(detail)s
where queue = %(queue)s and claimed_at = %(claimed_at)s;

-- name: page
-- List the queues that an environment feeds from, each with its deployment and what was last read.
select
    d.queue,
    d.dep_id,
    d.agent_id,
    d.version,
    q.measured_at,
    extract(epoch from now() - coalesce(q.measured_at, q.listed_at))::float8 as reading_age_s,
    q.active,
    q.active_at_least is true as active_at_least,
    q.scheduled,
    q.dead_letters,
    q.dead_letters_at_least is true as dead_letters_at_least,
    q.estimated is true as estimated,
    q.oldest_enqueued_at,
    extract(
        epoch from greatest(q.measured_at, q.oldest_enqueued_at) - q.oldest_enqueued_at
    )::float8 as oldest_age_s,
    q.max_delivery_count,
    (q.max_delivery_count < %(least)s) is true as max_delivery_count_low,
    q.trouble,
    coalesce(q.detail, '') as detail
from deployments as d
left join queues as q on q.queue = d.queue
where d.env = %(env)s and (d.status ->> 'active')::boolean
order by d.queue;
