"""Workers: who is alive, and how they do."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from celers.model.base import JSON, Record
from celers.model.enums import WorkerStatus

__all__ = ["WorkerHeartbeat", "WorkerStatistics"]


@dataclass(frozen=True, slots=True)
class WorkerStatistics(Record):
    """What one worker has done.

    Parameters
    ----------
    worker_id : str
        The worker's name.
    active_tasks, completed_tasks, failed_tasks : int
        Tasks last held by it, by state.
    last_seen : datetime or None
        Its latest sign of life; None when unknown.
    avg_task_duration_secs : float
        Mean run time of its completed tasks in s; 0.0 without any.
    """

    worker_id: str
    active_tasks: int = 0
    completed_tasks: int = 0
    failed_tasks: int = 0
    last_seen: datetime | None = None
    avg_task_duration_secs: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerHeartbeat(Record):
    """The last heartbeat of one worker.

    `task_count` is the number of tasks it was processing then; `status` is OFFLINE when the heartbeat is old.
    """

    worker_id: str
    last_heartbeat: datetime
    status: WorkerStatus
    task_count: int
    capabilities: JSON | None = field(default=None, hash=False)
