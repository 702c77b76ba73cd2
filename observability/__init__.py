"""What looks at a running BPA from outside.

A tool of this repository, not a part of the package: it knows ``bpa`` by its addresses and metrics.

Read ``dashboards/`` (what an operator sees) and ``grafana`` (which draws it); ``programs``
(Prometheus itself, found or fetched). The alerts stand in ``config/alerts``; what to do about them,
in ``docs/runbooks.md``.
"""
