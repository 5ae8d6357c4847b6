"""The flat names of the broker: one line for each, pointing to the operation that it is.

``broker.requeue_from_dlq`` and ``broker.dlq.requeue`` are the same operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

from celers.components.analytics import Analytics
from celers.components.consumer import Consumer
from celers.components.database import Database
from celers.components.dlq import DeadLetters
from celers.components.health import Health
from celers.components.loads import Loads
from celers.components.maintenance import Maintenance
from celers.components.migrations import Migrations
from celers.components.producer import Producer
from celers.components.queues import Queues
from celers.components.results import Results
from celers.components.tasks import Tasks
from celers.components.transfer import Transfer
from celers.components.workers import Workers
from celers.operation import Async, Method, Sync

__all__ = ["FlatNames"]

M = TypeVar("M", Sync, Async)
P = ParamSpec("P")
S = TypeVar("S")
A = TypeVar("A")


class Flat(Generic[M]):
    """Base of the classes that offer operations under flat names."""


class _FlatName(Generic[P, S, A]):
    """Forwards a flat name to the method of a component."""

    def __init__(self, target: Method[P, S, A]) -> None:
        self.target = target
        self.__doc__ = target.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, obj: None, owner: type, /) -> Method[P, S, A]: ...
    @overload
    def __get__(self, obj: Flat[Sync], owner: type, /) -> Callable[P, S]: ...
    @overload
    def __get__(self, obj: Flat[Async], owner: type, /) -> Callable[P, A]: ...
    def __get__(self, obj: Any, owner: type, /) -> Any:
        if obj is None:
            return self.target
        component = self.target.owner
        if component is None:  # pragma: no cover - a mistake in flat.py
            raise TypeError(f"{self.name} forwards to a method that belongs to no component")
        bound = getattr(getattr(obj, component.attribute), self.target.name)
        obj.__dict__[self.name] = bound
        return bound


def flat(target: Method[P, S, A]) -> _FlatName[P, S, A]:
    """Offer a component's operation or stream under a flat name of the broker."""
    return _FlatName(target)


