-- name: note
-- Note of messages that they are dead letters now, and return the runs that have not ended (null
-- where a run never was). The replica that held one may have died, or have given it back: nobody
-- else can say so. (A delivery that an earlier release recorded has no number.)
with letter as (
    select * from unnest(%(run_ids)s::uuid[], %(numbers)s::bigint[], %(counts)s::int[]) as t (
        run_id, number, delivery_count
    )
),
over as (
    update deliveries
    set settled_at = now(), disposition = 'dead_letter', sequence_number = letter.number
    from letter
    where deliveries.run_id = letter.run_id
        and coalesce(deliveries.sequence_number, letter.number) = letter.number
        and deliveries.settled_at is null
    returning letter.run_id, letter.number
),
noted as (
    insert into deliveries (
        run_id, owner, delivery_count, sequence_number, settled_at, disposition
    )
    select run_id, 'the broker', delivery_count, number, now(), 'dead_letter'
    from letter
    where exists (select from runs where runs.run_id = letter.run_id)
        and not exists (
            select from over where over.run_id = letter.run_id and over.number = letter.number
        )
        and not exists (
            select from deliveries as d
            where d.run_id = letter.run_id
                and d.sequence_number = letter.number
                and d.disposition = 'dead_letter'
        )
)
select distinct
    letter.run_id::text as run_id,
    runs.status
from letter
left join runs using (run_id)
where runs.run_id is null or runs.status not in ('completed', 'dead_lettered');
