"""The pool of an asyncio broker: connections for the tasks of one event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from celers import forks
from celers.db.driver import SLOW_SECS, DriverError
from celers.db.lines import Mail, ThreadConnection
from celers.db.pool import Counters, closed_error
from celers.errors import BrokerError

if TYPE_CHECKING:
    from celers.core import Core
    from celers.db.url import ConnectOptions
    from celers.model.config import PoolConfig

__all__ = ["AsyncPool"]

CLOSE_SECS = 5.0
CLOSE_POLL_SECS = 0.005


class AsyncPool(Counters):
    """Connections for the tasks of one event loop, first come, first served."""

    _idle: deque[Any]

    def __init__(self, options: ConnectOptions, config: PoolConfig) -> None:
        super().__init__(config)
        self.options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mail: Mail | None = None
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
        timer = loop.call_later(secs := self._acquire_secs(most_secs), self._give_up, waiter, secs)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
            elif waiter.exception() is None:
                # What was given meanwhile goes to the next in line.
                given = waiter.result()
                if given is None:
                    self._yield_place()
                else:
                    self.release(given)
            raise
        finally:
            timer.cancel()
            self._waited(time.monotonic() - started)

    def _give_up(self, waiter: asyncio.Future[ThreadConnection | None], secs: float) -> None:
        if not waiter.done():
            self._waiters.remove(waiter)
            waiter.set_exception(self._timeout(secs))

    def _next_waiter(self) -> asyncio.Future[ThreadConnection | None] | None:
        """Take the first in line who still waits; one that is being cancelled has not left the line yet."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    async def _open(
        self, loop: asyncio.AbstractEventLoop, read_timeout: float | None = None, single: bool = False
    ) -> ThreadConnection:
        if self._mail is None:
            self._mail = Mail(loop)
        connection = ThreadConnection(self._mail, self.options, read_timeout, single)
        try:
            await connection.open()
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
            await connection.send(b"SELECT 1", 1)
        except DriverError:
            return False
        return True

    def _yield_place(self) -> None:
        """Give up the right to one connection; the first in line may open one."""
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(None)
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
        elif (waiter := self._next_waiter()) is not None:
            waiter.set_result(connection)
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
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(closed_error())

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
