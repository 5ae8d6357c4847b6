"""Storing imported tasks: the steps behind the importing operations of `Transfer`.

The whole input is read and checked before the first statement. What is good goes into a temporary file (`Spool`), so
that memory does not grow with the size of the tasks, a source that gives its tasks only once will do, and a
transaction that the server rolls back can begin anew.

All is stored in one transaction. Tasks that may run are placed where claims find them as late as possible: a claim
has to pass over every row that a transaction has not committed yet.
"""

from __future__ import annotations

import marshal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self
from uuid import UUID

from celers.components.base import Component
from celers.components.claims import intern_worker
from celers.components.parents import cycle_in
from celers.components.settling import Tally
from celers.core import Core
from celers.db.outcome import Result
from celers.errors import (
    BrokerConnectionError,
    CyclicDependencyError,
    DuplicateTaskError,
    PayloadTooLargeError,
)
from celers.model.enums import DbTaskState
from celers.operation import Packet, QueueUnknown, Restart, Steps
from celers.portable import ImportedTask, check_task
from celers.sql import Raw
from celers_fast.ids import uuid7_many
from celers_fast.params import build_values

__all__ = ["Progress", "Spool", "store"]

Progress = Callable[[int, int], None]

_COLUMNS = (
    "id, queue_id, task_name, payload, payload_encoding, state, priority, retry_count, max_retries, timeout_secs,"
    " created_at, scheduled_at, started_at, completed_at, worker_no, error_message, metadata, retry_policy, dedup_key,"
    " group_id, chord_id, parent_task_id"
)
_HISTORY = "queue_name, task_id, task_name, state, `timestamp`, message"
_DEDUP = "queue_name, dedup_key, task_id, created_at"
_DEPENDENCIES = "id, queue_name, task_id, parent_task_id, satisfied, created_at, satisfied_at"
# The row of a key names its last task, whichever of them was stored first.
_DEDUP_LAST = (
    b" ON DUPLICATE KEY UPDATE task_id = IF(VALUES(created_at) > created_at, VALUES(task_id), task_id),"
    b" created_at = GREATEST(created_at, VALUES(created_at))"
)
# Left behind by a task of this id that was deleted by hand.
_DEPENDENCY_AGAIN = (
    b" ON DUPLICATE KEY UPDATE satisfied = VALUES(satisfied), created_at = VALUES(created_at),"
    b" satisfied_at = VALUES(satisfied_at)"
)
_NOW, _DEFAULT = Raw(b"@celers_now"), Raw(b"DEFAULT")

CHUNK_ROWS = 1000
CHUNK_BYTES = 4 * 1024 * 1024
"""Tasks of one statement, and bytes of their payloads."""

IDS_PER_STATEMENT = 1000
_OVERHEAD = 2048
_ROW_OVERHEAD = 4096


class _Entry(NamedTuple):
    """What the last steps need to know of a task."""

    id: bytes
    pending: bool
    dependencies: tuple[bytes, ...]


