"""Dead letters: tasks whose retries are used up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from celers.model.base import JSON, Record

__all__ = ["DlqStatistics", "DlqTaskInfo", "DlqTaskStats"]


@dataclass(frozen=True, slots=True)
class DlqTaskInfo(Record):
    """One dead letter.

    `id` is the id of the dead letter, which requeueing asks for; `task_id` the id of the task it was.
    """

    id: UUID
    task_id: UUID
    task_name: str
    retry_count: int
    max_retries: int
    priority: int
    error_message: str | None
    failed_at: datetime
    metadata: Mapping[str, JSON] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class DlqTaskStats(Record):
    """Dead letters of one task name: how many, and the average and largest number of retries they had."""

    task_name: str
    count: int
    avg_retries: float
    max_retries: int


@dataclass(frozen=True, slots=True)
class DlqStatistics(Record):
    """Dead letters of a queue; `total_tasks` is the sum of the counts by name, the most frequent name first."""

    total_tasks: int
    by_task_name: tuple[DlqTaskStats, ...] = ()
