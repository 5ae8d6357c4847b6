"""Import and export: tasks and dead letters as JSON, out of one database and into another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterable, Mapping
from typing import Any, cast

from celers import validate
from celers.components.base import Component, M
from celers.components.importing import Progress, Spool, store
from celers.components.inspection import task_state
from celers.errors import ValidationError
from celers.model.base import JSON
from celers.model.enums import DbTaskState
from celers.operation import Packet, Steps, operation, paired, streamed
from celers.portable import TASK_COLUMNS, letter_object, object_text, read_array, task_object

__all__ = ["Transfer"]

Tasks = Iterable[Mapping[str, JSON]] | AsyncIterable[Mapping[str, JSON]]
Exported = Generator[Packet | list[dict[str, JSON]], Any, None]

PAGE_ROWS = 1000
PAGE_BYTES = 8 * 1024 * 1024
"""Rows and stored bytes of one page: what an export holds in memory, with one more row."""

ALL = 2**63 - 1
_YIELD_AFTER = 100
_LAST_TIME = "9999-12-31 23:59:59.999999"


class Transfer(Component[M]):
    """Tasks and dead letters as JSON."""

    attribute = "transfer"

    @operation("read", slow=True)
    def export_tasks(self, state: DbTaskState | None = None, limit: int | None = None) -> Steps[str]:
        """Return tasks as a JSON array of objects, oldest first, in one snapshot.

        Parameters
        ----------
        state : DbTaskState or None
            Only tasks in this state; None for all.
        limit : int or None
            At most so many, at least 1; None for all.

        Returns
        -------
        str
            Each object has the columns of a task under their names, `queue_name`, and `dependencies`. The payload is
            base64 text, decompressed.

        Raises
        ------
        DeserializationError
            A stored payload or metadata cannot be read.

        Notes
        -----
        One statement over the primary key, past the rows of other queues, on a connection of its own. The result is in
        memory as a whole, and some times over; for many tasks take `iter_export_tasks`.
        """
        wanted = None if state is None else task_state(state, "state")
        most = ALL if limit is None else validate.integer(limit, "limit", 1, ALL)
        core = self.core
        text = core.sql(
            "transfer",
            "export_tasks",
            queue_id=core.queue_id,
            any_state=wanted is None,
            state=None if wanted is None else wanted.value,
            count=most,
        )
        results = yield Packet(text)
        return _array([task_object(row, core.queue_name) for row in results[0].rows])

    @streamed
    def iter_export_tasks(self, state: DbTaskState | None = None, *, snapshot: bool = True) -> Exported:
        """Give the objects of `export_tasks` one by one, with bounded memory.

        Parameters
        ----------
        state : DbTaskState or None
            Only tasks in this state; None for all.
        snapshot : bool
            True: everything as it was at one moment. False: each page as it is when its turn comes; each task that
            was there at the start and is still there occurs once, in one of its states.

        Notes
        -----
        Pages of 1000 tasks or 8 MiB by primary key, on a connection of its own, which is closed with the iterator. Rows
        of other queues are read and passed over.

        While a snapshot is open the server cannot remove what consumers have deleted from the ready table, and their
        claims have to pass over it. For a long export of a busy queue that must not slow down choose `snapshot=False`,
        or export from a replica.
        """
        wanted = None if state is None else task_state(state, "state")
        validate.boolean(snapshot, "snapshot")
        core = self.core
        queue_id = core.queue_id
        opening = [core.sql("transfer", name) for name in ("snapshot_level", "snapshot")] if snapshot else []
        results = yield Packet(*opening, core.sql("transfer", "last_task"))
        last = results[-1].rows[0][0]
        after = 0
        while last is not None:
            results = yield Packet(
                core.sql(
                    "transfer",
                    "tasks_page",
                    queue_id=queue_id,
                    after=after,
                    last=int(last),
                    any_state=wanted is None,
                    state=None if wanted is None else wanted.value,
                    count=PAGE_ROWS,
                    most=PAGE_BYTES,
                )
            )
            rows = results[0].rows
            if not rows:
                return
            after = int(rows[-1][len(TASK_COLUMNS)])
            for row in rows:
                yield [task_object(row, core.queue_name)]

    @operation(slow=True)
    def import_tasks(self, json_data: str, skip_existing: bool) -> Steps[int]:
        """Store the tasks of an export in this queue, all or none; return how many are new.

        Parameters
        ----------
        json_data : str
            A JSON array as `export_tasks` returns it. Payloads may also be lists of numbers from 0 to 255, metadata and
            retry policies JSON text.
        skip_existing : bool
            Leave out tasks whose id is taken (in any queue); otherwise such a task is refused, and all with it.

        Raises
        ------
        DeserializationError
            The text is not such an array, or something in it is missing, malformed or unknown; names the item. Nothing
            was sent to the server.
        PayloadTooLargeError, CyclicDependencyError
            The same, for payloads above the limit and for pending tasks that wait for each other.
        DuplicateTaskError
            An id is taken, or occurs twice.

        Notes
        -----
        Tasks keep their times, states, priorities and retries. Those in work become pending. Dependencies are those of
        the export: a pending task waits for parents that are stored and not completed. Works in drain mode. With
        history on, each task gets one row with the message ``imported``.

        One transaction, on a connection of its own: a round trip for each 1000 tasks or 4 MiB, and later again one for
        each 1000 pending tasks; with `skip_existing` one more for each 1000.
        """
        skip = validate.boolean(skip_existing, "skip_existing")
        with Spool(self.core, skip) as spool:
            for value in read_array(json_data):
                spool.add(value)
            spool.finish()
            return (yield from store(self, spool, None))

    @operation(slow=True)
    def _store(self, spool: Spool, progress: Progress | None) -> Steps[int]:
        return (yield from store(self, spool, progress))

    def _import_from(self, tasks: Tasks, skip_existing: bool = False, *, progress: Progress | None = None) -> int:
        """Store tasks out of an iterable, all or none, with bounded memory; return how many are new.

        Parameters
        ----------
        tasks : iterable of mappings
            Objects as `iter_export_tasks` gives them. One that gives them only once will do; the asyncio broker takes
            asynchronous iterables as well.
        skip_existing : bool
            As for `import_tasks`.
        progress : callable, optional
            Called with the number of tasks stored and the number of all, again and again while they are stored. Begins
            anew when the server makes the transaction begin anew.

        Raises
        ------
        DeserializationError, PayloadTooLargeError, CyclicDependencyError, DuplicateTaskError
            As `import_tasks`. The whole input is read and checked before anything is sent.

        Notes
        -----
        The checked tasks go through a temporary file, as large as they are; in memory are about 100 bytes of each, and
        some 300 of those with dependencies. The rest is as for `import_tasks`. One transaction of many gigabytes is
        more than some set-ups take (group replication, Galera): import such a queue in several parts.
        """
        skip = validate.boolean(skip_existing, "skip_existing")
        if not isinstance(tasks, Iterable) or isinstance(tasks, str | bytes | Mapping):
            raise ValidationError(
                f"tasks must be an iterable of objects, not {validate.shown(tasks)}", parameter="tasks"
            )
        with Spool(self.core, skip) as spool:
            for value in tasks:
                spool.add(value)
            spool.finish()
            return cast(Callable[[Spool, Progress | None], int], self._store)(spool, progress)

    async def _import_from_async(
        self, tasks: Tasks, skip_existing: bool = False, *, progress: Progress | None = None
    ) -> int:
        skip = validate.boolean(skip_existing, "skip_existing")
        if not isinstance(tasks, Iterable | AsyncIterable) or isinstance(tasks, str | bytes | Mapping):
            raise ValidationError(
                f"tasks must be an iterable of objects, not {validate.shown(tasks)}", parameter="tasks"
            )
        with Spool(self.core, skip) as spool:
            if isinstance(tasks, AsyncIterable):
                async for value in tasks:
                    spool.add(value)
            else:
                for number, value in enumerate(tasks):
                    spool.add(value)
                    if number % _YIELD_AFTER == 0:
                        await asyncio.sleep(0)
            spool.finish()
            return await cast(Callable[[Spool, Progress | None], Awaitable[int]], self._store)(spool, progress)

    import_tasks_from = paired(_import_from, _import_from_async)

    @operation("read", slow=True)
    def export_dlq(self, limit: int | None = None) -> Steps[str]:
        """Return dead letters as a JSON array of objects, newest first, in one snapshot.

        Parameters
        ----------
        limit : int or None
            At most so many, at least 1; None for all.

        Notes
        -----
        As `export_tasks`, with the fields of a dead letter: `id` is its own id, `task_id` that of the task. One
        statement by key idx_dlq_failed_at.
        """
        most = ALL if limit is None else validate.integer(limit, "limit", 1, ALL)
        core = self.core
        results = yield Packet(core.sql("transfer", "export_letters", queue_name=core.queue_name, count=most))
        return _array([letter_object(row, core.queue_name) for row in results[0].rows])

    @streamed
    def iter_export_dlq(self, *, snapshot: bool = True) -> Exported:
        """Give the objects of `export_dlq` one by one, with bounded memory; see `iter_export_tasks`.

        Without a snapshot, letters that are requeued or purged meanwhile are left out, and new ones too.
        """
        validate.boolean(snapshot, "snapshot")
        core = self.core
        opening = [core.sql("transfer", name) for name in ("snapshot_level", "snapshot")] if snapshot else []
        failed_at, key = _LAST_TIME, b"\xff" * 16
        while True:
            page = core.sql(
                "transfer",
                "letters_page",
                queue_name=core.queue_name,
                failed_at=failed_at,
                id=key,
                count=PAGE_ROWS,
                most=PAGE_BYTES,
            )
            results = yield Packet(*opening, page)
            opening = []
            rows = results[-1].rows
            if not rows:
                return
            for row in rows:
                yield [letter_object(row, core.queue_name)]
            key, failed_at = rows[-1][0], rows[-1][10].decode("ascii")


def _array(objects: list[dict[str, JSON]]) -> str:
    return "[" + ",\n".join([object_text(value) for value in objects]) + "]"
