"""The pool of an asyncio broker: connections for the tasks of one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from celers import forks
from celers.db.driver import SLOW_SECS, DriverError
from celers.db.lines import Mail, Shift, Single, ThreadConnection
from celers.db.pool import Counters, closed_error
from celers.errors import BrokerError

if TYPE_CHECKING:
    from celers.core import Core
    from celers.db.url import ConnectOptions
    from celers.model.config import PoolConfig
    from celers.operation import Once
    from celers.wakeup import Ring

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
        self._line: deque[asyncio.Future[ThreadConnection | None] | Single] = deque()
        """Who waits for a connection; threads take their next single from it."""
        self._sweep: asyncio.TimerHandle | None = None
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

    async def acquire(self, most_secs: float | None = None, *, has_place: bool = False) -> ThreadConnection:
        """Take a connection; see `Pool.acquire`. With a place, open one."""
        loop = self._check()
        started = time.monotonic()
        connection = None if has_place else await self._take(loop, most_secs)
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
            self.yield_place()
            raise
        self._used.add(connection)
        self._recent.append(time.monotonic() - started)
        return connection

    async def _take(self, loop: asyncio.AbstractEventLoop, most_secs: float | None) -> ThreadConnection | None:
        """Take a free connection, or None and the right to open one."""
        if not self._line:
            if self._idle:
                return cast(ThreadConnection, self._idle.pop())
            if self._size < self.config.max_connections:
                self._size += 1
                return None
        waiter: asyncio.Future[ThreadConnection | None] = loop.create_future()
        self._line.append(waiter)
        started = time.monotonic()
        timer = loop.call_later(secs := self._acquire_secs(most_secs), self._give_up, waiter, secs)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._drop(waiter)
            elif waiter.exception() is None:
                # What was given meanwhile goes to the next in line.
                given = waiter.result()
                if given is None:
                    self.yield_place()
                else:
                    self.release(given)
            raise
        finally:
            timer.cancel()
            self._waited(time.monotonic() - started)

    def _give_up(self, waiter: asyncio.Future[ThreadConnection | None], secs: float) -> None:
        if not waiter.done():
            self._drop(waiter)
            waiter.set_exception(self._timeout(secs))

    def _drop(self, waiter: asyncio.Future[ThreadConnection | None]) -> None:
        """Take it out of the line, unless a thread that is to bring it a connection has done so."""
        with contextlib.suppress(ValueError):
            self._line.remove(waiter)

    def _next(self) -> asyncio.Future[ThreadConnection | None] | Single | None:
        """Take the first in line who still waits; one that is being cancelled has not left the line yet."""
        while True:
            try:
                entry = self._line.popleft()
            except IndexError:
                return None
            if entry.token if isinstance(entry, Single) else not entry.done():
                return entry

    def single(self, once: Once[Any], ring: Ring | None) -> Single | None:
        """Have a packet sent by the next free connection; None when a connection must be opened or asked first."""
        loop = self._check()
        now = time.monotonic()
        single = Single(once, ring, loop, now)
        if self._line or not self._idle:
            if self._size < self.config.max_connections:
                return None
            self._line.append(single)
            if self._sweep is None:
                self._sweep = loop.call_later(self.config.acquire_timeout_secs, self._give_up_singles)
            return single
        connection = self._idle[-1]
        if self._expired(connection.created_at, connection.last_used, now) or self._doubtful(connection.last_used, now):
            return None
        self._idle.pop()
        self._used.add(connection)
        self._begin(connection, single)
        return single

    def note(self, single: Single) -> None:
        """Count the wait of a single that was sent."""
        secs = max(0.0, single.started_at - single.queued_at)
        self._recent.append(secs)
        if secs:
            self._waited(secs)

    def _begin(self, connection: ThreadConnection, single: Single) -> None:
        connection.begin(Shift(connection, single, self._line, self._most_age, self._end))

    def _end(self, connection: ThreadConnection | None, waiter: asyncio.Future[ThreadConnection | None] | None) -> None:
        """Take a connection back whose thread has sent singles; without it, the caller of a failed one has it."""
        if connection is None:
            return
        if waiter is None or waiter.done():
            self.release(connection)
        elif self._closed:
            waiter.set_exception(closed_error())
            self.release(connection)
        else:
            self._used.discard(connection)
            waiter.set_result(connection)

    def _give_up_singles(self) -> None:
        """Refuse those that have waited for too long; one timer serves all."""
        secs = float(self.config.acquire_timeout_secs)
        now = time.monotonic()
        self._sweep = None
        for entry in self._line.copy():
            if isinstance(entry, Single) and entry.token:
                left = entry.queued_at + secs - now
                if left > 0:
                    self._sweep = asyncio.get_running_loop().call_later(left, self._give_up_singles)
                    return
                if entry.take():
                    self._waited(now - entry.queued_at)
                    entry.refuse(self._timeout(secs))

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

    def yield_place(self) -> None:
        """Give up the right to one connection; the first in line may open one."""
        entry = self._next()
        if entry is None:
            self._size -= 1
        elif isinstance(entry, Single):
            entry.refuse()
        else:
            entry.set_result(None)

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
            self.yield_place()
        elif (entry := self._next()) is None:
            self._idle.append(connection)
            while self._idle and self._expired(self._idle[0].created_at, self._idle[0].last_used, now):
                self._retire(self._idle.popleft())
                self._size -= 1
        elif isinstance(entry, Single):
            self._used.add(connection)
            self._begin(connection, entry)
        else:
            entry.set_result(connection)

    def discard(self, connection: ThreadConnection, *, lost: bool = True) -> None:
        """Close a connection that was lost, or that must not be used again."""
        if connection in self._slow:
            self._retire(connection)
            return
        if lost:
            self._failures += 1
            self._lost_at = time.monotonic()
        self._retire(connection)
        self.yield_place()

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
        if self._sweep is not None:
            self._sweep.cancel()
        while (entry := self._next()) is not None:
            if isinstance(entry, Single):
                entry.refuse(closed_error())
            else:
                entry.set_exception(closed_error())

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
