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
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celers import forks
from celers.db.driver import SLOW_SECS, Connection, DriverError, Result, ServerInfo, connect, map_error
from celers.db.pool import Counters, closed_error
from celers.db.session import Acquire, Discard, Request, Send, Session, Sleep, advance, drive
from celers.errors import BrokerError, ValidationError
from celers.operation import QueueUnknown, repeatable

if TYPE_CHECKING:
    from celers.components.base import Component
    from celers.core import Core
    from celers.db.url import ConnectOptions
    from celers.model.config import PoolConfig
    from celers.operation import Operation, Steps, Stream

__all__ = ["AsyncPool", "AsyncRunner"]

R = TypeVar("R")

CLOSE_SECS = 5.0
CLOSE_POLL_SECS = 0.005

logger = logging.getLogger("celers.asyncio")


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


class _Line:
    """The thread's side of a connection: what the thread needs, and nothing that keeps its user alive."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: ConnectOptions, read_timeout: float | None, single: bool
    ) -> None:
        self.loop = loop
        self.options = options
        self.read_timeout = read_timeout
        self.single = single
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.connection: Connection | None = None
        self.done: asyncio.Future[None] = loop.create_future()
        self.broken = False
        self.created_at = self.last_used = time.monotonic()

    def open(self) -> None:
        connection = connect(self.options, read_timeout=self.read_timeout, single=self.single)
        self.connection = connection
        self.created_at = self.last_used = connection.created_at

    def run(self, text: bytes, count: int, needed: int | None = None) -> list[Result]:
        connection = self.connection
        if connection is None:
            raise DriverError(2006, "the connection is closed", -1)
        try:
            return connection.run(text, count) if needed is None else connection.run(text, count, needed)
        finally:
            self.broken = self.broken or connection.broken
            self.last_used = connection.last_used

    def serve(self) -> None:
        """Run jobs until the sentinel comes, then close."""
        while True:
            job = self.jobs.get()
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
            self.tell(job.future, result, error)
            del job, result, error  # nothing of it is kept while waiting for the next
        if self.connection is not None:
            self.connection.close()
        self.tell(self.done, None, None)

    def tell(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        try:
            self.loop.call_soon_threadsafe(_resolve, future, result, error)
        except RuntimeError:
            # The loop was closed without closing the broker: nobody waits for the answer any more.
            self.broken = True


class ThreadConnection:
    """A connection that lives on a thread of its own; used from the event loop.

    The thread ends when it is told to, and when nobody has this object any more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: ConnectOptions,
        read_timeout: float | None = None,
        single: bool = False,
    ) -> None:
        self._loop = loop
        self._line = _Line(loop, options, read_timeout, single)
        self._thread = threading.Thread(target=self._line.serve, name="celers-connection", daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        """End the thread of a connection that was forgotten."""
        line = getattr(self, "_line", None)
        if line is not None:
            line.jobs.put(None)

    @property
    def broken(self) -> bool:
        """Must it not be used again?"""
        return self._line.broken

    @property
    def created_at(self) -> float:
        """When it was opened, by the monotonic clock."""
        return self._line.created_at

    @property
    def last_used(self) -> float:
        """When its last answer came, by the monotonic clock."""
        return self._line.last_used

    @property
    def server(self) -> ServerInfo:
        """What it learned about the server."""
        assert self._line.connection is not None
        return self._line.connection.server

    @property
    def thread_id(self) -> int:
        """Its number at the server."""
        assert self._line.connection is not None
        return self._line.connection.thread_id

    def submit(self, call: Callable[[], Any]) -> _Job:
        """Queue a call for the thread; the job's future gets its result."""
        job = _Job(call, self._loop.create_future())
        self._line.jobs.put(job)
        return job

    def open(self) -> _Job:
        """Queue the opening of the connection."""
        return self.submit(self._line.open)

    @property
    def tail_errno(self) -> int:
        """Error number of the last packet's statement that was allowed to fail; 0 when none did."""
        connection = self._line.connection
        return 0 if connection is None else connection.tail_errno

    def send(self, text: bytes, count: int, needed: int | None = None) -> _Job:
        """Queue one packet; statements behind the first `needed` may fail."""
        line = self._line
        return self.submit(lambda: line.run(text, count, needed))

    def leave(self) -> asyncio.Future[None]:
        """Ask the thread to close the connection and end; the future tells when it has."""
        self._line.broken = True
        self._line.jobs.put(None)
        return self._line.done

    def join(self) -> None:
        """Wait for a thread that has said that it is done."""
        self._thread.join(1.0)

    def shutdown(self) -> None:
        """Break the socket under a thread that does not end."""
        connection = self._line.connection
        if connection is not None:
            connection.shutdown_socket()


class AsyncPool(Counters):
    """Connections for the tasks of one event loop, first come, first served."""

    _idle: deque[Any]

    def __init__(self, options: ConnectOptions, config: PoolConfig) -> None:
        super().__init__(config)
        self.options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_child = False
        self._waiters: deque[asyncio.Future[ThreadConnection | None]] = deque()
        self._leaving: dict[asyncio.Future[None], ThreadConnection] = {}
        self._slow: set[ThreadConnection] = set()
        self._used: set[ThreadConnection] = set()
        self._closing = False
        self._closer: asyncio.Task[Any] | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        """Operations whose callers were cancelled."""
        self._cores: list[Core] = []
        forks.watch(self)

    def forked(self) -> None:
        """Be of no use in a child: its threads are not there."""
        self._in_child = True

    def on_connect(self, core: Core) -> None:
        """Tell this core what a new connection learns about the server."""
        self._cores.append(core)

    def _check(self) -> asyncio.AbstractEventLoop:
        if self._in_child:
            raise BrokerError("an AsyncMysqlBroker cannot be used after a fork: make a new one in the child")
        loop = asyncio.get_running_loop()
        if self._closed:
            raise closed_error()
        if self._closing:
            # Whoever closes still settles what is held, and so do operations that outlived their callers.
            current = asyncio.current_task()
            if current is not self._closer and current not in self.tasks:
                raise closed_error()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise BrokerError("an AsyncMysqlBroker belongs to the event loop that used it first: make one per loop")
        return loop

    async def acquire(self, most_secs: float | None = None) -> ThreadConnection:
        """Take a connection; see `Pool.acquire`."""
        loop = self._check()
        started = time.monotonic()
        connection = await self._take(loop, most_secs)
        try:
            while connection is not None:
                now = time.monotonic()
                if not self._expired(connection.created_at, connection.last_used, now) and (
                    not self._doubtful(connection.last_used, now) or await self._alive(connection)
                ):
                    break
                self._retire(connection)
                connection = None
                if self._idle:
                    connection = self._idle.pop()
                    self._size -= 1
            if connection is None:
                connection = await self._open(loop)
        except BaseException:
            if connection is not None:
                self._retire(connection)
            self._yield_place()
            raise
        self._used.add(connection)
        self._recent.append(time.monotonic() - started)
        return connection

    async def _take(self, loop: asyncio.AbstractEventLoop, most_secs: float | None) -> ThreadConnection | None:
        """Take a free connection, or None and the right to open one."""
        if not self._waiters:
            if self._idle:
                return cast(ThreadConnection, self._idle.pop())
            if self._size < self.config.max_connections:
                self._size += 1
                return None
        waiter: asyncio.Future[ThreadConnection | None] = loop.create_future()
        self._waiters.append(waiter)
        started = time.monotonic()
        secs = self._acquire_secs(most_secs)
        try:
            await asyncio.wait({waiter}, timeout=secs)
        except BaseException:
            if not waiter.done():
                self._waiters.remove(waiter)
            elif waiter.exception() is None:
                # What was given meanwhile goes to the next in line.
                given = waiter.result()
                if given is None:
                    self._yield_place()
                else:
                    self.release(given)
            raise
        self._waited(time.monotonic() - started)
        if not waiter.done():
            self._waiters.remove(waiter)
            raise self._timeout(secs)
        return waiter.result()

    async def _open(
        self, loop: asyncio.AbstractEventLoop, read_timeout: float | None = None, single: bool = False
    ) -> ThreadConnection:
        connection = ThreadConnection(loop, self.options, read_timeout, single)
        try:
            await asyncio.shield(connection.open().future)
        except BaseException as error:
            if isinstance(error, Exception):
                self._failures += 1
            self._retire(connection)
            raise
        for core in self._cores:
            core.server = connection.server
        return connection

    async def _alive(self, connection: ThreadConnection) -> bool:
        try:
            await asyncio.shield(connection.send(b"SELECT 1", 1).future)
        except DriverError:
            return False
        return True

    def _yield_place(self) -> None:
        """Give up the right to one connection; the first in line may open one."""
        if self._waiters:
            self._waiters.popleft().set_result(None)
        else:
            self._size -= 1

    def _retire(self, connection: ThreadConnection) -> None:
        """Let a connection's thread close it and end."""
        self._used.discard(connection)
        self._slow.discard(connection)
        done = connection.leave()
        self._leaving[done] = connection
        done.add_done_callback(self._left)

    def _left(self, done: asyncio.Future[None]) -> None:
        connection = self._leaving.pop(done, None)
        if connection is not None:
            connection.join()

    def release(self, connection: ThreadConnection) -> None:
        """Give a connection back."""
        now = time.monotonic()
        self._used.discard(connection)
        if self._closed or connection.broken or self._expired(connection.created_at, connection.last_used, now):
            self._retire(connection)
            self._yield_place()
        elif self._waiters:
            self._waiters.popleft().set_result(connection)
        else:
            self._idle.append(connection)
            while self._idle and self._expired(self._idle[0].created_at, self._idle[0].last_used, now):
                self._retire(self._idle.popleft())
                self._size -= 1

    def discard(self, connection: ThreadConnection, *, lost: bool = True) -> None:
        """Close a connection that was lost, or that must not be used again."""
        if connection in self._slow:
            self._retire(connection)
            return
        if lost:
            self._failures += 1
            self._lost_at = time.monotonic()
        self._retire(connection)
        self._yield_place()

    async def open_slow(self, *, single: bool = False) -> ThreadConnection:
        """Open a connection outside the pool for statements that may take long."""
        connection = await self._open(self._check(), SLOW_SECS, single)
        self._slow.add(connection)
        return connection

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

    async def finish(self) -> None:
        """Take no new operations, and wait for those under way."""
        self._closing = True
        self._closer = asyncio.current_task()
        self._refuse_waiters()
        deadline = time.monotonic() + CLOSE_SECS
        while (self.tasks - {self._closer} or self._used or self._slow) and time.monotonic() < deadline:
            if self._in_child:
                return
            await asyncio.sleep(CLOSE_POLL_SECS)

    def _refuse_waiters(self) -> None:
        while self._waiters:
            self._waiters.popleft().set_exception(closed_error())

    async def close(self) -> None:
        """Close all connections; the sockets of threads that do not end in time are broken."""
        self._closed = self._closing = True
        self._refuse_waiters()
        if self._in_child:
            self._idle.clear()
            return
        while self._idle:
            self._retire(self._idle.pop())
            self._size -= 1
        if self._leaving:
            await asyncio.wait(set(self._leaving), timeout=CLOSE_SECS)
        stuck = [*self._leaving.values(), *self._used, *self._slow]
        for connection in stuck:
            connection.shutdown()
        if self._leaving:
            await asyncio.wait(set(self._leaving), timeout=1.0)


class AsyncRunner:
    """Runs operations on connections of an `AsyncPool`."""

    foreign = False
    is_async = True

    def __init__(self, core: Core, pool: AsyncPool) -> None:
        self.core = core
        self.pool = pool
        self.closed = False

    def bind(self, operation: Operation[..., R], component: Component[Any]) -> Callable[..., Coroutine[Any, Any, R]]:
        """Make the coroutine function that users see for one operation of one component."""
        steps, kind, repeat = operation.steps, operation.kind, operation.repeat_unknown
        undo, slow, single = operation.give_back, operation.slow, operation.single

        async def call(*args: Any, **kwargs: Any) -> R:
            if self.closed:
                raise closed_error()
            if kwargs.get("connection") is not None:
                raise ValidationError(
                    "connection= takes a blocking MySQLdb connection: use MysqlBroker on the thread that owns it",
                    parameter="connection",
                )
            args, kwargs = repeatable(args, kwargs)
            return_ = getattr(component, undo) if undo is not None else None
            make = lambda: steps(component, *args, **kwargs)  # noqa: E731 - typed by its use
            try:
                return await self.run(make, kind, repeat, return_, slow=slow, single=single)
            except QueueUnknown:
                await self.intern_queue()
            return await self.run(make, kind, repeat, return_, slow=slow, single=single)

        if operation.meter is None:
            return call
        times = self.core.meters[operation.meter]

        async def metered(*args: Any, **kwargs: Any) -> R:
            started = time.perf_counter()
            result = await call(*args, **kwargs)
            times.append(time.perf_counter() - started)
            return result

        return metered

    def bind_stream(self, stream: Stream[..., R], component: Component[Any]) -> Callable[..., AsyncIterator[R]]:
        """Make the asyncio generator function that users see for one stream of one component."""

        async def values(*args: Any, **kwargs: Any) -> AsyncIterator[R]:
            if self.closed:
                raise closed_error()
            steps = stream.steps(component, *args, **kwargs)
            try:
                request = next(steps, None)  # bad parameters are refused before anything is opened
            except QueueUnknown:
                await self.intern_queue()
                steps = stream.steps(component, *args, **kwargs)
                request = next(steps, None)
            connection: ThreadConnection | None = None
            try:
                while request is not None:
                    if isinstance(request, list):
                        for value in request:
                            yield value
                        request = next(steps, None)
                        continue
                    if self.closed:
                        raise closed_error()
                    if connection is None:
                        connection = await self.pool.open_slow()
                    job = connection.send(b";".join(request.statements), len(request.statements))
                    reply = await asyncio.shield(job.future)
                    request = advance(steps, reply)
            except DriverError as error:
                raise map_error(error) from error
            finally:
                steps.close()
                if connection is not None:
                    self.pool.discard(connection, lost=False)

        return values

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
        single: bool = False,
    ) -> R:
        """Run one operation to its end, which may come after this caller was cancelled."""
        session = Session(slow=slow, single=single)
        requests = drive(make, kind, session, repeat_unknown=repeat_unknown, ring=self.core.ring)
        return await self._loop(requests, session, undo)

    async def _loop(
        self,
        requests: Generator[Request, Any, R],
        session: Session,
        undo: Callable[[R], Coroutine[Any, Any, object]] | None,
        request: Request | None = None,
        pending: asyncio.Future[Any] | None = None,
    ) -> R:
        """Fulfil the requests of one operation.

        Parameters
        ----------
        request, pending
            Of an operation whose caller was cancelled: where to go on. It is not given up any more.
        """
        adopted = request is not None
        handed_over = sent = False
        answer: Any = None
        failure: BaseException | None = None
        try:
            while True:
                if request is None:
                    request = requests.throw(failure) if failure is not None else requests.send(answer)
                    failure = None
                job: _Job | None = None
                try:
                    if type(request) is Send:
                        if pending is None:
                            session.in_flight = True
                            job = request.connection.send(request.text, request.count, request.needed)
                            pending = job.future
                        answer = await asyncio.shield(pending)
                    elif type(request) is Acquire:
                        answer = await (
                            self.pool.open_slow(single=session.single) if session.slow else self.pool.acquire()
                        )
                        session.connection = answer
                    elif type(request) is Discard:
                        self.pool.discard(request.connection)
                    elif type(request) is Sleep:
                        await asyncio.sleep(request.secs)
                except asyncio.CancelledError:
                    if adopted:
                        raise  # the loop itself is ending
                    if job is not None and job.take():
                        session.in_flight, pending = False, None  # it never left
                    if pending is None and not sent:
                        raise
                    handed_over = True
                    self._adopt(requests, session, undo, request, pending)
                    raise
                except Exception as error:  # noqa: BLE001 - it is thrown into the operation
                    failure = error
                sent = sent or job is not None
                request = pending = None
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            failure = None  # its traceback holds this frame
            if not handed_over:
                self._clean(requests, session)

    def _clean(self, requests: Generator[Request, Any, Any], session: Session) -> None:
        connection = session.connection
        if connection is not None:
            if session.slow or session.in_transaction or session.in_flight:
                self.pool.discard(connection, lost=connection.broken)
            else:
                self.pool.release(connection)
        requests.close()

    def _adopt(
        self,
        requests: Generator[Request, Any, R],
        session: Session,
        undo: Callable[[R], Coroutine[Any, Any, object]] | None,
        request: Request,
        pending: asyncio.Future[Any] | None,
    ) -> None:
        """Let an operation whose caller was cancelled run to its end, and give back what it brought."""

        async def finish() -> None:
            result = await self._loop(requests, session, undo, request, pending)
            if undo is not None and result:
                await undo(result)

        task = asyncio.get_running_loop().create_task(finish(), name="celers-cancelled-operation")
        self.pool.tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self.pool.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The caller is gone; the operation has rolled back what it could not finish.
            logger.warning("an operation whose caller was cancelled failed: %s", error)
