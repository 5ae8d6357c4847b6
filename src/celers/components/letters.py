"""What hooks of an enqueue see of a dead letter that becomes a task again, and what they may make of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celers import rows as read
from celers import validate
from celers.components.base import Component
from celers.hooks import before_enqueue
from celers.model.enums import TaskHook
from celers.model.task import SerializedTask
from celers.operation import Packet, Steps
from celers_fast.compression import compress_payload, decompress_payload

__all__ = ["Letter", "Shown", "hooked", "replaced"]

Shown = Mapping[UUID, tuple[SerializedTask, SerializedTask]]
"""By the new id: the task that the letter would become, and the one that hooks have made of it."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A locked dead letter and the id of the task that it becomes."""

    id: UUID
    task_id: UUID
    priority: int
    new_id: UUID


def hooked(component: Component[Any], letters: Sequence[Letter]) -> Steps[Shown]:
    """Run the hooks before the enqueue of what locked letters become; empty without hooks of an enqueue."""
    core = component.core
    if not core.hooks.any(TaskHook.BEFORE_ENQUEUE, TaskHook.AFTER_ENQUEUE):
        return {}
    tasks: dict[UUID, tuple[SerializedTask, SerializedTask]] = {}
    for letter in letters:
        row = (yield Packet(core.sql("dlq", "whole", id=letter.id)))[0].rows[0]
        task = _task(letter, row)
        tasks[letter.new_id] = (task, before_enqueue(core, task))
    return tasks


def replaced(component: Component[Any], letter: Letter, origin: str, tasks: Shown) -> list[bytes]:
    """Make the stored task the one that a hook has returned."""
    core = component.core
    known, task = tasks.get(letter.new_id, (None, None))
    if task is None or task is known:
        return []
    metadata = task.metadata
    payload, encoding = task.payload, "raw"
    if core.compress:
        payload, encoding = compress_payload(payload), "deflate"
    extra = {**metadata.extra, "requeued_from": json.loads(origin)}
    return [
        core.sql(
            "dlq",
            "replace",
            task_id=letter.new_id,
            task_name=metadata.name,
            payload=validate.payload(payload, core.max_payload_bytes),
            encoding=encoding,
            priority=metadata.priority,
            max_retries=metadata.max_retries,
            timeout_secs=metadata.timeout_secs,
            group_id=metadata.group_id,
            chord_id=metadata.chord_id,
            parent_task_id=metadata.parent_task_id,
            metadata=validate.json_text(extra, "extra"),
        )
    ]


def _task(letter: Letter, row: tuple[bytes | None, ...]) -> SerializedTask:
    """The task that a letter becomes."""
    payload = row[1] or b""
    return SerializedTask.new(
        read.text(row[0]),
        decompress_payload(payload) if row[2] == b"deflate" else payload,
        id=letter.new_id,
        priority=read.integer(row[3]),
        max_retries=read.integer(row[4]),
        timeout=read.integer_or_none(row[5]),
        extra=None if row[6] is None else validate.json_value(row[6], "metadata"),
        group_id=read.text_or_none(row[7]),
        chord_id=None if row[8] is None else read.uuid(row[8]),
        parent_task_id=None if row[9] is None else read.uuid(row[9]),
    )
