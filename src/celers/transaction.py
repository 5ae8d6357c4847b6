"""`with_transaction`: broker operations and the caller's own statements in one transaction."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from celers.components.consumer import Consumer
from celers.components.producer import Producer
from celers.components.results import Results
from celers.components.tasks import Tasks
from celers.db.driver import Connection
from celers.db.outcome import DriverError, Result, map_error
from celers.db.runner import BlockingRunner, TransactionRunner
from celers.db.session import QUERY_INTERRUPTED
from celers.errors import BrokerError, SerializationError, ValidationError
from celers.operation import Sync
from celers.sql.splitter import split
from celers_fast.params import literal

if TYPE_CHECKING:
    from types import TracebackType

    from celers.core import Core
    from celers.db.pool import Pool

__all__ = ["Transaction"]

Row = tuple[Any, ...]
T = TypeVar("T")

BEGIN_ATTEMPTS = 9

# After these the server has undone the whole transaction; what came next would be committed statement by statement.
_UNDONE_ERRNOS = frozenset({1020, 1213, 1614, 3101})
_UNKNOWN_NAME_ERRNOS = frozenset({1054, 1146})
_ENDS = re.compile(
    r"(?i)(commit|begin|start\s+transaction|xa|rollback(?!\s+(work\s+)?to)|set\s+(@@)?(session[\s.]+)?autocommit)\b"
)
_PLAIN = re.compile(r"(select|insert|update|delete|replace|with|values|table|explain)\b", re.IGNORECASE)


class Transaction:
    """One transaction; made by `MysqlBroker.with_transaction`.

    It offers `enqueue`, `enqueue_at`, `enqueue_after`, `enqueue_batch`, `ack`, `ack_batch`, `reject`, `cancel`,
    `update_task_metadata`, `update_error_message` and `store_result` of the broker, bound to the transaction, and runs
    statements of the caller.
    """

    def __init__(self, core: Core, outer: BlockingRunner, pool: Pool) -> None:
        self._core = core
        self._outer = outer
        self._pool = pool
        self._connection: Connection | None = None
        self._savepoints = 0
        self._undone: DriverError | None = None
        self._clean = True
        self._after: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        self._connection = self._begin()
        runner = TransactionRunner(self._core, self._outer, self)
        producer: Producer[Sync] = Producer(self._core, runner)
        consumer: Consumer[Sync] = Consumer(self._core, runner)
        self.enqueue = self._while_open(producer.enqueue)
        self.enqueue_at = self._while_open(producer.enqueue_at)
        self.enqueue_after = self._while_open(producer.enqueue_after)
        self.enqueue_batch = self._while_open(producer.enqueue_batch)
        self.ack = self._while_open(consumer.ack)
        self.ack_batch = self._while_open(consumer.ack_batch)
        self.reject = self._while_open(consumer.reject)
        tasks: Tasks[Sync] = Tasks(self._core, runner)
        self.cancel = self._while_open(tasks.cancel)
        self.update_task_metadata = self._while_open(tasks.update_metadata)
        self.update_error_message = self._while_open(tasks.update_error)
        results: Results[Sync] = Results(self._core, runner)
        self.store_result = self._while_open(results.store)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        reusable = committed = False
        try:
            if kind is None:
                if self._undone is not None:
                    raise self._undone_error()
                self._commit(connection)
                ended = committed = True
            else:
                ended = False
                # The first error is the one that the caller has to see.
                with suppress(DriverError):
                    connection.run(b"ROLLBACK", 1)
                    ended = True
            with suppress(DriverError):
                connection.multi_statements(True)
                reusable = ended and self._clean
        finally:
            if reusable:
                self._pool.release(connection)
            else:
                self._pool.discard(connection, lost=connection.broken)
        if committed:
            for call in self._after:
                call()

    def after_commit(self, call: Callable[[], None]) -> None:
        """Have something done after the commit; forgotten when the transaction does not end well."""
        self._after.append(call)

    def _begin(self) -> Connection:
        """Open the transaction; a pooled connection that turns out to be dead is replaced."""
        for attempt in range(BEGIN_ATTEMPTS):
            connection = self._pool.acquire()
            try:
                # Statements of the caller run here: text can smuggle in a second one only where packets are allowed.
                connection.multi_statements(False)
                connection.run(b"START TRANSACTION", 1)
            except DriverError as error:
                self._pool.discard(connection)
                if not error.lost or attempt == BEGIN_ATTEMPTS - 1:
                    raise map_error(error) from error
            except BaseException:
                self._pool.discard(connection, lost=False)
                raise
            else:
                return connection
        raise AssertionError  # pragma: no cover

    def _commit(self, connection: Connection) -> None:
        try:
            connection.run(b"COMMIT", 1)
        except DriverError as failure:
            unknown = (failure.lost or failure.errno == QUERY_INTERRUPTED) and failure.index >= 0
            raise map_error(failure, outcome_unknown=unknown) from failure

    def _undone_error(self) -> BrokerError:
        error = self._undone
        assert error is not None
        made = BrokerError(
            f"the server has undone the transaction, nothing of it is stored: begin a new one ({error.message})",
            errno=error.errno,
            retryable=True,
        )
        made.__cause__ = error
        return made

    def execute(self, sql: str, params: Sequence[object] = ()) -> int:
        """Run one statement of the caller; return the number of rows that matched, or were returned.

        Parameters
        ----------
        sql : str
            One statement, with ``%s`` where a value goes and ``%%`` for a percent sign.
        params : sequence
            None, bool, int, float, str, bytes, UUID, aware datetime.

        Raises
        ------
        ValidationError
            More than one statement, or another number of values than places.
        """
        return self._fetch(sql, params)[1]

    def fetch_one(self, sql: str, params: Sequence[object] = ()) -> Row | None:
        """Run one query; return its first row as a tuple of Python values, None without any."""
        rows = self._fetch(sql, params)[0]
        return rows[0] if rows else None

    def fetch_all(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """Run one query; return all rows."""
        return list(self._fetch(sql, params)[0])

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what happens inside the block, and only that, when it raises."""
        self._savepoints += 1
        name = b"celers_savepoint_%d" % self._savepoints
        known = len(self._after)
        self._run(b"SAVEPOINT " + name)
        try:
            yield
        except BaseException:
            del self._after[known:]
            with suppress(BrokerError):
                self._run(b"ROLLBACK TO SAVEPOINT " + name)
            raise
        self._run(b"RELEASE SAVEPOINT " + name)

    def _fetch(self, sql: str, params: Sequence[object]) -> tuple[tuple[Row, ...], int]:
        text = _bind(sql, params)
        if _PLAIN.match(sql.lstrip()) is None:
            # It may have changed settings of the session: nobody else gets this connection.
            self._clean = False
        try:
            return self._watched(lambda connection: connection.fetch(text))
        except DriverError as error:
            if error.errno in _UNKNOWN_NAME_ERRNOS:
                # A mistake in the caller's own statement says nothing about the schema of celers.
                raise BrokerError(f"[{error.errno}] {error.message}", errno=error.errno) from error
            raise map_error(error) from error

    def _open(self) -> Connection:
        if self._connection is None:
            raise BrokerError("the transaction has ended: it cannot be used any more")
        if self._undone is not None:
            raise self._undone_error()
        return self._connection

    def run_one(self, text: bytes) -> Result:
        """Run one of the broker's own statements; raises `DriverError`."""
        return self._watched(lambda connection: connection.run(text, 1)[0])

    def gone(self, error: DriverError) -> None:
        """Note that the server has no such transaction any more."""
        self._undone = self._undone or error

    def _watched(self, call: Callable[[Connection], T]) -> T:
        connection = self._open()
        try:
            return call(connection)
        except DriverError as error:
            if error.lost or error.errno in _UNDONE_ERRNOS:
                self.gone(error)
            raise

    def _mapped(self, call: Callable[[Connection], T]) -> T:
        try:
            return self._watched(call)
        except DriverError as error:
            raise map_error(error) from error

    def _run(self, text: bytes) -> Result:
        return self._mapped(lambda connection: connection.run(text, 1)[0])

    def _while_open(self, method: Any) -> Any:
        """Refuse a bound operation after the end."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._open()
            return method(*args, **kwargs)

        call.__name__ = method.__name__
        call.__doc__ = method.__doc__
        return call


def _bind(sql: str, params: Sequence[object]) -> bytes:
    """Write values into one statement of the caller."""
    if not isinstance(sql, str):
        raise ValidationError(f"sql must be text, not {type(sql).__name__}", parameter="sql")
    statements = split(sql)
    if len(statements) != 1:
        raise ValidationError(f"sql must be one statement, not {len(statements)}", parameter="sql")
    if _ENDS.match(statements[0].text.lstrip()):
        raise ValidationError(
            "sql must not begin or end a transaction: with_transaction commits at its end", parameter="sql"
        )
    parts = sql.split("%%")
    values = [literal(value).decode("ascii") for value in params]
    places = sum(part.count("%s") for part in parts)
    if places != len(values):
        raise ValidationError(f"params has {len(values)} values for {places} places in sql", parameter="params")
    remaining = iter(values)
    bound = ["".join(_fill(part, remaining)) for part in parts]
    try:
        return "%".join(bound).encode()
    except UnicodeEncodeError:
        raise SerializationError("sql has a surrogate, which is no character") from None


def _fill(part: str, values: Iterator[str]) -> Iterator[str]:
    pieces = part.split("%s")
    yield pieces[0]
    for piece in pieces[1:]:
        yield next(values)
        yield piece
