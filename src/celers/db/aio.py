"""Carries operations out for asyncio, with one thread for each connection.

Why a thread and not the socket: the client library reads ahead, so the second result of a packet is often in its
buffer already and the socket never becomes readable again. A thread that opens, uses and closes its connection costs
about the same and cannot hang the loop.

A caller may be cancelled at any time. A packet that is still queued is then not sent. A packet that was sent runs to
its end, and so does its operation, on a task of its own, before the connection is used again; what a cancelled claim
brought is given back.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from celers.db.driver import SLOW_SECS, Connection, DriverError, Result, ServerInfo, connect
from celers.db.pool import PING_AFTER_IDLE_SECS, Counters, closed_error
from celers.db.session import Acquire, Discard, Request, Send, Session, Sleep, drive
from celers.errors import BrokerError, ValidationError
from celers.operation import QueueUnknown, repeatable

if TYPE_CHECKING:
    from celers.components.base import Component
    from celers.core import Core
    from celers.db.url import ConnectOptions
    from celers.model.config import PoolConfig
    from celers.operation import Operation, Steps

__all__ = ["AsyncPool", "AsyncRunner"]

R = TypeVar("R")

CLOSE_SECS = 5.0


class _Job:
    """One piece of work for a connection's thread."""

    __slots__ = ("call", "future", "token")

    def __init__(self, call: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self.call = call
        self.future = future
        # Whoever pops the token decides: the thread that starts the job, or the loop that withdraws it.
        self.token = [True]

    def take(self) -> bool:
        try:
            return self.token.pop()
        except IndexError:
            return False


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class ThreadConnection:
    """A connection that lives on a thread of its own; used from the event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: ConnectOptions, read_timeout: float | None = None
    ) -> None:
        self._loop = loop
        self._read_timeout = read_timeout
        self._options = options
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._done: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._serve, name="celers-connection", daemon=True)
        self.broken = False
        self.created_at = self.last_used = time.monotonic()
        self.server: ServerInfo
        self.thread_id = 0
        self._thread.start()

    def submit(self, call: Callable[[], Any]) -> _Job:
        """Queue a call for the thread; the job's future gets its result."""
        job = _Job(call, self._loop.create_future())
        self._jobs.put(job)
        return job

    def open(self) -> _Job:
        """Queue the opening of the connection."""
        return self.submit(self._open)

    def send(self, text: bytes, count: int) -> _Job:
        """Queue one packet."""
        return self.submit(lambda: self._run(text, count))

    def _open(self) -> None:
        connection = connect(self._options, read_timeout=self._read_timeout)
        self._connection = connection
        self.server, self.thread_id = connection.server, connection.thread_id
        self.created_at = self.last_used = connection.created_at

    def _run(self, text: bytes, count: int) -> list[Result]:
        connection = self._connection
        if connection is None:
            raise DriverError(2006, "the connection is closed", -1)
        try:
            return connection.run(text, count)
        finally:
            self.broken = connection.broken
            self.last_used = connection.last_used

    def _serve(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                break
            if not job.take():
                continue
            result: Any = None
            error: BaseException | None = None
            try:
                result = job.call()
            except BaseException as raised:  # noqa: BLE001 - it belongs to whoever awaits the job
                error = raised
            self._tell(job.future, result, error)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._tell(self._done, None, None)

    def _tell(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, future, result, error)
        except RuntimeError:
            # The loop was closed without closing the broker: nobody waits for the answer any more.
            self.broken = True

    def leave(self) -> asyncio.Future[None]:
        """Ask the thread to close the connection and end; the future tells when it has."""
        self.broken = True
        self._jobs.put(None)
        return self._done

    def shutdown(self) -> None:
        """Break the socket under a thread that does not end."""
        if self._connection is not None:
            self._connection.shutdown_socket()


class AsyncPool(Counters):
    """Connections for the tasks of one event loop."""

    _idle: deque[Any]

    def __init__(self, options: ConnectOptions, config: PoolConfig) -> None:
        super().__init__(config)
        self.options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._leaving: set[asyncio.Future[None]] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._cores: list[Core] = []

    def on_connect(self, core: Core) -> None:
        """Tell this core what a new connection learns about the server."""
        self._cores.append(core)

    def _check(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise closed_error()
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid():
            raise BrokerError("an AsyncMysqlBroker cannot be used after a fork: make a new one in the child")
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise BrokerError("an AsyncMysqlBroker belongs to the event loop that used it first: make one per loop")
        return loop

    async def acquire(self) -> ThreadConnection:
        """Take a connection; see `Pool.acquire`."""
        loop = self._check()
        deadline: float | None = None
        started = 0.0
        while True:
            if self._closed:
                raise closed_error()
            if self._idle:
                connection: ThreadConnection = self._idle.pop()
                now = time.monotonic()
                stale = self._expired(connection.created_at, connection.last_used, now)
                if not stale and now - connection.last_used > PING_AFTER_IDLE_SECS:
                    stale = not await self._alive(connection)
                if not stale:
                    break
                self._drop(connection)
                continue
            if self._size < self.config.max_connections:
                self._size += 1
                connection = await self._open(loop)
                break
            now = time.monotonic()
            if deadline is None:
                started, deadline = now, now + float(self.config.acquire_timeout_secs)
            if now >= deadline:
                self._waited(now - started)
                raise self._timeout()
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            try:
                await asyncio.wait({waiter}, timeout=deadline - now)
            except BaseException:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # this turn goes to the next in line
                raise
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        if deadline is not None:
            self._waited(time.monotonic() - started)
        return connection

    async def _open(self, loop: asyncio.AbstractEventLoop, read_timeout: float | None = None) -> ThreadConnection:
        connection = ThreadConnection(loop, self.options, read_timeout)
        try:
            await asyncio.shield(connection.open().future)
        except BaseException:
            self._failures += 1
            self._drop(connection)
            raise
        for core in self._cores:
            core.server = connection.server
        return connection

    async def _alive(self, connection: ThreadConnection) -> bool:
        try:
            await asyncio.shield(connection.send(b"SELECT 1", 1).future)
        except DriverError:
            return False
        except BaseException:
            self._drop(connection)
            raise
        return True

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _drop(self, connection: ThreadConnection) -> None:
        self._size -= 1
        done = connection.leave()
        self._leaving.add(done)
        done.add_done_callback(self._leaving.discard)
        self._wake()

    def release(self, connection: ThreadConnection) -> None:
        """Give a connection back."""
        if (
            connection.broken
            or self._closed
            or self._expired(connection.created_at, connection.last_used, time.monotonic())
        ):
            self._drop(connection)
            return
        self._idle.append(connection)
        self._wake()

    def discard(self, connection: ThreadConnection, *, counted: bool = True) -> None:
        """Close a connection that was lost, or that stood outside the pool."""
        if counted:
            self._failures += 1
        else:
            self._size += 1  # it never was one of the pool's
        self._drop(connection)

    async def open_slow(self) -> ThreadConnection:
        """Open a connection outside the pool for statements that may take long."""
        self._size += 1
        try:
            return await self._open(self._check(), SLOW_SECS)
        finally:
            self._size -= 1

    async def warm_up(self) -> int:
        """Open connections until the minimum is open at the same time; return how many are open."""
        taken: list[ThreadConnection] = []
        try:
            while self.size < self.config.min_connections:
                taken.append(await self.acquire())
        finally:
            for connection in taken:
                self.release(connection)
        return self.size

    async def close(self) -> None:
        """Wait for operations that run on, then close all connections."""
        self._closed = True
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=CLOSE_SECS)
        while self._idle:
            self._drop(self._idle.pop())
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        leaving = set(self._leaving)
        if leaving:
            await asyncio.wait(leaving, timeout=CLOSE_SECS)


class AsyncRunner:
    """Runs operations on connections of an `AsyncPool`."""

    foreign = False
    is_async = True

    def __init__(self, core: Core, pool: AsyncPool) -> None:
        self.core = core
        self.pool = pool

    def bind(self, operation: Operation[..., R], component: Component[Any]) -> Callable[..., Coroutine[Any, Any, R]]:
        """Make the coroutine function that users see for one operation of one component."""
        steps, kind, repeat = operation.steps, operation.kind, operation.repeat_unknown
        undo = operation.give_back

        async def call(*args: Any, **kwargs: Any) -> R:
            if kwargs.get("connection") is not None:
                raise ValidationError(
                    "connection= takes a blocking MySQLdb connection: use MysqlBroker on the thread that owns it",
                    parameter="connection",
                )
            args, kwargs = repeatable(args, kwargs)
            return_ = getattr(component, undo) if undo is not None else None
            make = lambda: steps(component, *args, **kwargs)  # noqa: E731 - typed by its use
            try:
                return await self.run(make, kind, repeat, return_, slow=operation.slow)
            except QueueUnknown:
                await self.intern_queue()
            return await self.run(make, kind, repeat, return_, slow=operation.slow)

        return call

    async def intern_queue(self) -> None:
        """Find or make the queue's number, in a transaction of its own."""
        from celers.components.queues import Queues

        await self.run(lambda: Queues.intern.steps(Queues(self.core, self)), "plain", True)

    async def run(
        self,
        make: Callable[[], Steps[R]],
        kind: Any,
        repeat_unknown: bool,
        undo: Callable[[R], Coroutine[Any, Any, object]] | None = None,
        *,
        slow: bool = False,
    ) -> R:
        """Run one operation to its end, which may come after this caller was cancelled."""
        session = Session(slow=slow)
        requests = drive(make, kind, session, repeat_unknown=repeat_unknown)
        return await self._loop(requests, session, None, undo)

    async def _loop(
        self,
        requests: Generator[Request, Any, R],
        session: Session,
        pending: asyncio.Future[Any] | None,
        undo: Callable[[R], Coroutine[Any, Any, object]] | None,
    ) -> R:
        adopted = False
        answer: Any = None
        failure: BaseException | None = None
        try:
            while True:
                if pending is None:
                    request = requests.throw(failure) if failure is not None else requests.send(answer)
                    failure = None
                    if type(request) is Send:
                        job = request.connection.send(request.text, request.count)
                        pending = job.future
                        try:
                            answer = await asyncio.shield(pending)
                        except asyncio.CancelledError:
                            if job.take():
                                session.in_flight = False  # it never left
                                raise
                            adopted = True
                            self._adopt(requests, session, pending, undo)
                            raise
                        except Exception as error:  # noqa: BLE001 - it is thrown into the operation
                            failure = error
                        pending = None
                        continue
                    try:
                        if type(request) is Acquire:
                            answer = await (self.pool.open_slow() if session.slow else self.pool.acquire())
                        elif type(request) is Discard:
                            self.pool.discard(request.connection, counted=not session.slow)
                        elif type(request) is Sleep:
                            await asyncio.sleep(request.secs)
                    except Exception as error:  # noqa: BLE001 - it is thrown into the operation
                        failure = error
                else:
                    try:
                        answer = await pending
                    except Exception as error:  # noqa: BLE001 - it is thrown into the operation
                        failure = error
                    pending = None
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            if not adopted:
                self._clean(requests, session)

    def _clean(self, requests: Generator[Request, Any, Any], session: Session) -> None:
        connection = session.connection
        if connection is not None:
            if session.slow:
                self.pool.discard(connection, counted=False)
            elif session.in_transaction or session.in_flight:
                self.pool.discard(connection)
            else:
                self.pool.release(connection)
        requests.close()

    def _adopt(
        self,
        requests: Generator[Request, Any, R],
        session: Session,
        pending: asyncio.Future[Any],
        undo: Callable[[R], Coroutine[Any, Any, object]] | None,
    ) -> None:
        """Let an operation whose caller was cancelled run to its end, and give back what it brought."""

        async def finish() -> None:
            result = await self._loop(requests, session, pending, undo)
            if undo is not None and result:
                await undo(result)

        task = asyncio.get_running_loop().create_task(finish(), name="celers-cancelled-operation")
        self.pool.tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self.pool.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller is gone; the operation has rolled back what it could not finish
