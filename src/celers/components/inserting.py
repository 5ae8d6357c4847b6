"""How tasks are stored: rows, INSERTs, and the entries in the ready, scheduled and blocked tables.

One packet stores a batch: the rows of `celers_tasks` by one multi-row INSERT, their entries in the ready or scheduled
table by INSERT ... SELECT over the consecutive numbers that the INSERT got, and COMMIT. Tasks that differ in id and
payload only take a shorter way (`_insert_alike`), which reads none of them; those with dependencies a longer one
(`_insert_dependent`), because their parents have to be locked and looked at first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from celers import validate
from celers.components.base import Component, M
from celers.components.forms import Form, Forms, places
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
from celers.model.like import LikeTasks, gather, is_plain
from celers.model.task import SerializedTask, TaskMetadata
from celers.operation import Once, Packet, QueueUnknown, Restart, Steps
from celers.retry import RetryPolicy
from celers.sql import Raw
from celers_fast.compression import compress_payload, compress_payloads
from celers_fast.params import build_tasks, build_values

if TYPE_CHECKING:
    from celers.core import Core

__all__ = ["NOW", "Inserting", "checked"]

R = TypeVar("R")

_COLUMNS = (
    "id, queue_id, task_name, payload, payload_encoding, priority, max_retries, timeout_secs, created_at,"
    " scheduled_at, metadata, retry_policy, group_id, chord_id, parent_task_id, unmet_dependencies"
)
_NARROW = "id, queue_id, task_name, payload, payload_encoding, priority, max_retries, created_at, scheduled_at"
# Position of the columns that the narrow form leaves to their defaults.
_REST = (7, 10, 11, 12, 13, 14, 15)
_NARROW_INDEXES = tuple(index for index in range(16) if index not in _REST)

NOW = Raw(b"@celers_now")
_IDS_PER_STATEMENT = 1000
_PACKET_OVERHEAD = 2048
_BYTES_PER_PLACE = 2


class _Scattered(CelersError):
    """The numbers of a multi-row INSERT were not consecutive; the packet has stopped without effect."""


class Inserting(Component[M]):
    """What the producer's operations share."""

    def __init__(self, core: Core, runner: Any) -> None:
        super().__init__(core, runner)
        self._forms = Forms(core)

    def check(self, task: SerializedTask) -> None:
        """Refuse what `enqueue` would refuse before it sends anything."""
        payload = checked(task).payload
        self._row(task, compress_payload(payload) if self.core.compress else payload, NOW, None, None)

    def insert(
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
        alike = None
        if due is NOW and not reserved and retry_policy is None and self._may_be_alike():
            alike = gather(tasks, self.core.max_payload_bytes)
        if alike is not None:
            ids = alike.ids
            store = self._insert_alike(alike)
            if store is not None:
                yield from self._certainly(store, ids, began)
                return ids
        policy = None if retry_policy is None else validate.json_text(retry_policy.to_dict(), "retry_policy")
        stored = [checked(task).payload for task in tasks]
        if self.core.compress:
            stored = compress_payloads(stored)
        rows = [self._row(task, payload, due, reserved, policy) for task, payload in zip(tasks, stored, strict=True)]
        ids = [task.metadata.id for task in tasks]
        if len(set(ids)) != len(ids):
            raise DuplicateTaskError("two tasks of the batch have the same id")
        if not self.core.has_queue_id:
            raise QueueUnknown
        if any(task.metadata.dependencies for task in tasks):
            store = self._insert_dependent(tasks, rows, ids)
        else:
            store = self._insert_plain(tasks, rows, ids, delayed)
        yield from self._certainly(store, ids, began)
        return ids

    def _may_be_alike(self) -> bool:
        """Are tasks stored here without more about each of them than its id and its payload?"""
        return not (self.inside or self.core.compress or self.core.record_history)

    def _once(self, task: SerializedTask | LikeTasks, result: R) -> Once[R] | None:
        """Make the packet of a single task; None when there is more to it than a packet."""
        core = self.core
        if not (core.has_queue_id and self._may_be_alike()):
            return None
        about: LikeTasks | TaskMetadata
        if isinstance(task, LikeTasks):
            task_id, payload, about = task.ids[0], task.payloads[0], task
        elif is_plain(task.metadata):
            task_id, payload, about = task.metadata.id, task.payload, task.metadata
        else:
            return None
        form = self._forms.of(about.name, about.priority, about.max_retries, about.timeout_secs)
        text = form.single % (task_id.int, payload.hex().encode())
        if len(payload) > core.max_payload_bytes or len(text) > core.packet_bytes - _PACKET_OVERHEAD:
            return None
        began = time.monotonic()

        def again() -> Steps[None]:
            one = LikeTasks([task_id], [payload], about.name, about.priority, about.max_retries, about.timeout_secs)
            return self._certainly(cast("Steps[None]", self._insert_alike(one)), one.ids, began)

        rings = core.ring is not None
        return Once(text, 4 + rings, 4 if rings else None, result, again)

    def _certainly(self, store: Steps[None], ids: list[UUID], began: float) -> Steps[None]:
        """Store, and look at what is there when the outcome is unknown."""
        try:
            yield from store
        except BrokerConnectionError as error:
            if not error.outcome_unknown:
                raise
            # The lost session is gone by now: either all of the ids are there or none will be.
            if not (yield from all_stored(self, ids, began)):
                raise Restart from None

    def _row(
        self,
        task: SerializedTask,
        payload: bytes,
        due: Raw | datetime,
        reserved: dict[str, Any] | None,
        policy: str | None,
    ) -> tuple[object, ...]:
        """Return a task's values; its payload is as it is to be stored."""
        metadata = task.metadata
        validate.payload(payload, self.core.max_payload_bytes)
        extra = {**metadata.extra, **reserved} if reserved else metadata.extra
        return (
            metadata.id,
            self.core.queue_id if self.core.has_queue_id else 0,
            metadata.name,
            payload,
            "deflate" if self.core.compress else "raw",
            metadata.priority,
            metadata.max_retries,
            metadata.timeout_secs,
            NOW,
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

    def _insert_alike(self, alike: LikeTasks) -> Steps[None] | None:
        """Store tasks that differ in nothing but id and payload; None when one is too long for a literal in hex.

        What has its default is left out, the time is that of the statement, and the guard is part of the INSERT into
        the ready table: the less there is to parse, the better.
        """
        form = self._forms.of(alike.name, alike.priority, alike.max_retries, alike.timeout_secs)
        most = self.core.packet_bytes - _PACKET_OVERHEAD - _BYTES_PER_PLACE * len(alike.ids)
        try:
            statements = build_tasks(form.prefix, alike.ids, form.middle, alike.payloads, form.ending, max_bytes=most)
        except PayloadTooLargeError:
            return None
        return self._send_alike(statements, alike.ids, form)

    def _send_alike(self, statements: list[tuple[bytes, int]], ids: list[UUID], form: Form) -> Steps[None]:
        core = self.core
        at = 0
        try:
            for insert, count in statements:
                at += count
                errors: dict[tuple[int, int], Callable[[], CelersError]] = {
                    (0, 1062): _duplicate(ids),
                    (1, 1690): self._draining,
                }
                if count == 1:
                    yield Packet(insert, form.place, commit=at == len(ids), errors=errors)
                    continue
                place = core.sql(
                    "producer",
                    "ready_numbered",
                    queue_id=core.queue_id,
                    sort_rank=form.rank,
                    places=places(count),
                    count=count,
                    last_id=ids[at - 1],
                )
                errors[2, 1690] = _Scattered
                guard = core.sql("producer", "guard_rows", count=count)
                yield Packet(insert, place, guard, commit=at == len(ids), errors=errors)
        except _Scattered:
            yield from self._insert_by_id(statements, ids)  # what was sent before is rolled back

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
        yield Packet(self.core.sql("producer", "now"))  # rows may bear the time of their statement
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


def checked(task: SerializedTask) -> SerializedTask:
    if not isinstance(task, SerializedTask):
        raise ValidationError(f"task must be a SerializedTask, not {type(task).__name__}", parameter="task")
    return task


def _duplicate(ids: list[UUID]) -> Callable[[], CelersError]:
    def make() -> CelersError:
        if len(ids) == 1:
            return DuplicateTaskError(f"a task with the id {ids[0]} is stored already", task_id=ids[0])
        return DuplicateTaskError("a task with one of these ids is stored already; none of the batch was stored")

    return make
