"""Names of spans and metrics, once; how spans, metrics and log lines leave the process.

Read ``metrics``, ``spans``, ``logs``.

Spans of one run, one trace::

    receive                 control, child of the sender's span
    +-- plan                control, from received to granted
    +-- lease               control, from offered to acknowledged
    +-- think               node
    |   +-- invoke_agent    +-- chat {model}
    |                       +-- execute_tool post_invoice -- http.out
    +-- complete            control, from the outcome to the settled message

Metrics (``bpa_`` but for the names that the architecture document gives)::

    runs_started_total                counter    agent, version, deployment
    runs_failed_total                 counter    agent, version, deployment, reason
    run_latency_ms                    histogram  agent, version, outcome
    node_slots_used                   gauge      node
    bpa_runs_completed_total          counter    agent, version, deployment
    bpa_messages_settled_total        counter    disposition, result
    bpa_lock_renewals_total           counter    result
    bpa_placement_duration_seconds    histogram  -
    bpa_unplaceable_runs              gauge      reason
    tokens_in, tokens_out, usd_cost   counter    agent, model
    bpa_unpriced_tokens_total         counter    agent, model
    bpa_steps_replayed_total          counter    kind
    bpa_budget_exceeded_total         counter    budget
    bpa_http_out_breaker_open         gauge      host
    bpa_http_out_probes_total         counter    host, result
    bpa_runs_parked_total             counter    host
    bpa_dlq_replayed_total            counter    result
    bpa_leases_fenced_total           counter    -
    bpa_leases_expired_total          counter    -
"""
