"""Exceptions by which a task says what shall become of it."""

from __future__ import annotations

from celers import validate
from celers.model.base import Duration

__all__ = ["Reject", "Retry", "TaskControl"]


class TaskControl(Exception):
    """Base of `Retry` and `Reject`: raised inside a task, understood by the worker."""


class Retry(TaskControl):
    """Run this task again.

    The attempt counts: with its retries used up the task moves to the dead letters.

    Parameters
    ----------
    reason : str
        Kept as the task's error text.
    delay : timedelta, int, float or None
        Time until then; the task's retry policy decides when None.
    """

    def __init__(self, reason: str = "the task asked for a retry", *, delay: Duration | None = None) -> None:
        super().__init__(reason)
        self.delay_secs = None if delay is None else validate.duration(delay, "delay")


class Reject(TaskControl):
    """Let this task fail for good: it is not retried, whatever retries are left.

    Parameters
    ----------
    reason : str
        Kept as the task's error text.
    """

    def __init__(self, reason: str = "the task was rejected") -> None:
        super().__init__(reason)
