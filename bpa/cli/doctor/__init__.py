"""``bpa doctor``: what is wrong with a set-up, and what to do about it.

Read ``findings`` first, then ``command``: it runs the checks of ``machine`` (this host, this
installation), ``stores`` (Postgres, Valkey, Service Bus) and ``outside`` (model, target, control,
collector). A check takes settings, looks and returns findings; it changes nothing, spends nothing
and never raises: what it meets is a finding.
"""
