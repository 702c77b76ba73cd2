"""What looks at a running BPA from outside.

A tool of this repository, not a part of the package: it knows ``bpa`` by its addresses and metrics.

Read ``programs``: Debian's Prometheus, found or fetched. The alerts stand in ``config/alerts``;
what to do about them, in ``docs/runbooks.md``.
"""
