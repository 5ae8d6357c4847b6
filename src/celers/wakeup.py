"""Waking idle consumers without polling: a parked connection that a producer rings.

Theory of operation
-------------------
An idle consumer *parks*: a connection of its own, which runs nothing else, takes a free slot of each queue (a named
lock of the server) and waits inside one statement. A producer's packet ends, after its COMMIT, with KILL QUERY for
whoever holds a slot. The wait ends at once, the lock is released by the same statement, and the consumer claims.
When nobody is parked the KILL has error 1094, which means nothing.

No ring is lost, because of the order: the consumer first sees that its lock is visible, and then looks for tasks.
A task committed before the look is found by it; a task committed later finds the lock.

Whoever gives up its slot for another reason looks once more and passes the ring on, since the ring of a task may have
come to it in the meantime.

On MariaDB the wait is a GET_LOCK on a *gate*, a lock that the control connection always holds: two KILLs that meet a
thread entering SLEEP would block every sleeper on that server. On MySQL the wait is SLEEP.

A connection that runs packets is never rung: KILL QUERY between two statements of a packet ends it without an answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from celers.db.driver import Connection, DriverError, Result, connect
from celers.errors import CelersError

if TYPE_CHECKING:
    from celers.core import Core
    from celers.db.url import ConnectOptions

__all__ = ["Attendant", "ring_statement", "slot_names"]

logger = logging.getLogger("celers.wakeup")

SLOTS = 4
"""Consumers of one queue that can be parked at a time; further idle ones poll."""

PARK_SECS = 8.0
"""Length of one wait. It bounds what is left to chance, such as a slot held for a client that died silently."""

VISIBLE_SECS = 1.0
LEAVE_EVERY_SECS = 0.001
LONGEST_BACKOFF_SECS = 5.0


def slot_names(database: str, prefix: str, queue_name: str) -> tuple[str, ...]:
    """Return the lock names of a queue's slots.

    Lock names are server-wide, at most 64 characters and, on MySQL, blind to case; so they are hashes. Databases
    whose names differ only in case share their rings, which wakes somebody in vain at worst.
    """
    text = f"{database.lower()}\0{prefix}\0{queue_name}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:40]
    return tuple(f"celers:{digest}:{slot}" for slot in range(SLOTS))


def ring_statement(names: Sequence[str]) -> bytes:
    """Return the statement that wakes one parked consumer of a queue; error 1094 when nobody is parked."""
    return b"KILL QUERY COALESCE(%s)" % b",".join(b"IS_USED_LOCK('%s')" % name.encode() for name in names)


def pass_on_statements(names: Sequence[str], ready_table: str, queue_id: int) -> tuple[bytes, bytes]:
    """Return statements that wake another consumer if tasks are ready: a plain read, then a KILL."""
    look = b"SELECT COUNT(*) INTO @celers_left FROM (SELECT 1 FROM %s WHERE queue_id = %d LIMIT 1) ready"
    ring = b",".join(b"IS_USED_LOCK('%s')" % name.encode() for name in names)
    return (look % (ready_table.encode(), queue_id), b"KILL QUERY IF(@celers_left, COALESCE(%s), NULL)" % ring)


class _Rung(Exception):
    """The control connection failed; both connections are made anew."""


class Attendant:
    """Parks for one process's consumers and calls `on_wake` when they should look for tasks.

    Parameters
    ----------
    options : ConnectOptions
    cores : sequence of Core
        One for each queue, with its number known.
    on_wake : callable
        Called on the attendant's thread; must be quick.
    park_secs : float
        Length of one wait.

    Notes
    -----
    Two connections and two threads, made at the first `enter`. `enter` and `leave` may be called at any time from
    any thread; they do not block.
    """

    def __init__(
        self,
        options: ConnectOptions,
        cores: Sequence[Core],
        on_wake: Callable[[], None],
        *,
        park_secs: float = PARK_SECS,
    ) -> None:
        self._options = options
        self._on_wake = on_wake
        self._park_secs = park_secs
        self._queues = [(core.sql.table("ready"), core.queue_id, core.slot_names) for core in cores]
        self._wanted = False
        self._resting = False
        self._closed = False
        self._change = threading.Condition()
        self._park: _ParkThread | None = None
        self._control: Connection | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    @property
    def resting(self) -> bool:
        """Is a ring certain to be heard for every queue? Until then consumers poll."""
        return self._resting

    def enter(self) -> None:
        """A claim found nothing: park."""
        with self._change:
            if self._wanted or self._closed:
                return
            self._wanted = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="celers-attendant", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def leave(self) -> None:
        """There is work: give the slots up."""
        if not self._wanted:
            return
        with self._change:
            self._wanted = False
            self._resting = False
            self._change.notify_all()

    def close(self) -> None:
        """Leave, and end both threads and connections."""
        with self._change:
            self._closed = True
            self._wanted = self._resting = False
            self._change.notify_all()
        thread = self._thread
        if thread is not None and self._pid == os.getpid() and thread is not threading.current_thread():
            thread.join(timeout=5.0)

    # The attendant's thread

    def _run(self) -> None:
        backoff = 0.05
        try:
            while self._wait_until_wanted():
                try:
                    self._attend()
                    backoff = 0.05
                except (CelersError, DriverError, _Rung) as error:
                    self._resting = False
                    self._hang_up()
                    if not self._closed:
                        logger.info("waking up by ring is not possible now, polling instead: %s", error)
                        self._on_wake()  # whoever rests has to poll now
                        with self._change:
                            self._change.wait(backoff)
                        backoff = min(backoff * 2, LONGEST_BACKOFF_SECS)
        finally:
            self._hang_up()

    def _wait_until_wanted(self) -> bool:
        with self._change:
            while not self._wanted and not self._closed:
                self._change.wait()
            return not self._closed

    def _attend(self) -> None:
        """Park once: until rung, until the time is over, or until nobody wants it any more."""
        control, park = self._connections()
        answer = park.start()
        if not self._become_visible(control, park, answer):
            # Other consumers hold all slots of a queue: poll, and try again when this wait is over.
            self._look(control)
            self._sleep_until(answer, self._park_secs)
            if not answer.is_set():
                self._interrupt(control, park, answer)
            park.check()
            return
        self._look(control)
        with self._change:
            self._resting = self._wanted
        self._sleep_until(answer, self._park_secs + 5.0)
        rung = answer.is_set() and park.waited < self._park_secs * 0.98
        self._resting = False
        if not answer.is_set():
            self._interrupt(control, park, answer)
            # A ring may have come to this slot after its consumer had found other work.
            self._pass_on(control)
        park.check()
        if rung:
            with self._change:
                self._wanted = False
            self._on_wake()

    def _become_visible(self, control: Connection, park: _ParkThread, answer: threading.Event) -> bool:
        """Wait until the server shows the park connection's locks; False when it got none for some queue."""
        holds = b"IS_USED_LOCK('%s') <=> " + b"%d" % park.thread_id
        tests = b",".join(b" OR ".join(holds % name.encode() for name in names) for _, _, names in self._queues)
        deadline = time.monotonic() + VISIBLE_SECS
        while not answer.is_set() and time.monotonic() < deadline:
            row = self._ask(control, b"SELECT " + tests)[0].rows[0]
            if all(value == b"1" for value in row):
                return True
            if any(value == b"1" for value in row):
                return False
            answer.wait(0.0005)
        return False

    def _look(self, control: Connection) -> None:
        """Look for tasks now that rings are heard."""
        tests = b" OR ".join(
            b"EXISTS(SELECT 1 FROM %s WHERE queue_id = %d)" % (table.encode(), queue_id)
            for table, queue_id, _ in self._queues
        )
        if self._ask(control, b"SELECT " + tests)[0].rows[0][0] == b"1":
            self._on_wake()

    def _pass_on(self, control: Connection) -> None:
        for table, queue_id, names in self._queues:
            look, ring = pass_on_statements(names, table, queue_id)
            self._ask(control, look)
            with contextlib.suppress(DriverError):
                control.run(ring, 1)

    def _interrupt(self, control: Connection, park: _ParkThread, answer: threading.Event) -> None:
        """End the wait; repeated, because a KILL that comes before the statement has started is lost."""
        deadline = time.monotonic() + self._park_secs + 5.0
        while not answer.is_set() and time.monotonic() < deadline:
            with contextlib.suppress(DriverError):
                control.run(b"KILL QUERY %d" % park.thread_id, 1)
            if control.broken:
                raise _Rung("the control connection was lost")
            answer.wait(LEAVE_EVERY_SECS)

    def _sleep_until(self, answer: threading.Event, secs: float) -> None:
        """Wait for the park statement's answer, or until `leave` or `close`."""
        deadline = time.monotonic() + secs
        with self._change:
            while not answer.is_set() and self._wanted and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._change.wait(left)

    def _ask(self, control: Connection, text: bytes) -> list[Result]:
        return control.run(text, 1)

    # Connections

    def _connections(self) -> tuple[Connection, _ParkThread]:
        if self._control is not None and (self._control.broken or self._park is None or self._park.broken):
            self._hang_up()
        if self._control is None:
            control = connect(self._options)
            gate = f"celers:gate:{os.getpid()}:{control.thread_id}:{os.urandom(6).hex()}"
            if control.server.is_mariadb:
                control.run(b"DO GET_LOCK('%s', 5)" % gate.encode(), 1)
            self._control = control
            self._park = _ParkThread(
                self._options, self._statement(gate, control.server.is_mariadb), self._park_secs, self._answered
            )
        assert self._park is not None
        return self._control, self._park

    def _statement(self, gate: str, is_mariadb: bool) -> bytes:
        """One slot of each queue, then the wait, then the release; an interrupted wait is no error in this form."""
        secs = b"%.3f" % self._park_secs
        wait = b"SLEEP(%s)" % secs
        if is_mariadb:
            wait = b"COALESCE(GET_LOCK('%s', %s), 0)" % (gate.encode(), secs)
        takes = b" | ".join(
            b"COALESCE(CASE %s END, 0)" % b" ".join(b"WHEN GET_LOCK('%s', 0) THEN 1" % name.encode() for name in names)
            for _, _, names in self._queues
        )
        return b"DO IF(%s, %s, 0) + RELEASE_ALL_LOCKS()" % (takes, wait)

    def _answered(self) -> None:
        with self._change:
            self._change.notify_all()

    def _hang_up(self) -> None:
        park, self._park = self._park, None
        control, self._control = self._control, None
        if park is not None:
            park.close(control)
        if control is not None:
            control.close()


