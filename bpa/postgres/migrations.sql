-- name: lock_migrations
-- Let one starter migrate at a time; the lock ends with the session.
SELECT pg_advisory_lock(%(key)s);

-- name: create_migrations
-- Remember which migrations this database has, and the bytes they had.
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: applied_migrations
-- Everything applied so far, in order.
SELECT version, name, checksum FROM schema_migrations ORDER BY version;

-- name: record_migration
-- Written in the transaction of the migration itself.
INSERT INTO schema_migrations (version, name, checksum)
VALUES (%(version)s, %(name)s, %(checksum)s);
