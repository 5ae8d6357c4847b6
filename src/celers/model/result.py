"""Results of tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from celers import validate
from celers.errors import ValidationError
from celers.model.base import JSON, Record
from celers.model.enums import TaskResultStatus

__all__ = ["BatchResultInput", "TaskResult"]


@dataclass(frozen=True, slots=True)
class TaskResult(Record):
    """A stored result.

    Parameters
    ----------
    task_id : UUID
        The task it belongs to, which may have been archived since.
    task_name : str
        Name of the task.
    status : TaskResultStatus
        How far the task is, or how it ended.
    result : JSON value
        What the task returned; None when it returned None or nothing yet.
    error, traceback : str or None
        Why it failed.
    created_at : datetime
        First time that a result was stored for the task.
    completed_at : datetime or None
        Set for final statuses.
    runtime_ms : int or None
        Run time in ms, at least 0.
    """

    task_id: UUID
    task_name: str
    status: TaskResultStatus
    result: JSON = field(hash=False)
    error: str | None
    traceback: str | None
    created_at: datetime
    completed_at: datetime | None = None
    runtime_ms: int | None = None


@dataclass(frozen=True, slots=True)
class BatchResultInput(Record):
    """One result to store; the fields are those of `TaskResult` that a caller decides."""

    task_id: UUID
    task_name: str
    status: TaskResultStatus
    result: JSON = field(default=None, hash=False)
    error: str | None = None
    traceback: str | None = None
    runtime_ms: int | None = None

    def __post_init__(self) -> None:
        """Check the values. Whether the result can be written as JSON shows when it is stored."""
        put = object.__setattr__
        put(self, "task_id", validate.task_id(self.task_id))
        put(self, "task_name", validate.name(self.task_name, "task_name"))
        put(self, "status", result_status(self.status))
        for name in ("error", "traceback"):
            text: object = getattr(self, name)
            if text is not None and not isinstance(text, str):
                raise ValidationError(f"{name} must be text or None, not {validate.shown(text)}", parameter=name)
        if self.runtime_ms is not None:
            put(self, "runtime_ms", validate.integer(self.runtime_ms, "runtime_ms", 0, 2**63 - 1))


def result_status(value: object, name: str = "status") -> TaskResultStatus:
    """Return a result status; the text of one is accepted."""
    if isinstance(value, TaskResultStatus):
        return value
    if isinstance(value, str):
        return TaskResultStatus.parse(value)
    raise ValidationError(f"{name} must be a TaskResultStatus, not {validate.shown(value)}", parameter=name)
