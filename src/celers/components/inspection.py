"""Looking at stored tasks: the steps behind the reading operations of `Tasks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from celers import rows as read
from celers import validate
from celers.components.base import Component
from celers.errors import ValidationError
from celers.model.base import Instant
from celers.model.enums import DbTaskState
from celers.model.inspection import TaskStateTransition
from celers.model.task import TaskInfo
from celers.operation import Packet, Steps
from celers.states import DEAD_LETTER

__all__ = ["created_between", "of_worker", "processing", "task_info", "task_infos", "task_state", "transitions"]

Row = tuple[bytes | None, ...]


def task_state(value: object, name: str) -> DbTaskState:
    """Check a state."""
    if not isinstance(value, DbTaskState):
        raise ValidationError(f"{name}={value!r} must be a DbTaskState", parameter=name)
    return value


def task_infos(component: Component[Any], text: bytes) -> Steps[list[TaskInfo]]:
    """Run a query of whole tasks."""
    results = yield Packet(text)
    return [task_info(row, component.core.queue_name) for row in results[0].rows]


def task_info(row: Row, queue_name: str, parents: Sequence[UUID] = ()) -> TaskInfo:
    """Make the view of one task; the reserved keys that columns hold join the stored metadata."""
    metadata: dict[str, Any] = {} if row[12] is None else dict(validate.json_value(row[12], "metadata"))
    created_at = read.instant(row[6])
    metadata["queue"] = queue_name
    metadata["enqueued_at"] = created_at.isoformat()
    for key, value in (
        ("group_id", read.text_or_none(row[13])),
        ("chord_id", None if row[14] is None else str(read.uuid(row[14]))),
        ("parent_task_id", None if row[15] is None else str(read.uuid(row[15]))),
        ("dedup_key", read.text_or_none(row[16])),
    ):
        if value is not None:
            metadata[key] = value
    if parents:
        metadata["dependencies"] = sorted(str(parent) for parent in parents)
    return TaskInfo(
        id=read.uuid(row[0]),
        task_name=read.text(row[1]),
        state=DbTaskState(read.text(row[2])),
        priority=read.integer(row[3]),
        retry_count=read.integer(row[4]),
        max_retries=read.integer(row[5]),
        created_at=created_at,
        scheduled_at=read.instant(row[7]),
        started_at=read.instant_or_none(row[8]),
        completed_at=read.instant_or_none(row[9]),
        worker_id=read.text_or_none(row[10]),
        error_message=read.text_or_none(row[11]),
        queue_name=queue_name,
        metadata=metadata,
        group_id=read.text_or_none(row[13]),
        parent_task_id=None if row[15] is None else read.uuid(row[15]),
        unmet_dependencies=read.integer(row[17]),
    )


def processing(component: Component[Any], limit: int, offset: int) -> Steps[list[TaskInfo]]:
    """Return tasks in work."""
    count, skip = validate.limit(limit), validate.offset(offset)
    if not count:
        return []
    core = component.core
    text = core.sql("inspection", "processing_page", queue_id=core.queue_id, count=count, skip=skip)
    return (yield from task_infos(component, text))


def of_worker(component: Component[Any], worker_id: str) -> Steps[list[TaskInfo]]:
    """Return the tasks that a worker held last."""
    worker = validate.name(worker_id, "worker_id")
    core = component.core
    text = core.sql("inspection", "of_worker", queue_id=core.queue_id, worker_id=worker)
    return (yield from task_infos(component, text))


def created_between(
    component: Component[Any],
    from_time: Instant,
    to_time: Instant,
    state: DbTaskState | None,
    limit: int,
    offset: int,
) -> Steps[list[TaskInfo]]:
    """Return the tasks of a span of time."""
    first, last = validate.instant(from_time, "from_time"), validate.instant(to_time, "to_time")
    if first > last:
        raise ValidationError(
            f"from_time={first.isoformat()} must not be later than to_time={last.isoformat()}", parameter="from_time"
        )
    wanted = None if state is None else task_state(state, "state")
    count, skip = validate.limit(limit), validate.offset(offset)
    if not count:
        return []
    core = component.core
    text = core.sql(
        "inspection",
        "created_between",
        queue_id=core.queue_id,
        from_time=first,
        to_time=last,
        any_state=wanted is None,
        state=None if wanted is None else wanted.value,
        count=count,
        skip=skip,
    )
    return (yield from task_infos(component, text))


def transitions(component: Component[Any], task_id: UUID) -> Steps[list[TaskStateTransition]]:
    """Return recorded transitions, or those that the times of the task or of its dead letter tell."""
    core = component.core
    recorded, stored, letters = yield Packet(
        core.sql("inspection", "history", task_id=task_id, queue_name=core.queue_name),
        core.sql("inspection", "times", id=task_id, queue_id=core.queue_id),
        core.sql("inspection", "letter_times", task_id=task_id, queue_name=core.queue_name),
    )
    if recorded.rows:
        return [_recorded(task_id, row) for row in recorded.rows]
    if stored.rows:
        return _told_by_task(task_id, stored.rows[0])
    if letters.rows:
        created_at, failed_at, error = letters.rows[0]
        return [
            TaskStateTransition(task_id, None, DbTaskState.PENDING, read.instant(created_at)),
            TaskStateTransition(
                task_id,
                DbTaskState.PROCESSING,
                DEAD_LETTER,
                read.instant(failed_at),
                message=read.text_or_none(error),
            ),
        ]
    return []


def _recorded(task_id: UUID, row: Row) -> TaskStateTransition:
    return TaskStateTransition(
        task_id=task_id,
        from_state=None if row[0] is None else read.member(DbTaskState, row[0]),
        to_state=DEAD_LETTER if row[1] == DEAD_LETTER.encode() else read.member(DbTaskState, row[1]),
        transitioned_at=read.instant(row[2]),
        worker_id=read.text_or_none(row[3]),
        message=read.text_or_none(row[4]),
    )


def _told_by_task(task_id: UUID, row: Row) -> list[TaskStateTransition]:
    """Created, started, finished: all that a task's own times tell. Earlier runs leave no trace in them."""
    state = read.member(DbTaskState, row[0])
    started_at, completed_at = read.instant_or_none(row[2]), read.instant_or_none(row[3])
    worker_id = read.text_or_none(row[4])
    found = [TaskStateTransition(task_id, None, DbTaskState.PENDING, read.instant(row[1]))]
    if started_at is not None:
        found.append(TaskStateTransition(task_id, DbTaskState.PENDING, DbTaskState.PROCESSING, started_at, worker_id))
    if completed_at is not None:
        found.append(
            TaskStateTransition(
                task_id,
                DbTaskState.PENDING if started_at is None else DbTaskState.PROCESSING,
                state,
                completed_at,
                worker_id,
                read.text_or_none(row[5]),
            )
        )
    return found