class _ParkThread:
    """The connection that waits, on a thread that does nothing else."""

    def __init__(self, options: ConnectOptions, statement: bytes, secs: float, answered: Callable[[], None]) -> None:
        self._statement = statement
        self._answered = answered
        self._connection = connect(options, read_timeout=secs + 10.0)
        self.thread_id = self._connection.thread_id
        self.waited = 0.0
        self.broken = False
        self._error: DriverError | None = None
        self._requests: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="celers-park", daemon=True)
        self._thread.start()

    def start(self) -> threading.Event:
        """Begin to wait; the event is set when the statement has answered."""
        answer = threading.Event()
        self._requests.put(answer)
        return answer

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def close(self, control: Connection | None) -> None:
        """End the thread; a wait that still runs is ended on the server."""
        self._requests.put(None)
        self._thread.join(timeout=0.05)
        if self._thread.is_alive() and control is not None and not control.broken:
            with contextlib.suppress(DriverError):
                control.run(b"KILL %d" % self.thread_id, 1)
        self._thread.join(timeout=1.0)
        if self._thread.is_alive():
            self._connection.shutdown_socket()
            self._thread.join(timeout=1.0)

    def _serve(self) -> None:
        while (answer := self._requests.get()) is not None:
            started = time.monotonic()
            try:
                self._connection.run(self._statement, 1)
            except DriverError as error:
                if error.lost:
                    self._error = error
                    self.broken = True
            self.waited = time.monotonic() - started
            answer.set()
            self._answered()
        self._connection.close()
