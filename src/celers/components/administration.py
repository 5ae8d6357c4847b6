"""Changing the state of stored tasks by hand: the steps behind the changing operations of `Tasks`."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celers import rows as read
from celers.components.base import Component
from celers.components.dependants import end_dependants
from celers.components.history import record_statements
from celers.components.settling import (
    Locked,
    Tally,
    certain,
    chunks,
    finish_statements,
    last_packet,
    leave_statements,
    lock_by_id,
)
from celers.model.enums import DbTaskState
from celers.operation import Packet, Steps
from celers.states import sources

__all__ = ["cancel", "change_state"]


def cancel(component: Component[Any], ids: list[UUID], waits: dict[UUID, int] | None) -> Steps[int]:
    """Cancel tasks with what depends on them; with the times they waited in seconds: expire pending ones."""
    open_states: tuple[DbTaskState, ...] = (DbTaskState.PENDING, DbTaskState.PROCESSING)
    if waits is not None:
        open_states = (DbTaskState.PENDING,)
    locked = [task for task in (yield from lock_by_id(component, ids)) if task.state in open_states]
    if not locked:
        return 0
    tally = Tally(cancelled=len(locked))
    by_error: dict[str | None, list[Locked]] = {}
    for task in locked:
        error = None if waits is None else f"expired after waiting {waits[task.id]} s"
        by_error.setdefault(error, []).append(task)
    statements: list[bytes] = []
    for error, tasks in by_error.items():
        statements += finish_statements(component, tasks, DbTaskState.CANCELLED, error)
    statements = yield from _parents_first(statements, locked)
    yield from end_dependants(component, [], [(task, "was cancelled") for task in locked], tally)
    statements += tally.statements(component)
    yield from certain(component, last_packet(statements), locked)
    _forget(component, locked)
    return len(locked)


def change_state(component: Component[Any], ids: list[UUID], target: DbTaskState) -> Steps[int]:
    """Bring those tasks into a state that may come to it."""
    if target is DbTaskState.PENDING:
        yield from _lock_open_parents(component, ids)
    allowed = sources(target, administrative=True)
    locked = [task for task in (yield from lock_by_id(component, ids)) if task.state in allowed]
    if not locked:
        return 0
    tally = Tally()
    number = 0
    for task in locked:
        _leave_state(task.state, tally)
    if target is DbTaskState.PENDING:
        statements = yield from _to_pending(component, locked)
    elif target is DbTaskState.PROCESSING:
        number, statements = yield from _to_processing(component, locked)
    else:
        statements = yield from _parents_first(finish_statements(component, locked, target), locked)
        if target is DbTaskState.COMPLETED:
            tally.completed += len(locked)
            tally.completions += len(locked)
            yield from end_dependants(component, locked, [], tally)
        else:
            word = "failed" if target is DbTaskState.FAILED else "was cancelled"
            if target is DbTaskState.FAILED:
                tally.failed += len(locked)
                tally.failures += len(locked)
            else:
                tally.cancelled += len(locked)
            yield from end_dependants(component, [], [(task, word) for task in locked], tally)
    statements += tally.statements(component)
    yield from certain(component, last_packet(statements), locked)
    if target is not DbTaskState.PROCESSING:
        _forget(component, locked)
    elif not component.inside:
        slots = component.core.slots
        slot = slots.add(number)
        slots.hold(slot, {task.seq: (task.id, task.deliveries + 1) for task in locked})
        slots.put(slot)
    return len(locked)


def _lock_open_parents(component: Component[Any], ids: list[UUID]) -> Steps[None]:
    """Lock what the tasks still wait for, before them: it completes either before the look or after the change."""
    core = component.core
    found: set[UUID] = set()
    for chunk in chunks(ids):
        results = yield Packet(core.sql("tasks", "open_parents", ids=list(chunk)))
        found.update(read.uuid(row[0]) for row in results[0].rows)
    for chunk in chunks(sorted(found)):
        yield Packet(core.sql("producer", "lock_parents", ids=list(chunk), queue_id=core.queue_id))


def _to_pending(component: Component[Any], locked: list[Locked]) -> Steps[list[bytes]]:
    """A task comes back to wait for those of its dependencies that are stored and not completed."""
    core = component.core
    waits: dict[UUID, int] = {}
    for chunk in chunks([task.id for task in locked if task.unmet_dependencies]):
        results = yield Packet(core.sql("tasks", "count_open_parents", ids=list(chunk)))
        waits.update((read.uuid(row[0]), read.integer(row[1])) for row in results[0].rows)
    by_count: dict[int, list[int]] = {}
    for task in locked:
        by_count.setdefault(waits.get(task.id, 0), []).append(task.seq)
    statements = record_statements(core, locked, DbTaskState.PENDING.value)
    statements.append(core.sql("settle", "take_time"))
    for count, seqs in by_count.items():
        for part in chunks(seqs):
            statements.append(core.sql("tasks", "administer", seqs=list(part), unmet=count))
            if count:
                statements.append(core.sql("tasks", "place_blocked", seqs=list(part)))
            else:
                statements.append(core.sql("settle", "place_ready", seqs=list(part)))
    return statements


def _to_processing(component: Component[Any], locked: list[Locked]) -> Steps[tuple[int, list[bytes]]]:
    """Put tasks into the lease of a consumer of this process, so that they are recovered like claimed ones."""
    core = component.core
    opened = yield Packet(
        core.sql("consumer", "open", queue_id=core.queue_id, worker_no=0, lease_secs=max(1, core.lease_secs))
    )
    number = opened[0].insert_id
    held = ",".join(str(task.seq) for task in locked)
    return number, [
        *record_statements(core, locked, DbTaskState.PROCESSING.value),
        *leave_statements(component, locked),
        core.sql("tasks", "satisfy_own", ids=[task.id for task in locked]),
        core.sql("tasks", "administer_processing", consumer_no=number, seqs=[task.seq for task in locked]),
        core.sql("tasks", "set_lease", held=held, consumer_no=number, queue_id=core.queue_id),
    ]


def _parents_first(statements: list[bytes], locked: list[Locked]) -> Steps[list[bytes]]:
    """End tasks before their dependants are looked at, which may be among them; return what is left to send."""
    if not any(task.has_dependants for task in locked):
        return statements
    yield Packet(*statements)
    return []


def _forget(component: Component[Any], tasks: list[Locked]) -> None:
    if not component.inside:
        component.core.slots.settled(tasks)


def _leave_state(state: DbTaskState, tally: Tally) -> None:
    """Subtract a task that leaves a terminal state from the counters."""
    if state is DbTaskState.COMPLETED:
        tally.completed -= 1
    elif state is DbTaskState.FAILED:
        tally.failed -= 1
    elif state is DbTaskState.CANCELLED:
        tally.cancelled -= 1