class Spool:
    """Checked tasks in temporary files; can be read again and again.

    Keeps about 100 bytes of each task in memory (its id), and more of those with dependencies.

    Parameters
    ----------
    core : Core
    skip_existing : bool
        Of several tasks with one id take the first; otherwise they are refused.
    """

    def __init__(self, core: Core, skip_existing: bool) -> None:
        self.skip_existing = skip_existing
        self.count = 0
        self.workers: dict[str, None] = {}
        self._core = core
        self._seen: set[bytes] = set()
        self._waits: dict[bytes, tuple[bytes, ...]] = {}
        self._index = 0
        self._rows: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the spool
        self._entries: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115

    def add(self, value: object) -> None:
        """Check and keep one object.

        Raises
        ------
        DeserializationError, PayloadTooLargeError, DuplicateTaskError
            It is no task, is too large, or has the id of one before it.
        """
        core, index = self._core, self._index
        task = check_task(value, index, max_payload_bytes=core.max_payload_bytes, compress=core.compress)
        self._index += 1
        key = task.id.bytes
        if key in self._seen:
            if self.skip_existing:
                return
            raise DuplicateTaskError(f"item {index}: the id {task.id} was there before", task_id=task.id)
        self._fits(task, index)
        self._seen.add(key)
        self.count += 1
        if task.worker_id is not None:
            self.workers[task.worker_id] = None
        pending = task.state == DbTaskState.PENDING.value
        parents = tuple(parent.bytes for parent in task.dependencies)
        if pending and parents:
            self._waits[key] = parents
        marshal.dump((key, pending, parents), self._entries)
        marshal.dump(
            (
                *(key, task.task_name, task.payload, task.payload_encoding, task.state, task.priority),
                *(task.retry_count, task.max_retries, task.timeout_secs, task.created_at, task.scheduled_at),
                *(task.started_at, task.completed_at, task.worker_id, task.error_message, task.metadata),
                *(task.retry_policy, task.dedup_key, task.group_id),
                None if task.chord_id is None else task.chord_id.bytes,
                None if task.parent_task_id is None else task.parent_task_id.bytes,
            ),
            self._rows,
        )

    def _fits(self, task: ImportedTask, index: int) -> None:
        """Refuse a row that fits into no packet of the server now, and not when others are stored already."""
        if self._core.server is None:
            return
        most = self._core.packet_bytes - _OVERHEAD
        size = len(task.payload) + len(task.metadata or "") + len(task.error_message or "") + _ROW_OVERHEAD
        if size * 2 <= most:
            return
        try:
            build_values(b"", [_values(task, 0, 0)], max_bytes=most, escaped=True)
        except PayloadTooLargeError as error:
            raise PayloadTooLargeError(
                f"item {index}: the task needs {error.size} bytes in a statement, but the server's max_allowed_packet"
                f" leaves {most}",
                size=error.size,
                limit=most,
                parameter="payload",
            ) from None

    def finish(self) -> None:
        """Check the tasks as a whole.

        Raises
        ------
        CyclicDependencyError
            Pending tasks wait for each other.
        """
        waits, self._waits = self._waits, {}
        waiting = cycle_in(waits)
        if waiting:
            cycle = [UUID(bytes=key) for key in waiting]
            raise CyclicDependencyError("pending tasks depend on each other in a cycle", cycle=cycle)

    def rows(self) -> Iterator[list[tuple[Any, ...]]]:
        """Return the rows in chunks, in the order of the input."""
        chunk: list[tuple[Any, ...]] = []
        size = 0
        for row in self._records(self._rows):
            chunk.append(row)
            size += len(row[2]) + len(row[15] or "") + len(row[14] or "")
            if len(chunk) == CHUNK_ROWS or size >= CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def entries(self) -> Iterator[_Entry]:
        """Return what the tasks wait for, in the order of the input."""
        for record in self._records(self._entries):
            yield _Entry(*record)

    def _records(self, file: BinaryIO) -> Iterator[Any]:
        file.seek(0)
        for _ in range(self.count):
            yield marshal.load(file)  # noqa: S302 - a file without a name, which nobody else can write

    def close(self) -> None:
        """Remove the files."""
        self._rows.close()
        self._entries.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _values(task: ImportedTask, queue_id: int, worker_no: int) -> tuple[object, ...]:
    return (
        *(task.id, queue_id, task.task_name, task.payload, task.payload_encoding, task.state, task.priority),
        *(task.retry_count, task.max_retries, task.timeout_secs, task.created_at, task.scheduled_at, task.started_at),
        *(task.completed_at, worker_no, task.error_message, task.metadata, task.retry_policy, task.dedup_key),
        *(task.group_id, task.chord_id, task.parent_task_id),
    )


def store(component: Component[Any], spool: Spool, progress: Progress | None) -> Steps[int]:
    """Store the tasks of a spool in one transaction; return how many are new."""
    core = component.core
    if not spool.count:
        return 0
    if not core.has_queue_id:
        raise QueueUnknown
    # In transactions of their own: a claim of the same worker must not wait for this one.
    numbers: dict[str | None, int] = {None: 0}
    for worker_id in spool.workers:
        numbers[worker_id] = yield from intern_worker(component, worker_id)
    if progress is not None:
        progress(0, spool.count)
    skipped: set[bytes] = set()
    tally = Tally()
    done = 0
    some: list[bytes] = []
    yield Packet(core.sql("settle", "take_time"))
    for chunk in spool.rows():
        new = chunk
        if spool.skip_existing:
            taken = yield from _taken(core, [row[0] for row in chunk])
            skipped |= taken
            new = [row for row in chunk if row[0] not in taken]
        if new:
            some = some or [row[0] for row in new]
            yield from _insert(core, new, numbers, spool.skip_existing)
            _count(tally, new)
        done += len(chunk)
        if progress is not None:
            progress(done, spool.count)
    yield from _place(core, spool, skipped)
    try:
        yield Packet(*tally.statements(component), b"DO 0", commit=True)
    except BrokerConnectionError as error:
        if not error.outcome_unknown or not some:
            raise
        # The lost session is gone by now: either all of the tasks are there, but for those that somebody has taken
        # and deleted since, or none will be.
        if not (yield from _taken(core, some)):
            raise Restart from None
    core.due_unknown()
    return spool.count - len(skipped)


def _taken(core: Core, keys: list[bytes]) -> Steps[set[bytes]]:
    results: list[Result] = yield Packet(core.sql("transfer", "stored_ids", ids=keys))
    return {row[0] for row in results[0].rows if row[0] is not None}


