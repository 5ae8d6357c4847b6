"""The error tree of celers.

Everything the package raises on purpose derives from `CelersError`. The tree is small; what differs from
case to case is data on the exception, not another class. Exceptions of the database driver never escape:
they are the ``__cause__`` of a `BrokerError` that carries their number.

The module imports nothing of the package, so that every layer may raise these errors. All of them are
picklable (they travel between processes) because every keyword has a default and every attribute lives in
``__dict__``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar
from uuid import UUID

__all__ = [
    "CONNECTION_ERRNOS",
    "RETRYABLE_ERRNOS",
    "BrokerConnectionError",
    "BrokerError",
    "CelersError",
    "CircuitBreakerOpenError",
    "ConfigurationError",
    "CyclicDependencyError",
    "DeserializationError",
    "DuplicateGroupError",
    "DuplicateTaskError",
    "GroupNotFoundError",
    "InvalidStateTransitionError",
    "MigrationError",
    "PayloadTooLargeError",
    "PoolTimeoutError",
    "QueueDrainingError",
    "QueueFullError",
    "SerializationError",
    "StaleReceiptError",
    "TaskNotFoundError",
    "ValidationError",
    "WorkerNotFoundError",
    "WorkflowNotFoundError",
]

CONNECTION_ERRNOS = frozenset(
    {
        1053,  # server shutdown in progress
        1927,  # connection was killed (MariaDB)
        2002,  # cannot connect through the socket
        2003,  # cannot connect to the host
        2006,  # server has gone away
        2013,  # connection lost during the query
        2055,  # connection lost, with the system error
        4031,  # disconnected by the server for inactivity (MySQL)
    }
)
"""Server and client numbers that mean: there is no connection (any more)."""

RETRYABLE_ERRNOS = CONNECTION_ERRNOS | {
    1020,  # record has changed since the last read (snapshot isolation, MariaDB 11.8)
    1040,  # too many connections
    1105,  # what MySQL says of an interrupted multi-table UPDATE, such as a claim's
    1205,  # lock wait timeout
    1213,  # deadlock
    1317,  # an administrator's KILL QUERY
    1969,  # the server's limit of a statement's time (MariaDB)
    3024,  # the same (MySQL)
    3101,  # transaction rolled back by the plugin (group replication)
}
"""Numbers after which the same call may succeed when it is made again."""


class CelersError(Exception):
    """Something in celers failed.

    Parameters
    ----------
    message : str
        What failed, with the values, and what to do next. The first line of the class's docstring when left
        out.
    retryable : bool or None
        Overrides the class's answer to "may the same call succeed later without a change?".

    Attributes
    ----------
    retryable : bool
        True when repeating the call unchanged may succeed.
    replayed : int
        How many dead letters `replay_dlq_batch` had requeued for good before this error stopped it; else 0.
    """

    default_retryable: ClassVar[bool] = False
    retryable: bool
    replayed: int = 0

    def __init__(self, message: str = "", *, retryable: bool | None = None) -> None:
        if not message:
            message = (type(self).__doc__ or type(self).__name__).strip().partition("\n")[0].rstrip(".")
        super().__init__(message)
        self.retryable = self.default_retryable if retryable is None else retryable


class ValidationError(CelersError, ValueError):
    """An argument has a wrong type or is out of range.

    Attributes
    ----------
    parameter : str or None
        Name of the parameter that was refused.
    """

    def __init__(self, message: str = "", *, parameter: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.parameter = parameter


class PayloadTooLargeError(ValidationError):
    """A payload is larger than the limit or than what the server accepts in one packet.

    Attributes
    ----------
    size, limit : int or None
        Bytes needed and bytes allowed.
    """

    def __init__(
        self,
        message: str = "",
        *,
        size: int | None = None,
        limit: int | None = None,
        parameter: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, parameter=parameter, retryable=retryable)
        self.size = size
        self.limit = limit


class CyclicDependencyError(ValidationError):
    """Dependencies form a cycle.

    Attributes
    ----------
    cycle : tuple of str
        The members of the cycle in order, empty when unknown.
    """

    def __init__(
        self,
        message: str = "",
        *,
        cycle: Iterable[object] = (),
        parameter: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, parameter=parameter, retryable=retryable)
        self.cycle = tuple(str(member) for member in cycle)


class ConfigurationError(CelersError):
    """The URL, the configuration, an optional dependency or the server does not fit."""


class SerializationError(CelersError):
    """A value cannot be written."""


class DeserializationError(CelersError):
    """A stored value cannot be read."""


class BrokerError(CelersError):
    """The database reported a failure.

    Attributes
    ----------
    errno : int or None
        Number given by the server or the client library.
    outcome_unknown : bool
        True when the connection was lost while a commit was under way, so that the change may or may not be
        stored.
    """

    def __init__(
        self,
        message: str = "",
        *,
        errno: int | None = None,
        outcome_unknown: bool = False,
        retryable: bool | None = None,
    ) -> None:
        if retryable is None and errno in RETRYABLE_ERRNOS:
            retryable = True
        super().__init__(message, retryable=retryable)
        self.errno = errno
        self.outcome_unknown = outcome_unknown


class BrokerConnectionError(BrokerError):
    """The database cannot be reached or the connection was lost."""

    default_retryable = True


class PoolTimeoutError(BrokerError):
    """No connection became free in time."""

    default_retryable = True


class MigrationError(BrokerError):
    """A migration failed.

    Attributes
    ----------
    version : str or None
        Version of the migration, such as ``"001"``.
    statement : int or None
        Number of the failing statement in the file, counted from 1.
    """

    def __init__(
        self,
        message: str = "",
        *,
        version: str | None = None,
        statement: int | None = None,
        errno: int | None = None,
        outcome_unknown: bool = False,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, errno=errno, outcome_unknown=outcome_unknown, retryable=retryable)
        self.version = version
        self.statement = statement


class TaskNotFoundError(CelersError, LookupError):
    """The queue has no such task or dead letter.

    Attributes
    ----------
    task_id : UUID or None
        The id that was looked for, when it was the id of a task or dead letter.
    """

    def __init__(self, message: str = "", *, task_id: UUID | None = None, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.task_id = task_id


class GroupNotFoundError(TaskNotFoundError):
    """The queue has no such task group.

    Attributes
    ----------
    group_id : str or None
        The group that was looked for.
    """

    def __init__(self, message: str = "", *, group_id: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.group_id = group_id


class WorkflowNotFoundError(TaskNotFoundError):
    """The queue has no such workflow.

    Attributes
    ----------
    workflow_id : UUID or None
        The workflow that was looked for.
    """

    def __init__(self, message: str = "", *, workflow_id: UUID | None = None, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.workflow_id = workflow_id


class WorkerNotFoundError(TaskNotFoundError):
    """The queue has no such worker.

    Attributes
    ----------
    worker_id : str or None
        The worker that was looked for.
    """

    def __init__(self, message: str = "", *, worker_id: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.worker_id = worker_id


class DuplicateTaskError(CelersError):
    """A task with this id exists already.

    Attributes
    ----------
    task_id : UUID or None
        The id in question.
    """

    def __init__(self, message: str = "", *, task_id: UUID | None = None, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.task_id = task_id


class DuplicateGroupError(DuplicateTaskError):
    """A group with this id exists already.

    Attributes
    ----------
    group_id : str or None
        The group in question.
    """

    def __init__(self, message: str = "", *, group_id: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.group_id = group_id


class InvalidStateTransitionError(CelersError):
    """The task's state does not allow this change.

    Attributes
    ----------
    from_state, to_state : str or None
        State of the task and state asked for, as `DbTaskState` or ``"dead_letter"``.
    task_id : UUID or None
        The task in question.
    """

    def __init__(
        self,
        message: str = "",
        *,
        from_state: str | None = None,
        to_state: str | None = None,
        task_id: UUID | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.from_state = from_state
        self.to_state = to_state
        self.task_id = task_id


class StaleReceiptError(InvalidStateTransitionError):
    """The receipt handle belongs to an older delivery of the task."""


class QueueFullError(CelersError):
    """The queue has reached its capacity limit.

    Attributes
    ----------
    limit : int or None
        The limit in tasks.
    """

    default_retryable = True

    def __init__(self, message: str = "", *, limit: int | None = None, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.limit = limit


class QueueDrainingError(CelersError):
    """The queue is in drain mode and takes no new tasks."""


class CircuitBreakerOpenError(CelersError):
    """The circuit breaker is open: the database was not asked.

    Attributes
    ----------
    retry_after_secs : float
        Seconds until the breaker lets a call through again.
    """

    default_retryable = True

    def __init__(self, message: str = "", *, retry_after_secs: float = 0.0, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.retry_after_secs = retry_after_secs
