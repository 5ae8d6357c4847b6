"""Producers: put tasks into the queue; how they are stored is in `celers.components.inserting`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from celers import validate
from celers.components.base import M
from celers.components.inserting import NOW, Inserting, checked
from celers.errors import ValidationError
from celers.model.base import Duration, Instant
from celers.model.like import LikeTasks
from celers.model.task import SerializedTask
from celers.operation import Once, Steps, operation
from celers.retry import RetryPolicy
from celers.sql import Raw

__all__ = ["Producer"]


class Producer(Inserting[M]):
    """Put tasks into the queue."""

    attribute = "producer"

    @operation(meter="enqueue", enqueues="task", once="_enqueue_once")
    def enqueue(self, task: SerializedTask, *, connection: object | None = None) -> Steps[UUID]:
        """Store one task that may run at once.

        Parameters
        ----------
        task : SerializedTask
        connection : MySQLdb connection, optional
            A connection of the caller with an open transaction. The task is stored in that transaction and is
            delivered after the caller's commit; nothing is committed here.

        Returns
        -------
        UUID
            The id of the task, which is the one it came with.

        Raises
        ------
        DuplicateTaskError
            The id is taken; nothing changes.
        QueueDrainingError
            The queue refuses new tasks.
        PayloadTooLargeError
            The stored payload would be larger than the limit or than the server accepts.
        TaskNotFoundError, InvalidStateTransitionError
            A dependency is unknown, or has failed or been cancelled.

        Notes
        -----
        One round trip, one transaction. After a lost connection whose commit is in doubt the broker looks for the
        id, among the dead letters too, so the answer is certain unless the server stays away. Only a task that was
        archived, purged or requeued from the dead letters within these seconds may be stored twice.
        """
        return (yield from self.insert([task], NOW, False))[0]

    def _enqueue_once(self, task: Any = None, *rest: object, **options: object) -> Once[UUID] | None:
        if rest or options or type(task) is not SerializedTask:
            return None
        return self._once(task, task.metadata.id)

    @operation(meter="enqueue", enqueues="task")
    def enqueue_at(self, task: SerializedTask, timestamp: Instant, *, connection: object | None = None) -> Steps[UUID]:
        """Store a task that is due at an instant; one in the past is due at once.

        Parameters
        ----------
        timestamp : aware datetime, int or float
            Unix seconds when a number; fractions are kept to the microsecond.
        """
        due = validate.instant(timestamp, "timestamp")
        ids = yield from self.insert([task], due, True, {"scheduled_for": due.timestamp()})
        self.core.due_unknown()
        return ids[0]

    @operation(meter="enqueue", enqueues="task")
    def enqueue_after(
        self, task: SerializedTask, delay_secs: Duration, *, connection: object | None = None
    ) -> Steps[UUID]:
        """Store a task that is due after a delay by the database's clock; 0 is allowed.

        Parameters
        ----------
        delay_secs : timedelta, int or float
            Seconds, not negative.
        """
        delay = _delay(delay_secs)
        ids = yield from self.insert([task], _after(delay), True, {"delay_seconds": delay})
        self.core.scheduled_here(delay)
        return ids[0]

    @operation(meter="enqueue", enqueues="tasks")
    def enqueue_batch(self, tasks: Sequence[SerializedTask], *, connection: object | None = None) -> Steps[list[UUID]]:
        """Store many tasks, all or none, in the order given among equal priorities.

        Returns
        -------
        list of UUID
            The ids in the order of the input; empty for an empty input, which does not touch the database.

        Raises
        ------
        DuplicateTaskError
            Two tasks have the same id, or one is taken.

        Notes
        -----
        One round trip for each packet that the server's `max_allowed_packet` holds; one transaction.
        """
        batch = _batch(tasks)
        if not batch:
            return []
        return (yield from self.insert(batch, NOW, False))

    @operation(meter="enqueue", enqueues="tasks", once="_submit_once")
    def submit(
        self, tasks: Iterable[SerializedTask], *, delay_secs: Duration = 0.0, connection: object | None = None
    ) -> Steps[list[UUID]]:
        """Store many tasks that are due after one common delay; see `enqueue_batch`."""
        batch = _batch(tasks)
        delay = _delay(delay_secs)
        if not batch:
            return []
        if not delay:
            return (yield from self.insert(batch, NOW, False))
        ids = yield from self.insert(batch, _after(delay), True, {"delay_seconds": delay})
        self.core.scheduled_here(delay)
        return ids

    def _submit_once(self, tasks: Any = None, *rest: object, **options: object) -> Once[list[UUID]] | None:
        if rest or options or type(tasks) is not LikeTasks or len(tasks.ids) != 1:
            return None
        return self._once(tasks, tasks.ids)

    @operation(enqueues="task")
    def enqueue_with_retry_policy(
        self, task: SerializedTask, retry_policy: RetryPolicy, *, connection: object | None = None
    ) -> Steps[UUID]:
        """Store a task with a retry policy, whose `max_retries` replaces the task's.

        The policy's delays are used by every later `reject` of the task.
        """
        if not isinstance(retry_policy, RetryPolicy):
            raise ValidationError(
                f"retry_policy must be a RetryPolicy, not {type(retry_policy).__name__}", parameter="retry_policy"
            )
        changed = checked(task).with_max_retries(retry_policy.max_retries)
        return (yield from self.insert([changed], NOW, False, retry_policy=retry_policy))[0]

    @operation(enqueues="tasks")
    def submit_with_retry_policy(
        self,
        tasks: Iterable[SerializedTask],
        retry_policy: RetryPolicy,
        *,
        due_at: Instant | None = None,
        delay_secs: Duration = 0.0,
        connection: object | None = None,
    ) -> Steps[list[UUID]]:
        """Store many tasks with one retry policy, due at an instant, after a delay, or at once."""
        given = [checked(task) for task in validate.items(tasks, "tasks")]
        batch = [task.with_max_retries(retry_policy.max_retries) for task in given]
        if not batch:
            return []
        if due_at is not None:
            due = validate.instant(due_at, "due_at")
            extra: dict[str, Any] = {"scheduled_for": due.timestamp()}
            ids = yield from self.insert(batch, due, True, extra, retry_policy=retry_policy)
            self.core.due_unknown()
            return ids
        delay = _delay(delay_secs)
        if not delay:
            return (yield from self.insert(batch, NOW, False, retry_policy=retry_policy))
        extra = {"delay_seconds": delay}
        ids = yield from self.insert(batch, _after(delay), True, extra, retry_policy=retry_policy)
        self.core.scheduled_here(delay)
        return ids


def _batch(tasks: Iterable[SerializedTask]) -> Sequence[SerializedTask]:
    return tasks if type(tasks) is LikeTasks else validate.items(tasks, "tasks")


def _delay(value: Duration) -> float:
    """Check a delay and return it in seconds."""
    secs = validate.duration(value, "delay_secs")
    try:
        datetime.now(UTC) + timedelta(seconds=secs)
    except OverflowError:
        raise ValidationError(f"delay_secs={secs!r} lies beyond the year 9999", parameter="delay_secs") from None
    return secs


def _after(secs: float) -> Raw:
    return Raw(b"@celers_now + INTERVAL %d MICROSECOND" % round(secs * 1_000_000))
