"""What a look at stored tasks shows besides the tasks: progress, transitions, and numbers by name and age."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from celers.model.base import Record
from celers.model.enums import DbTaskState

__all__ = ["RetryStatistics", "TaskAgeDistribution", "TaskNameCount", "TaskProgress", "TaskStateTransition"]


@dataclass(frozen=True, slots=True)
class TaskProgress(Record):
    """How far a task says it is.

    Parameters
    ----------
    task_id : UUID
    progress_percent : float
        0 to 100.
    current_step : str or None
        What it is doing.
    total_steps : int or None
        How many steps it has.
    updated_at : datetime
        When it said so, by the database's clock.
    """

    task_id: UUID
    progress_percent: float
    current_step: str | None
    total_steps: int | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class TaskStateTransition(Record):
    """One change of a task's state.

    Parameters
    ----------
    task_id : UUID
    from_state : DbTaskState or None
        None for the creation.
    to_state : DbTaskState or "dead_letter"
    transitioned_at : datetime
    worker_id : str or None
        The worker that held the task.
    message : str or None
        Why, mostly an error text.
    """

    task_id: UUID
    from_state: DbTaskState | None
    to_state: DbTaskState | str
    transitioned_at: datetime
    worker_id: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class TaskNameCount(Record):
    """Tasks of one name by state; `total` is their sum."""

    task_name: str
    pending: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class TaskAgeDistribution(Record):
    """Pending tasks whose age falls into one bucket; `oldest_task_age_secs` is 0 for an empty one."""

    bucket_label: str
    task_count: int
    oldest_task_age_secs: int


@dataclass(frozen=True, slots=True)
class RetryStatistics(Record):
    """Retries of the stored tasks of one name that were retried at least once.

    Parameters
    ----------
    task_name : str
    total_retries : int
        Retries granted to all of them; first deliveries do not count.
    unique_tasks : int
        How many tasks these are.
    avg_retries_per_task : float
    max_retries_observed : int
        Retries of the one that had most.
    """

    task_name: str
    total_retries: int
    unique_tasks: int
    avg_retries_per_task: float
    max_retries_observed: int
