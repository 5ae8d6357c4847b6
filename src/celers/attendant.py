"""Parks for the consumers of one process; `celers.wakeup` tells what that means and why no ring is lost."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from celers import rows as read
from celers.db.driver import Connection, DriverError, connect
from celers.errors import CelersError
from celers.parking import ParkThread
from celers.wakeup import PARK_SECS, pass_on_statements

if TYPE_CHECKING:
    from celers.core import Core
    from celers.db.url import ConnectOptions

__all__ = ["Attendant", "obstacle"]

logger = logging.getLogger("celers.wakeup")

VISIBLE_SECS = 5.0
LEAVE_EVERY_SECS = 0.001
LONGEST_BACKOFF_SECS = 5.0
TRY_AGAIN_SECS = 60.0
_WRITERS = (
    b"SHOW GLOBAL VARIABLES WHERE Variable_name IN ('wsrep_on', 'group_replication_single_primary_mode')"
    b" AND Value <> ''"
)


class _Unusable(Exception):
    """Consumers cannot be woken on this server."""


def obstacle(connection: Connection) -> str | None:
    """Say what keeps rings from working on this connection's server; None when nothing does."""
    found = {
        (row[0] or b"").decode().lower(): (row[1] or b"").decode().upper()
        for row in connection.run(_WRITERS, 1)[0].rows
    }
    if found.get("wsrep_on") in ("ON", "1"):
        return "the server is a node of a Galera cluster, whose nodes do not share named locks"
    if found.get("group_replication_single_primary_mode") in ("OFF", "0"):
        return "the server's group replication has several primaries, which do not share named locks"
    return None


