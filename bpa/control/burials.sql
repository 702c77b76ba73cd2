-- name: note
-- Note of messages that they are dead letters now, and return the runs that have not ended (null
-- where a run never was). The replica that held one may have died, or have given it back: nobody
-- else can say so. (A delivery that an earlier release recorded has no number.)
with letter as (
    select
        t.*,
        (select runs.status from runs where runs.run_id = t.run_id) as status,
        known.is_noted,
        known.is_open
    from unnest(%(run_ids)s::uuid[], %(numbers)s::bigint[], %(counts)s::int[]) as t (
        run_id, number, delivery_count
    )
    cross join lateral ( -- looked up one by one: no statistics of a fresh table mislead that
        select
            coalesce(bool_or(d.disposition = 'dead_letter'), false) as is_noted,
            coalesce(bool_or(d.settled_at is null), false) as is_open
        from deliveries as d
        where d.run_id = t.run_id and coalesce(d.sequence_number, t.number) = t.number
    ) as known
),
over as (
    update deliveries
    set settled_at = now(), disposition = 'dead_letter', sequence_number = letter.number
    from letter
    where letter.is_open
        and deliveries.run_id = letter.run_id
        and coalesce(deliveries.sequence_number, letter.number) = letter.number
        and deliveries.settled_at is null
),
noted as (
    insert into deliveries (
        run_id, owner, delivery_count, sequence_number, settled_at, disposition
    )
    select run_id, 'the broker', delivery_count, number, now(), 'dead_letter'
    from letter
    where status is not null and not is_noted and not is_open
)
select distinct
    run_id::text as run_id,
    status
from letter
where status is null or status not in ('completed', 'dead_lettered');
