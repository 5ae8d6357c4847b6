"""The enumerations. Their values are what the database and JSON hold; `parse` reads them in any case."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from celers.errors import ValidationError
from celers.validate import shown

__all__ = [
    "CapacityStatus",
    "CircuitBreakerState",
    "DbTaskState",
    "PoolHealthStatus",
    "QueueTrend",
    "ReplicaStatus",
    "ScalingAction",
    "SlaStatus",
    "StageState",
    "TaskHook",
    "TaskResultStatus",
    "WorkerStatus",
    "WorkflowState",
]


class ParsedEnum(StrEnum):
    """A string enumeration that can be read from text."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the member whose value is `text`, whatever the case of its letters.

        Raises
        ------
        ValidationError
            When no member has this value.
        """
        if isinstance(text, str):
            # Exact first: that is what the database returns.
            member = cls._value2member_map_.get(text)
            if isinstance(member, cls):
                return member
            # ASCII only, because lower() also maps a few foreign letters to ASCII ones.
            wanted = text.lower() if text.isascii() else None
            for candidate in cls:
                if candidate.value.lower() == wanted:
                    return candidate
        known = ", ".join(cls)
        raise ValidationError(f"{cls.__name__} has no value {shown(text)}; known are {known}", parameter="text")


class DbTaskState(ParsedEnum):
    """State of a stored task."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """True when workers are done with the task: completed, failed or cancelled."""
        return self in (DbTaskState.COMPLETED, DbTaskState.FAILED, DbTaskState.CANCELLED)


class TaskResultStatus(ParsedEnum):
    """Status of a stored result."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    RETRY = "RETRY"
    REVOKED = "REVOKED"

    @property
    def is_final(self) -> bool:
        """True when no other status follows: success, failure or revoked."""
        return self in (TaskResultStatus.SUCCESS, TaskResultStatus.FAILURE, TaskResultStatus.REVOKED)


class WorkerStatus(ParsedEnum):
    """What a worker says it is doing."""

    ACTIVE = "active"
    IDLE = "idle"
    BUSY = "busy"
    OFFLINE = "offline"


class CircuitBreakerState(ParsedEnum):
    """State of the circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class WorkflowState(ParsedEnum):
    """State of a workflow."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StageState(ParsedEnum):
    """State of one stage of a workflow."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


class TaskHook(ParsedEnum):
    """Point at which user callbacks run."""

    BEFORE_ENQUEUE = "before_enqueue"
    AFTER_ENQUEUE = "after_enqueue"
    BEFORE_DEQUEUE = "before_dequeue"
    AFTER_DEQUEUE = "after_dequeue"
    BEFORE_ACK = "before_ack"
    AFTER_ACK = "after_ack"
    BEFORE_REJECT = "before_reject"
    AFTER_REJECT = "after_reject"


class ScalingAction(ParsedEnum):
    """Advice on the number of workers."""

    SCALE_UP = "scale_up"
    OPTIMAL = "optimal"
    SCALE_DOWN = "scale_down"


class QueueTrend(ParsedEnum):
    """Direction in which the length of a queue moves."""

    RAPID_GROWTH = "rapid_growth"
    SLOW_GROWTH = "slow_growth"
    STABLE = "stable"
    SLOW_SHRINK = "slow_shrink"
    RAPID_SHRINK = "rapid_shrink"


class SlaStatus(ParsedEnum):
    """Verdict on a service level."""

    COMPLIANT = "compliant"
    WARNING = "warning"
    VIOLATION = "violation"


class CapacityStatus(ParsedEnum):
    """Verdict on the capacity of the workers."""

    SUFFICIENT = "sufficient"
    WARNING = "warning"
    CRITICAL = "critical"
    EXCEEDED = "exceeded"


class PoolHealthStatus(ParsedEnum):
    """Verdict on the connection pool."""

    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"


class ReplicaStatus(ParsedEnum):
    """Verdict on a replica."""

    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"
    ERROR = "error"
