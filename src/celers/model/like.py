"""Many tasks that differ in nothing but id and payload, without an object for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, overload
from uuid import UUID

from celers.model.task import SerializedTask, TaskMetadata
from celers_fast.ids import uuid7_many

__all__ = ["LikeTasks", "gather", "is_plain"]

IDS_AT_ONCE: Final = 100_000


class LikeTasks(Sequence[SerializedTask]):
    """Tasks of one name, priority, retry limit and run time limit, with new ids in ascending order.

    A producer that stores thousands of calls of one function needs their ids and payloads only. Whoever wants the
    tasks themselves, such as a hook, gets each made when it is asked for.
    """

    __slots__ = ("ids", "max_retries", "name", "payloads", "priority", "timeout_secs")

    def __init__(
        self,
        ids: list[UUID],
        payloads: list[bytes],
        name: str,
        priority: int,
        max_retries: int,
        timeout_secs: int | None = None,
    ) -> None:
        self.ids = ids
        self.payloads = payloads
        self.name = name
        self.priority = priority
        self.max_retries = max_retries
        self.timeout_secs = timeout_secs

    @classmethod
    def new(
        cls,
        name: str,
        payloads: list[bytes],
        *,
        priority: int,
        max_retries: int,
        timeout_secs: int | None,
        id: UUID | None = None,  # noqa: A002 - the name of the field
    ) -> LikeTasks:
        """Make tasks with new ids, or a single one with a given id; the values have been checked."""
        ids = [] if id is None else [id]
        while len(ids) < len(payloads):
            ids += uuid7_many(min(IDS_AT_ONCE, len(payloads) - len(ids)))
        return cls(ids, payloads, name, priority, max_retries, timeout_secs)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, at: int) -> SerializedTask: ...
    @overload
    def __getitem__(self, at: slice) -> list[SerializedTask]: ...
    def __getitem__(self, at: int | slice) -> SerializedTask | list[SerializedTask]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self.ids)))]
        return SerializedTask.new(
            self.name,
            self.payloads[at],
            id=self.ids[at],
            priority=self.priority,
            max_retries=self.max_retries,
            timeout=self.timeout_secs,
        )


def is_plain(metadata: TaskMetadata) -> bool:
    """Does the task belong to nothing else, and has it no metadata of its own?"""
    return not (
        metadata.extra
        or metadata.dependencies
        or metadata.group_id is not None
        or metadata.chord_id is not None
        or metadata.parent_task_id is not None
    )


def gather(tasks: Sequence[SerializedTask], max_payload_bytes: int) -> LikeTasks | None:
    """Take tasks apart that are alike; None when they are not, or when anything about them has to be looked at."""
    if type(tasks) is LikeTasks:
        return tasks if max(map(len, tasks.payloads)) <= max_payload_bytes else None
    if type(tasks[0]) is not SerializedTask:
        return None
    metadata = tasks[0].metadata
    name, priority, max_retries, timeout_secs = (
        metadata.name,
        metadata.priority,
        metadata.max_retries,
        metadata.timeout_secs,
    )
    ids: list[UUID] = []
    payloads: list[bytes] = []
    last = -1
    for task in tasks:
        if type(task) is not SerializedTask:
            return None
        metadata, payload = task.metadata, task.payload
        number = metadata.id.int
        if (
            number <= last  # new ids ascend, so that none can be there twice
            or metadata.name != name
            or metadata.priority != priority
            or metadata.max_retries != max_retries
            or metadata.timeout_secs != timeout_secs
            or not is_plain(metadata)
            or len(payload) > max_payload_bytes
        ):
            return None
        last = number
        ids.append(metadata.id)
        payloads.append(payload)
    return LikeTasks(ids, payloads, name, priority, max_retries, timeout_secs)
