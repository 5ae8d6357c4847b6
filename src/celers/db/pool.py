"""A pool of connections for threads, and the counters that both pools share."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from celers import forks
from celers.db.driver import Connection, DriverError, connect
from celers.errors import BrokerError, PoolTimeoutError

if TYPE_CHECKING:
    from celers.db.url import ConnectOptions
    from celers.model.config import PoolConfig

__all__ = ["ConnectionPool", "Counters", "Pool"]

PING_AFTER_IDLE_SECS = 60.0
RECENT_ACQUISITIONS = 1000


class ConnectionPool(Protocol):
    """What `broker.pool()` shows of a pool; read-only."""

    @property
    def size(self) -> int:
        """Open connections."""

    @property
    def idle(self) -> int:
        """Open connections that nobody uses now."""

    @property
    def active(self) -> int:
        """Connections in use."""

    @property
    def max_connections(self) -> int:
        """Upper limit of `size`."""

    @property
    def min_connections(self) -> int:
        """Idle connections up to this number are kept when they grow old."""

    @property
    def waits(self) -> int:
        """How often a caller had to wait for a connection."""

    @property
    def avg_wait_ms(self) -> float:
        """Mean time of those waits in milliseconds; 0.0 without any."""

    @property
    def failures(self) -> int:
        """Connections that could not be opened or were lost."""


class Counters:
    """Numbers that both kinds of pool keep; see `ConnectionPool` for their meaning."""

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self._size = 0
        self._idle: deque[Connection] = deque()
        self._waits = 0
        self._waited_secs = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT_ACQUISITIONS)
        self._failures = 0
        self._closed = False
        forever = float("inf")
        self._most_age = forever if config.max_lifetime_secs is None else float(config.max_lifetime_secs)
        self._most_idle = forever if config.idle_timeout_secs is None else float(config.idle_timeout_secs)
        # When a connection was lost last: older idle ones may have gone the same way.
        self._lost_at = float("-inf")

    @property
    def size(self) -> int:
        """Open connections."""
        return self._size

    @property
    def idle(self) -> int:
        """Open connections that nobody uses now."""
        return len(self._idle)

    @property
    def active(self) -> int:
        """Connections in use."""
        return self._size - len(self._idle)

    @property
    def max_connections(self) -> int:
        """Upper limit of `size`."""
        return self.config.max_connections

    @property
    def min_connections(self) -> int:
        """Idle connections up to this number are kept when they grow old."""
        return self.config.min_connections

    @property
    def waits(self) -> int:
        """How often a caller had to wait for a connection."""
        return self._waits

    @property
    def avg_wait_ms(self) -> float:
        """Mean time of those waits in milliseconds; 0.0 without any."""
        return self._waited_secs * 1000.0 / self._waits if self._waits else 0.0

    @property
    def recent_wait_ms(self) -> float | None:
        """Mean time in milliseconds that the last 1000 callers waited for their connection; None before the first."""
        recent = tuple(self._recent)
        return sum(recent) * 1000.0 / len(recent) if recent else None

    @property
    def failures(self) -> int:
        """Connections that could not be opened or were lost."""
        return self._failures

    @property
    def closed(self) -> bool:
        """Has the pool been closed?"""
        return self._closed

    def _waited(self, secs: float) -> None:
        self._waits += 1
        self._waited_secs += secs

    def _expired(self, created_at: float, last_used: float, now: float) -> bool:
        """May this connection be closed for its age, keeping the minimum?"""
        if now - created_at > self._most_age:
            return True
        return now - last_used > self._most_idle and self._size > self.config.min_connections

    def _doubtful(self, last_used: float, now: float) -> bool:
        """Should this connection be asked whether it still lives before it is used?"""
        return last_used <= self._lost_at or now - last_used > PING_AFTER_IDLE_SECS

    def _acquire_secs(self, most: float | None) -> float:
        """How long a caller may wait, who perhaps said less than the configuration."""
        configured = float(self.config.acquire_timeout_secs)
        return configured if most is None else min(configured, most)

    def _timeout(self, secs: float) -> PoolTimeoutError:
        return PoolTimeoutError(
            f"no connection became free within {secs:g} s: all"
            f" {self.config.max_connections} are in use; raise max_connections or use fewer threads"
        )


def closed_error() -> BrokerError:
    """The error of any use after `close`."""
    return BrokerError("the broker is closed: make a new one")


class _Turn:
    """A thread that waits for a connection; whoever has one gives it to the first in line."""

    __slots__ = ("connection", "given", "wake")

    def __init__(self) -> None:
        self.wake = threading.Lock()
        self.wake.acquire()
        self.given = False
        self.connection: Connection | None = None
        """What was given; None with `given` is the right to open one."""


class Pool(Counters):
    """Connections for blocking callers on any thread, first come, first served.

    After a fork the child starts with an empty pool of its own; the parent's connections are left alone.
    """

    def __init__(self, options: ConnectOptions, config: PoolConfig) -> None:
        super().__init__(config)
        self.options = options
        self._lock = threading.Lock()
        self._turns: deque[_Turn] = deque()
        forks.watch(self)

    def forked(self) -> None:
        """Begin without connections and without the threads that waited."""
        self._lock = threading.Lock()
        self._turns.clear()
        self._idle.clear()
        self._size = 0

    def acquire(self, most_secs: float | None = None) -> Connection:
        """Take a connection, opening one when none is free.

        Parameters
        ----------
        most_secs : float, optional
            Wait no longer than this, when `acquire_timeout_secs` is longer.

        Raises
        ------
        PoolTimeoutError
            All connections stayed in use for `acquire_timeout_secs`.
        BrokerConnectionError
            The server cannot be reached.
        """
        started = time.monotonic()
        connection = self._take(most_secs)
        try:
            while connection is not None:
                now = time.monotonic()
                if not self._expired(connection.created_at, connection.last_used, now) and (
                    not self._doubtful(connection.last_used, now) or _alive(connection)
                ):
                    self._recent.append(now - started)
                    return connection
                connection.close()
                with self._lock:
                    # One that was opened or used since the loss is better than opening another.
                    connection = self._idle.pop() if self._idle else None
                    if connection is not None:
                        self._size -= 1
            connection = connect(self.options)
            self._recent.append(time.monotonic() - started)
            return connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            with self._lock:
                if isinstance(error, Exception):
                    self._failures += 1
                self._yield_place()
            raise

    def _take(self, most_secs: float | None) -> Connection | None:
        """Take a free connection, or None and the right to open one."""
        with self._lock:
            if self._closed:
                raise closed_error()
            if not self._turns:
                if self._idle:
                    return self._idle.pop()
                if self._size < self.config.max_connections:
                    self._size += 1
                    return None
            turn = _Turn()
            self._turns.append(turn)
        started = time.monotonic()
        secs = self._acquire_secs(most_secs)
        try:
            turn.wake.acquire(timeout=secs)
        except BaseException:
            self._leave(turn, pass_on=True)
            raise
        self._leave(turn, pass_on=False)
        with self._lock:
            self._waited(time.monotonic() - started)
        if not turn.given:
            raise closed_error() if self._closed else self._timeout(secs)
        return turn.connection

    def _leave(self, turn: _Turn, *, pass_on: bool) -> None:
        """Step out of the line; what was given meanwhile goes to the next when it is not wanted."""
        with self._lock:
            if not turn.given:
                if turn in self._turns:
                    self._turns.remove(turn)
                return
            if not pass_on:
                return
            if turn.connection is None:
                self._yield_place()
                return
        self.release(turn.connection)

    def _yield_place(self) -> None:
        """Give up the right to one connection; the first in line may open one. The lock is held."""
        if self._turns and not self._closed:
            turn = self._turns.popleft()
            turn.given = True
            turn.wake.release()
        else:
            self._size -= 1

    def release(self, connection: Connection) -> None:
        """Give a connection back; it is closed instead when it is broken, too old, or the pool is closed."""
        if connection.pid != os.getpid():
            return
        now = time.monotonic()
        old: list[Connection] = []
        with self._lock:
            if self._closed or connection.broken or self._expired(connection.created_at, connection.last_used, now):
                old.append(connection)
                self._yield_place()
            elif self._turns:
                turn = self._turns.popleft()
                turn.given, turn.connection = True, connection
                turn.wake.release()
            else:
                self._idle.append(connection)
                # The ones used least stand at the left; nobody takes them while the load is low.
                while self._idle and self._expired(self._idle[0].created_at, self._idle[0].last_used, now):
                    old.append(self._idle.popleft())
                    self._size -= 1
        for connection in old:
            connection.close()

    def discard(self, connection: Connection, *, lost: bool = True) -> None:
        """Close a connection that was lost, or that must not be used again."""
        if connection.pid == os.getpid():
            with self._lock:
                if lost:
                    self._failures += 1
                    self._lost_at = time.monotonic()
                self._yield_place()
        connection.close()

    def warm_up(self) -> int:
        """Open connections until the minimum is open at the same time; return how many are open."""
        taken: list[Connection] = []
        try:
            while self.size < self.config.min_connections:
                taken.append(self.acquire())
        finally:
            for connection in taken:
                self.release(connection)
        return self.size

    def close(self) -> None:
        """Close all connections; those in use are closed when they come back, those who wait get an error."""
        with self._lock:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
            self._size -= len(idle)
            turns = list(self._turns)
            self._turns.clear()
            for turn in turns:
                turn.wake.release()
        for connection in idle:
            connection.close()


def _alive(connection: Connection) -> bool:
    try:
        connection.run(b"SELECT 1", 1)
    except DriverError:
        return False
    return True
