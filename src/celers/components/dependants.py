"""What waits for a task that has ended: released when it was completed, cancelled when it ended otherwise.

Dependants are locked after their parent: the parent's lock keeps new ones away, and the rare crossing of two such
operations ends in a deadlock that the runner repeats. How new tasks come to wait is in `parents`.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from celers import rows as read
from celers.components.settling import (
    AnyComponent,
    Locked,
    Tally,
    chunks,
    finish_statements,
    leave_statements,
    lock_pending_too,
)
from celers.model.enums import DbTaskState
from celers.operation import Packet, Steps

__all__ = ["end_dependants"]


def end_dependants(
    component: AnyComponent, completed: Sequence[Locked], ended: Sequence[tuple[Locked, str]], tally: Tally
) -> Steps[None]:
    """Release what waits for completed tasks; cancel, transitively, what waits for tasks that ended otherwise.

    Parameters
    ----------
    completed : sequence of Locked
    ended : sequence of (Locked, str)
        Tasks that failed, were cancelled or became dead letters, with the word for it.
    tally : Tally
        Gets the cancelled dependants added.
    """
    released = [task.id for task in completed if task.has_dependants]
    if released:
        yield from _release(component, released)
    causes = {task.id: (task.id, word) for task, word in ended if task.has_dependants}
    while causes:
        causes = yield from _cancel_waiting(component, causes, tally)


def _dependants(component: AnyComponent, ids: Sequence[UUID]) -> Steps[list[tuple[UUID, int, float]]]:
    core = component.core
    found: list[tuple[UUID, int, float]] = []
    for chunk in chunks(ids):
        text = core.sql("settle", "dependants", ids=list(chunk), queue_id=core.queue_id)
        # The snapshot of a caller's connection may be older than a dependant.
        results = yield Packet(text + b" LOCK IN SHARE MODE" if component.inside else text)
        found.extend((read.uuid(row[0]), read.integer(row[1]), float(row[3] or 0)) for row in results[0].rows)
    return found


def _release(component: AnyComponent, parents: Sequence[UUID]) -> Steps[None]:
    core = component.core
    edges = yield from _dependants(component, parents)
    met: dict[int, int] = {}
    delays: dict[int, float] = {}
    for _, seq, delay in edges:
        met[seq] = met.get(seq, 0) + 1
        delays[seq] = max(delays.get(seq, 0.0), delay)
    locked = yield from lock_pending_too(component, list(met))
    statements = [core.sql("settle", "satisfy", ids=list(chunk)) for chunk in chunks(list(parents))]
    statements.append(core.sql("settle", "take_time"))
    by_count: dict[int, list[int]] = {}
    free: list[Locked] = []
    for task in locked:
        if task.place != "blocked":
            continue
        by_count.setdefault(met[task.seq], []).append(task.seq)
        if task.unmet_dependencies <= met[task.seq]:
            free.append(task)
    for count, seqs in by_count.items():
        for chunk in chunks(seqs):
            statements.append(core.sql("settle", "reduce_unmet", met=count, seqs=list(chunk)))
    statements += leave_statements(component, free)
    by_delay: dict[int, list[int]] = {}
    for task in free:
        by_delay.setdefault(round(delays[task.seq] * 1_000_000), []).append(task.seq)
    for microseconds, seqs in by_delay.items():
        for chunk in chunks(seqs):
            statements.append(core.sql("settle", "become_due", delay=microseconds, seqs=list(chunk)))
            statements.append(core.sql("settle", "place_ready", seqs=list(chunk)))
            statements.append(core.sql("settle", "place_scheduled", seqs=list(chunk)))
    yield Packet(*statements)
    core.due_unknown()


def _cancel_waiting(
    component: AnyComponent, causes: dict[UUID, tuple[UUID, str]], tally: Tally
) -> Steps[dict[UUID, tuple[UUID, str]]]:
    """Cancel one generation of dependants; returns those that have dependants themselves, with their root cause."""
    edges = yield from _dependants(component, list(causes))
    cause_of: dict[int, tuple[UUID, str]] = {}
    for parent, seq, _ in edges:
        cause_of.setdefault(seq, causes[parent])
    locked = yield from lock_pending_too(component, list(cause_of))
    by_cause: dict[tuple[UUID, str], list[Locked]] = {}
    for task in locked:
        if task.state is DbTaskState.PENDING:
            by_cause.setdefault(cause_of[task.seq], []).append(task)
    statements: list[bytes] = []
    next_causes: dict[UUID, tuple[UUID, str]] = {}
    for cause, tasks in by_cause.items():
        root, word = cause
        error = f"cancelled because the task {root}, which it depends on, {word}"
        statements += finish_statements(component, tasks, DbTaskState.CANCELLED, error)
        tally.cancelled += len(tasks)
        next_causes.update((task.id, cause) for task in tasks if task.has_dependants)
    if statements:
        yield Packet(*statements)
    return next_causes
