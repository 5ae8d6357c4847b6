"""Counters of a queue and the health of a broker."""

from __future__ import annotations

from dataclasses import dataclass

from celers.model.base import Record

__all__ = ["HealthStatus", "QueueHealth", "QueueStatistics", "TaskThroughput"]


@dataclass(frozen=True, slots=True)
class QueueStatistics(Record):
    """Tasks of one queue by state. `total` is the sum of the five states; dead letters are not part of it."""

    pending: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    dlq: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class HealthStatus(Record):
    """Whether the broker can work now, and with what.

    Parameters
    ----------
    healthy : bool
        False when the database could not be asked; `error` then says why.
    connection_pool_size : int
        Open connections, those in use included.
    idle_connections : int
        Open connections that are free.
    pending_tasks, processing_tasks, dlq_tasks : int
        Tasks of the queue.
    database_version : str
        As the server writes it; empty when it could not be asked.
    error : str or None
        Why it is not healthy.
    """

    healthy: bool
    connection_pool_size: int = 0
    idle_connections: int = 0
    pending_tasks: int = 0
    processing_tasks: int = 0
    dlq_tasks: int = 0
    database_version: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class QueueHealth(Record):
    """How well a queue is served.

    Parameters
    ----------
    overall_status : str
        healthy, degraded or critical, by the number of due tasks and the time that the oldest has waited.
    pending_tasks, processing_tasks : int
        Scheduled and blocked tasks are pending, too.
    oldest_pending_age_secs : int
        How long the oldest due task has been due; 0 without any.
    active_workers : int
        Workers with at least one task in hand.
    queue_backlog_minutes : float
        Time to work off the due tasks at the rate of the last minute; when nothing was completed then, the due tasks
        for each active worker.
    """

    overall_status: str
    pending_tasks: int
    processing_tasks: int
    oldest_pending_age_secs: int
    active_workers: int
    queue_backlog_minutes: float


@dataclass(frozen=True, slots=True)
class TaskThroughput(Record):
    """Tasks that ended in the last 60 and 3600 s, dead letters among the failures.

    `tasks_per_second` is the mean of the completed ones over the last minute.
    """

    completed_last_minute: int
    completed_last_hour: int
    failed_last_minute: int
    failed_last_hour: int
    tasks_per_second: float
