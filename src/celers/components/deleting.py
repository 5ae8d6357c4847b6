"""Deleting tasks and history rows in chunks: how purges, archiving and retention do it.

All walk the tasks by primary key from the low end, where the old ones are: stretch by stretch without a lock, and what
is found in a stretch is locked, looked at again and deleted in a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celers import rows as read
from celers.components.base import Component
from celers.components.dependants import end_dependants
from celers.components.parts import delete_chunks, keys_of, one_part, parts
from celers.components.settling import (
    Locked,
    Tally,
    certain,
    last_packet,
    leave_statements,
    lock_by_seq,
    lock_looked,
    lock_pending_too,
)
from celers.model.enums import DbTaskState
from celers.operation import Packet, Steps

__all__ = ["archive_some", "delete_history", "delete_letters", "delete_results", "purge_picked", "purge_where"]

STRETCH = 10_000
PURGE_CHUNK = 1000
FINISHED = (DbTaskState.COMPLETED, DbTaskState.FAILED, DbTaskState.CANCELLED)


def purge_where(
    component: Component[Any], states: Sequence[DbTaskState], *, name: str | None = None, age: int | None = None
) -> Steps[int]:
    """Delete tasks by state, name and age, with what belongs to them; return how many.

    Parameters
    ----------
    states : sequence of DbTaskState
    name : str, optional
        Exact name.
    age : int, optional
        Only tasks that were created longer ago, in microseconds.
    """
    core = component.core
    after = last = 0

    def part() -> Steps[tuple[int, bool]]:
        nonlocal after, last
        if after >= last:
            end = (yield Packet(core.sql("maintenance", "walk_end", after=after, age=0, count=STRETCH)))[0].rows[0][0]
            if end is None:
                return 0, False
            last = read.integer(end)
        find = core.sql(
            "maintenance",
            "walk_pick",
            queue_id=core.queue_id,
            after=after,
            last=last,
            states=[state.value for state in states],
            any_name=name is None,
            name=name or "",
            any_age=age is None,
            age=age or 0,
            count=PURGE_CHUNK,
        )
        picked = list((yield Packet(find))[0].rows)
        reached = read.integer(picked[-1][0]) if len(picked) == PURGE_CHUNK else last
        purged = (yield from purge_picked(component, picked, states)) if picked else 0
        after = reached
        return purged, True

    return (yield from parts(part))


def archive_some(
    component: Component[Any], age: int, after: int, *, chunk: int, whole: bool = False, stretch: int = STRETCH
) -> Steps[tuple[int, int | None]]:
    """Delete the finished tasks of one stretch that ended longer ago than an age in microseconds, one chunk at most.

    Parameters
    ----------
    after : int
        Number of the task after which to look.
    chunk, stretch : int
        Tasks to delete, and to look at, at most.
    whole : bool
        Go on to the last task; otherwise the walk ends where all tasks are younger than the age.

    Returns
    -------
    tuple of (int, int or None)
        How many were deleted, and where to go on; None at the end.
    """
    core, sql = component.core, component.core.sql

    def part() -> Steps[tuple[int, int | None]]:
        end, young = (yield Packet(sql("maintenance", "walk_end", after=after, age=age, count=stretch)))[0].rows[0]
        if end is None or (young == b"1" and not whole):
            return 0, None
        last = read.integer(end)
        find = sql("maintenance", "walk_finished", queue_id=core.queue_id, after=after, last=last, age=age, count=chunk)
        picked = [read.integer(row[0]) for row in (yield Packet(find))[0].rows]
        locked = yield from lock_by_seq(component, picked)
        # An administrator may have sent one back to pending.
        locked = [task for task in locked if task.state in FINISHED]
        if locked:
            ids = keys_of(task.id for task in locked)
            statements = [
                sql("maintenance", "purge_dependencies", keys=ids),
                sql("maintenance", "purge_dependencies_on", keys=ids),
                sql("settle", "delete_tasks", keys=keys_of(task.seq for task in locked)),
                *_uncount(locked).statements(component),
            ]
            yield from certain(component, last_packet(statements), locked, _gone)
        return len(locked), picked[-1] if len(picked) == chunk else last

    return (yield from one_part(part))


def delete_history(component: Component[Any], age: int, chunk: int, *, once: bool = False) -> Steps[int]:
    """Delete history rows older than an age in microseconds; return how many."""
    sql = component.core.sql
    return (
        yield from delete_chunks(
            sql("history", "pick_old", queue_name=component.core.queue_name, age=age, count=chunk),
            chunk,
            lambda keys: sql("history", "delete_picked", keys=keys),
            lambda numbers: sql("history", "count_picked", numbers=numbers),
            key=read.integer,
            once=once,
        )
    )


def delete_letters(component: Component[Any], age: int, chunk: int, *, once: bool = False) -> Steps[int]:
    """Delete dead letters older than an age in microseconds; return how many."""
    sql = component.core.sql
    return (
        yield from delete_chunks(
            sql("dlq", "pick_old", queue_name=component.core.queue_name, age=age, count=chunk),
            chunk,
            lambda keys: sql("dlq", "delete_picked", keys=keys),
            lambda ids: sql("dlq", "count_picked", ids=ids),
            once=once,
        )
    )


def delete_results(component: Component[Any], age: int, chunk: int, *, once: bool = False) -> Steps[int]:
    """Delete results that were completed longer ago than an age in microseconds; return how many."""
    sql, queue_name = component.core.sql, component.core.queue_name
    return (
        yield from delete_chunks(
            sql("results", "pick_old", queue_name=queue_name, age=age, count=chunk),
            chunk,
            lambda keys: sql("results", "delete_picked", keys=keys, queue_name=queue_name),
            lambda ids: sql("results", "count_picked", ids=ids, queue_name=queue_name, age=age),
            once=once,
        )
    )


def purge_picked(
    component: Component[Any],
    picked: list[tuple[bytes | None, ...]],
    states: Sequence[DbTaskState] = tuple(DbTaskState),
) -> Steps[int]:
    """Delete tasks that were looked at, in one transaction, with what belongs to them; return how many.

    Parameters
    ----------
    picked : list of rows
        As `lock_looked` takes them.
    states : sequence of DbTaskState
        Tasks that have got into another state since stay.
    """
    sql, core = component.core.sql, component.core
    tally = Tally()
    locked = yield from lock_looked(component, picked)
    locked = [task for task in locked if task.state in states]
    parents = [task for task in locked if task.has_dependants and task.state not in FINISHED]
    if parents:
        yield from end_dependants(component, [], [(task, "was purged") for task in parents], tally)
        # Some of these tasks may be dependants of others, and cancelled now.
        locked = yield from lock_pending_too(component, [task.seq for task in locked])
    if not locked:
        return 0
    counted = _uncount(locked)
    tally.completed += counted.completed
    tally.failed += counted.failed
    tally.cancelled += counted.cancelled
    seqs, ids = keys_of(task.seq for task in locked), keys_of(task.id for task in locked)
    statements = leave_statements(component, locked)
    # By the keys that stand in the tasks, so while these are there.
    statements.append(sql("maintenance", "purge_dedup", keys=seqs, queue_name=core.queue_name))
    statements.append(sql("settle", "delete_tasks", keys=seqs))
    for name in ("purge_dependencies", "purge_dependencies_on", "purge_idempotency"):
        statements.append(sql("maintenance", name, keys=ids))
    statements += tally.statements(component)
    yield from certain(component, last_packet(statements), locked, _gone)
    core.slots.settled(locked)
    return len(locked)


def _uncount(tasks: Sequence[Locked]) -> Tally:
    """Take finished tasks out of the totals."""
    tally = Tally()
    for task in tasks:
        if task.state is DbTaskState.COMPLETED:
            tally.completed -= 1
        elif task.state is DbTaskState.FAILED:
            tally.failed -= 1
        elif task.state is DbTaskState.CANCELLED:
            tally.cancelled -= 1
    return tally


def _gone(now: Locked | None, _: Locked) -> bool:
    return now is None