class FlatNames(Flat[M]):
    """Every operation under the name that the specification gives it."""

    # producer: put work in
    enqueue = flat(Producer.enqueue)
    enqueue_at = flat(Producer.enqueue_at)
    enqueue_after = flat(Producer.enqueue_after)
    enqueue_batch = flat(Producer.enqueue_batch)
    enqueue_with_retry_policy = flat(Producer.enqueue_with_retry_policy)

    # consumer: take work out and settle it
    dequeue = flat(Consumer.dequeue)
    dequeue_batch = flat(Consumer.dequeue_batch)
    dequeue_with_worker_id = flat(Consumer.dequeue_with_worker_id)
    ack = flat(Consumer.ack)
    ack_batch = flat(Consumer.ack_batch)
    ack_batch_with_results = flat(Consumer.ack_batch_with_results)
    reject = flat(Consumer.reject)
    reject_batch = flat(Consumer.reject_batch)
    reject_with_retry_policy = flat(Consumer.reject_with_retry_policy)

    # tasks: look at stored tasks and change them
    get_task = flat(Tasks.get)
    list_tasks = flat(Tasks.page)
    list_scheduled_tasks = flat(Tasks.scheduled_page)
    count_scheduled_tasks = flat(Tasks.count_scheduled)
    cancel = flat(Tasks.cancel)
    cancel_batch = flat(Tasks.cancel_batch)
    expire_pending_tasks = flat(Tasks.expire_pending)
    update_batch_state = flat(Tasks.update_state)
    get_processing_tasks = flat(Tasks.processing_page)
    get_tasks_by_worker = flat(Tasks.of_worker)
    search_tasks_by_date_range = flat(Tasks.created_between)
    query_tasks_by_metadata = flat(Tasks.find_by_metadata)
    get_task_state_transitions = flat(Tasks.transitions)
    update_error_message = flat(Tasks.update_error)
    set_worker_id = flat(Tasks.set_worker)
    update_task_metadata = flat(Tasks.update_metadata)
    update_task_progress = flat(Tasks.update_progress)
    get_task_progress = flat(Tasks.get_progress)

    # analytics: numbers about tasks
    count_by_task_name = flat(Analytics.name_counts)
    count_by_state_quick = flat(Analytics.count_state)
    get_task_age_distribution = flat(Analytics.age_distribution)
    get_retry_statistics = flat(Analytics.retry_statistics)
    get_queue_health = flat(Analytics.queue_health)
    get_task_throughput = flat(Analytics.throughput)

    # results: what tasks returned
    store_result = flat(Results.store)
    store_result_batch = flat(Results.store_batch)
    get_result = flat(Results.get)
    get_result_batch = flat(Results.get_batch)
    list_results = flat(Results.page)
    delete_result = flat(Results.delete)
    archive_results = flat(Results.archive)

    # queue: pause, drain, limits, numbers
    pause = flat(Queues.pause)
    resume = flat(Queues.resume)
    is_paused = flat(Queues.is_paused)
    enable_drain_mode = flat(Queues.enable_drain_mode)
    disable_drain_mode = flat(Queues.disable_drain_mode)
    is_drain_mode = flat(Queues.is_drain_mode)
    queue_size = flat(Queues.size)
    get_statistics = flat(Queues.statistics)
    has_capacity = flat(Queues.has_capacity)
    enqueue_with_capacity = flat(Queues.enqueue_with_capacity)
    apply_priority_aging = flat(Queues.age_priorities)
    check_rate_limit = flat(Queues.check_rate_limit)

    # dlq: dead letters
    list_dlq = flat(DeadLetters.page)
    requeue_from_dlq = flat(DeadLetters.requeue)
    replay_dlq_batch = flat(DeadLetters.replay)
    purge_dlq = flat(DeadLetters.purge)
    purge_all_dlq = flat(DeadLetters.purge_all)
    apply_dlq_retention = flat(DeadLetters.apply_retention)
    get_dlq_statistics = flat(DeadLetters.statistics)

    # workers: who is alive
    register_worker = flat(Workers.register)
    update_worker_heartbeat = flat(Workers.update_heartbeat)
    unregister_worker = flat(Workers.unregister)
    get_all_worker_heartbeats = flat(Workers.heartbeats)
    list_active_workers = flat(Workers.list_active)
    get_worker_statistics = flat(Workers.get_statistics)
    get_all_worker_statistics = flat(Workers.all_statistics)

    # maintenance: recover and purge
    recover_stuck_tasks = flat(Maintenance.recover_stuck)
    requeue_stuck_tasks_by_worker = flat(Maintenance.requeue_stuck_of_worker)
    recover_timed_out_tasks = flat(Maintenance.recover_timed_out)
    purge_all = flat(Maintenance.purge_all)
    purge_by_state = flat(Maintenance.purge_state)
    purge_completed = flat(Maintenance.purge_completed)
    purge_failed = flat(Maintenance.purge_failed)
    purge_cancelled = flat(Maintenance.purge_cancelled)
    purge_by_task_name = flat(Maintenance.purge_name)
    delete_tasks_by_criteria = flat(Maintenance.delete_by_criteria)
    archive_completed_tasks = flat(Maintenance.archive_finished)
    archive_task_history = flat(Maintenance.archive_history)

    # health: can this broker work now
    check_health = flat(Health.check)
    check_connection_health = flat(Health.check_connection)
    is_ready = flat(Health.is_ready)
    get_connection_diagnostics = flat(Health.connections)
    get_pool_health = flat(Health.pool)
    get_performance_metrics = flat(Health.performance)
    get_optimal_batch_size = flat(Health.optimal_batch_size)
    warmup_connection_pool = flat(Health.warm_up)

    # transfer: tasks and dead letters as JSON
    export_tasks = flat(Transfer.export_tasks)
    iter_export_tasks = flat(Transfer.iter_export_tasks)
    import_tasks = flat(Transfer.import_tasks)
    import_tasks_from = flat(Transfer.import_tasks_from)
    export_dlq = flat(Transfer.export_dlq)
    iter_export_dlq = flat(Transfer.iter_export_dlq)

    # database: the server behind the queue
    get_table_sizes = flat(Database.table_sizes)
    get_index_stats = flat(Database.index_stats)
    optimize_tables = flat(Database.optimize)
    analyze_tables = flat(Database.analyze)
    vacuum_analyze = flat(Database.vacuum)
    explain_dequeue = flat(Database.explain_dequeue)
    explain_query = flat(Database.explain_query)
    check_index_usage = flat(Database.check_indexes)
    get_query_stats = flat(Database.query_stats)
    reset_query_stats = flat(Database.reset_query_stats)
    get_slow_queries = flat(Database.slow_queries)
    profile_query_performance = flat(Database.profile)
    get_server_variables = flat(Database.variables)

    # loads: tasks for load tests
    generate_load = flat(Loads.generate)
    delete_load = flat(Loads.delete)

    # migrations: the version of the schema
    migrate = flat(Migrations.migrate)
    list_migrations = flat(Migrations.applied)
    verify_migrations = flat(Migrations.verify)
