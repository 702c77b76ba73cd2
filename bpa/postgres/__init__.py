"""The one way to Postgres: named queries, the pool, migrations, notifications.

Adapters read their SQL with :func:`load_queries` from the ``.sql`` file beside them, run it on a
pool from :func:`open_pool`, and wrap what they do in :func:`translated`. Exports what they need;
imports nothing of ours but ``errors``, ``batching`` and ``cancellation``.
"""

from bpa.postgres.connections import (
    BoundedConnection,
    Connection,
    Pool,
    conninfo,
    open_pool,
    pool_of,
    translated,
)
from bpa.postgres.migrations import MIGRATIONS, migrate, newest_migration
from bpa.postgres.notifications import Notifications, Subscription, Wakeup
from bpa.postgres.pipeline import Pipeline
from bpa.postgres.queries import Queries, load_queries
from bpa.postgres.statements import fetch_all, fetch_one, fetch_within

__all__ = [
    "MIGRATIONS",
    "BoundedConnection",
    "Connection",
    "Notifications",
    "Pipeline",
    "Pool",
    "Queries",
    "Subscription",
    "Wakeup",
    "conninfo",
    "fetch_all",
    "fetch_one",
    "fetch_within",
    "load_queries",
    "migrate",
    "newest_migration",
    "open_pool",
    "pool_of",
    "translated",
]
