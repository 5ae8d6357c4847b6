"""Upkeep: recover what was lost, promote what is due, purge."""

from __future__ import annotations

import logging

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.components.consumers import recover_locked, rescue_consumers
from celers.components.parts import found_out, parts
from celers.components.settling import Tally, certain, last_packet, leave_statements, lock_by_seq, lock_looked
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
    def purge_all(self) -> Steps[int]:
        """Delete every task of the queue in any state, with its dependency, dedup and idempotency rows.

        Dead letters, results and history stay.

        Returns
        -------
        int
            Tasks deleted.

        Notes
        -----
        In chunks of 1000, each a transaction of four round trips, by primary key from the low end of `celers_tasks`;
        rows of other queues are passed over once. Tasks that are enqueued meanwhile may stay.
        """
        core = self.core
        logger.warning("purging all tasks of queue %s", core.queue_name)
        after = 0

        def part() -> Steps[tuple[int, bool]]:
            nonlocal after
            results = yield Packet(
                core.sql("maintenance", "purge_pick", queue_id=core.queue_id, after=after, count=PURGE_CHUNK)
            )
            picked = results[0].rows
            if not picked:
                return 0, False
            purged = yield from self._purge(list(picked))
            after = read.integer(picked[-1][0])
            return purged, True

        return (yield from parts(part))

    def _purge(self, picked: list[tuple[bytes | None, ...]]) -> Steps[int]:
        sql, queue_name = self.core.sql, self.core.queue_name
        locked = yield from lock_looked(self, picked)
        if not locked:
            return 0
        tally = Tally()
        for task in locked:
            if task.state is DbTaskState.COMPLETED:
                tally.completed -= 1
            elif task.state is DbTaskState.FAILED:
                tally.failed -= 1
            elif task.state is DbTaskState.CANCELLED:
                tally.cancelled -= 1
        seqs, ids = [task.seq for task in locked], [task.id for task in locked]
        statements = leave_statements(self, locked)
        # By the keys that stand in the tasks, so while these are there.
        statements.append(sql("maintenance", "purge_dedup", seqs=seqs, queue_name=queue_name))
        statements.append(sql("settle", "delete_tasks", seqs=seqs))
        for name in ("purge_dependencies", "purge_dependencies_on", "purge_idempotency"):
            statements.append(sql("maintenance", name, ids=ids))
        statements += tally.statements(self)
        yield from certain(self, last_packet(statements), locked, lambda now, _: now is None)
        self.core.slots.settled(locked)
        return len(locked)

    def _recover(self, find: bytes, note: str) -> Steps[int]:
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
            tally = Tally()
            statements = yield from recover_locked(self, tasks, note, isolated=False, tally=tally)
            statements += tally.statements(self)
            if statements:
                yield from certain(self, last_packet(statements), tasks)
            self.core.slots.settled(tasks)
            return len(tasks), True

        return (yield from parts(part))