class Attendant:
    """Parks for one process's consumers and calls `on_wake` when they should look for tasks.

    Parameters
    ----------
    options : ConnectOptions
    cores : sequence of Core
        One for each queue, with its number known.
    on_wake : callable
        Called on a thread of the attendant's, with its lock held; must be quick, and take no lock that is held while
        the attendant's methods are called.
    park_secs : float
        Length of one wait.

    Notes
    -----
    Two connections and two threads, made at the first `enter`. `enter` and `leave` may be called at any time from
    any thread; they do not block. An idle process costs three statements in each `park_secs`.
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
        self._cores = list(cores)
        self._on_wake = on_wake
        self._park_secs = park_secs
        self._queues = [(core.sql.table("ready"), core.queue_id, core.slot_names) for core in cores]
        self._look_text = b";".join(core.sql("wakeup", "look", queue_id=core.queue_id) for core in cores)
        self._visible_text = _visible_statement(cores)
        self._in_line: int | None = None
        self._wanted = False
        self._left = 0
        self._declined = False
        self._holds = False
        self._resting = False
        self._listening = False
        self._told = False
        self._closed = False
        self._change = threading.Condition()
        self._park: ParkThread | None = None
        self._park_text = b""
        self._control: Connection | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    @property
    def resting(self) -> bool:
        """Is `on_wake` certain to be called when tasks come? Until then consumers poll."""
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
            self._left += 1
            self._change.notify_all()

    def decline(self) -> None:
        """Leave, and let another process have a ring that may have come already: nobody here can follow it."""
        with self._change:
            if self._wanted:
                self._wanted = self._resting = False
                self._left += 1
            elif self._control is not None:
                self._declined = True
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
            while (left := self._wait_until_wanted()) is not None:
                try:
                    self._attend(left)
                    backoff = 0.05
                except _Unusable as error:
                    self._give_up(error, TRY_AGAIN_SECS)
                except (CelersError, DriverError) as error:
                    self._give_up(error, backoff)
                    backoff = min(backoff * 2, LONGEST_BACKOFF_SECS)
            control, park = self._control, self._park
            if control is not None and park is not None and not control.broken:
                if self._holds:
                    park.start(b"DO RELEASE_ALL_LOCKS()").wait(1.0)
                self._pass_on(control)
        except (CelersError, DriverError):
            pass  # the server is gone
        finally:
            self._hang_up()

    def _give_up(self, error: Exception, secs: float) -> None:
        """Let the consumers poll for some time."""
        self._resting = self._declined = self._holds = False
        self._in_line = None
        self._hang_up()
        if self._closed:
            return
        logger.info("waking up by ring is not possible now, polling instead: %s", error)
        self._on_wake()  # whoever rests has to poll now
        deadline = time.monotonic() + secs
        with self._change:
            while not self._closed and (left := deadline - time.monotonic()) > 0:
                self._change.wait(left)

    def _wait_until_wanted(self) -> int | None:
        """Return how often `leave` had been called then; None at the end."""
        with self._change:
            while not (self._wanted or self._declined or self._holds or self._closed):
                self._change.wait()
            return None if self._closed else self._left

    def _attend(self, left: int) -> None:
        """Park once: until rung, until the time is over, or until `leave` is called once more."""
        control, park = self._connections()
        if self._declined or not self._wanted:
            # A ring may have come that nobody here follows, and a slot may have come free for which nobody waits.
            self._declined = False
            if self._holds:
                self._holds = False
                park.start(b"DO RELEASE_ALL_LOCKS()").wait(self._park_secs)
            self._pass_on(control)
            return
        if self._in_line is not None:
            index, self._in_line = self._in_line, None
            names = self._queues[index][2]
            slot = names[park.thread_id % len(names)].encode()
            answer = park.start(b"DO GET_LOCK('%s', %.3f)" % (slot, self._park_secs))
            self._stay(control, park, answer, left)
            self._holds = True
            park.check()
            return
        self._holds = False  # the statement releases whatever the connection holds
        self._told = False
        answer = park.start(self._park_text)
        if not self._become_visible(control, park, answer, left):
            return
        self._listening = True
        answered = self._stay(control, park, answer, left)
        with self._change:
            self._listening = False
            told = self._told
        if not told and (not answered or self._left != left or self._was_rung(park)):
            self._follow(control, left)
        park.check()

    def _stay(self, control: Connection, park: ParkThread, answer: threading.Event, left: int) -> bool:
        """Look, and wait for the answer of the statement that waits; end it when nobody wants it any more.

        Parameters
        ----------
        left : int
            How often `leave` had been called at the beginning.

        Returns
        -------
        bool
            Did it answer by itself?
        """
        heard = self._look(control)
        with self._change:
            self._resting = heard and self._left == left and not self._closed
        self._sleep_until(answer, self._park_secs + 5.0, left)
        if answer.is_set():
            return True
        self._interrupt(control, park, answer)
        return False

    def _follow(self, control: Connection, left: int) -> None:
        """A ring has come, or may have: the consumers look, or another process does when they have left."""
        with self._change:
            gone = self._left != left or self._closed
            if not gone:
                self._tell()
        if gone:
            self._pass_on(control)

    def _tell(self) -> None:
        """Hand a ring over, with the lock held: whoever finds nothing to leave has been told."""
        self._on_wake()
        self._wanted = self._resting = False

    def _become_visible(self, control: Connection, park: ParkThread, answer: threading.Event, left: int) -> bool:
        """Wait until the server shows the park connection's locks.

        Returns
        -------
        bool
            False when the statement has ended before: it was rung, or all slots of a queue are taken, and then the next
            thing to do is to stand in line.
        """
        text = self._visible_text % {b"id": b"%d" % park.thread_id}
        deadline = time.monotonic() + VISIBLE_SECS
        pause = 0.0005
        while True:
            over = answer.is_set()
            row = control.run(text, 1)[0].rows[0]
            if all(value == b"1" for value in row[0::2]) and not over:
                return True
            if over:
                full = [index for index, free in enumerate(row[1::2]) if free == b"0"]
                park.check()
                if full:
                    self._in_line = full[0]
                else:
                    self._follow(control, left)
                return False
            if time.monotonic() > deadline:
                raise _Unusable("the server does not show the lock of the waiting connection")
            answer.wait(pause)
            pause = min(pause * 2, 0.05)

    def _look(self, control: Connection) -> bool:
        """Look for tasks now that rings are heard; return whether all producers may ring.

        What is due next is noted with the cores.
        """
        ready, heard = False, True
        for core, result in zip(self._cores, control.run(self._look_text, len(self._cores)), strict=True):
            found, due, refused = result.rows[0]
            ready = ready or read.flag(found)
            heard = heard and not read.flag(refused)
            if due is not None:
                core.scheduled_here(read.integer(due) / 1e6)
        if ready:
            self._on_wake()
        return heard

    def _pass_on(self, control: Connection) -> None:
        for table, queue_id, names in self._queues:
            look, ring = pass_on_statements(names, table, queue_id)
            control.run(look + b";" + ring, 2, 1)

    def _interrupt(self, control: Connection, park: ParkThread, answer: threading.Event) -> None:
        """End the wait; repeated, because a KILL that comes before the statement has started is lost."""
        deadline = time.monotonic() + self._park_secs + 5.0
        while not answer.is_set() and time.monotonic() < deadline:
            control.run(b"KILL QUERY %d" % park.thread_id, 1, 0)
            answer.wait(LEAVE_EVERY_SECS)

    def _sleep_until(self, answer: threading.Event, secs: float, left: int) -> None:
        """Wait for the park statement's answer, or until `leave` or `close`."""
        deadline = time.monotonic() + secs
        with self._change:
            while not answer.is_set() and self._left == left and not self._closed:
                rest = deadline - time.monotonic()
                if rest <= 0:
                    return
                self._change.wait(rest)

    # Connections

    def _connections(self) -> tuple[Connection, ParkThread]:
        if self._control is not None and (self._control.broken or self._park is None or self._park.broken):
            self._hang_up()
        if self._control is None or self._park is None:
            self._control = control = connect(self._options)
            if (reason := obstacle(control)) is not None:
                raise _Unusable(reason)
            gate = f"celers:gate:{os.getpid()}:{control.thread_id}:{os.urandom(6).hex()}"
            if control.server.is_mariadb:
                control.run(b"DO GET_LOCK('%s', 5)" % gate.encode(), 1)
            self._park = park = ParkThread(self._options, self._park_secs, self._answered)
            known = self._cores[0].server
            if park.server.identity != control.server.identity or (
                known is not None and known.identity != control.server.identity
            ):
                raise _Unusable("the connections of this process reach different servers")
            self._park_text = self._statement(gate, control.server.is_mariadb)
        return self._control, self._park

    def _statement(self, gate: str, is_mariadb: bool) -> bytes:
        """One slot of each queue, then the wait, then the release; an interrupted wait is no error in this form."""
        secs = b"%.3f" % self._park_secs
        wait = b"SLEEP(%s)" % secs
        if is_mariadb:
            wait = b"COALESCE(GET_LOCK('%s', %s), 0)" % (gate.encode(), secs)
        takes = b" AND ".join(
            b"COALESCE(CASE %s END, 0)" % b" ".join(b"WHEN GET_LOCK('%s', 0) THEN 1" % name.encode() for name in names)
            for _, _, names in self._queues
        )
        return b"DO IF(%s, %s, 0) + RELEASE_ALL_LOCKS()" % (takes, wait)

    def _answered(self) -> None:
        """On the park connection's thread, which tells of a ring at once: to wake another thread takes its time."""
        with self._change:
            park = self._park
            if self._listening and self._resting and park is not None and self._was_rung(park):
                self._tell()
                self._told = True
            self._change.notify_all()

    def _was_rung(self, park: ParkThread) -> bool:
        return not park.broken and park.waited < self._park_secs * 0.98

    def _hang_up(self) -> None:
        park, self._park = self._park, None
        control, self._control = self._control, None
        if park is not None:
            park.close(control)
        if control is not None:
            control.close()


def _visible_statement(cores: Sequence[Core]) -> bytes:
    """For each queue: does connection `id` hold one of its slots, and how many are free?"""
    parts = []
    for core in cores:
        used = [b"IS_USED_LOCK('%s')" % name.encode() for name in core.slot_names]
        parts.append(b" OR ".join(b"%s <=> %%(id)s" % lock for lock in used))
        parts.append(b"+".join(b"(%s IS NULL)" % lock for lock in used))
    return b"SELECT " + b",".join(parts)
