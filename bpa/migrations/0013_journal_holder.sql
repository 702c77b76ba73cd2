-- In which run's journal that is found what a run, or a replay of it, goes on from: its own; a run
-- that was never recorded, as the broker took its message first, left all of it in the run that it
-- replays, unless that was with another body.
create function journal_holder(run uuid) returns uuid
language sql stable
begin atomic
    with recursive chain as (
        select run as holder, 0 as depth
        union all
        select replays.replayed_run_id, chain.depth + 1
        from chain
        join replays on replays.run_id = chain.holder and not replays.edited
        where not exists (select from runs where runs.run_id = chain.holder)
    )
    select holder from chain order by depth desc limit 1;
end;
