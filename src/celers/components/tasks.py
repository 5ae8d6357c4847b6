"""Stored tasks: look at them and change them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.components.settling import (
    Locked,
    Tally,
    certain,
    chunks,
    end_dependants,
    finish_statements,
    leave_statements,
    lock_by_id,
)
from celers.errors import ValidationError
from celers.model.base import Duration, TaskIdLike
from celers.model.enums import DbTaskState
from celers.model.task import ScheduledTaskInfo, TaskInfo
from celers.operation import Packet, Steps, operation
from celers.states import sources

__all__ = ["Tasks"]

EXPIRE_CHUNK = 1000


class Tasks(Component[M]):
    """Look at stored tasks and change them by hand."""

    attribute = "tasks"

    @operation("read")
    def get(self, task_id: TaskIdLike) -> Steps[TaskInfo | None]:
        """Return one task of this queue; None when it is not there. Dead letters are not tasks.

        Statements: two indexed reads in one round trip.
        """
        key = validate.task_id(task_id)
        core = self.core
        found, parents = yield Packet(
            core.sql("tasks", "get", id=key, queue_id=core.queue_id), core.sql("tasks", "dependencies_of", id=key)
        )
        if not found.rows:
            return None
        return _info(found.rows[0], core.queue_name, [read.uuid(row[0]) for row in parents.rows])

    @operation("read")
    def page(self, state: DbTaskState | None, limit: int, offset: int) -> Steps[list[TaskInfo]]:
        """Return tasks, newest first.

        Parameters
        ----------
        state : DbTaskState or None
            Only tasks in this state; None for all.
        limit : int
            0 to 10000.
        offset : int
            Not negative.

        Notes
        -----
        Walks the primary key from its high end, so the first pages are cheap however many tasks are stored.
        """
        count, skip = validate.limit(limit), validate.offset(offset)
        wanted = None if state is None else _state(state, "state")
        core = self.core
        if not count:
            return []
        if wanted is None:
            text = core.sql("tasks", "page", queue_id=core.queue_id, count=count, skip=skip)
        else:
            text = core.sql(
                "tasks", "page_of_state", queue_id=core.queue_id, state=wanted.value, count=count, skip=skip
            )
        results = yield Packet(text)
        return [_info(row, core.queue_name) for row in results[0].rows]

    @operation("read")
    def scheduled_page(self, limit: int, offset: int) -> Steps[list[ScheduledTaskInfo]]:
        """Return tasks whose time has not come, the next one first; retries that wait for their backoff too."""
        count, skip = validate.limit(limit), validate.offset(offset)
        if not count:
            return []
        core = self.core
        results = yield Packet(core.sql("tasks", "scheduled_page", queue_id=core.queue_id, count=count, skip=skip))
        return [
            ScheduledTaskInfo(
                id=read.uuid(row[0]),
                task_name=read.text(row[1]),
                priority=read.integer(row[2]),
                scheduled_at=read.instant(row[3]),
                created_at=read.instant(row[4]),
                delay_remaining_secs=-(-read.integer(row[5]) // 1_000_000),
            )
            for row in results[0].rows
        ]

    @operation("read")
    def count_scheduled(self) -> Steps[int]:
        """Return the number of tasks whose time has not come."""
        results = yield Packet(self.core.sql("tasks", "count_scheduled", queue_id=self.core.queue_id))
        return read.integer(results[0].rows[0][0])

    @operation(repeat_unknown=True)
    def cancel(self, task_id: TaskIdLike) -> Steps[bool]:
        """Cancel a pending or processing task and, transitively, the tasks that depend on it.

        Returns
        -------
        bool
            Whether the task was cancelled; False for an unknown id and for a task that has ended. A worker that
            holds the task learns it when it acknowledges or rejects.
        """
        return bool((yield from self._cancel([validate.task_id(task_id)], None)))

    @operation(repeat_unknown=True)
    def cancel_batch(self, task_ids: Iterable[TaskIdLike]) -> Steps[int]:
        """Cancel many tasks, in one transaction; return how many of them changed."""
        ids = validate.task_ids(task_ids)
        return (yield from self._cancel(ids, None)) if ids else 0

    @operation()
    def expire_pending(self, ttl: Duration) -> Steps[int]:
        """Cancel tasks that have been due for longer than `ttl`; return how many.

        Tasks whose time has not come, and blocked ones, never expire. In chunks, each in its own transaction.
        """
        age = validate.age(ttl, "ttl", positive=True)
        core = self.core
        expired = 0
        while True:
            results = yield Packet(core.sql("tasks", "overdue", queue_id=core.queue_id, age=age, count=EXPIRE_CHUNK))
            waits = {read.uuid(row[0]): read.integer(row[1]) for row in results[0].rows}
            if not waits:
                return expired
            expired += yield from self._cancel(list(waits), waits)

    @operation()
    def update_state(self, task_ids: Iterable[TaskIdLike], new_state: DbTaskState) -> Steps[int]:
        """Change the state of tasks by hand; return how many changed.

        Allowed: to PENDING from processing, failed and cancelled; to PROCESSING from pending; to COMPLETED, FAILED
        and CANCELLED from pending and processing. Others are skipped. Dependants are released or cancelled.

        A task that comes back to PENDING waits for those of its dependencies that are stored and not completed. One
        that is set to PROCESSING waits for none any more.
        """
        target = _state(new_state, "new_state")
        ids = validate.task_ids(task_ids)
        if not ids:
            return 0
        if target is DbTaskState.PENDING:
            yield from self._lock_open_parents(ids)
        allowed = sources(target, administrative=True)
        locked = [task for task in (yield from lock_by_id(self, ids)) if task.state in allowed]
        if not locked:
            return 0
        tally = Tally()
        number = 0
        for task in locked:
            _leave_state(task.state, tally)
        if target is DbTaskState.PENDING:
            statements = yield from self._to_pending(locked)
        elif target is DbTaskState.PROCESSING:
            number, statements = yield from self._to_processing(locked)
        else:
            statements = finish_statements(self, locked, target)
            if target is DbTaskState.COMPLETED:
                tally.completed += len(locked)
                yield from end_dependants(self, locked, [], tally)
            else:
                word = "failed" if target is DbTaskState.FAILED else "was cancelled"
                if target is DbTaskState.FAILED:
                    tally.failed += len(locked)
                else:
                    tally.cancelled += len(locked)
                yield from end_dependants(self, [], [(task, word) for task in locked], tally)
        yield Packet(*statements, *tally.statements(self), commit=True)
        if target is not DbTaskState.PROCESSING:
            self._forget(locked)
        elif not self.inside:
            slot = self.core.slots.add(number)
            slot.held.update((task.seq, (task.id, task.deliveries + 1)) for task in locked)
            self.core.slots.put(slot)
        return len(locked)

    # How it is done

    def _cancel(self, ids: list[UUID], waits: dict[UUID, int] | None) -> Steps[int]:
        open_states: tuple[DbTaskState, ...] = (DbTaskState.PENDING, DbTaskState.PROCESSING)
        if waits is not None:
            open_states = (DbTaskState.PENDING,)
        locked = [task for task in (yield from lock_by_id(self, ids)) if task.state in open_states]
        if not locked:
            return 0
        tally = Tally(cancelled=len(locked))
        yield from end_dependants(self, [], [(task, "was cancelled") for task in locked], tally)
        by_error: dict[str | None, list[Locked]] = {}
        for task in locked:
            error = None if waits is None else f"expired after waiting {waits[task.id]} s"
            by_error.setdefault(error, []).append(task)
        statements: list[bytes] = []
        for error, tasks in by_error.items():
            statements += finish_statements(self, tasks, DbTaskState.CANCELLED, error)
        statements += tally.statements(self)
        yield from certain(
            self, _last(statements), locked[0], lambda now: now is None or now.state is DbTaskState.CANCELLED
        )
        self._forget(locked)
        return len(locked)

    def _lock_open_parents(self, ids: list[UUID]) -> Steps[None]:
        """Lock what the tasks still wait for, before them: it completes either before the look or after the change."""
        core = self.core
        found: set[UUID] = set()
        for chunk in chunks(ids):
            results = yield Packet(core.sql("tasks", "open_parents", ids=list(chunk)))
            found.update(read.uuid(row[0]) for row in results[0].rows)
        for chunk in chunks(sorted(found)):
            yield Packet(core.sql("producer", "lock_parents", ids=list(chunk), queue_id=core.queue_id))

    def _to_pending(self, locked: list[Locked]) -> Steps[list[bytes]]:
        """A task comes back to wait for those of its dependencies that are stored and not completed."""
        core = self.core
        waits: dict[UUID, int] = {}
        for chunk in chunks([task.id for task in locked if task.unmet_dependencies]):
            results = yield Packet(core.sql("tasks", "count_open_parents", ids=list(chunk)))
            waits.update((read.uuid(row[0]), read.integer(row[1])) for row in results[0].rows)
        by_count: dict[int, list[int]] = {}
        for task in locked:
            by_count.setdefault(waits.get(task.id, 0), []).append(task.seq)
        statements = [core.sql("settle", "take_time")]
        for count, seqs in by_count.items():
            for part in chunks(seqs):
                statements.append(core.sql("tasks", "administer", seqs=list(part), unmet=count))
                if count:
                    statements.append(core.sql("tasks", "place_blocked", seqs=list(part)))
                else:
                    statements.append(core.sql("settle", "place_ready", seqs=list(part)))
        return statements

    def _to_processing(self, locked: list[Locked]) -> Steps[tuple[int, list[bytes]]]:
        """Put tasks into the lease of a consumer of this process, so that they are recovered like claimed ones."""
        core = self.core
        opened = yield Packet(
            core.sql("consumer", "open", queue_id=core.queue_id, worker_no=0, lease_secs=max(1, core.lease_secs))
        )
        number = opened[0].insert_id
        held = ",".join(str(task.seq) for task in locked)
        return number, [
            *leave_statements(self, locked),
            core.sql("tasks", "satisfy_own", ids=[task.id for task in locked]),
            core.sql("tasks", "administer_processing", consumer_no=number, seqs=[task.seq for task in locked]),
            core.sql("tasks", "set_lease", held=held, consumer_no=number, queue_id=core.queue_id),
        ]

    def _forget(self, tasks: list[Locked]) -> None:
        if not self.inside:
            for task in tasks:
                self.core.slots.settled(task.consumer_no, [task.seq])


def _last(statements: list[bytes]) -> Steps[None]:
    yield Packet(*statements, commit=True)


def _leave_state(state: DbTaskState, tally: Tally) -> None:
    """Subtract a task that leaves a terminal state from the counters."""
    if state is DbTaskState.COMPLETED:
        tally.completed -= 1
    elif state is DbTaskState.FAILED:
        tally.failed -= 1
    elif state is DbTaskState.CANCELLED:
        tally.cancelled -= 1


def _state(value: object, name: str) -> DbTaskState:
    if not isinstance(value, DbTaskState):
        raise ValidationError(f"{name}={value!r} must be a DbTaskState", parameter=name)
    return value


def _info(row: tuple[bytes | None, ...], queue_name: str, parents: list[UUID] | None = None) -> TaskInfo:
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
