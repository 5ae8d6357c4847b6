"""Locking stored tasks and moving them to another state: the steps that several components share.

Lock order is always the small tables first (ready, scheduled, blocked), then the tasks by primary key. A claim skips
locked ready rows, so it never waits for an administrator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celers import rows as read
from celers.components.base import Component
from celers.components.history import record_statements
from celers.components.parts import found_out, keys_of
from celers.model.enums import DbTaskState
from celers.operation import Packet, Restart, Steps
from celers.states import DEAD_LETTER
from celers_fast.ids import uuid7

__all__ = [
    "AnyComponent",
    "Locked",
    "Tally",
    "certain",
    "changed",
    "chunks",
    "dead_letter_statements",
    "finish_statements",
    "last_packet",
    "leave_statements",
    "lock_by_id",
    "lock_by_seq",
    "lock_looked",
    "lock_pending_too",
    "requeue_statements",
    "same_delivery",
]

IDS_PER_STATEMENT = 1000
LONGEST_DELAY_SECS = 1e12  # beyond the last time that can be stored; the statement cuts it there
AnyComponent = Component[Any]


@dataclass(slots=True)
class Locked:
    """A task whose row is locked, and where it waits when it is pending."""

    seq: int
    id: UUID
    state: DbTaskState
    priority: int
    retry_count: int
    max_retries: int
    consumer_no: int
    worker_no: int
    deliveries: int
    has_dependants: bool
    unmet_dependencies: int
    retry_policy: str | None
    scheduled_at: str
    timeout_secs: int | None
    task_name: str
    place: str | None = None

    @property
    def receipt(self) -> tuple[int, int, int]:
        """The delivery that the row shows."""
        return self.seq, self.consumer_no, self.deliveries

    def about(self, **more: Any) -> tuple[UUID, None, dict[str, Any]]:
        """Say what a hook is called about."""
        return self.id, None, {"task_name": self.task_name, **more}


@dataclass(slots=True)
class Tally:
    """Changes of the counters that a transaction makes."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    completions: int = 0
    failures: int = 0
    """These two say what happened and never go down: what is deleted or runs again was completed all the same."""

    def statements(self, component: AnyComponent, consumer_no: int | None = None) -> list[bytes]:
        """Return the statement that counts, on the row where nobody else waits."""
        if not (self.completed or self.failed or self.cancelled or self.retried or self.failures):
            return []
        core = component.core
        values = {
            "queue_id": core.queue_id,
            "completed": self.completed,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "retried": self.retried,
            "completions": self.completions,
            "failures": self.failures,
        }
        if component.inside:
            return [core.sql("settle", "count_inside", **values)]
        if consumer_no is not None and core.slots.owner(consumer_no) is not None:
            return [core.sql("settle", "count_consumer", consumer_no=consumer_no, **values)]
        return [core.sql("settle", "count_totals", **values)]


def chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Cut a list into pieces that one statement takes."""
    for at in range(0, len(values), IDS_PER_STATEMENT):
        yield values[at : at + IDS_PER_STATEMENT]


def _locked(row: tuple[bytes | None, ...]) -> Locked:
    return Locked(
        seq=read.integer(row[0]),
        id=read.uuid(row[1]),
        state=DbTaskState(read.text(row[2])),
        priority=read.integer(row[3]),
        retry_count=read.integer(row[4]),
        max_retries=read.integer(row[5]),
        consumer_no=read.integer(row[6]),
        worker_no=read.integer(row[7]),
        deliveries=read.integer(row[8]),
        has_dependants=read.flag(row[9]),
        unmet_dependencies=read.integer(row[10]),
        retry_policy=read.text_or_none(row[11]),
        scheduled_at=read.text(row[12]),
        timeout_secs=read.integer_or_none(row[13]),
        task_name=read.text(row[14]),
    )


def lock_by_seq(component: AnyComponent, seqs: Sequence[int]) -> Steps[list[Locked]]:
    """Lock tasks that are believed to be processing; pending ones must not be changed on this lock alone."""
    core = component.core
    found: list[Locked] = []
    for chunk in chunks(sorted(set(seqs))):
        results = yield Packet(core.sql("settle", "lock_tasks", seqs=list(chunk), queue_id=core.queue_id))
        found.extend(_locked(row) for row in results[0].rows)
    return found


def lock_by_id(component: AnyComponent, ids: Sequence[UUID]) -> Steps[list[Locked]]:
    """Lock tasks in any state, with the rows of the small tables that pending ones stand in."""
    core = component.core
    looked: list[tuple[bytes | None, ...]] = []
    wanted = list(dict.fromkeys(ids))
    for chunk in chunks(wanted):
        results = yield Packet(
            core.sql("settle", "look_ids", ids=list(chunk), queue_id=core.queue_id) + _latest(component)
        )
        looked.extend(results[0].rows)
    if len(looked) < len(wanted) and component.inside and not component.runner.latest:
        # They may be younger than the caller's snapshot: the next look locks.
        raise Restart
    return (yield from lock_looked(component, looked))


def lock_pending_too(component: AnyComponent, seqs: Sequence[int]) -> Steps[list[Locked]]:
    """As `lock_by_id`, by number."""
    core = component.core
    looked: list[tuple[bytes | None, ...]] = []
    for chunk in chunks(sorted(set(seqs))):
        text = core.sql("settle", "look_seqs", seqs=list(chunk), queue_id=core.queue_id)
        # Dependants, which a caller's snapshot may not have; `dependants` has locked them already.
        results = yield Packet(text + b" LOCK IN SHARE MODE" if component.inside else text)
        looked.extend(results[0].rows)
    return (yield from lock_looked(component, looked))


def _latest(component: AnyComponent) -> bytes:
    """On a connection of the caller, whose snapshot may be old, only a locking read sees the latest rows."""
    return b" LOCK IN SHARE MODE" if component.inside and component.runner.latest else b""


def lock_looked(component: AnyComponent, looked: list[tuple[bytes | None, ...]]) -> Steps[list[Locked]]:
    """Lock tasks that were looked at without a lock: rows of seq, state, priority, scheduled_at."""
    core = component.core
    if not looked:
        return []
    looked.sort(key=lambda row: read.integer(row[0]))
    pending = [row for row in looked if row[1] == b"pending"]
    places: dict[int, str] = {}
    for chunk in chunks(pending):
        ready = json.dumps([[-read.integer(row[2]), read.integer(row[0])] for row in chunk])
        scheduled = json.dumps([[read.text(row[3]), read.integer(row[0])] for row in chunk])
        seqs = [read.integer(row[0]) for row in chunk]
        results = yield Packet(
            core.sql("settle", "lock_ready", keys=ready, queue_id=core.queue_id),
            core.sql("settle", "lock_scheduled", keys=scheduled),
            core.sql("settle", "lock_blocked", seqs=seqs, queue_id=core.queue_id),
        )
        for name, result in zip(("ready", "scheduled", "blocked"), results, strict=True):
            places.update((read.integer(row[0]), name) for row in result.rows)
    locked = yield from lock_by_seq(component, [read.integer(row[0]) for row in looked])
    for task in locked:
        task.place = places.get(task.seq)
        if (task.state is DbTaskState.PENDING) != (task.place is not None):
            # It was claimed, promoted or given back between the look and the lock.
            raise Restart
    return locked


def certain(
    component: AnyComponent,
    last: Steps[Any],
    tasks: Sequence[Locked],
    applied: Callable[[Locked | None, Locked], bool] | None = None,
) -> Steps[None]:
    """Send the last packet of a change; when its outcome is unknown, look at the tasks, and perhaps begin anew.

    Parameters
    ----------
    last : generator
        Sends the packet.
    tasks : sequence of Locked
        Those that it changes, as they were before. All are looked at: others may have changed some of them since, and
        one that is as it was shows that nothing was applied.
    applied : callable, optional
        Tells from a task as it is now, None when it is gone, and as it was, whether it was changed. By default: its
        state or its delivery is another one.
    """
    decide = applied or changed

    def look() -> Steps[bool]:
        now = {task.seq: task for task in (yield from lock_by_seq(component, [task.seq for task in tasks]))}
        return all(decide(now.get(task.seq), task) for task in tasks)

    yield from found_out(last, look)


def last_packet(statements: Sequence[bytes]) -> Steps[None]:
    """Send statements that end their transaction."""
    yield Packet(*statements, commit=True)


def changed(now: Locked | None, then: Locked) -> bool:
    """Has a task another state, or another delivery, than it had?"""
    return now is None or now.state is not then.state or not same_delivery(now, then)


def same_delivery(now: Locked, then: Locked) -> bool:
    """Is it still under the receipt that it had?"""
    return (now.consumer_no, now.deliveries) == (then.consumer_no, then.deliveries)


def leave_statements(component: AnyComponent, tasks: Sequence[Locked]) -> list[bytes]:
    """Take locked pending tasks out of the small tables."""
    core = component.core
    statements: list[bytes] = []
    ready = [[-task.priority, task.seq] for task in tasks if task.place == "ready"]
    scheduled = [[task.scheduled_at, task.seq] for task in tasks if task.place == "scheduled"]
    blocked = [task.seq for task in tasks if task.place == "blocked"]
    if ready:
        statements.append(core.sql("settle", "delete_ready", keys=json.dumps(ready), queue_id=core.queue_id))
    if scheduled:
        statements.append(core.sql("settle", "delete_scheduled", keys=json.dumps(scheduled)))
    if blocked:
        statements.append(core.sql("settle", "delete_blocked", keys=keys_of(blocked), queue_id=core.queue_id))
    return statements


def finish_statements(
    component: AnyComponent, tasks: Sequence[Locked], state: DbTaskState, error: str | None = None
) -> list[bytes]:
    """Bring locked tasks into a terminal state."""
    core = component.core
    statements = record_statements(core, tasks, state.value, error)
    statements += leave_statements(component, tasks)
    for chunk in chunks([task.seq for task in tasks]):
        statements.append(core.sql("settle", "finish", state=state.value, error=error, seqs=list(chunk)))
    return statements


def requeue_statements(
    component: AnyComponent,
    tasks: Sequence[Locked],
    *,
    granted: int,
    delay_secs: float = 0.0,
    error: str | None = None,
    isolated: bool = False,
) -> list[bytes]:
    """Send locked tasks back to pending, due after a delay; `granted` counts the retries."""
    core = component.core
    delay = round(min(delay_secs, LONGEST_DELAY_SECS) * 1_000_000)
    statements = record_statements(core, tasks, DbTaskState.PENDING.value, error)
    statements.append(core.sql("settle", "take_time"))
    for chunk in chunks([task.seq for task in tasks]):
        seqs = list(chunk)
        statements.append(
            core.sql("settle", "requeue", granted=granted, delay=delay, isolated=isolated, error=error, seqs=seqs)
        )
        statements.append(core.sql("settle", "place_scheduled" if delay else "place_ready", seqs=seqs))
    return statements


def dead_letter_statements(component: AnyComponent, tasks: Sequence[Locked], error: str | None) -> list[bytes]:
    """Move locked tasks to the dead letters."""
    core = component.core
    statements = record_statements(core, tasks, DEAD_LETTER, error)
    statements += [
        core.sql("settle", "dead_letter", dlq_id=uuid7(), queue_name=core.queue_name, error=error, seq=task.seq)
        for task in tasks
    ]
    for chunk in chunks([task.seq for task in tasks]):
        statements.append(core.sql("settle", "delete_tasks", keys=keys_of(chunk)))
    return statements
