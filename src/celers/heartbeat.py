"""The background heartbeat of a broker's consumers, and the named lock of the maintenance leader.

Both use a connection of their own, outside the pool and its counters.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from celers import forks
from celers.db.driver import Connection, connect
from celers.db.outcome import DriverError, map_error
from celers.sql import Statements

if TYPE_CHECKING:
    from celers.core import Core
    from celers.db.url import ConnectOptions

__all__ = ["Heartbeat", "Leadership", "leader_lock", "try_lead"]

logger = logging.getLogger("celers.heartbeat")

LONGEST_PERIOD_SECS = 60.0
IDLE_FACTOR = 2.5
"""Consumers that hold nothing beat so much less often: a claim renews the heartbeat by itself."""


class Heartbeat:
    """A daemon thread that beats for the consumers of one broker while the process lives.

    It starts with the first consumer and ends when the broker is closed or collected.
    """

    def __init__(self, options: ConnectOptions, prefix: str, lease_secs: int) -> None:
        self._options = options
        self._sql = Statements(prefix)
        self._period = min(max(lease_secs / 5.0, 0.2), LONGEST_PERIOD_SECS)
        self._cores: weakref.WeakSet[Core] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._finalizer = weakref.finalize(self, self._stop.set)
        forks.watch(self)

    def forked(self) -> None:
        """The parent's thread is not here; a first consumer of the child starts one."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = None
        self._finalizer.detach()
        self._finalizer = weakref.finalize(self, self._stop.set)

    def watch(self, core: Core) -> None:
        """Beat for the consumers of this queue too."""
        with self._lock:
            self._cores.add(core)
        core.slots.on_open = self._start

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                numbers = weakref.WeakMethod(self._numbers)
                self._thread = threading.Thread(
                    target=_beat_until,
                    args=(self._stop, self._period, numbers, self._options, self._sql),
                    name="celers-heartbeat",
                    daemon=True,
                )
                self._thread.start()

    def _numbers(self) -> tuple[list[int], bool]:
        """Return the numbers of all consumers, and whether any holds a task."""
        with self._lock:
            cores = list(self._cores)
        numbers = [number for core in cores for number in core.slots.numbers()]
        return numbers, any(core.slots.holding() for core in cores)

    def stop(self) -> None:
        """Tell the thread to end, without waiting for it."""
        self._stop.set()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2.0)


def _beat_until(
    stop: threading.Event,
    period: float,
    numbers: Callable[[], Callable[[], tuple[list[int], bool]] | None],
    options: ConnectOptions,
    sql: Statements,
) -> None:
    """The thread's loop; it holds the broker weakly, so that a forgotten broker can go."""
    connection: Connection | None = None
    sent_at = float("-inf")
    try:
        while not stop.wait(period):
            method = numbers()
            if method is None:
                return
            wanted, holding = method()
            del method
            now = time.monotonic()
            if not wanted or (not holding and now - sent_at < period * (IDLE_FACTOR - 1)):
                continue
            for last in (False, True):
                try:
                    if connection is None or connection.broken:
                        connection = connect(options)
                    connection.run(sql("consumer", "beat", numbers=wanted), 1)
                    sent_at = now
                    break
                except Exception as error:  # noqa: BLE001 - whatever it was, a beat that is missed costs every delivery
                    if connection is not None:
                        connection.close()
                        connection = None
                    if last or stop.is_set():
                        logger.warning("a heartbeat could not be sent and is tried again: %s", error)
                        break
    finally:
        if connection is not None:
            connection.close()


class Leadership:
    """The named lock of the maintenance leader, held by a connection of its own.

    The server releases the lock when the connection ends, so a leader that dies is followed by another.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    def alive(self) -> bool:
        """Ask the server whether this connection still holds the lock."""
        try:
            results = self._connection.run(b"SELECT IS_USED_LOCK('%s') = CONNECTION_ID()" % self._name.encode(), 1)
        except DriverError:
            return False
        return results[0].rows[0][0] == b"1"

    def release(self) -> None:
        """Give the lock up."""
        with contextlib.suppress(DriverError):
            self._connection.run(b"DO RELEASE_LOCK('%s')" % self._name.encode(), 1)
        self._connection.close()


def lock_name(purpose: str, database: str, prefix: str) -> str:
    """Name a server-wide lock: at most 64 characters, equal for equal databases and prefixes, blind to case."""
    digest = hashlib.sha256(f"{database}\0{prefix}".encode()).hexdigest()[:32]
    return f"celers:{purpose}:{digest}"


def leader_lock(connection: Connection, prefix: str) -> str:
    """Name the lock of the maintenance leader of a connection's database."""
    database = connection.run(b"SELECT DATABASE()", 1)[0].rows[0][0] or b""
    return lock_name("leader", database.decode(), prefix)


def try_lead(options: ConnectOptions, prefix: str) -> Leadership | None:
    """Become the maintenance leader of the database; None when another process is."""
    connection = connect(options)
    try:
        name = leader_lock(connection, prefix)
        got = connection.run(b"SELECT GET_LOCK('%s', 0)" % name.encode(), 1)[0].rows[0][0] == b"1"
    except DriverError as error:
        connection.close()
        raise map_error(error) from error
    if got:
        return Leadership(connection, name)
    connection.close()
    return None
