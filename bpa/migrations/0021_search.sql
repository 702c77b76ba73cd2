-- Runs found by what people know of them. Every index here holds runs that have ended, and no others:
-- each takes one entry in a run's whole life, where an index of all runs takes one at every move.
-- Those that are alive are few, and runs_of_deployment_alive leads to them.

-- The words of a text as they are compared: in lower case, split at whatever of ASCII is neither letter
-- nor digit. The collation knows the letters of every script, whatever the database's own is.
do $migration$
declare
    letters text := coalesce(
        (select 'pg_catalog.pg_c_utf8' from pg_collation where collname = 'pg_c_utf8' limit 1),
        'pg_catalog."default"' -- before Postgres 17
    );
begin
    execute format($function$
        create function search_words(said text) returns text[]
        language sql immutable parallel safe
        return string_to_array(
            btrim(regexp_replace(
                lower(said collate %s), '[\x01-\x2f\x3a-\x40\x5b-\x60\x7b-\xa0]+', ' ', 'g'
            )), ' '
        )
    $function$, letters);
end
$migration$;

-- By what words a run is found: its message's id, its invoice's id and vendor as the document and as
-- the posted result have them, its trace. A lexeme may have 2,046 bytes, so each part is cut. It takes
-- some 12 microseconds, and the planner has to know: it would compute a million of them rather than
-- sort five thousand rows. (A function in SQL would be inlined, and its cost forgotten.)
-- The schema stands in it, since indexes are built and restored with none to search in.
do $migration$
begin
    execute format($function$
        create function run_words(input_ref jsonb, outcome jsonb, trace_id text) returns tsvector
        language plpgsql immutable parallel safe cost 1000 as $body$
        begin
            return array_to_tsvector(%I.search_words(
                coalesce(left(input_ref ->> 'message_id', 200), '') || ' '
                || coalesce(left(input_ref ->> 'invoice_id', 200), '') || ' '
                || coalesce(left(input_ref ->> 'vendor', 200), '') || ' '
                || coalesce(left(outcome ->> 'invoice_id', 200), '') || ' '
                || coalesce(left(outcome ->> 'vendor', 200), '') || ' '
                || coalesce(left(trace_id, 200), '')
            ));
        end
        $body$
    $function$, current_schema());
end
$migration$;

-- What is looked for: all words, and the last one, if it may go on, also as the beginning of a longer
-- one: INV-2026-00 finds INV-2026-0012. (Each word as a beginning would read much of the index.)
create function search_query(said text, may_go_on boolean) returns tsquery
language sql immutable parallel safe
return (
    select coalesce(
        string_agg(
            '''' || word
            || case when may_go_on and nth = many and length(word) >= 3
                then ''':*' else ''''
            end,
            ' & '
        ),
        ''
    )::tsquery
    from (
        select word, nth, count(*) over () as many
        from unnest(search_words(said)) with ordinality as one (word, nth)
    ) as words
);

-- How common which words are: a search asks before it decides how to go about it.
create statistics runs_common_words on (run_words(input_ref, outcome, trace_id)) from runs;

create index runs_ended_words on runs using gin (run_words(input_ref, outcome, trace_id))
where status in ('completed', 'dead_lettered');

create index runs_ended_of_agent on runs (agent_id, created_at desc, run_id desc)
where status in ('completed', 'dead_lettered');

create index runs_ended_of_deployment on runs (dep_id, created_at desc, run_id desc)
where status in ('completed', 'dead_lettered');

create index runs_ended_on_node on runs (node_id, created_at desc, run_id desc)
where status in ('completed', 'dead_lettered');

create index runs_dead on runs (created_at desc, run_id desc, reason)
where status = 'dead_lettered';

create index runs_ended_by_cost on runs (cost_usd)
where status in ('completed', 'dead_lettered');

create index runs_ended_by_tokens on runs (tokens_used)
where status in ('completed', 'dead_lettered');

create index runs_ended_after_more on runs (created_at desc, run_id desc, executions)
where status in ('completed', 'dead_lettered') and executions > 1;
