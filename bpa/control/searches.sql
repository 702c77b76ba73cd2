-- The search for runs. A part is columns, a source, the conditions, after, newest_first; a page is one
-- part or two of them joined. Each condition has the name of the field of Search that it is for.

-- name: columns
-- Select what a list shows of a run.
select
    run_id::text as run_id,
    agent_id,
    version,
    dep_id,
    node_id,
    status,
    reason,
    detail,
    waiting_reason,
    case when status = 'queued' and not_before > now() then not_before end as waiting_until,
    cancel_asked_at,
    parked,
    executions,
    cost_usd::text as cost_usd,
    tokens_used,
    trace_id,
    coalesce(outcome ->> 'vendor', input_ref ->> 'vendor') as vendor,
    coalesce(outcome ->> 'invoice_id', input_ref ->> 'invoice_id') as invoice_id,
    input_ref ->> 'message_id' as message_id,
    created_at,
    started_at,
    ended_at,
    (
        select following.run_id::text from replays as following
        where following.replayed_run_id = runs.run_id
    ) as replayed_as
from runs

-- name: identity
-- Select the id alone, of runs that are counted or kept.
select run_id
from runs

-- name: place
-- Select an id and its place among all runs, of runs that are gathered.
select run_id, created_at
from runs

-- name: every
-- Look at all runs: the index runs_recent leads through them.
where true

-- name: ended
-- Look at those that have ended: the condition of their indexes, to the letter.
where status in ('completed', 'dead_lettered')

-- name: dead
-- Look at the dead letters.
where status = 'dead_lettered'

-- name: alive
-- Look at those that have not ended.
where status in ('queued', 'offered', 'running')

-- name: retried
-- Say to the planner that an index of runs with more than one execution will do.
and executions > 1

-- name: statuses
-- Of these statuses.
and status = any(%(statuses)s)

-- name: agent
-- Of this agent.
and agent_id = %(agent)s

-- name: deployment
-- Of this deployment.
and dep_id = %(deployment)s

-- name: node
-- Held by this node, now or last.
and node_id = %(node)s

-- name: queue
-- From this queue.
and input_ref ->> 'queue' = %(queue)s

-- name: reason
-- Dead-lettered for this reason.
and reason = %(reason)s

-- name: attempts_from
-- Executed so often at least.
and executions >= %(attempts_from)s

-- name: attempts_to
-- Executed so often at most.
and executions <= %(attempts_to)s

-- name: cost_over
-- More expensive than that.
and cost_usd > %(cost_over)s

-- name: cost_from
-- That expensive at least.
and cost_usd >= %(cost_from)s

-- name: cost_under
-- Cheaper than that.
and cost_usd < %(cost_under)s

-- name: cost_to
-- That expensive at most.
and cost_usd <= %(cost_to)s

-- name: tokens_from
-- With so many tokens at least.
and tokens_used >= %(tokens_from)s

-- name: tokens_to
-- With so many tokens at most.
and tokens_used <= %(tokens_to)s

-- name: since
-- Not before this time.
and created_at >= %(since)s

-- name: until
-- Before this time.
and created_at < %(until)s

-- name: trace
-- Of this trace, by its column and by the index of words.
and trace_id = %(trace)s
and run_words(input_ref, outcome, trace_id) @@ search_query(%(trace)s, false)

-- name: is_replay
-- A replay of a dead letter.
and run_id in (select replays.run_id from replays)

-- name: is_no_replay
-- No replay of a dead letter.
and not exists (select from replays where replays.run_id = runs.run_id)

-- name: replay_of
-- A replay of this run's dead letter, or of a replay of it.
and run_id in (
    select replays.run_id from replays
    where replays.original_run_id = %(replay_of)s::uuid
        or replays.replayed_run_id = %(replay_of)s::uuid
)

-- name: words
-- With all these words, the last of which may go on.
and run_words(input_ref, outcome, trace_id) @@ search_query(%(words)s, true)

-- name: word_id
-- With all these words, or with this id.
and (
    run_id = %(word_id)s::uuid
    or run_words(input_ref, outcome, trace_id) @@ search_query(%(words)s, true)
)

-- name: unreplayed
-- That wait, or whose dead letter has not been replayed to its end.
and (
    status = 'queued'
    or not exists (
        select from replays
        where replays.replayed_run_id = runs.run_id and replays.settled_at is not null
    )
)

-- name: after
-- Go on after this run.
and (created_at, run_id) < (%(after_at)s::timestamptz, %(after_id)s::uuid)

-- name: down_to
-- Go no further than this run.
and (created_at, run_id) >= (%(down_to_at)s::timestamptz, %(down_to_id)s::uuid)

-- name: newest_first
-- The newest so many of one part.
order by created_at desc, runs.run_id desc
limit %(limit)s

-- name: newest_of_both
-- The newest so many of two parts.
order by created_at desc, run_id::uuid desc
limit %(limit)s

-- name: capped
-- So many of one part at most, in no order.
limit %(limit)s

-- name: both
-- Take both parts together.
select * from (

-- name: gathering
-- Gather the runs of all parts.
with found as materialized (

-- name: gathered
-- So many of one part at most, in no order.
limit %(gathered)s

-- name: of_gathered
-- Take the newest of what was gathered, and say how much that was.
),
newest as (
    select found.run_id from found
    order by created_at desc, found.run_id desc
    limit %(limit)s
)
select page.*, (select count(*) from found) as gathered from (

-- name: newest
-- Look at those alone: what a list shows of a run costs more than to find it.
where run_id in (select newest.run_id from newest)

-- name: of_newest
-- End the taking of those.
) as page

-- name: guessed
-- Have the planner say how many runs have these words: it knows the common ones.
explain (format json)
select from runs
where run_words(input_ref, outcome, trace_id) @@ search_query(%(words)s, false)

-- name: counted
-- Count the runs of the parts.
select count(*) as runs from (

-- name: in_all
-- End the taking or counting of all parts.
) as found

-- name: window_end
-- Find the run that is so many places further down than all runs so far.
select run_id::text as run_id, created_at from runs
where true

-- name: window_rows
-- Skip the rows of a window.
order by created_at desc, runs.run_id desc
offset %(rows)s limit 1
