"""Producers: put tasks into the queue.

One packet stores a batch: the rows of `celers_tasks` by one multi-row INSERT, their entries in the ready or scheduled
table by INSERT ... SELECT over the consecutive numbers that the INSERT got, and COMMIT. Tasks with dependencies take
a longer way (`_insert_dependent`), because their parents have to be locked and looked at first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from celers import validate
from celers.components.base import Component, M
from celers.components.history import created_statements
from celers.components.parents import insert_dependencies, unmet_counts
from celers.components.stored import all_stored
from celers.db.driver import Result
from celers.errors import (
    BrokerConnectionError,
    CelersError,
    DuplicateTaskError,
    PayloadTooLargeError,
    QueueDrainingError,
    ValidationError,
)
from celers.model.base import Duration, Instant
from celers.model.task import SerializedTask
from celers.operation import Packet, QueueUnknown, Restart, Steps, operation
from celers.retry import RetryPolicy
from celers.sql import Raw
from celers_fast.compression import compress_payload
from celers_fast.params import build_values

__all__ = ["Producer"]

_COLUMNS = (
    "id, queue_id, task_name, payload, payload_encoding, priority, max_retries, timeout_secs, created_at,"
    " scheduled_at, metadata, retry_policy, group_id, chord_id, parent_task_id, unmet_dependencies"
)
_NARROW = "id, queue_id, task_name, payload, payload_encoding, priority, max_retries, created_at, scheduled_at"
# Position of the columns that the narrow form leaves to their defaults.
_REST = (7, 10, 11, 12, 13, 14, 15)
_NARROW_INDEXES = tuple(index for index in range(16) if index not in _REST)

_NOW = Raw(b"@celers_now")
_IDS_PER_STATEMENT = 1000
_PACKET_OVERHEAD = 2048


class _Scattered(CelersError):
    """The numbers of a multi-row INSERT were not consecutive; the packet has stopped without effect."""


class Producer(Component[M]):
    """Put tasks into the queue."""

    attribute = "producer"

    @operation(meter="enqueue")
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
        return (yield from self._insert([task], _NOW, False))[0]

    @operation(meter="enqueue")
    def enqueue_at(self, task: SerializedTask, timestamp: Instant, *, connection: object | None = None) -> Steps[UUID]:
        """Store a task that is due at an instant; one in the past is due at once.

        Parameters
        ----------
        timestamp : aware datetime, int or float
            Unix seconds when a number; fractions are kept to the microsecond.
        """
        due = validate.instant(timestamp, "timestamp")
        ids = yield from self._insert([task], due, True, {"scheduled_for": due.timestamp()})
        self.core.due_unknown()
        return ids[0]

    @operation(meter="enqueue")
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
        ids = yield from self._insert([task], _after(delay), True, {"delay_seconds": delay})
        self.core.scheduled_here(delay)
        return ids[0]

    @operation(meter="enqueue")
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
        batch = validate.items(tasks, "tasks")
        if not batch:
            return []
        return (yield from self._insert(batch, _NOW, False))

    @operation()
    def submit(
        self, tasks: Iterable[SerializedTask], *, delay_secs: Duration = 0.0, connection: object | None = None
    ) -> Steps[list[UUID]]:
        """Store many tasks that are due after one common delay; see `enqueue_batch`."""
        batch = validate.items(tasks, "tasks")
        delay = _delay(delay_secs)
        if not batch:
            return []
        if not delay:
            return (yield from self._insert(batch, _NOW, False))
        ids = yield from self._insert(batch, _after(delay), True, {"delay_seconds": delay})
        self.core.scheduled_here(delay)
        return ids

    @operation()
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
        changed = _checked(task).with_max_retries(retry_policy.max_retries)
        return (yield from self._insert([changed], _NOW, False, retry_policy=retry_policy))[0]

    @operation()
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
        checked = [_checked(task) for task in validate.items(tasks, "tasks")]
        batch = [task.with_max_retries(retry_policy.max_retries) for task in checked]
        if not batch:
            return []
        if due_at is not None:
            due = validate.instant(due_at, "due_at")
            extra: dict[str, Any] = {"scheduled_for": due.timestamp()}
            ids = yield from self._insert(batch, due, True, extra, retry_policy=retry_policy)
            self.core.due_unknown()
            return ids
        delay = _delay(delay_secs)
        if not delay:
            return (yield from self._insert(batch, _NOW, False, retry_policy=retry_policy))
        extra = {"delay_seconds": delay}
        ids = yield from self._insert(batch, _after(delay), True, extra, retry_policy=retry_policy)
        self.core.scheduled_here(delay)
        return ids

    # How it is done

    def check(self, task: SerializedTask) -> None:
        """Refuse what `enqueue` would refuse before it sends anything."""
        self._row(task, _NOW, None, None)

    def _insert(
        self,
        tasks: Sequence[SerializedTask],
        due: Raw | datetime,
        delayed: bool,
        reserved: dict[str, Any] | None = None,
        *,
        retry_policy: RetryPolicy | None = None,
    ) -> Steps[list[UUID]]:
        """Store tasks that are all due at the same time."""
        began = time.monotonic()
        policy = None if retry_policy is None else validate.json_text(retry_policy.to_dict(), "retry_policy")
        rows = [self._row(task, due, reserved, policy) for task in tasks]
        ids = [task.metadata.id for task in tasks]
        if len(set(ids)) != len(ids):
            raise DuplicateTaskError("two tasks of the batch have the same id")
        if not self.core.has_queue_id:
            raise QueueUnknown
        if any(task.metadata.dependencies for task in tasks):
            store = self._insert_dependent(tasks, rows, ids)
        else:
            store = self._insert_plain(tasks, rows, ids, delayed)
        try:
            yield from store
        except BrokerConnectionError as error:
            if not error.outcome_unknown:
                raise
            # The lost session is gone by now: either all of the ids are there or none will be.
            if not (yield from all_stored(self, ids, began)):
                raise Restart from None
        return ids

    def _row(
        self, task: SerializedTask, due: Raw | datetime, reserved: dict[str, Any] | None, policy: str | None
    ) -> tuple[object, ...]:
        metadata = _checked(task).metadata
        payload, encoding = task.payload, "raw"
        if self.core.compress:
            payload, encoding = compress_payload(payload), "deflate"
        validate.payload(payload, self.core.max_payload_bytes)
        extra = {**metadata.extra, **reserved} if reserved else metadata.extra
        return (
            metadata.id,
            self.core.queue_id if self.core.has_queue_id else 0,
            metadata.name,
            payload,
            encoding,
            metadata.priority,
            metadata.max_retries,
            metadata.timeout_secs,
            _NOW,
            due,
            validate.json_text(dict(extra), "extra") if extra else None,
            policy,
            metadata.group_id,
            metadata.chord_id,
            metadata.parent_task_id,
            0,
        )

    def _guard(self) -> bytes:
        name = "guard_drain_locked" if self.inside else "guard_drain"
        return self.core.sql("producer", name, queue_id=self.core.queue_id)

    def _draining(self) -> CelersError:
        return QueueDrainingError(f"queue {self.core.queue_name!r} is draining and takes no new tasks")

    def _insert_statements(self, rows: Sequence[tuple[object, ...]]) -> Steps[list[tuple[bytes, int]]]:
        """Build the INSERTs: narrow when the rest has its defaults, escaped when hex would not fit."""
        core = self.core
        columns = _COLUMNS
        if all(row[index] is None for row in rows for index in _REST[:-1]) and not any(row[15] for row in rows):
            columns = _NARROW
            rows = [tuple(row[index] for index in _NARROW_INDEXES) for row in rows]
        prefix = f"INSERT INTO {core.sql.table('tasks')} ({columns}) VALUES ".encode()
        most = core.packet_bytes - _PACKET_OVERHEAD
        try:
            return build_values(prefix, rows, max_bytes=most)
        except PayloadTooLargeError as error:
            hex_size = error.size
        bare = False
        if self.inside:
            mode = (yield Packet(b"SELECT @@sql_mode"))[0].rows[0][0] or b""
            bare = b"NO_BACKSLASH_ESCAPES" in mode
        try:
            return build_values(prefix, rows, max_bytes=most, escaped=True, no_backslash_escapes=bare)
        except PayloadTooLargeError as error:
            raise PayloadTooLargeError(
                f"the task needs {error.size} bytes in a statement ({hex_size} in hexadecimal form), but the server's"
                f" max_allowed_packet leaves {most}: raise max_allowed_packet or shorten the payload",
                size=error.size,
                limit=most,
                parameter="payload",
            ) from None

    def _insert_plain(
        self, tasks: Sequence[SerializedTask], rows: list[tuple[object, ...]], ids: list[UUID], delayed: bool
    ) -> Steps[None]:
        core = self.core
        statements = yield from self._insert_statements(rows)
        yield from self._record(tasks)
        last = len(statements) - 1
        try:
            for number, (insert, count) in enumerate(statements):
                parts = [self._guard()] if number == 0 else []
                errors: dict[tuple[int, int], Callable[[], CelersError]] = {}
                if number == 0:
                    errors[0, 1690] = self._draining
                errors[len(parts), 1062] = _duplicate(ids)
                parts.append(insert)
                if self.inside and (delayed or count > 1):
                    yield Packet(*parts, errors=errors)
                    continue
                if delayed:
                    parts.append(core.sql("producer", "ready_range_due", count=count))
                    parts.append(core.sql("producer", "scheduled_range", count=count))
                elif count == 1:
                    priority = rows[0][5] if len(rows) == 1 else rows[sum(n for _, n in statements[:number])][5]
                    parts.append(
                        core.sql(
                            "producer",
                            "ready_last",
                            queue_id=core.queue_id,
                            sort_rank=-priority,  # type: ignore[operator]
                        )
                    )
                else:
                    parts.append(core.sql("producer", "ready_range", count=count))
                    errors[len(parts), 1690] = _Scattered
                    parts.append(core.sql("producer", "guard_rows", count=count))
                yield Packet(*parts, commit=number == last, errors=errors)
            if self.inside and (delayed or len(ids) > 1):
                yield from self._place(ids)
        except _Scattered:
            yield from self._record(tasks)  # what was sent before is rolled back
            yield from self._insert_by_id(statements, ids)

    def _record(self, tasks: Sequence[SerializedTask]) -> Steps[None]:
        """Write the history of new tasks, before they are inserted; statement by statement, as each may be large."""
        for text in created_statements(self.core, tasks):
            yield Packet(text)

    def _insert_by_id(self, statements: list[tuple[bytes, int]], ids: list[UUID]) -> Steps[None]:
        """Store rows and find them again by their ids: works whatever numbers they get."""
        yield Packet(self._guard(), errors={(0, 1690): self._draining})
        for insert, _ in statements:
            yield Packet(insert, errors={(0, 1062): _duplicate(ids)})
        yield from self._place(ids)

    def _place(self, ids: list[UUID]) -> Steps[None]:
        core = self.core
        chunks = [ids[at : at + _IDS_PER_STATEMENT] for at in range(0, len(ids), _IDS_PER_STATEMENT)]
        for chunk in chunks:
            if self.inside:
                yield from self._place_inside(chunk)
                continue
            yield Packet(
                *(
                    core.sql("producer", name, ids=chunk)
                    for name in ("place_ready", "place_scheduled", "place_blocked")
                ),
                commit=chunk is chunks[-1],
            )

    def _insert_dependent(
        self, tasks: Sequence[SerializedTask], rows: list[tuple[object, ...]], ids: list[UUID]
    ) -> Steps[None]:
        yield Packet(self._guard(), errors={(0, 1690): self._draining})
        yield from self._record(tasks)
        unmet = yield from unmet_counts(self.core, tasks)
        waits = [(len(unmet[task.metadata.id]),) for task in tasks]
        complete = [row[:15] + wait for row, wait in zip(rows, waits, strict=True)]
        statements = yield from self._insert_statements(complete)
        for insert, _ in statements:
            yield Packet(insert, errors={(0, 1062): _duplicate(ids)})
        yield from insert_dependencies(self.core, tasks, unmet)
        yield from self._place(ids)

    def _place_inside(self, ids: list[UUID]) -> Steps[None]:
        """Place rows on a connection of the caller, without a read that locks.

        Under REPEATABLE READ, which is the servers' default, INSERT ... SELECT locks the gaps that it reads over: the
        end of the table, where everybody else inserts.
        """
        core = self.core
        found: list[Result] = yield Packet(core.sql("producer", "read_placed", ids=ids))
        rows: dict[str, list[tuple[object, ...]]] = {"ready": [], "scheduled": [], "blocked": []}
        for seq, rank, due_at, due, waits in found[0].rows:
            number, sort_rank = int(seq or 0), int(rank or 0)
            if waits == b"1":
                rows["blocked"].append((core.queue_id, number))
            elif due == b"1":
                rows["ready"].append((core.queue_id, sort_rank, number))
            else:
                rows["scheduled"].append(((due_at or b"").decode(), number, core.queue_id, sort_rank))
        for name, columns in (
            ("ready", "queue_id, sort_rank, seq"),
            ("scheduled", "due_at, seq, queue_id, sort_rank"),
            ("blocked", "queue_id, seq"),
        ):
            if rows[name]:
                prefix = f"INSERT INTO {core.sql.table(name)} ({columns}) VALUES ".encode()
                built = build_values(prefix, rows[name], max_bytes=core.packet_bytes - _PACKET_OVERHEAD)
                yield Packet(*(text for text, _ in built))


def _checked(task: SerializedTask) -> SerializedTask:
    if not isinstance(task, SerializedTask):
        raise ValidationError(f"task must be a SerializedTask, not {type(task).__name__}", parameter="task")
    return task


def _duplicate(ids: list[UUID]) -> Callable[[], CelersError]:
    def make() -> CelersError:
        if len(ids) == 1:
            return DuplicateTaskError(f"a task with the id {ids[0]} is stored already", task_id=ids[0])
        return DuplicateTaskError("a task with one of these ids is stored already; none of the batch was stored")

    return make


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
