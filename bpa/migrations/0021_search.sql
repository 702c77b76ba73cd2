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
-- the posted result have them, its trace. A lexeme may have 2,046 bytes, so each part is cut.
create function run_words(input_ref jsonb, outcome jsonb, trace_id text) returns tsvector
language sql immutable parallel safe
return array_to_tsvector(search_words(
    coalesce(left(input_ref ->> 'message_id', 200), '') || ' '
    || coalesce(left(input_ref ->> 'invoice_id', 200), '') || ' '
    || coalesce(left(input_ref ->> 'vendor', 200), '') || ' '
    || coalesce(left(outcome ->> 'invoice_id', 200), '') || ' '
    || coalesce(left(outcome ->> 'vendor', 200), '') || ' '
    || coalesce(left(trace_id, 200), '')
));

-- What is looked for: every word, those of three characters and more also as the beginning of one.
create function search_query(said text) returns tsquery
language sql immutable parallel safe
return (
    select coalesce(
        string_agg('''' || word || case when length(word) >= 3 then ''':*' else '''' end, ' & '), ''
    )::tsquery
    from unnest(search_words(said)) as word
);

create index runs_ended_words on runs using gin (run_words(input_ref, outcome, trace_id))
where status in ('completed', 'dead_lettered');

create index runs_ended_of_deployment on runs (dep_id, created_at desc, run_id desc)
where status in ('completed', 'dead_lettered');

create index runs_ended_on_node on runs (node_id, created_at desc, run_id desc)
where status in ('completed', 'dead_lettered');

create index runs_dead on runs (created_at desc, run_id desc, reason)
where status = 'dead_lettered';

create index runs_ended_by_cost on runs (cost_usd)
where status in ('completed', 'dead_lettered');

create index runs_ended_after_more on runs (created_at desc, run_id desc, executions)
where status in ('completed', 'dead_lettered') and executions > 1;
