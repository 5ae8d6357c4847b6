"""Dependencies of new tasks: what they wait for.

The parents are locked before the new tasks are inserted. So a parent either has ended before, which the lock shows,
or it ends after the commit, and then the acknowledgement finds `has_dependants` set and releases the new task.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from celers.errors import CyclicDependencyError, InvalidStateTransitionError, TaskNotFoundError
from celers.model.task import SerializedTask
from celers.operation import Packet, Steps
from celers.sql import Raw
from celers_fast.ids import uuid7_many
from celers_fast.params import build_values

if TYPE_CHECKING:
    from celers.core import Core

__all__ = ["cycle_in", "insert_dependencies", "unmet_counts"]

Key = TypeVar("Key", bound=Hashable)

_IDS_PER_STATEMENT = 1000


def unmet_counts(core: Core, tasks: Sequence[SerializedTask]) -> Steps[dict[UUID, frozenset[UUID]]]:
    """Return, by task id, the dependencies that are not completed yet; locks the parents.

    Raises
    ------
    CyclicDependencyError
        Tasks of the batch wait for each other.
    TaskNotFoundError
        A dependency is neither stored nor known to have completed.
    InvalidStateTransitionError
        A dependency has failed, was cancelled or is a dead letter.
    """
    own = {task.metadata.id: task.metadata.dependencies for task in tasks}
    waiting = cycle_in(own)
    if waiting:
        raise CyclicDependencyError("tasks of the batch depend on each other in a cycle", cycle=waiting)
    parents = sorted({parent for dependencies in own.values() for parent in dependencies} - own.keys())
    states: dict[UUID, str] = {}
    for at in range(0, len(parents), _IDS_PER_STATEMENT):
        chunk = parents[at : at + _IDS_PER_STATEMENT]
        results = yield Packet(core.sql("producer", "lock_parents", ids=chunk, queue_id=core.queue_id))
        states.update((UUID(bytes=row[0]), (row[1] or b"").decode()) for row in results[0].rows)
        gone = [parent for parent in chunk if parent not in states]
        if gone:
            dead, archived = yield Packet(
                core.sql("producer", "dead_parents", ids=gone, queue_name=core.queue_name),
                core.sql("producer", "archived_parents", ids=gone, queue_name=core.queue_name),
            )
            states.update((UUID(bytes=row[0]), "completed") for row in archived.rows)
            states.update((UUID(bytes=row[0]), "dead_letter") for row in dead.rows)
    for parent in parents:
        state = states.get(parent)
        if state is None:
            raise TaskNotFoundError(f"the dependency {parent} is not in queue {core.queue_name!r}", task_id=parent)
        if state in ("failed", "cancelled", "dead_letter"):
            raise InvalidStateTransitionError(
                f"the dependency {parent} is {state}: a task that waits for it could never run",
                from_state=state,
                to_state="pending",
            )
    return {
        task_id: frozenset(parent for parent in dependencies if states.get(parent) != "completed")
        for task_id, dependencies in own.items()
    }


def insert_dependencies(core: Core, tasks: Sequence[SerializedTask], unmet: dict[UUID, frozenset[UUID]]) -> Steps[None]:
    """Store who waits for whom, and mark the parents."""
    pairs = [(task.metadata.id, parent) for task in tasks for parent in sorted(task.metadata.dependencies)]
    now = Raw(b"@celers_now")
    rows = [
        (row_id, core.queue_name, task_id, parent, satisfied, now, now if satisfied else None)
        for row_id, (task_id, parent) in zip(uuid7_many(len(pairs)), pairs, strict=True)
        for satisfied in (parent not in unmet[task_id],)
    ]
    prefix = (
        f"INSERT INTO {core.sql.table('task_dependencies')}"
        " (id, queue_name, task_id, parent_task_id, satisfied, created_at, satisfied_at) VALUES "
    ).encode()
    for statement, _ in build_values(prefix, rows, max_bytes=core.packet_bytes - 2048):
        yield Packet(statement)
    waited_for = sorted({parent for parents in unmet.values() for parent in parents})
    for at in range(0, len(waited_for), _IDS_PER_STATEMENT):
        yield Packet(core.sql("producer", "mark_parents", ids=waited_for[at : at + _IDS_PER_STATEMENT]))


def cycle_in(own: Mapping[Key, Iterable[Key]]) -> list[Key]:
    """Return the tasks of a batch that wait for each other, and those behind them; empty when all can run in turn.

    Parameters
    ----------
    own : mapping
        By task, what it waits for; tasks outside of the mapping do not count.
    """
    # Tasks without open dependencies inside the batch are removed until none of them is left.
    waiting = {task_id: {parent for parent in parents if parent in own} for task_id, parents in own.items()}
    children: dict[Key, list[Key]] = {}
    for task_id, parents in waiting.items():
        for parent in parents:
            children.setdefault(parent, []).append(task_id)
    free = [task_id for task_id, parents in waiting.items() if not parents]
    while free:
        done = free.pop()
        del waiting[done]
        for child in children.get(done, ()):
            waiting[child].discard(done)
            if not waiting[child]:
                free.append(child)
    return list(waiting)
