"""Decide which node executes which run, and make that stick.

Read in this order: ``fleet`` (the values), ``constraints`` and ``planner`` (what should go where,
pure), ``rooms`` (how much more may be received, pure), ``snapshot`` (what Postgres says), ``holds``
and ``commit`` (holds in Redis, grants in Postgres), ``credit`` (reservations of room), ``loop``
(the service that does it all again). ``breakers`` (pure) says when a target is left alone and
when one run probes it. Imports domain, errors, postgres and valkey; never control.
"""
