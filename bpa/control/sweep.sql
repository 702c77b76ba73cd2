-- name: claim
-- Take the turn to go through a dead-letter queue, unless somebody did so a moment ago.
insert into sweeps (queue, swept_at) values (%(queue)s, now())
on conflict (queue) do update set swept_at = now()
where sweeps.swept_at <= now() - make_interval(secs => %(every_s)s::float8)
returning queue;
