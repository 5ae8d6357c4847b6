"""The names that the broker promises, each with the requirement it fulfils and how it is called.

Written from the specification by hand and kept apart from the code, so that no name can vanish and no parameter can
change its place unnoticed. A broker may take more parameters than are written here when they are keywords that may
be left out.
"""

from __future__ import annotations

__all__ = ["BROKER", "MISSING", "OPERATIONS"]

OPERATIONS = """
CORE-07  enqueue(task: SerializedTask) -> UUID
CORE-08  dequeue() -> BrokerMessage | None
CORE-09  ack(task_id, receipt_handle=None) -> None
CORE-10  reject(task_id, receipt_handle=None, requeue=True, *, error=None) -> None
CORE-11  queue_size() -> int
CORE-12  cancel(task_id) -> bool
BATCH-01 enqueue_batch(tasks: Sequence[SerializedTask]) -> list[UUID]
BATCH-02 dequeue_batch(count: int, *, worker_id=None) -> list[BrokerMessage]
BATCH-03 ack_batch(tasks) -> int
BATCH-04 reject_batch(tasks) -> int
BATCH-05 cancel_batch(task_ids) -> int
BATCH-06 update_batch_state(task_ids, new_state: DbTaskState) -> int
BATCH-07 ack_batch_with_results(items) -> int
SCHED-01 enqueue_at(task, timestamp) -> UUID
SCHED-02 enqueue_after(task, delay_secs) -> UUID
SCHED-04 list_scheduled_tasks(limit, offset) -> list[ScheduledTaskInfo]
SCHED-05 count_scheduled_tasks() -> int
SCHED-06 expire_pending_tasks(ttl) -> int
DLQ-02   list_dlq(limit, offset) -> list[DlqTaskInfo]
DLQ-03   requeue_from_dlq(dlq_id) -> UUID
DLQ-04   purge_dlq(dlq_id) -> bool
DLQ-05   purge_all_dlq() -> int
DLQ-06   get_dlq_statistics() -> DlqStatistics
DLQ-07   apply_dlq_retention(retention_period) -> int
DLQ-08   replay_dlq_batch(task_name_filter=None, min_retry_count=None, limit=100) -> int
DLQ-09   export_dlq(limit=None) -> str
INSP-01  get_task(task_id) -> TaskInfo | None
INSP-02  list_tasks(state, limit, offset) -> list[TaskInfo]
INSP-03  get_statistics() -> QueueStatistics
INSP-04  count_by_task_name() -> list[TaskNameCount]
INSP-05  get_processing_tasks(limit, offset) -> list[TaskInfo]
INSP-06  get_tasks_by_worker(worker_id) -> list[TaskInfo]
INSP-07  count_by_state_quick(state) -> int
INSP-08  search_tasks_by_date_range(from_time, to_time, state=None, limit=100, offset=0) -> list[TaskInfo]
INSP-09  query_tasks_by_metadata(json_path, value, limit=100, offset=0) -> list[TaskInfo]
INSP-10  update_error_message(task_id, error_message) -> bool
INSP-11  set_worker_id(task_id, worker_id) -> bool
INSP-12  update_task_metadata(task_id, json_path, value) -> bool
INSP-13  update_task_progress(task_id, progress_percent, current_step=None, *, total_steps=None) -> bool
INSP-14  get_task_progress(task_id) -> TaskProgress | None
INSP-15  get_task_state_transitions(task_id) -> list[TaskStateTransition]
INSP-16  get_task_age_distribution() -> list[TaskAgeDistribution]
INSP-17  get_retry_statistics() -> list[RetryStatistics]
RES-03   store_result(task_id, task_name, status, *, result=None, error=None, traceback=None, runtime_ms=None) -> None
RES-04   get_result(task_id) -> TaskResult | None
RES-05   delete_result(task_id) -> bool
RES-06   archive_results(older_than) -> int
RES-07   store_result_batch(results) -> int
RES-08   get_result_batch(task_ids) -> list[TaskResult]
MAINT-01 check_health() -> HealthStatus
MAINT-02 check_connection_health() -> bool
MAINT-03 is_ready() -> bool
MAINT-04 archive_completed_tasks(older_than) -> int
MAINT-05 recover_stuck_tasks(stuck_threshold) -> int
MAINT-06 recover_timed_out_tasks(timeout) -> int
MAINT-07 requeue_stuck_tasks_by_worker(worker_id) -> int
MAINT-08 purge_all() -> int
MAINT-09 purge_by_state(state) -> int
MAINT-09 purge_completed() -> int
MAINT-09 purge_failed() -> int
MAINT-09 purge_cancelled() -> int
MAINT-09 purge_by_task_name(task_name) -> int
MAINT-10 delete_tasks_by_criteria(state, older_than) -> int
MAINT-11 archive_task_history(older_than) -> int
MAINT-12 get_optimal_batch_size(max_batch_size=None) -> int
MAINT-13 warmup_connection_pool() -> int
MAINT-14 vacuum_analyze() -> int
DBMON-02 get_table_sizes() -> list[TableSizeInfo]
DBMON-03 optimize_tables() -> None
DBMON-04 analyze_tables() -> None
DBMON-05 get_query_stats() -> list[QueryStats]
DBMON-06 reset_query_stats() -> None
DBMON-07 get_slow_queries(limit) -> list[SlowQueryInfo]
DBMON-08 profile_query_performance(min_execution_time_ms, limit) -> list[QueryPerformanceProfile]
DBMON-09 get_index_stats() -> list[IndexStats]
DBMON-10 explain_dequeue() -> list[QueryPlan]
DBMON-11 explain_query(query) -> list[QueryPlan]
DBMON-12 check_index_usage() -> list[str]
DBMON-13 get_connection_diagnostics() -> ConnectionDiagnostics
DBMON-14 get_pool_health() -> ConnectionDiagnostics
DBMON-15 get_performance_metrics() -> PerformanceMetrics
DBMON-16 get_server_variables() -> dict[str, str]
RETRY-03 enqueue_with_retry_policy(task, retry_policy) -> UUID
RETRY-04 reject_with_retry_policy(task_id, error=None, requeue=True, *, receipt_handle=None) -> bool
WORK-01  dequeue_with_worker_id(worker_id) -> BrokerMessage | None
WORK-02  register_worker(worker_id, status, capabilities=None) -> None
WORK-03  update_worker_heartbeat(worker_id, status) -> None
WORK-04  get_all_worker_heartbeats(stale_threshold_secs) -> list[WorkerHeartbeat]
WORK-05  unregister_worker(worker_id) -> bool
WORK-06  get_worker_statistics(worker_id) -> WorkerStatistics
WORK-07  get_all_worker_statistics() -> list[WorkerStatistics]
WORK-08  list_active_workers() -> list[str]
CTRL-01  pause() -> None
CTRL-02  resume() -> None
CTRL-03  is_paused() -> bool
CTRL-04  enable_drain_mode() -> None
CTRL-05  disable_drain_mode() -> None
CTRL-06  is_drain_mode() -> bool
CTRL-07  has_capacity(max_size) -> bool
CTRL-08  enqueue_with_capacity(task, max_size) -> UUID
CTRL-09  apply_priority_aging(age_threshold_secs, priority_boost) -> int
CTRL-10  check_rate_limit(task_name, max_per_minute, *, reserve=False) -> RateLimitStatus
IMPEX-01 export_tasks(state=None, limit=None) -> str
IMPEX-01 iter_export_tasks(state=None) -> Iterator[dict[str, Any]]
IMPEX-02 import_tasks(json_data: str, skip_existing: bool) -> int
OPS-01   generate_load(task_count, task_name, payload_size_bytes, priority_range=None) -> list[UUID]
OPS-02   delete_load(load_test_id=None) -> int
OPS-03   verify_migrations() -> MigrationVerification
STAT-09  get_queue_health() -> QueueHealth
STAT-10  get_task_throughput() -> TaskThroughput
MIG-02   migrate() -> list[str]
MIG-06   list_migrations() -> list[MigrationInfo]
"""
"""Flat names that are operations: requirement, name, parameters, result."""

BROKER = """
CONF-02  with_queue
CONF-02  with_config
CONF-02  with_circuit_breaker_config
CORE-13  with_transaction
CORE-14  pool
CORE-16  dequeue_wait
CONF-04  close
HOOK-01  add_hook
HOOK-01  clear_hooks
"""
"""What the broker itself offers, besides operations."""

MISSING: frozenset[str] = frozenset()
"""Promised names that are not there yet. To be emptied: a name that exists may not stand here."""
