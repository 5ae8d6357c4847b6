"""Upkeep: recover what was lost, promote what is due, purge."""

from __future__ import annotations

import logging

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.components.consumers import recover_locked, rescue_consumers
from celers.components.deleting import (
    archive_some,
    delete_history,
    delete_letters,
    delete_results,
    purge_where,
)
from celers.components.inspection import task_state
from celers.components.parts import found_out, parts
from celers.components.settling import Locked, Tally, certain, last_packet, lock_by_seq
from celers.model.base import Duration
from celers.model.enums import DbTaskState
from celers.operation import Packet, Steps, operation
from celers.wakeup import ring_statement, slot_names

__all__ = ["Maintenance"]

logger = logging.getLogger("celers.maintenance")

RECOVER_CHUNK = 1000
PROMOTE_CHUNK = 1000
PURGE_CHUNK = 1000
STEP_CHUNK = 200
"""Half of the steps took less than 30 ms on a busy machine; see `python -m benchmarks.beside_upkeep`."""
STEP_STRETCH = 2000
SETTLED_OR_PENDING = [state for state in DbTaskState if state is not DbTaskState.PROCESSING]
ERROR_KEPT = 16_000
"""Characters of an older error text that stay before a note; four bytes each at most."""


class Maintenance(Component[M]):
    """Recover, promote and purge."""

    attribute = "maintenance"

    @operation(needs_queue=False)
    def rescue_dead(self) -> Steps[int]:
        """Take back the tasks of consumers that have been silent for longer than their lease, in all queues.

        Returns
        -------
        int
            Tasks taken out of processing. Each counts as an attempt and runs alone from then on.
        """
        results = yield Packet(self.core.sql("maintenance", "dead_consumers"))
        rescued = yield from rescue_consumers(self, results[0].rows, None, only_dead=True)
        if rescued:
            logger.warning("took back %d tasks of dead consumers", rescued)
        return rescued

    @operation(needs_queue=False)
    def promote_due(self) -> Steps[int]:
        """Move scheduled tasks whose time has come to the ready ones, in all queues; return how many.

        One round trip when nothing is due. Otherwise two more for each chunk of 1000, which is a transaction, and one
        for each queue that is rung. Primary key of `celers_scheduled`, in order.
        """
        due = yield Packet(self.core.sql("maintenance", "any_due"), commit=True)
        return (yield from parts(self._promote)) if due[0].rows else 0

    def _promote(self) -> Steps[tuple[int, bool]]:
        core, sql = self.core, self.core.sql
        results = yield Packet(
            sql("maintenance", "due_keys", count=PROMOTE_CHUNK),
            sql("maintenance", "due_count"),
            sql("maintenance", "due_queues"),
        )
        count, due_at, seq = results[1].rows[0]
        if not read.integer(count):
            return 0, False

        def move() -> Steps[None]:
            yield Packet(sql("maintenance", "due_insert"), sql("maintenance", "due_delete"), commit=True, quiet=True)

        def moved() -> Steps[bool]:
            still = sql("maintenance", "still_scheduled", due_at=read.text(due_at), seq=read.integer(seq))
            return not (yield Packet(still, commit=True))[0].rows

        yield from found_out(move(), moved)
        if core.wake_up:
            for row in results[2].rows:
                names = slot_names(core.database, core.prefix, read.text(row[0]))
                yield Packet(b"DO 0", commit=True, after=(ring_statement(names),))
        return read.integer(count), read.integer(count) == PROMOTE_CHUNK

    @operation()
    def recover_stuck(self, stuck_threshold: Duration) -> Steps[int]:
        """Take back tasks that have been processing for longer than a duration, whoever holds them.

        Each counts as a lost attempt: pending and due at once, or a dead letter when its retries are used up. The
        receipts of its last delivery end.

        Parameters
        ----------
        stuck_threshold : timedelta, int or float
            Above 0; choose it above the longest run time.
        """
        age = validate.age(stuck_threshold, "stuck_threshold", positive=True)
        core = self.core
        find = core.sql("maintenance", "stuck", queue_id=core.queue_id, age=age, count=RECOVER_CHUNK)
        return (yield from self._recover(find, f"recovered: processing for longer than {age / 1e6:g} s"))

    @operation()
    def requeue_stuck_of_worker(self, worker_id: str) -> Steps[int]:
        """Take back all processing tasks of a worker, whatever their age; 0 for an unknown worker."""
        worker = validate.name(worker_id, "worker_id")
        core = self.core
        find = core.sql("maintenance", "held_by_worker", queue_id=core.queue_id, worker_id=worker, count=RECOVER_CHUNK)
        return (yield from self._recover(find, f"recovered: taken from worker {worker}"))

    @operation()
    def recover_timed_out(self, timeout: Duration) -> Steps[int]:
        """Take back tasks that have been processing for longer than their own time limit, or than a duration.

        As `recover_stuck`; a note is added to the error text that the task has.

        Parameters
        ----------
        timeout : timedelta, int or float
            Limit of tasks that have none of their own; above 0.
        """
        age = validate.age(timeout, "timeout", positive=True)
        core = self.core
        find = core.sql("maintenance", "timed_out", queue_id=core.queue_id, age=age, count=RECOVER_CHUNK)
        return (yield from self._recover(find, age))

    @operation()
    def purge_all(self) -> Steps[int]:
        """Delete every task of the queue in any state, with its dependency, dedup and idempotency rows.

        Dead letters, results and history stay.

        Returns
        -------
        int
            Tasks deleted.

        Notes
        -----
        In chunks of 1000, each a transaction of four or five round trips, by primary key from the low end of
        `celers_tasks`; rows of other queues are passed over once. What waits for an unfinished task is cancelled
        first. Tasks that are enqueued meanwhile may stay.
        """
        logger.warning("purging all tasks of queue %s", self.core.queue_name)
        return (yield from purge_where(self, tuple(DbTaskState)))

    @operation()
    def purge_state(self, state: DbTaskState) -> Steps[int]:
        """Delete the tasks of the queue in one state, as `purge_all` does; return how many.

        Whoever holds a processing task that is purged gets `TaskNotFoundError` at its ack.

        Parameters
        ----------
        state : DbTaskState
        """
        wanted = task_state(state, "state")
        return (yield from self._purge_state(wanted))

    @operation()
    def purge_completed(self) -> Steps[int]:
        """Delete the completed tasks of the queue, as `purge_all` does; return how many."""
        return (yield from self._purge_state(DbTaskState.COMPLETED))

    @operation()
    def purge_failed(self) -> Steps[int]:
        """Delete the failed tasks of the queue, as `purge_all` does; return how many. Dead letters stay."""
        return (yield from self._purge_state(DbTaskState.FAILED))

    @operation()
    def purge_cancelled(self) -> Steps[int]:
        """Delete the cancelled tasks of the queue, as `purge_all` does; return how many."""
        return (yield from self._purge_state(DbTaskState.CANCELLED))

    @operation()
    def purge_name(self, task_name: str) -> Steps[int]:
        """Delete the tasks of the queue with exactly this name, in any state, as `purge_all` does; return how many."""
        name = validate.name(task_name, "task_name")
        purged = yield from purge_where(self, tuple(DbTaskState), name=name)
        logger.warning("purged %d tasks named %s of queue %s", purged, name, self.core.queue_name)
        return purged

    @operation()
    def delete_by_criteria(self, state: DbTaskState | None, older_than: Duration) -> Steps[int]:
        """Delete the tasks of the queue that were created longer ago than a duration, as `purge_all` does.

        Parameters
        ----------
        state : DbTaskState or None
            None means every state but processing: what is in flight is deleted only when it is named.
        older_than : timedelta, int or float
            0 or more.

        Returns
        -------
        int
            Tasks deleted.
        """
        age = validate.age(older_than, "older_than")
        states = SETTLED_OR_PENDING if state is None else [task_state(state, "state")]
        return (yield from purge_where(self, states, age=age))

    @operation()
    def archive_finished(self, older_than: Duration) -> Steps[int]:
        """Delete completed, failed and cancelled tasks that ended longer ago than a duration; return how many.

        Results, history and idempotency rows stay, and tasks that an unfinished dependant or workflow still needs.

        Parameters
        ----------
        older_than : timedelta, int or float
            0 or more.

        Notes
        -----
        In chunks of 1000, each a transaction of four round trips that locks nothing but finished tasks. Reads
        `celers_tasks` once, by primary key from its low end, without locks: about half a second for a million tasks.
        """
        age = validate.age(older_than, "older_than")
        after: int | None = 0
        total = 0
        while after is not None:
            count, after = yield from archive_some(self, age, after, chunk=PURGE_CHUNK, whole=True)
            total += count
        return total

    @operation()
    def archive_history(self, older_than: Duration) -> Steps[int]:
        """Delete the history rows of the queue that are older than a duration; return how many.

        In chunks of 1000, each a transaction of two round trips. Key idx_history_timestamp, then primary key.

        Parameters
        ----------
        older_than : timedelta, int or float
            0 or more.
        """
        return (yield from delete_history(self, validate.age(older_than, "older_than"), PURGE_CHUNK))

    # One step of what workers do by themselves: one small transaction, so that nobody waits for it

    @operation()
    def archive_step(self, older_than: Duration, after: int = 0) -> Steps[tuple[int, int | None]]:
        """Carry out one step of `archive_finished`: at most 200 tasks of the next 2000 are deleted.

        Parameters
        ----------
        older_than : timedelta, int or float
            0 or more.
        after : int
            Where the step before has ended; 0 at first.

        Returns
        -------
        tuple of (int, int or None)
            How many were deleted, and where the next step begins. None at the end, which is where all tasks are
            younger than the period.
        """
        age = validate.age(older_than, "older_than")
        place = validate.integer(after, "after", 0)
        return (yield from archive_some(self, age, place, chunk=STEP_CHUNK, stretch=STEP_STRETCH))

    @operation()
    def results_step(self, older_than: Duration) -> Steps[int]:
        """Delete at most 200 results that were completed longer ago than a duration; return how many."""
        return (yield from delete_results(self, validate.age(older_than, "older_than"), STEP_CHUNK, once=True))

    @operation()
    def dead_letters_step(self, older_than: Duration) -> Steps[int]:
        """Delete at most 200 dead letters older than a duration; return how many."""
        return (yield from delete_letters(self, validate.age(older_than, "older_than"), STEP_CHUNK, once=True))

    @operation()
    def history_step(self, older_than: Duration) -> Steps[int]:
        """Delete at most 200 history rows older than a duration; return how many."""
        return (yield from delete_history(self, validate.age(older_than, "older_than"), STEP_CHUNK, once=True))

    def _purge_state(self, state: DbTaskState) -> Steps[int]:
        purged = yield from purge_where(self, (state,))
        logger.warning("purged %d %s tasks of queue %s", purged, state, self.core.queue_name)
        return purged

    def _recover(self, find: bytes, note: str | int) -> Steps[int]:
        """Recover what a statement finds. A number is the time limit of tasks without one, and noted as such."""

        def part() -> Steps[tuple[int, bool]]:
            results = yield Packet(find)
            found = {tuple(read.integer(value) for value in row) for row in results[0].rows}
            if not found:
                return 0, False
            locked = yield from lock_by_seq(self, [key[0] for key in found])
            # Between the look and the lock a task may have been taken back by others and delivered anew.
            tasks = [
                task
                for task in locked
                if task.state is DbTaskState.PROCESSING and (task.seq, task.consumer_no, task.deliveries) in found
            ]
            by_note = {note: tasks} if isinstance(note, str) else (yield from self._timeout_notes(tasks, note))
            tally = Tally()
            statements: list[bytes] = []
            for text, some in by_note.items():
                statements += yield from recover_locked(self, some, text, isolated=False, tally=tally)
            statements += tally.statements(self)
            if statements:
                yield from certain(self, last_packet(statements), tasks)
            self.core.slots.settled(tasks)
            return len(tasks), True

        return (yield from parts(part))

    def _timeout_notes(self, tasks: list[Locked], age: int) -> Steps[dict[str, list[Locked]]]:
        """Group tasks by the error text that they get: what they had, and the note."""
        notes: dict[str, list[Locked]] = {}
        if not tasks:
            return notes
        results = yield Packet(self.core.sql("maintenance", "errors", seqs=[task.seq for task in tasks]))
        errors = {read.integer(row[0]): read.text_or_none(row[1]) for row in results[0].rows}
        for task in tasks:
            secs = age / 1e6 if task.timeout_secs is None else task.timeout_secs
            note = f"timed out: processing for longer than {secs:g} s"
            before = errors.get(task.seq)
            # Of a long text the end goes, not the note.
            text = f"{before[:ERROR_KEPT]}; {note}" if before else note
            notes.setdefault(validate.error_text(text) or note, []).append(task)
        return notes
