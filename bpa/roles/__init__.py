"""The roles a process can have: each module reads from top to bottom as its start-up order.

``control`` and ``node`` are complete by themselves and meet over gRPC only; ``all`` is both in one
process, beside the embedded servers of whatever no setting names. Each has a ``serve(settings,
stop, announce)``.
"""
