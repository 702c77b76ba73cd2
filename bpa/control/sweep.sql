-- name: claim
-- Take the turn to sweep a dead-letter queue, unless somebody did so a moment ago or its cost asks
-- for a longer rest; return what is known of the queue.
insert into sweeps (queue, swept_at) values (%(queue)s, now())
on conflict (queue) do update set swept_at = now()
where sweeps.swept_at
    <= now() - make_interval(secs => greatest(%(every_s)s::float8, sweeps.rest_s))
returning new_from, passed, highest, checked_to;

-- name: go_on
-- Keep the turn: a first sweep of many letters takes longer than from one to the next.
update sweeps set swept_at = now() where queue = %(queue)s;

-- name: rest
-- Give the turn back, until the rest is over.
update sweeps set swept_at = now(), rest_s = %(rest_s)s::float8 where queue = %(queue)s;

-- name: mark
-- Note how far the dead letters are known.
update sweeps
set new_from = %(new_from)s,
    passed = %(passed)s,
    highest = %(highest)s,
    checked_to = %(checked_to)s
where queue = %(queue)s;
