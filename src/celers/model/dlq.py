"""Dead letters: tasks whose retries are used up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from celers.model.base import JSON, Record

__all__ = ["DlqTaskInfo"]


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
