-- name: look
-- Tell Postgres's time and version, and what we may do there.
select
    extract(epoch from clock_timestamp())::float8 as now_s,
    current_setting('server_version_num')::int as number,
    current_setting('server_version') as version,
    pg_is_in_recovery() as is_standby,
    coalesce(has_schema_privilege(current_schema(), 'create'), false) as may_create,
    to_regclass('schema_migrations') is not null as is_migrated;

-- name: migrated
-- Tell how far the schema has come, and whose it is.
select
    (select coalesce(max(version), 0) from schema_migrations) as newest,
    (select value #>> '{}' from settings where name = 'namespace') as namespace;
