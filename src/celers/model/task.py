"""Tasks: what is handed in, what a delivery brings, and what a look at the store shows.

`TaskMetadata`, `SerializedTask` and `BrokerMessage` are also made by the row decoder, which knows its
values to be good and sets the fields without the checks of the constructors. They must stay plain: fields
and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Self
from uuid import UUID

from celers import validate
from celers.errors import ValidationError
from celers.model.base import JSON, Duration, Record, TaskIdLike
from celers.model.enums import DbTaskState
from celers_fast.ids import uuid7
from celers_fast.rows import RESERVED_KEYS

__all__ = [
    "RESERVED_METADATA_KEYS",
    "BrokerMessage",
    "ScheduledTaskInfo",
    "SerializedTask",
    "TaskInfo",
    "TaskMetadata",
]

RESERVED_METADATA_KEYS: Final = RESERVED_KEYS
"""Keys of a task's metadata that belong to celers; users' values under these names are ignored."""

DEFAULT_VALIDATE_BYTES: Final = 1_048_576


def _user_keys(extra: object) -> dict[str, JSON]:
    """Copy free metadata without reserved keys."""
    if not isinstance(extra, Mapping) or not all(isinstance(key, str) for key in extra):
        raise ValidationError(f"extra must be a mapping with text keys, not {validate.shown(extra)}", parameter="extra")
    return {key: value for key, value in extra.items() if key not in RESERVED_METADATA_KEYS}


@dataclass(frozen=True, slots=True)
class TaskMetadata(Record):
    """Everything about a task but its payload.

    Parameters
    ----------
    id : UUID
        Identity of the task.
    name : str
        Name of the task: 1 to 255 characters.
    created_at, updated_at : datetime
        Aware; kept in UTC. On a delivered task `updated_at` is the time of the delivery.
    max_retries : int
        0 to 1000.
    timeout_secs : int or None
        Limit of the run time in seconds, above 0; fractions are rounded up.
    priority : int
        32 bits, higher first.
    group_id : str or None
        Group the task belongs to.
    chord_id, parent_task_id : UUID or None
        Tasks this one belongs to.
    dependencies : frozenset of UUID
        Tasks that must be completed first.
    extra : mapping of str to JSON value
        Free metadata. Reserved keys (`RESERVED_METADATA_KEYS`) are dropped. Not part of the hash.
    """

    id: UUID
    name: str
    created_at: datetime
    updated_at: datetime
    max_retries: int = 3
    timeout_secs: int | None = None
    priority: int = 0
    group_id: str | None = None
    chord_id: UUID | None = None
    parent_task_id: UUID | None = None
    dependencies: frozenset[UUID] = frozenset()
    extra: Mapping[str, JSON] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check the values and bring them into their one form."""
        put = object.__setattr__
        put(self, "id", validate.task_id(self.id, "id"))
        put(self, "name", validate.name(self.name, "name"))
        put(self, "created_at", validate.instant(self.created_at, "created_at"))
        put(self, "updated_at", validate.instant(self.updated_at, "updated_at"))
        put(self, "max_retries", validate.max_retries(self.max_retries))
        put(self, "priority", validate.priority(self.priority))
        if self.timeout_secs is not None:
            put(self, "timeout_secs", validate.timeout_secs(self.timeout_secs, "timeout_secs"))
        if self.group_id is not None:
            put(self, "group_id", validate.name(self.group_id, "group_id"))
        if self.chord_id is not None:
            put(self, "chord_id", validate.task_id(self.chord_id, "chord_id"))
        if self.parent_task_id is not None:
            put(self, "parent_task_id", validate.task_id(self.parent_task_id, "parent_task_id"))
        if self.dependencies or not isinstance(self.dependencies, frozenset):
            put(self, "dependencies", frozenset(validate.task_ids(self.dependencies, "dependencies")))
        put(self, "extra", _user_keys(self.extra))


