"""`with_transaction`: broker operations and the caller's own statements in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from celers.components.consumer import Consumer
from celers.components.producer import Producer
from celers.components.results import Results
from celers.components.tasks import Tasks
from celers.db.driver import Connection, DriverError, Result, map_error
from celers.db.runner import BlockingRunner, TransactionRunner
from celers.errors import BrokerError, ValidationError
from celers.operation import Sync
from celers.sql.splitter import split
from celers_fast.params import literal

if TYPE_CHECKING:
    from types import TracebackType

    from celers.core import Core
    from celers.db.pool import Pool

__all__ = ["Transaction"]

Row = tuple[Any, ...]


class Transaction:
    """One transaction; made by `MysqlBroker.with_transaction`.

    It offers `enqueue`, `enqueue_at`, `enqueue_after`, `enqueue_batch`, `ack`, `ack_batch`, `reject`, `cancel` and
    `store_result` of the broker, bound to the transaction, and runs statements of the caller.
    """

    def __init__(self, core: Core, outer: BlockingRunner, pool: Pool) -> None:
        self._core = core
        self._outer = outer
        self._pool = pool
        self._connection: Connection | None = None
        self._savepoints = 0

    def __enter__(self) -> Self:
        connection = self._connection = self._pool.acquire()
        try:
            # Statements of the caller run here, and text can only smuggle in a second one where packets are allowed.
            connection.multi_statements(False)
            connection.run(b"START TRANSACTION", 1)
        except DriverError as error:
            self._connection = None
            self._pool.discard(connection)
            raise map_error(error) from error
        runner = TransactionRunner(self._core, self._outer, connection)
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
        results: Results[Sync] = Results(self._core, runner)
        self.store_result = self._while_open(results.store)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        clean = False
        try:
            if kind is None:
                self._commit(connection)
            else:
                # The first error is the one that the caller has to see.
                with suppress(DriverError):
                    connection.run(b"ROLLBACK", 1)
            with suppress(DriverError):
                connection.multi_statements(True)
                clean = True
        finally:
            if clean and not connection.broken:
                self._pool.release(connection)
            else:
                self._pool.discard(connection)

    def _commit(self, connection: Connection) -> None:
        try:
            connection.run(b"COMMIT", 1)
        except DriverError as failure:
            unknown = failure.lost and failure.index >= 0
            raise map_error(failure, outcome_unknown=unknown) from failure

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
        return self._statement(sql, params).affected

    def fetch_one(self, sql: str, params: Sequence[object] = ()) -> Row | None:
        """Run one query; return its first row as a tuple of Python values, None without any."""
        rows = self._fetch(sql, params)
        return rows[0] if rows else None

    def fetch_all(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """Run one query; return all rows."""
        return list(self._fetch(sql, params))

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what happens inside the block, and only that, when it raises."""
        self._savepoints += 1
        name = b"celers_savepoint_%d" % self._savepoints
        self._run(b"SAVEPOINT " + name)
        try:
            yield
        except BaseException:
            with suppress(BrokerError):
                self._run(b"ROLLBACK TO SAVEPOINT " + name)
            raise
        self._run(b"RELEASE SAVEPOINT " + name)

    def _statement(self, sql: str, params: Sequence[object]) -> Result:
        return self._run(_bind(sql, params))

    def _fetch(self, sql: str, params: Sequence[object]) -> tuple[Row, ...]:
        text = _bind(sql, params)
        try:
            return self._open().fetch(text)
        except DriverError as error:
            raise map_error(error) from error

    def _open(self) -> Connection:
        if self._connection is None:
            raise BrokerError("the transaction has ended: it cannot be used any more")
        return self._connection

    def _run(self, text: bytes) -> Result:
        try:
            return self._open().run(text, 1)[0]
        except DriverError as error:
            raise map_error(error) from error

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
    parts = sql.split("%%")
    values = [literal(value).decode("ascii") for value in params]
    places = sum(part.count("%s") for part in parts)
    if places != len(values):
        raise ValidationError(f"sql has {places} places for {len(values)} values", parameter="params")
    remaining = iter(values)
    bound = ["".join(_fill(part, remaining)) for part in parts]
    return "%".join(bound).encode()


def _fill(part: str, values: Iterator[str]) -> Iterator[str]:
    pieces = part.split("%s")
    yield pieces[0]
    for piece in pieces[1:]:
        yield next(values)
        yield piece
