-- name: claim_namespace
-- Keep the namespace of the first start for good: run ids are made of it (I2).
insert into settings (name, value)
values ('namespace', to_jsonb(%(namespace)s::text))
on conflict (name) do nothing;

-- name: namespace
-- Read the namespace that this database belongs to.
select value #>> '{}' as namespace from settings where name = 'namespace';

-- name: look
-- Tell Postgres's time, and how far the schema has come.
select
    extract(epoch from clock_timestamp())::float8 as now_s,
    (select coalesce(max(version), 0) from schema_migrations) as version;