@dataclass(frozen=True, slots=True)
class SerializedTask(Record):
    """A task as it is stored: metadata and an opaque payload.

    Make one with `SerializedTask.new`; the ``with_`` methods return changed copies.
    """

    metadata: TaskMetadata
    payload: bytes

    def __post_init__(self) -> None:
        """Keep the payload as bytes, so that a buffer changed later does not change the task."""
        if not isinstance(self.metadata, TaskMetadata):
            raise ValidationError(
                f"metadata must be a TaskMetadata, not {type(self.metadata).__name__}", parameter="metadata"
            )
        if type(self.payload) is not bytes:
            object.__setattr__(self, "payload", validate.payload(self.payload))

    @classmethod
    def new(
        cls,
        name: str,
        payload: bytes | bytearray | memoryview = b"",
        *,
        id: TaskIdLike | None = None,  # noqa: A002 - the name of the field
        priority: int = 0,
        max_retries: int = 3,
        timeout: Duration | None = None,
        group_id: str | None = None,
        chord_id: TaskIdLike | None = None,
        parent_task_id: TaskIdLike | None = None,
        dependencies: Iterable[TaskIdLike] = (),
        extra: Mapping[str, JSON] | None = None,
    ) -> Self:
        """Make a task.

        Parameters
        ----------
        name : str
            Name under which workers know what to do.
        payload : bytes, bytearray or memoryview
            Copied; its size is checked when the task is enqueued.
        id : UUID, str or None
            A new time-ordered id (UUID version 7) when None.
        priority : int
            Higher first.
        max_retries : int
            0 to 1000.
        timeout : timedelta, int, float or None
            Limit of the run time, above 0, rounded up to whole seconds.
        group_id : str or None
            Group the task belongs to.
        chord_id, parent_task_id : UUID, str or None
            Tasks this one belongs to.
        dependencies : iterable of UUID or str
            Tasks that must be completed before this one may run.
        extra : mapping or None
            Free metadata; copied. Reserved keys are ignored.

        Raises
        ------
        ValidationError
            For a value of a wrong type or out of range.
        """
        now = datetime.now(UTC)
        # A producer makes thousands at a time: each value is checked once, here, and not again by the
        # constructors, which have to take what comes from anywhere.
        metadata: TaskMetadata = object.__new__(TaskMetadata)
        put = object.__setattr__
        put(metadata, "id", uuid7() if id is None else validate.task_id(id, "id"))
        put(metadata, "name", validate.name(name, "name"))
        put(metadata, "created_at", now)
        put(metadata, "updated_at", now)
        put(metadata, "max_retries", validate.max_retries(max_retries))
        put(metadata, "timeout_secs", None if timeout is None else validate.timeout_secs(timeout))
        put(metadata, "priority", validate.priority(priority))
        put(metadata, "group_id", None if group_id is None else validate.name(group_id, "group_id"))
        put(metadata, "chord_id", None if chord_id is None else validate.task_id(chord_id, "chord_id"))
        put(
            metadata,
            "parent_task_id",
            None if parent_task_id is None else validate.task_id(parent_task_id, "parent_task_id"),
        )
        put(
            metadata,
            "dependencies",
            # The empty tuple is one object, so the default costs nothing.
            frozenset() if dependencies == () else frozenset(validate.task_ids(dependencies, "dependencies")),
        )
        put(metadata, "extra", {} if extra is None else _user_keys(extra))
        task = object.__new__(cls)
        put(task, "metadata", metadata)
        put(task, "payload", payload if type(payload) is bytes else validate.payload(payload))
        return task

    def with_priority(self, priority: int) -> Self:
        """Return a copy with another priority."""
        return replace(self, metadata=replace(self.metadata, priority=priority))

    def with_max_retries(self, max_retries: int) -> Self:
        """Return a copy with another number of retries."""
        return replace(self, metadata=replace(self.metadata, max_retries=max_retries))

    def with_timeout(self, timeout: Duration | None) -> Self:
        """Return a copy with another limit of the run time, or none."""
        return replace(self, metadata=replace(self.metadata, timeout_secs=validate.timeout_secs(timeout)))

    def with_group_id(self, group_id: str | None) -> Self:
        """Return a copy that belongs to another group, or to none."""
        return replace(self, metadata=replace(self.metadata, group_id=group_id))

    def with_chord_id(self, chord_id: TaskIdLike | None) -> Self:
        """Return a copy that belongs to another chord, or to none."""
        checked = None if chord_id is None else validate.task_id(chord_id, "chord_id")
        return replace(self, metadata=replace(self.metadata, chord_id=checked))

    def with_metadata(self, extra: Mapping[str, JSON]) -> Self:
        """Return a copy whose free metadata has these keys as well; equal keys take the new value."""
        merged = {**self.metadata.extra, **_user_keys(extra)}
        return replace(self, metadata=replace(self.metadata, extra=merged))

    def age(self) -> timedelta:
        """Return the time since the task was created, by this machine's clock; never negative."""
        return max(datetime.now(UTC) - self.metadata.created_at, timedelta())

    def is_expired(self) -> bool:
        """Return whether the task is older than its timeout; False without one."""
        limit = self.metadata.timeout_secs
        return limit is not None and self.age() > timedelta(seconds=limit)

    def validate(self, max_payload_bytes: int = DEFAULT_VALIDATE_BYTES) -> None:
        """Check the task by stricter rules than enqueueing does: the payload must be there and be small.

        Raises
        ------
        ValidationError
            For a bad name, an empty payload or one of more than `max_payload_bytes` bytes.
        """
        validate.name(self.metadata.name, "name")
        if not self.payload:
            raise ValidationError("payload must not be empty", parameter="payload")
        validate.payload(self.payload, validate.integer(max_payload_bytes, "max_payload_bytes", 0))


