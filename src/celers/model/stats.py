"""Counters of a queue and the health of a broker."""

from __future__ import annotations

from dataclasses import dataclass

from celers.model.base import Record

__all__ = ["HealthStatus", "QueueStatistics"]


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
