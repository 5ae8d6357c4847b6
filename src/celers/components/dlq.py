"""Dead letters: tasks whose retries are used up."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from uuid import UUID

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.components.letters import Letter, Shown, hooked, replaced
from celers.components.parts import delete_chunks, found_out
from celers.components.settling import last_packet
from celers.components.stored import all_stored
from celers.errors import CelersError, QueueDrainingError, TaskNotFoundError, ValidationError
from celers.hooks import later
from celers.model.base import Duration, TaskIdLike
from celers.model.dlq import DlqStatistics, DlqTaskInfo, DlqTaskStats
from celers.model.enums import TaskHook
from celers.operation import Packet, Restart, Steps, operation
from celers_fast.ids import uuid7

__all__ = ["DeadLetters"]

logger = logging.getLogger("celers.dlq")

PURGE_CHUNK = 1000
REPLAY_CHUNK = 100
MOST_REPLAYS = 10_000
SHORTEST_RETENTION_SECS = 3600
SHORT_RETENTION_SECS = 86_400


class DeadLetters(Component[M]):
    """Tasks whose retries are used up."""

    attribute = "dlq"

    @operation("read")
    def page(self, limit: int, offset: int) -> Steps[list[DlqTaskInfo]]:
        """Return dead letters, the newest first. Key idx_dlq_failed_at, backwards.

        Parameters
        ----------
        limit : int
            0 to 10000.
        offset : int
            Not negative.
        """
        count, skip = validate.limit(limit), validate.offset(offset)
        if not count:
            return []
        core = self.core
        results = yield Packet(core.sql("dlq", "page", queue_name=core.queue_name, count=count, skip=skip))
        return [_info(row) for row in results[0].rows]

    @operation("read")
    def get(self, dlq_id: TaskIdLike) -> Steps[DlqTaskInfo | None]:
        """Return one dead letter by its own id; None when it is not there. One read by primary key."""
        key = validate.task_id(dlq_id, "dlq_id")
        core = self.core
        results = yield Packet(core.sql("dlq", "get", id=key, queue_name=core.queue_name))
        return _info(results[0].rows[0]) if results[0].rows else None

    @operation("read")
    def statistics(self) -> Steps[DlqStatistics]:
        """Return the number of dead letters and, by task name, how many there are and how often they were retried.

        The most frequent name first, then by name. Reads the dead letters of the queue.
        """
        core = self.core
        results = yield Packet(core.sql("dlq", "statistics", queue_name=core.queue_name))
        names = tuple(
            DlqTaskStats(
                task_name=read.text(row[0]),
                count=read.integer(row[1]),
                avg_retries=float(row[2] or 0),
                max_retries=read.integer(row[3]),
            )
            for row in results[0].rows
        )
        return DlqStatistics(sum(name.count for name in names), names)

    @operation()
    def requeue(self, dlq_id: TaskIdLike) -> Steps[UUID]:
        """Make a new pending task of a dead letter, which goes; return the new task's id.

        The task has the letter's name, payload, priority, retries, retry policy, group and metadata, all its retries
        again, and in its metadata `requeued_from` with the ids of the old task and of the letter.

        Raises
        ------
        TaskNotFoundError
            The queue has no such letter; also for all but one of several callers.
        QueueDrainingError
            The queue refuses new tasks.

        Notes
        -----
        Two round trips, one transaction. The payload does not travel.
        """
        key = validate.task_id(dlq_id, "dlq_id")
        core = self.core
        letters = yield from self._lock(core.sql("dlq", "lock", id=key, queue_name=core.queue_name))
        if not letters:
            raise TaskNotFoundError(f"the dead letter {key} is not in queue {core.queue_name!r}", task_id=key)
        yield from self._requeue(letters)
        return letters[0].new_id

    @operation()
    def replay(
        self, task_name_filter: str | None = None, min_retry_count: int | None = None, limit: int = 100
    ) -> Steps[int]:
        """Requeue many dead letters, the oldest first; return how many.

        Parameters
        ----------
        task_name_filter : str or None
            Only tasks whose name contains this text, literally and with its case.
        min_retry_count : int or None
            Only letters that were retried at least as often.
        limit : int
            1 to 10000.

        Raises
        ------
        QueueDrainingError, BrokerError
            Whatever stops it; its attribute `replayed` tells how many are requeued and stay so.

        Notes
        -----
        In chunks of 100, each in its own transaction of two round trips. Letters that another caller requeues at the
        same time are passed over.
        """
        if task_name_filter is not None:
            _check_filter(task_name_filter)
        least = 0 if min_retry_count is None else validate.integer(min_retry_count, "min_retry_count", 0, 2**63 - 1)
        most = validate.integer(limit, "limit", 1, MOST_REPLAYS)
        core = self.core
        replayed = 0
        try:
            while replayed < most:
                count = min(REPLAY_CHUNK, most - replayed)
                find = core.sql(
                    "dlq",
                    "lock_some",
                    queue_name=core.queue_name,
                    any_name=not task_name_filter,
                    part=task_name_filter or "",
                    least=least,
                    count=count,
                )
                try:
                    letters = yield from self._lock(find)
                    yield from self._requeue(letters)
                except Restart:
                    # This chunk was rolled back; what was committed before stays, so the rest begins anew, not all.
                    continue
                replayed += len(letters)
                if len(letters) < count:
                    break
        except CelersError as error:
            error.replayed = replayed
            raise
        return replayed

    @operation()
    def purge(self, dlq_id: TaskIdLike) -> Steps[bool]:
        """Delete one dead letter by its own id; return whether it was there.

        One round trip, by primary key. When the connection was lost during the commit, a letter that is gone counts as
        deleted by this call.
        """
        key = validate.task_id(dlq_id, "dlq_id")
        sql, queue_name = self.core.sql, self.core.queue_name

        def last() -> Steps[bool]:
            results = yield Packet(sql("dlq", "purge", id=key, queue_name=queue_name), commit=True)
            return results[0].affected > 0

        def gone() -> Steps[bool]:
            return not (yield Packet(sql("dlq", "get", id=key, queue_name=queue_name)))[0].rows

        deleted = yield from found_out(last(), gone)
        return deleted is not False

    @operation()
    def purge_all(self) -> Steps[int]:
        """Delete all dead letters of the queue; return how many.

        In chunks of 1000, each a transaction of two round trips. Key idx_dlq_failed_at, then primary key.
        """
        core = self.core
        logger.warning("purging all dead letters of queue %s", core.queue_name)
        return (yield from self._delete(core.sql("dlq", "pick_some", queue_name=core.queue_name, count=PURGE_CHUNK)))

    @operation()
    def apply_retention(self, retention_period: Duration) -> Steps[int]:
        """Delete dead letters older than a duration, in chunks of 1000 as `purge_all` does; return how many.

        Parameters
        ----------
        retention_period : timedelta, int or float
            At least 1 hour; less than 24 hours is done with a warning in the log.
        """
        secs = validate.duration(retention_period, "retention_period", minimum=SHORTEST_RETENTION_SECS)
        if secs < SHORT_RETENTION_SECS:
            logger.warning("dead letters of queue %s are kept for %g s only", self.core.queue_name, secs)
        core = self.core
        age = validate.age(secs, "retention_period")
        return (
            yield from self._delete(core.sql("dlq", "pick_old", queue_name=core.queue_name, age=age, count=PURGE_CHUNK))
        )

    # How it is done

    def _lock(self, find: bytes) -> Steps[list[Letter]]:
        """Lock letters, unless the queue is draining; take the time of the change."""
        core = self.core
        guard = core.sql("producer", "guard_drain", queue_id=core.queue_id)
        results = yield Packet(guard, find, errors={(0, 1690): self._draining})
        return [Letter(read.uuid(row[0]), read.uuid(row[1]), read.integer(row[2]), uuid7()) for row in results[1].rows]

    def _draining(self) -> CelersError:
        return QueueDrainingError(f"queue {self.core.queue_name!r} is draining and takes no new tasks")

    def _requeue(self, letters: Sequence[Letter]) -> Steps[None]:
        """Store the tasks of locked letters, in their order, and end the transaction."""
        sql, queue_id = self.core.sql, self.core.queue_id
        if not letters:
            return
        statements: list[bytes] = []
        tasks: Shown = yield from hooked(self, letters)
        for letter in letters:
            priority = tasks[letter.new_id][1].metadata.priority if tasks else letter.priority
            origin: str = json.dumps({"task_id": str(letter.task_id), "dlq_id": str(letter.id)})
            if self.core.record_history:
                statements.append(
                    sql(
                        "history",
                        "requeued",
                        queue_name=self.core.queue_name,
                        task_id=letter.new_id,
                        message=f"requeued from the dead letter {letter.id} of task {letter.task_id}",
                        id=letter.id,
                    )
                )
            requeue = sql("dlq", "requeue", task_id=letter.new_id, queue_id=queue_id, origin=origin, id=letter.id)
            statements.append(requeue)
            statements += replaced(self, letter, origin, tasks)
            statements += [
                sql("producer", "ready_last", queue_id=queue_id, sort_rank=-priority),
                sql("dlq", "delete_locked", id=letter.id),
            ]
        began = time.monotonic()
        made = [letter.new_id for letter in letters]
        yield from found_out(last_packet(statements), lambda: all_stored(self, made, began))
        later(
            self,
            TaskHook.AFTER_ENQUEUE,
            [(task.metadata.id, task, {"task_name": task.metadata.name}) for _, task in tasks.values()],
        )

    def _delete(self, pick: bytes) -> Steps[int]:
        """Delete in chunks of two round trips: the ids tell what a commit of unknown outcome did."""
        sql = self.core.sql
        return (
            yield from delete_chunks(
                pick,
                PURGE_CHUNK,
                lambda keys: sql("dlq", "delete_picked", keys=keys),
                lambda ids: sql("dlq", "count_picked", ids=ids),
            )
        )


def _check_filter(value: object) -> None:
    try:
        if isinstance(value, str):
            value.encode("utf-8")
            return
    except UnicodeEncodeError:
        pass
    raise ValidationError(
        f"task_name_filter must be text or None, not {validate.shown(value)}", parameter="task_name_filter"
    )


def _info(row: tuple[bytes | None, ...]) -> DlqTaskInfo:
    return DlqTaskInfo(
        id=read.uuid(row[0]),
        task_id=read.uuid(row[1]),
        task_name=read.text(row[2]),
        retry_count=read.integer(row[3]),
        max_retries=read.integer(row[4]),
        priority=read.integer(row[5]),
        error_message=read.text_or_none(row[6]),
        failed_at=read.instant(row[7]),
        metadata={} if row[8] is None else validate.json_value(row[8], "metadata"),
    )