@dataclass(frozen=True, slots=True)
class BrokerMessage(Record):
    """One delivery of a task.

    Parameters
    ----------
    task : SerializedTask
        The task as stored.
    receipt_handle : str
        32 hex digits that prove the ownership of this delivery.
    retry_count : int
        Retries already granted: 0 on the first delivery.
    delivered_at : datetime
        Time of the delivery by the database's clock.
    isolated : bool
        True when the task was taken back from a dead worker before: run it alone, it may have been the cause.
    """

    task: SerializedTask
    receipt_handle: str
    retry_count: int
    delivered_at: datetime
    isolated: bool = False

    @property
    def task_id(self) -> UUID:
        """The id of the task."""
        return self.task.metadata.id

    @property
    def task_name(self) -> str:
        """The name of the task."""
        return self.task.metadata.name

    @property
    def priority(self) -> int:
        """The priority of the task."""
        return self.task.metadata.priority


@dataclass(frozen=True, slots=True)
class TaskInfo(Record):
    """One stored task as a listing shows it, without its payload.

    Times are aware and in UTC. `worker_id` is the worker that held it last; `metadata` has the user's keys
    and the reserved ones.
    """

    id: UUID
    task_name: str
    state: DbTaskState
    priority: int
    retry_count: int
    max_retries: int
    created_at: datetime
    scheduled_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    worker_id: str | None = None
    error_message: str | None = None
    queue_name: str = "default"
    metadata: Mapping[str, JSON] = field(default_factory=dict, hash=False)
    group_id: str | None = None
    parent_task_id: UUID | None = None
    unmet_dependencies: int = 0


@dataclass(frozen=True, slots=True)
class ScheduledTaskInfo(Record):
    """One task whose time has not come.

    `delay_remaining_secs` is the whole number of seconds until then, rounded up, at least 0.
    """

    id: UUID
    task_name: str
    priority: int
    scheduled_at: datetime
    created_at: datetime
    delay_remaining_secs: int
