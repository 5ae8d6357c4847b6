"""Upkeep: recover what was lost, promote what is due, purge."""

from __future__ import annotations

import logging
from uuid import UUID

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.components.consumers import recover_locked, rescue_consumer
from celers.components.settling import Tally, leave_statements, lock_by_id, lock_by_seq
from celers.model.base import Duration
from celers.model.enums import DbTaskState
from celers.operation import Packet, Steps, operation
from celers.wakeup import ring_statement, slot_names

__all__ = ["Maintenance"]

logger = logging.getLogger("celers.maintenance")

RECOVER_CHUNK = 1000
PROMOTE_CHUNK = 1000
PURGE_CHUNK = 1000


class Maintenance(Component[M]):
    """Recover, promote and purge."""

    attribute = "maintenance"

    @operation(repeat_unknown=True, needs_queue=False)
    def rescue_dead(self) -> Steps[int]:
        """Take back the tasks of consumers that have been silent for longer than their lease, in all queues.

        Returns
        -------
        int
            Tasks taken out of processing. Each counts as an attempt and runs alone from then on.
        """
        results = yield Packet(self.core.sql("maintenance", "dead_consumers"))
        rescued = 0
        for row in results[0].rows:
            rescued += yield from rescue_consumer(
                self, read.integer(row[0]), read.integer(row[1]), None, only_dead=True
            )
        if rescued:
            logger.warning("took back %d tasks of dead consumers", rescued)
        return rescued

    @operation(repeat_unknown=True, needs_queue=False)
    def promote_due(self) -> Steps[int]:
        """Move scheduled tasks whose time has come to the ready ones, in all queues; return how many."""
        sql = self.core.sql
        promoted = 0
        while True:
            results = yield Packet(
                sql("maintenance", "due_keys", count=PROMOTE_CHUNK),
                sql("maintenance", "due_insert"),
                sql("maintenance", "due_delete"),
                sql("maintenance", "due_count"),
                sql("maintenance", "due_queues"),
                commit=True,
                quiet=True,
            )
            count = read.integer(results[3].rows[0][0])
            promoted += count
            if self.core.wake_up:
                for row in results[4].rows:
                    names = slot_names(self.core.database, self.core.prefix, read.text(row[0]))
                    yield Packet(b"DO 0", commit=True, after=(ring_statement(names),))
            if count < PROMOTE_CHUNK:
                return promoted

    @operation(repeat_unknown=True)
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

    @operation(repeat_unknown=True)
    def requeue_stuck_of_worker(self, worker_id: str) -> Steps[int]:
        """Take back all processing tasks of a worker, whatever their age; 0 for an unknown worker."""
        worker = validate.name(worker_id, "worker_id")
        core = self.core
        find = core.sql("maintenance", "held_by_worker", queue_id=core.queue_id, worker_id=worker, count=RECOVER_CHUNK)
        return (yield from self._recover(find, f"recovered: taken from worker {worker}"))

    @operation(repeat_unknown=True)
    def purge_all(self) -> Steps[int]:
        """Delete every task of the queue in any state, with its dependency, dedup and idempotency rows.

        Dead letters, results and history stay. In chunks, each in its own transaction.

        Returns
        -------
        int
            Tasks deleted.
        """
        core = self.core
        logger.warning("purging all tasks of queue %s", core.queue_name)
        purged = 0
        while True:
            results = yield Packet(
                core.sql("maintenance", "purge_pick", queue_id=core.queue_id, after=0, count=PURGE_CHUNK)
            )
            ids = [read.uuid(row[0]) for row in results[0].rows]
            if not ids:
                return purged
            purged += yield from self._purge(ids)

    def _purge(self, ids: list[UUID]) -> Steps[int]:
        sql = self.core.sql
        locked = yield from lock_by_id(self, ids)
        tally = Tally()
        for task in locked:
            if task.state is DbTaskState.COMPLETED:
                tally.completed -= 1
            elif task.state is DbTaskState.FAILED:
                tally.failed -= 1
            elif task.state is DbTaskState.CANCELLED:
                tally.cancelled -= 1
        gone = [task.id for task in locked]
        yield Packet(
            *leave_statements(self, locked),
            sql("settle", "delete_tasks", seqs=[task.seq for task in locked] or [0]),
            *(
                sql("maintenance", name, ids=gone or [b""])
                for name in (
                    "purge_dependencies",
                    "purge_dependencies_on",
                    "purge_dedup",
                    "purge_idempotency",
                )
            ),
            *tally.statements(self),
            commit=True,
        )
        for task in locked:
            self.core.slots.settled(task.consumer_no, [task.seq])
        return len(locked)

    def _recover(self, find: bytes, note: str) -> Steps[int]:
        recovered = 0
        while True:
            results = yield Packet(find)
            found = {tuple(read.integer(value) for value in row) for row in results[0].rows}
            if not found:
                return recovered
            locked = yield from lock_by_seq(self, [key[0] for key in found])
            # Between the look and the lock a task may have been taken back by others and delivered anew.
            tasks = [
                task
                for task in locked
                if task.state is DbTaskState.PROCESSING and (task.seq, task.consumer_no, task.deliveries) in found
            ]
            tally = Tally()
            statements = yield from recover_locked(self, tasks, note, isolated=False, tally=tally)
            yield Packet(*statements, *tally.statements(self), b"DO 0", commit=True)
            for task in tasks:
                self.core.slots.settled(task.consumer_no, [task.seq])
            recovered += len(tasks)
