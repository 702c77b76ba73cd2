-- name: claim
-- Take the turn to go through a dead-letter queue, unless somebody did so a moment ago.
insert into sweeps (queue, swept_at) values (%(queue)s, now())
on conflict (queue) do update set swept_at = now()
where sweeps.swept_at <= now() - make_interval(secs => %(every_s)s::float8)
returning queue;

-- name: unended
-- Of the runs of dead letters, tell those that live, and those that were never recorded (null).
select asked.run_id::text as run_id, runs.status
from unnest(%(run_ids)s::uuid[]) as asked (run_id)
left join runs using (run_id)
where runs.run_id is null or runs.status not in ('completed', 'dead_lettered');

-- name: end_deliveries
-- Note that these messages are dead letters now: a replica that held one may have died, and nobody
-- else can say so. (A delivery that an earlier release recorded has no number.)
update deliveries
set settled_at = now(), disposition = 'dead_letter'
from unnest(%(run_ids)s::uuid[], %(numbers)s::bigint[]) as letter (run_id, number)
where deliveries.run_id = letter.run_id
    and coalesce(deliveries.sequence_number, letter.number) = letter.number
    and deliveries.settled_at is null;
