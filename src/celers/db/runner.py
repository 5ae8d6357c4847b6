"""Carries operations out for blocking callers.

Three runners share the operations: `BlockingRunner` over the pool, `TransactionRunner` inside `with_transaction`,
and `CallerRunner` on a connection that the caller handed in. The latter two run statement by statement inside a
transaction that they neither begin nor end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from celers.db.driver import SLOW_SECS, Connection, connect, foreign_run, is_driver_connection
from celers.db.outcome import DriverError, Result, map_error
from celers.db.pool import closed_error
from celers.db.requests import Acquire, Discard, Request, Send, Session, Sleep, advance
from celers.db.session import KEPT_CHANGING, RESTARTS, drive
from celers.errors import BrokerError, ConfigurationError, ValidationError
from celers.operation import QueueUnknown, Restart, repeatable

if TYPE_CHECKING:
    from celers.components.base import Component
    from celers.core import Core
    from celers.db.pool import Pool
    from celers.operation import Once, Operation, Packet, Steps, Stream
    from celers.transaction import Transaction

__all__ = ["BlockingRunner", "CallerRunner", "TransactionRunner"]

R = TypeVar("R")


class BlockingRunner:
    """Runs operations on connections of a pool."""

    foreign = False
    is_async = False

    def __init__(self, core: Core, pool: Pool) -> None:
        self.core = core
        self.pool = pool
        self.closed = False

    def bind(self, operation: Operation[..., R], component: Component[Any]) -> Callable[..., R]:
        """Make the callable that users see for one operation of one component."""
        steps, kind, repeat = operation.steps, operation.kind, operation.repeat_unknown
        slow, single = operation.slow, operation.single
        core = self.core
        prepare: Callable[..., Once[R] | None] | None = None
        if operation.once is not None:
            prepare = getattr(component, operation.once)

        def call(*args: Any, **kwargs: Any) -> R:
            if self.closed:
                raise closed_error()
            if prepare is not None and (once := prepare(*args, **kwargs)) is not None:
                return self.run_once(once)
            args, kwargs = repeatable(args, kwargs)
            connection = kwargs.get("connection")
            if connection is not None:
                with CallerRunner(core, self, connection) as runner:
                    return runner.run(steps, type(component)(core, runner), args, kwargs)
            try:
                return self.run(lambda: steps(component, *args, **kwargs), kind, repeat, slow, single)
            except QueueUnknown:
                self.intern_queue()
            return self.run(lambda: steps(component, *args, **kwargs), kind, repeat, slow, single)

        if operation.meter is None:
            return call
        times = core.meters[operation.meter]

        def metered(*args: Any, **kwargs: Any) -> R:
            started = time.perf_counter()
            result = call(*args, **kwargs)
            times.append(time.perf_counter() - started)
            return result

        return metered

    def bind_stream(self, stream: Stream[..., R], component: Component[Any]) -> Callable[..., Iterator[R]]:
        """Make the generator function that users see for one stream of one component."""

        def values(*args: Any, **kwargs: Any) -> Iterator[R]:
            if self.closed:
                raise closed_error()
            steps = stream.steps(component, *args, **kwargs)
            try:
                request = next(steps, None)  # bad parameters are refused before anything is opened
            except QueueUnknown:
                self.intern_queue()
                steps = stream.steps(component, *args, **kwargs)
                request = next(steps, None)
            connection: Connection | None = None
            try:
                while request is not None:
                    if isinstance(request, list):
                        yield from request
                        request = next(steps, None)
                        continue
                    if self.closed:
                        raise closed_error()
                    if connection is None:
                        connection = connect(self.pool.options, read_timeout=SLOW_SECS)
                    reply = connection.run(b";".join(request.statements), len(request.statements))
                    request = advance(steps, reply)
            except DriverError as error:
                raise map_error(error) from error
            finally:
                steps.close()
                if connection is not None:
                    connection.close()

        return values

    def intern_queue(self) -> None:
        """Find or make the queue's number, in a transaction of its own."""
        from celers.components.queues import Queues

        self.run(lambda: Queues.intern.steps(Queues(self.core, self)), "plain", True)

    def run(
        self,
        make: Callable[[], Steps[R]],
        kind: Any,
        repeat_unknown: bool,
        slow: bool = False,
        single: bool = False,
    ) -> R:
        """Run one operation to its end."""
        session = Session(slow=slow, single=single)
        return self._fulfil(drive(make, kind, session, repeat_unknown=repeat_unknown, ring=self.core.ring), session)

    def run_once(self, once: Once[R]) -> R:
        """Send an operation's only packet; when it fails, all goes on as if `drive` had sent it."""
        pool, ring = self.pool, self.core.ring
        connection = pool.acquire()
        try:
            connection.push(once.text, once.count, once.needed)
            if ring is not None and ring.was_refused(connection):
                with suppress(DriverError):
                    connection.run(ring.report, 1)
        except DriverError as error:
            failed = error
        except BaseException:
            pool.discard(connection, lost=connection.broken)
            raise
        else:
            pool.release(connection)
            return once.result
        session = Session(connection=connection)
        rest = drive(once.again, "transaction", session, ring=ring, failed=failed)
        del failed  # its traceback holds this frame
        self._fulfil(rest, session)
        return once.result

    def _fulfil(self, requests: Generator[Request, Any, R], session: Session) -> R:
        pool, slow = self.pool, session.slow
        answer: Any = None
        failure: BaseException | None = None
        try:
            while True:
                request = requests.throw(failure) if failure is not None else requests.send(answer)
                failure = None
                try:
                    if type(request) is Send:
                        connection = request.connection
                        answer = (
                            connection.run(request.text, request.count)
                            if request.needed is None
                            else connection.run(request.text, request.count, request.needed)
                        )
                    elif type(request) is Acquire:
                        # Noted at once, so that an interrupt before the next step leaves nothing behind.
                        answer = session.connection = (
                            connect(pool.options, read_timeout=SLOW_SECS, single=session.single)
                            if slow
                            else pool.acquire()
                        )
                    elif type(request) is Discard:
                        request.connection.close() if slow else pool.discard(request.connection)
                    elif type(request) is Sleep:
                        time.sleep(request.secs)
                except Exception as error:  # noqa: BLE001 - it is thrown into the operation
                    failure = error
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            connection = session.connection
            if connection is not None:
                if slow:
                    connection.close()
                elif session.in_transaction or session.in_flight:
                    pool.discard(connection, lost=connection.broken)
                else:
                    pool.release(connection)
            failure = None  # its traceback holds this frame
            requests.close()