def _insert(core: Core, rows: list[tuple[Any, ...]], numbers: dict[str | None, int], again: bool) -> Steps[None]:
    """Insert one chunk, with its history and dedup keys."""
    queue_id, queue = core.queue_id, core.queue_name
    # A task that has not started has the column's default there.
    values = [
        (row[0], queue_id, *row[1:11], row[11] or _DEFAULT, row[12] or _DEFAULT, numbers[row[13]], *row[14:])
        for row in rows
    ]
    for text in _statements(core, "tasks", _COLUMNS, values):
        try:
            yield Packet(text, errors={(0, 1062): DuplicateTaskError})
        except DuplicateTaskError:
            if again:
                raise Restart from None  # stored by somebody else since the look
            taken = yield from _taken(core, [row[0] for row in rows])
            known = next((UUID(bytes=row[0]) for row in rows if row[0] in taken), None)
            raise DuplicateTaskError(
                f"the task {known} is stored already; nothing was imported", task_id=known
            ) from None
    if core.record_history:
        history = [(queue, row[0], row[1], row[4], _NOW, "imported") for row in rows]
        for text in _statements(core, "task_history", _HISTORY, history):
            yield Packet(text)
    dedup = [(queue, row[17], row[0], row[9]) for row in rows if row[17] is not None]
    for text in _statements(core, "task_dedup", _DEDUP, dedup, _DEDUP_LAST):
        yield Packet(text)


def _statements(
    core: Core, table: str, columns: str, rows: Sequence[tuple[object, ...]], suffix: bytes = b""
) -> Iterable[bytes]:
    if not rows:
        return []
    prefix = f"INSERT INTO {core.sql.table(table)} ({columns}) VALUES ".encode()
    most = core.packet_bytes - _OVERHEAD
    try:
        built = build_values(prefix, rows, suffix, max_bytes=most)
    except PayloadTooLargeError:
        built = build_values(prefix, rows, suffix, max_bytes=most, escaped=True)
    return [text for text, _ in built]


def _count(tally: Tally, rows: list[tuple[Any, ...]]) -> None:
    for row in rows:
        match row[4]:
            case "completed":
                tally.completed += 1
            case "failed":
                tally.failed += 1
            case "cancelled":
                tally.cancelled += 1


def _place(core: Core, spool: Spool, skipped: set[bytes]) -> Steps[None]:
    """Put pending tasks where claims find them, those that wait for others last, because their parents get locked."""
    ready: list[bytes] = []
    for entry in spool.entries():
        if entry.pending and not entry.dependencies and entry.id not in skipped:
            ready.append(entry.id)
            if len(ready) == IDS_PER_STATEMENT:
                yield Packet(*_place_statements(core, ready))
                ready = []
    if ready:
        yield Packet(*_place_statements(core, ready))
    waiting: list[_Entry] = []
    for entry in spool.entries():
        if entry.dependencies and entry.id not in skipped:
            waiting.append(entry)
            if len(waiting) == CHUNK_ROWS:
                yield from _join(core, waiting)
                waiting = []
    if waiting:
        yield from _join(core, waiting)


def _place_statements(core: Core, keys: list[bytes], *, blocked: bool = False) -> list[bytes]:
    names = ["place_ready", "place_scheduled", *(["place_blocked"] if blocked else [])]
    return [core.sql("transfer", name, ids=keys) for name in names]


def _join(core: Core, entries: list[_Entry]) -> Steps[None]:
    """Store what tasks depend on. A parent that is not stored counts as completed: nobody can complete it."""
    parents = sorted({parent for entry in entries for parent in entry.dependencies})
    open_parents: set[bytes] = set()
    for at in range(0, len(parents), IDS_PER_STATEMENT):
        ids = parents[at : at + IDS_PER_STATEMENT]
        results: list[Result] = yield Packet(core.sql("producer", "lock_parents", ids=ids, queue_id=core.queue_id))
        open_parents.update(row[0] for row in results[0].rows if row[0] is not None and row[1] != b"completed")
    pairs = [(entry.id, parent) for entry in entries for parent in entry.dependencies]
    rows: list[tuple[object, ...]] = [
        (
            row_id,
            core.queue_name,
            task_id,
            parent,
            parent not in open_parents,
            _NOW,
            None if parent in open_parents else _NOW,
        )
        for row_id, (task_id, parent) in zip(uuid7_many(len(pairs)), pairs, strict=True)
    ]
    for text in _statements(core, "task_dependencies", _DEPENDENCIES, rows, _DEPENDENCY_AGAIN):
        yield Packet(text)
    by_count: dict[int, list[bytes]] = {}
    waited_for: set[bytes] = set()
    for entry in entries:
        mine = open_parents.intersection(entry.dependencies) if entry.pending else set()
        if mine:
            by_count.setdefault(len(mine), []).append(entry.id)
            waited_for |= mine
    for unmet, ids in by_count.items():
        yield Packet(core.sql("transfer", "set_unmet", unmet=unmet, ids=ids))
    marked = sorted(waited_for)
    for at in range(0, len(marked), IDS_PER_STATEMENT):
        yield Packet(core.sql("producer", "mark_parents", ids=marked[at : at + IDS_PER_STATEMENT]))
    pending = [entry.id for entry in entries if entry.pending]
    if pending:
        yield Packet(*_place_statements(core, pending, blocked=True))
