"""Stored results of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from celers import rows as read
from celers import validate
from celers.components.acks import MAX_TRACEBACK_BYTES, Outcome, result_text
from celers.components.base import Component, M
from celers.components.parts import delete_chunks, found_out
from celers.errors import ValidationError
from celers.model.base import JSON, Duration, TaskIdLike
from celers.model.enums import TaskResultStatus
from celers.model.result import BatchResultInput, TaskResult
from celers.operation import Packet, Steps, operation
from celers.sql import Raw
from celers_fast.params import build_values

__all__ = ["Results", "store_statements"]

_NOW = Raw(b"UTC_TIMESTAMP(6)")
_COLUMNS = "task_id, queue_name, task_name, status, result, error, traceback, runtime_ms, created_at, completed_at"
# By the key (task_id, queue_name). Last write wins; only the time of the first write stays.
_UPSERT = b" ON DUPLICATE KEY UPDATE " + b", ".join(
    b"%s = VALUES(%s)" % (column, column)
    for column in (
        b"task_name",
        b"status",
        b"result",
        b"error",
        b"traceback",
        b"runtime_ms",
        b"completed_at",
    )
)
_CHUNK = 1000
ARCHIVE_CHUNK = 1000


def store_statements(component: Component[Any], results: Sequence[tuple[UUID, str, Outcome]]) -> list[bytes]:
    """Build the upserts that store results."""
    core = component.core
    rows = [
        (
            task_id,
            core.queue_name,
            out.task_name or name,
            out.status,
            out.result,
            out.error,
            out.traceback,
            out.runtime_ms,
            _NOW,
            _NOW if TaskResultStatus(out.status).is_final else None,
        )
        for task_id, name, out in results
    ]
    prefix = f"INSERT INTO {core.sql.table('task_results')} ({_COLUMNS}) VALUES ".encode()
    return [text for text, _ in build_values(prefix, rows, _UPSERT, max_bytes=core.packet_bytes - 2048)]


def _outcome(result: BatchResultInput) -> Outcome:
    return Outcome(
        status=result.status.value,
        result=result_text(result.result),
        error=validate.error_text(result.error),
        traceback=validate.error_text(result.traceback, "traceback", max_bytes=MAX_TRACEBACK_BYTES),
        runtime_ms=result.runtime_ms,
        task_name=result.task_name,
    )


class Results(Component[M]):
    """What tasks returned, or why they failed: one row for each task id."""

    attribute = "results"

    @operation(repeat_unknown=True)
    def store(
        self,
        task_id: TaskIdLike,
        task_name: str,
        status: TaskResultStatus,
        *,
        result: JSON = None,
        error: str | None = None,
        traceback: str | None = None,
        runtime_ms: int | None = None,
    ) -> Steps[None]:
        """Store one result; the last write wins, and the time of the first stays.

        Parameters
        ----------
        status : TaskResultStatus
            SUCCESS, FAILURE and REVOKED set the time of completion, the others clear it.
        result : JSON value
            None is stored as SQL NULL.
        runtime_ms : int or None
            Milliseconds, not negative.

        Raises
        ------
        SerializationError
            `result` cannot be written as JSON; an older result stays as it was.
        """
        given = BatchResultInput(task_id, task_name, status, result, error, traceback, runtime_ms)  # type: ignore[arg-type]
        for text in store_statements(self, [(given.task_id, given.task_name, _outcome(given))]):
            yield Packet(text, commit=True)

    @operation(repeat_unknown=True)
    def store_batch(self, results: Iterable[BatchResultInput]) -> Steps[int]:
        """Store many results, all or none; of several for one task the last counts.

        Returns
        -------
        int
            Number of tasks whose results were stored.
        """
        given: dict[UUID, BatchResultInput] = {}
        for result in results:
            if not isinstance(result, BatchResultInput):
                raise ValidationError(
                    f"results must hold BatchResultInput, not {type(result).__name__}", parameter="results"
                )
            given[result.task_id] = result
        if not given:
            return 0
        statements = store_statements(
            self, [(key, result.task_name, _outcome(result)) for key, result in given.items()]
        )
        for text in statements:
            yield Packet(text, commit=text is statements[-1])
        return len(given)

    @operation("read")
    def get(self, task_id: TaskIdLike) -> Steps[TaskResult | None]:
        """Return the stored result; None when there is none.

        Raises
        ------
        DeserializationError
            The stored value is not JSON.
        """
        found = yield from self._find([validate.task_id(task_id)])
        return found[0] if found else None

    @operation("read")
    def get_batch(self, task_ids: Iterable[TaskIdLike]) -> Steps[list[TaskResult]]:
        """Return results in the order of the ids; missing ones are left out, repeated ids count once."""
        ids = list(dict.fromkeys(validate.task_ids(task_ids)))
        found: list[TaskResult] = []
        for at in range(0, len(ids), _CHUNK):
            found += yield from self._find(ids[at : at + _CHUNK])
        return found

    @operation("read")
    def page(
        self, limit: int, offset: int, *, status: TaskResultStatus | None = None, task_name: str | None = None
    ) -> Steps[list[TaskResult]]:
        """Return stored results, the last completed first, unfinished ones at the end.

        Parameters
        ----------
        limit : int
            0 to 10000.
        offset : int
            Not negative.
        status : TaskResultStatus or None
            Only results of this status; None for all.
        task_name : str or None
            Only results of tasks of this name.

        Raises
        ------
        DeserializationError
            A stored value is not JSON.

        Notes
        -----
        One read by key idx_results_completed_at, backwards until the page is full: with `status` or `task_name` over
        everything that does not fit.
        """
        count, skip = validate.limit(limit), validate.offset(offset)
        if status is not None and not isinstance(status, TaskResultStatus):
            raise ValidationError(f"status={status!r} must be a TaskResultStatus", parameter="status")
        name = validate.optional_name(task_name, "task_name")
        if not count:
            return []
        results = yield Packet(
            self.core.sql(
                "results",
                "page",
                queue_name=self.core.queue_name,
                any_state=status is None,
                status=None if status is None else status.value,
                any_name=name is None,
                name=name,
                count=count,
                skip=skip,
            )
        )
        return [_result(row) for row in results[0].rows]

    @operation()
    def delete(self, task_id: TaskIdLike) -> Steps[bool]:
        """Delete a result; returns whether there was one. The task stays.

        One round trip, by primary key. When the connection was lost during the commit, a result that is gone counts
        as deleted by this call.
        """
        key = validate.task_id(task_id)
        sql, queue_name = self.core.sql, self.core.queue_name

        def last() -> Steps[bool]:
            results = yield Packet(sql("results", "delete", task_id=key, queue_name=queue_name), commit=True)
            return results[0].affected > 0

        def gone() -> Steps[bool]:
            return not (yield Packet(sql("results", "find", ids=[key], queue_name=queue_name)))[0].rows

        deleted = yield from found_out(last(), gone)
        return deleted is not False

    @operation()
    def archive(self, older_than: Duration) -> Steps[int]:
        """Delete results that were completed longer ago than a duration; returns their number.

        Unfinished results stay. In chunks of 1000, each a transaction of two round trips: the ids tell what a commit
        of unknown outcome did. Key idx_results_completed_at, then primary key.
        """
        age = validate.age(older_than, "older_than")
        sql, queue_name = self.core.sql, self.core.queue_name
        return (
            yield from delete_chunks(
                sql("results", "pick_old", queue_name=queue_name, age=age, count=ARCHIVE_CHUNK),
                ARCHIVE_CHUNK,
                lambda keys: sql("results", "delete_picked", keys=keys, queue_name=queue_name),
                lambda ids: sql("results", "count_picked", ids=ids, queue_name=queue_name, age=age),
            )
        )

    def _find(self, ids: list[UUID]) -> Steps[list[TaskResult]]:
        if not ids:
            return []
        results = yield Packet(self.core.sql("results", "find", ids=ids, queue_name=self.core.queue_name))
        found = {read.uuid(row[0]): row for row in results[0].rows}
        return [_result(found[key]) for key in ids if key in found]


def _result(row: tuple[bytes | None, ...]) -> TaskResult:
    return TaskResult(
        task_id=read.uuid(row[0]),
        task_name=read.text(row[1]),
        status=read.member(TaskResultStatus, row[2]),
        result=None if row[3] is None else validate.json_value(row[3], "result"),
        error=read.text_or_none(row[4]),
        traceback=read.text_or_none(row[5]),
        created_at=read.instant(row[6]),
        completed_at=read.instant_or_none(row[7]),
        runtime_ms=read.integer_or_none(row[8]),
    )
