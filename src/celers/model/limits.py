"""Limits of how often tasks of a name may start."""

from __future__ import annotations

from dataclasses import dataclass

from celers import validate
from celers.errors import ValidationError
from celers.model.base import Record

__all__ = ["RateLimit", "RateLimitStatus"]


@dataclass(frozen=True, slots=True)
class RateLimit(Record):
    """What is allowed for tasks of one name.

    Parameters
    ----------
    task_name : str
    max_per_second : float or None
        Above 0; None for no such limit, as below.
    max_per_minute, max_per_hour : int or None
        At least 1.
    """

    task_name: str
    max_per_second: float | None = None
    max_per_minute: int | None = None
    max_per_hour: int | None = None

    def __post_init__(self) -> None:
        validate.name(self.task_name, "task_name")
        if self.max_per_second is not None and not validate.number(self.max_per_second, "max_per_second", 0):
            raise ValidationError(f"max_per_second={self.max_per_second!r} must be above 0", parameter="max_per_second")
        for name in ("max_per_minute", "max_per_hour"):
            if getattr(self, name) is not None:
                validate.integer(getattr(self, name), name, 1)


@dataclass(frozen=True, slots=True)
class RateLimitStatus(Record):
    """How much of a limit is used.

    Parameters
    ----------
    task_name : str
    current_per_second : float
        The last minute's number by 60.
    current_per_minute, current_per_hour : int
        In the last 60 and 3600 seconds.
    limit_exceeded : bool
        No further task may start now. After a reservation: it was refused.
    """

    task_name: str
    current_per_second: float
    current_per_minute: int
    current_per_hour: int
    limit_exceeded: bool