class _InsideRunner:
    """Runs operations statement by statement inside a transaction that somebody else begins and ends.

    Each operation stands under a savepoint, so that one that fails leaves nothing behind in a transaction that its
    owner may still commit.
    """

    foreign = True
    is_async = False

    def __init__(self, core: Core, outer: BlockingRunner) -> None:
        self.core = core
        self.outer = outer
        self.latest = False
        """Look with locks: set after a look that did not show the latest rows."""

    def _one(self, text: bytes) -> Result:
        raise NotImplementedError

    def bind(self, operation: Operation[..., R], component: Component[Any]) -> Callable[..., R]:
        """Make the callable of one operation, bound to this transaction."""
        steps, needs_queue = operation.steps, operation.needs_queue

        def call(*args: Any, **kwargs: Any) -> R:
            args, kwargs = repeatable(args, kwargs)
            if needs_queue and not self.core.has_queue_id:
                self.outer.intern_queue()
            return self.run(steps, component, args, kwargs)

        return call

    def run(
        self, steps: Callable[..., Steps[R]], component: Component[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> R:
        """Run one operation under a savepoint."""
        for attempt in range(RESTARTS):
            self._statement(b"SAVEPOINT celers_operation")
            try:
                result = self._steps(steps(component, *args, **kwargs))
            except Restart:
                # The owner's snapshot may be older than the rows: look with locks, which read the latest.
                self.latest = True
                self._statement(b"ROLLBACK TO SAVEPOINT celers_operation")
                if attempt == RESTARTS - 1:
                    raise BrokerError(KEPT_CHANGING, retryable=True) from None
            except BaseException:
                # The owner learns the first reason.
                with suppress(BrokerError):
                    self._undo()
                raise
            else:
                self._statement(b"RELEASE SAVEPOINT celers_operation")
                return result
        raise AssertionError  # pragma: no cover

    def _undo(self) -> None:
        try:
            self._one(b"ROLLBACK TO SAVEPOINT celers_operation")
        except DriverError as error:
            self._gone(error)

    def _gone(self, error: DriverError) -> None:
        """Note that the savepoint is gone, and with it the transaction."""

    def _steps(self, steps: Steps[R]) -> R:
        reply: list[Result] | None = None
        failure: BaseException | None = None
        while True:
            try:
                if failure is not None:
                    error, failure = failure, None
                    packet = steps.throw(error)
                else:
                    packet = steps.send(reply) if reply is not None else next(steps)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            try:
                reply = self._packet(packet)
            except Exception as error:  # noqa: BLE001 - it is thrown into the operation
                failure = error

    def _packet(self, packet: Packet) -> list[Result]:
        results: list[Result] = []
        for index, text in enumerate(packet.statements):
            try:
                results.append(self._one(text))
            except DriverError as error:
                factory = (packet.errors or {}).get((index, error.errno))
                raise (factory() if factory is not None else map_error(error)) from error
        return results

    def _statement(self, text: bytes) -> Result:
        try:
            return self._one(text)
        except DriverError as error:
            raise map_error(error) from error


class TransactionRunner(_InsideRunner):
    """Runs operations on the connection of one `with_transaction`."""

    def __init__(self, core: Core, outer: BlockingRunner, transaction: Transaction) -> None:
        super().__init__(core, outer)
        self.transaction = transaction

    def _one(self, text: bytes) -> Result:
        return self.transaction.run_one(text)

    def _gone(self, error: DriverError) -> None:
        self.transaction.gone(error)


class CallerRunner(_InsideRunner):
    """Runs one operation on a connection of the caller, who commits.

    Nothing of the connection's session is changed and nothing is committed. A connection without an open
    transaction in autocommit mode would commit each statement by itself, so it is refused.
    """

    def __init__(self, core: Core, outer: BlockingRunner, connection: Any) -> None:
        super().__init__(core, outer)
        if not is_driver_connection(connection):
            raise ValidationError(
                f"connection={type(connection).__name__} is not a MySQLdb connection", parameter="connection"
            )
        if not str(connection.character_set_name()).startswith("utf8"):
            raise ConfigurationError(
                f"the connection's character set is {connection.character_set_name()}: use utf8mb4"
            )
        self.connection = connection

    def __enter__(self) -> Self:
        if not self.core.has_queue_id:
            self.outer.intern_queue()
        if self.connection.get_autocommit():
            try:
                self._one(b"SAVEPOINT celers_check")
                self._one(b"RELEASE SAVEPOINT celers_check")
            except DriverError as error:
                if error.errno == 1305:
                    raise ValidationError(
                        "connection= is in autocommit mode and has no open transaction: begin one first",
                        parameter="connection",
                    ) from None
                raise map_error(error) from error
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def _one(self, text: bytes) -> Result:
        return foreign_run(self.connection, text)
