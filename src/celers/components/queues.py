"""Queues: their numbers, pause and drain, sizes and statistics."""

from __future__ import annotations

import logging
from uuid import UUID

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.components.limits import check_rate, raise_waiting
from celers.components.producer import Producer
from celers.errors import BrokerError, QueueFullError
from celers.model.base import Duration
from celers.model.limits import RateLimitStatus
from celers.model.stats import QueueStatistics
from celers.model.task import SerializedTask
from celers.operation import Packet, Steps, operation

__all__ = ["Queues"]

logger = logging.getLogger("celers.queues")

NOBODY_ERRNOS = frozenset({1094, 1095})
"""No such thread, or one of another account: nobody can be woken."""


class Queues(Component[M]):
    """The queue as a whole."""

    attribute = "queue"

    @operation("plain", repeat_unknown=True, needs_queue=False)
    def intern(self) -> Steps[int]:
        """Return the queue's number, making the queue when it is new.

        Statements: one indexed read; two more the first time a queue is used.
        """
        core = self.core
        find = core.sql("queues", "find", name=core.queue_name)
        rows = (yield Packet(find))[0].rows
        if not rows:
            rows = (yield Packet(core.sql("queues", "create", name=core.queue_name), find))[1].rows
        queue_id = read.integer(rows[0][0])
        core.set_queue_id(queue_id)
        return queue_id

    @operation(repeat_unknown=True)
    def pause(self) -> Steps[None]:
        """Let claims find nothing, in every process from its next claim on; enqueue goes on. Idempotent."""
        yield from self._set("set_paused", True)

    @operation(repeat_unknown=True)
    def resume(self) -> Steps[None]:
        """End a pause, and wake an idle consumer. Idempotent."""
        ring = self.core.ring
        yield from self._set("set_paused", False, after=() if ring is None else (ring.statement,))

    @operation("read")
    def is_paused(self) -> Steps[bool]:
        """Return whether the queue is paused."""
        return (yield from self._flags())[0]

    @operation(repeat_unknown=True)
    def enable_drain_mode(self) -> Steps[None]:
        """Refuse new tasks in every process; stored ones are still delivered. Idempotent.

        After the return no enqueue that starts later succeeds. Waits for transactions in which callers have enqueued
        on their own connections.
        """
        yield from self._set("set_draining", True)

    @operation(repeat_unknown=True)
    def disable_drain_mode(self) -> Steps[None]:
        """Accept new tasks again. Idempotent."""
        yield from self._set("set_draining", False)

    @operation("read")
    def is_drain_mode(self) -> Steps[bool]:
        """Return whether the queue refuses new tasks."""
        return (yield from self._flags())[1]

    @operation("read")
    def size(self) -> Steps[int]:
        """Return the number of pending tasks: ready, scheduled and blocked ones.

        Counts in three small tables over a range of their key: costs what is pending, however much is stored, about
        15 ms of the server's processor for 100,000 tasks.
        """
        results = yield Packet(self.core.sql("queues", "count_pending", queue_id=self.core.queue_id))
        return read.integer(results[0].rows[0][0])

    @operation("read")
    def statistics(self) -> Steps[QueueStatistics]:
        """Return the numbers of tasks by state, and of dead letters, in one snapshot.

        Finished tasks are counted as they finish, so the cost does not grow with their number.
        """
        core = self.core
        results = yield Packet(core.sql("queues", "statistics", queue_id=core.queue_id, queue_name=core.queue_name))
        pending, processing, completed, failed, cancelled, dlq = (int(value or 0) for value in results[0].rows[0])
        return QueueStatistics(
            pending=pending,
            processing=processing,
            completed=completed,
            failed=failed,
            cancelled=cancelled,
            dlq=dlq,
            total=pending + processing + completed + failed + cancelled,
        )

    @operation("plain", repeat_unknown=True)
    def ring(self) -> Steps[bool]:
        """Wake one idle consumer of the queue; return whether there was one to wake.

        The broker does this by itself behind its own commits. It is for tasks that were stored on a connection of the
        caller: ring after the commit, and they are picked up at once.
        """
        ring = self.core.ring
        if ring is None:
            return False
        try:
            yield Packet(ring.statement)
        except BrokerError as error:
            if error.errno in NOBODY_ERRNOS:
                return False
            raise
        return True

    @operation("read", needs_queue=False)
    def names(self) -> Steps[list[str]]:
        """Return the names of all queues of the database, sorted."""
        results = yield Packet(self.core.sql("queues", "names"))
        return [read.text(row[0]) for row in results[0].rows]

    @operation("read")
    def has_capacity(self, max_size: int) -> Steps[bool]:
        """Return whether fewer than `max_size` tasks are pending; False for 0.

        Raises
        ------
        ValidationError
            `max_size` is negative or no int.
        """
        most = _most(max_size)
        return (yield from self._pending_up_to(most)) < most

    @operation(enqueues="task")
    def enqueue_with_capacity(self, task: SerializedTask, max_size: int) -> Steps[UUID]:
        """Enqueue only while fewer than `max_size` tasks are pending.

        Callers are serialised per queue by a lock on its row, so the limit is never passed.

        Raises
        ------
        QueueFullError
            The limit is reached; nothing is stored.
        """
        most = _most(max_size)
        core = self.core
        producer: Producer[M] = Producer(core, self.runner)
        producer.check(task)
        yield Packet(core.sql("queues", "lock", queue_id=core.queue_id))
        if (yield from self._pending_up_to(most)) >= most:
            raise QueueFullError(f"queue {core.queue_name!r} has reached its limit of {most} pending tasks")
        return (yield from Producer.enqueue.steps(producer, task))

    @operation()
    def age_priorities(self, age_threshold_secs: Duration, priority_boost: int) -> Steps[int]:
        """Raise the priority of due tasks that have been waiting for long, so that others cannot pass them for ever.

        Parameters
        ----------
        age_threshold_secs : timedelta, int or float
            Above 0: how long a task must have been due.
        priority_boost : int
            At least 1; above 100 a warning is logged. No priority rises above 1000, and higher ones stay as they are.

        Returns
        -------
        int
            Tasks whose priority has risen.

        Notes
        -----
        Looks at every ready task of the queue, 500 in a transaction: about 10 us each, and 30 us more for each that
        rises. Claims go on meanwhile; tasks whose turn it is right now are left out.
        """
        age = validate.age(age_threshold_secs, "age_threshold_secs", positive=True)
        boost = validate.integer(priority_boost, "priority_boost", 1, 2**31 - 1)
        return (yield from raise_waiting(self, age, boost))

    @operation(repeat_unknown=True, needs_queue=False)
    def check_rate_limit(self, task_name: str, max_per_minute: int, *, reserve: bool = False) -> Steps[RateLimitStatus]:
        """Say how often tasks of a name were started lately, and take one more place when there is one.

        Counted are the reservations for the name in this queue, or its deliveries when those are more: the latter need
        `record_history`.

        Parameters
        ----------
        max_per_minute : int
            At least 1.
        reserve : bool
            Take a place unless the limit is reached. Then `limit_exceeded` is False for whoever got one, and the counts
            include it. Of many callers at once at most `max_per_minute` get one within any 60 s.

        Notes
        -----
        One round trip. Reads the reservations of the name in the last hour from an index, with `record_history` also
        the history of the queue's last hour. Reservations for one name wait for each other.
        """
        name = validate.name(task_name, "task_name")
        most = validate.integer(max_per_minute, "max_per_minute", 1, 2**32 - 1)
        return (yield from check_rate(self, name, most, validate.boolean(reserve, "reserve")))

    def _set(self, statement: str, on: bool, *, after: tuple[bytes, ...] = ()) -> Steps[None]:
        core = self.core
        yield Packet(core.sql("queues", statement, queue_id=core.queue_id, on=on), commit=True, after=after)
        logger.info("queue %s: %s=%s", core.queue_name, statement.removeprefix("set_"), on)

    def _flags(self) -> Steps[tuple[bool, bool]]:
        results = yield Packet(self.core.sql("queues", "read_flags", queue_id=self.core.queue_id))
        rows = results[0].rows
        return (read.flag(rows[0][0]), read.flag(rows[0][1])) if rows else (False, False)

    def _pending_up_to(self, most: int) -> Steps[int]:
        core = self.core
        results = yield Packet(core.sql("queues", "count_pending_up_to", queue_id=core.queue_id, most=max(most, 1)))
        return read.integer(results[0].rows[0][0])


def _most(max_size: int) -> int:
    """Check a limit of pending tasks; a larger one than a statement can hold limits nothing either."""
    return min(validate.integer(max_size, "max_size", 0), 2**63 - 1)
