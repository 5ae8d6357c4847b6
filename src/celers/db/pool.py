"""A pool of connections for threads, and the counters that both pools share."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from celers.db.driver import Connection, DriverError, connect
from celers.errors import BrokerError, PoolTimeoutError

if TYPE_CHECKING:
    from celers.db.url import ConnectOptions
    from celers.model.config import PoolConfig

__all__ = ["ConnectionPool", "Counters", "Pool"]

PING_AFTER_IDLE_SECS = 60.0


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
        self._failures = 0
        self._closed = False

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
        config = self.config
        if config.max_lifetime_secs is not None and now - created_at > float(config.max_lifetime_secs):
            return True
        return (
            config.idle_timeout_secs is not None
            and now - last_used > float(config.idle_timeout_secs)
            and self._size > config.min_connections
        )

    def _timeout(self) -> PoolTimeoutError:
        return PoolTimeoutError(
            f"no connection became free within {self.config.acquire_timeout_secs} s: all"
            f" {self.config.max_connections} are in use; raise max_connections or use fewer threads"
        )


def closed_error() -> BrokerError:
    """The error of any use after `close`."""
    return BrokerError("the broker is closed: make a new one")


class Pool(Counters):
    """Connections for blocking callers on any thread.

    After a fork the child starts with an empty pool of its own; the parent's connections are left alone.
    """

    def __init__(self, options: ConnectOptions, config: PoolConfig) -> None:
        super().__init__(config)
        self.options = options
        self._condition = threading.Condition()
        self._pid = os.getpid()

    def acquire(self) -> Connection:
        """Take a connection, opening one when none is free.

        Raises
        ------
        PoolTimeoutError
            All connections stayed in use for `acquire_timeout_secs`.
        BrokerConnectionError
            The server cannot be reached.
        """
        if self._pid != os.getpid():
            self._forked()
        deadline: float | None = None
        started = 0.0
        with self._condition:
            while True:
                if self._closed:
                    raise closed_error()
                if self._idle:
                    connection: Connection | None = self._idle.pop()
                    break
                if self._size < self.config.max_connections:
                    self._size += 1
                    connection = None
                    break
                now = time.monotonic()
                if deadline is None:
                    started, deadline = now, now + float(self.config.acquire_timeout_secs)
                if now >= deadline or not self._condition.wait(deadline - now):
                    self._waited(time.monotonic() - started)
                    raise self._timeout()
            if deadline is not None:
                self._waited(time.monotonic() - started)
        if connection is not None:
            now = time.monotonic()
            if self._expired(connection.created_at, connection.last_used, now) or (
                now - connection.last_used > PING_AFTER_IDLE_SECS and not _alive(connection)
            ):
                connection.close()
                connection = None
        return connection if connection is not None else self._open()

    def _open(self) -> Connection:
        """Open a connection for which the caller has counted one up in `_size`."""
        try:
            return connect(self.options)
        except BaseException:
            with self._condition:
                self._size -= 1
                self._failures += 1
                self._condition.notify()
            raise

    def release(self, connection: Connection) -> None:
        """Give a connection back; it is closed instead when it is broken, too old, or the pool is closed."""
        if connection.pid != os.getpid():
            return
        with self._condition:
            if (
                connection.broken
                or self._closed
                or self._expired(connection.created_at, connection.last_used, time.monotonic())
            ):
                self._size -= 1
            else:
                self._idle.append(connection)
                self._condition.notify()
                return
            self._condition.notify()
        connection.close()

    def discard(self, connection: Connection) -> None:
        """Close a connection that was lost."""
        if connection.pid == os.getpid():
            with self._condition:
                self._size -= 1
                self._failures += 1
                self._condition.notify()
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
        """Close all connections; those in use are closed when they come back."""
        with self._condition:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
            if self._pid == os.getpid():
                self._size -= len(idle)
            self._condition.notify_all()
        for connection in idle:
            connection.close()

    def _forked(self) -> None:
        inherited = list(self._idle)
        self._condition = threading.Condition()
        self._pid = os.getpid()
        self._size = 0
        self._idle.clear()
        for connection in inherited:
            connection.close()


def _alive(connection: Connection) -> bool:
    try:
        connection.run(b"SELECT 1", 1)
    except DriverError:
        return False
    return True
