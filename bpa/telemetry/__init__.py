"""Names of spans and metrics, once; how spans, metrics and log lines leave the process.

Read ``metrics``, ``spans``, ``logs``; then how they leave over OTLP: ``otlp`` (the exporters),
``bridge`` and ``push`` (metrics), ``log_records``.

Spans of one run, one trace::

    receive                 control, child of the sender's span
    +-- plan                control, from received to granted
    +-- lease               control, from offered to acknowledged
    +-- think               node
    |   +-- invoke_agent    +-- chat {model}
    |                       +-- execute_tool post_invoice -- http.out
    +-- complete            control, from the outcome to the settled message

Metrics (``bpa_`` but for the names that the architecture document gives), as `metrics.Metrics`
declares them and as they are exposed::

    runs_started_total                      counter    agent, version, deployment
    runs_failed_total                       counter    agent, version, deployment, reason
    run_latency_ms                          histogram  agent, version, outcome
    bpa_runs_completed_total                counter    agent, version, deployment, outcome
    bpa_run_queue_wait_seconds              histogram  -
    bpa_placement_duration_seconds          histogram  -
    bpa_unplaceable_runs                    gauge      reason
    bpa_messages_settled_total              counter    disposition, result
    bpa_lock_renewals_total                 counter    result
    bpa_dlq_messages_total                  counter    queue, reason
    bpa_dlq_replayed_total                  counter    result
    sb_queue_lag                            gauge      queue
    bpa_queue_oldest_message_age_seconds    gauge      queue
    bpa_queue_dead_letters                  gauge      queue
    bpa_queue_lag_estimated                 gauge      queue
    bpa_queue_reading_age_seconds           gauge      queue
    node_slots_used                         gauge      node
    bpa_node_slots_capacity                 gauge      node
    bpa_node_heartbeat_age_seconds          gauge      node
    bpa_node_drain_overdue_seconds          gauge      node
    bpa_leases_active                       gauge      -
    bpa_leases_fenced_total                 counter    -
    bpa_leases_expired_total                counter    -
    tokens_in                               counter    agent, model
    tokens_out                              counter    agent, model
    usd_cost                                counter    agent, model
    bpa_unpriced_tokens_total               counter    agent, model
    bpa_steps_replayed_total                counter    kind
    bpa_budget_exceeded_total               counter    budget
    bpa_sandbox_start_duration_seconds      histogram  -
    bpa_http_out_requests_total             counter    host, code_class, outcome
    bpa_http_out_request_duration_seconds   histogram  host
    http_out_success_rate                   gauge      host
    bpa_http_out_breaker_open               gauge      host
    bpa_http_out_probes_total               counter    host, result
    bpa_runs_parked_total                   counter    host
    bpa_ready                               gauge      component
    bpa_event_loop_lag_seconds              gauge      -
    bpa_build_info                          gauge      version

Every control replica shows the same of the fleet (``node_*``, ``bpa_node_*``,
``bpa_leases_active``) and of the queues (``sb_queue_lag``, ``bpa_queue_*``): take the maximum over
replicas, never their sum; role ``node`` shows its own slots. Counters are of the process that
counted: sum them. No label holds an id of a run or message or free text; ``host`` is one of the
first fifty targets, or ``other``.
"""
