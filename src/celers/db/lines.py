"""Connections that live on threads of their own, used from an event loop.

Why a thread and not the socket: the client library reads ahead, so the second result of a packet is often in its
buffer already and the socket never becomes readable again. A thread that opens, uses and closes its connection costs
about the same and cannot hang the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from celers.db.driver import Connection, DriverError, Result, ServerInfo, connect
from celers.wakeup import REFUSED_ERRNOS

if TYPE_CHECKING:
    from celers.db.url import ConnectOptions
    from celers.operation import Once
    from celers.wakeup import Ring

__all__ = ["Job", "Mail", "Shift", "Single", "ThreadConnection"]


class Job:
    """One piece of work for a connection's thread; awaited by one task at a time.

    A task that is cancelled while it waits leaves the job as it is: another may await it anew. (A shielded future does
    the same, at the price of a second future and of one more turn of the loop for each answer.)
    """

    __slots__ = ("answer", "call", "error", "is_over", "loop", "token", "waiter")

    def __init__(self, call: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.call = call
        self.loop = loop
        # Whoever pops the token decides: the thread that starts the job, or the loop that withdraws it.
        self.token = [True]
        self.is_over = False
        self.answer: Any = None
        self.error: BaseException | None = None
        self.waiter: asyncio.Future[None] | None = None

    def take(self) -> bool:
        try:
            return self.token.pop()
        except IndexError:
            return False

    def tell(self) -> None:
        """Wake the task that waits for it; in the loop."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def __await__(self) -> Generator[Any, None, Any]:
        if not self.is_over:
            self.waiter = self.loop.create_future()
            try:
                yield from self.waiter
            finally:
                self.waiter = None
        if self.error is None:
            return self.answer
        try:
            raise self.error
        finally:
            del self  # or else the error, whose traceback holds this frame, would keep itself


class Single(Job):
    """A whole operation of one packet, for the next connection that comes free.

    It stands in the pool's line among those who wait for a connection. A thread that has sent one takes the next by
    itself, without a turn of the loop. Answered True once it is sent. Answered False, it was not sent: its caller
    may open a connection instead. When the packet has failed, the connection is the caller's.
    """

    __slots__ = ("connection", "once", "queued_at", "ring", "started_at")

    def __init__(self, once: Once[Any], ring: Ring | None, loop: asyncio.AbstractEventLoop, queued_at: float) -> None:
        self.call = self.refuse
        self.loop = loop
        self.token = [True]
        self.is_over = False
        self.answer = None
        self.error = None
        self.waiter = None
        self.once = once
        self.ring = ring
        self.queued_at = self.started_at = queued_at
        self.connection: ThreadConnection | None = None

    def refuse(self, error: Exception | None = None) -> None:
        """Settle it in the loop, without a connection: with an error, or by the answer False."""
        self.take()
        self.answer, self.error, self.is_over = False, error, True
        self.tell()


class Shift(Job):
    """The time in which a connection's thread sends singles, one after the other, until the line is empty.

    Parameters
    ----------
    connection : ThreadConnection
    first : Single
        Unless its caller goes away before the thread comes to it.
    line : deque
        Who waits for a connection. Whoever pops an entry answers for it.
    most_age : float
        Seconds after its opening at which the connection is to be closed.
    end : callable
        Called in the loop with the connection, unless a caller has it, and with the one who waits and is next.
    """

    __slots__ = ("connection", "end", "first", "line", "most_age", "next")

    def __init__(
        self,
        connection: ThreadConnection,
        first: Single,
        line: deque[Any],
        most_age: float,
        end: Callable[[ThreadConnection | None, Any], None],
    ) -> None:
        super().__init__(self.work, first.loop)
        self.connection: ThreadConnection | None = connection
        self.first = first
        self.line = line
        self.most_age = most_age
        self.end = end
        self.next: asyncio.Future[Any] | None = None

    def work(self) -> None:
        """Send singles; on the connection's thread."""
        assert self.connection is not None
        thread = self.connection._line  # noqa: SLF001 - this is the thread's side
        put, line = thread.mail.put, self.line
        entry: Any = self.first
        del self.first
        while True:
            if type(entry) is not Single:
                if not entry.done():
                    self.next = entry
                    return
            elif entry.take():
                entry.started_at = thread.last_used
                try:
                    thread.push(entry.once, entry.ring)
                except BaseException as raised:  # noqa: BLE001 - it belongs to whoever awaits the job
                    entry.error = raised
                    if isinstance(raised, DriverError):
                        entry.connection, self.connection = self.connection, None
                    else:
                        thread.broken = True
                entry.answer = entry.is_over = True
                put(entry)
                if self.connection is None or thread.broken or thread.last_used - thread.created_at > self.most_age:
                    del entry  # the error's traceback holds this frame
                    return
            try:
                entry = line.popleft()
            except IndexError:
                return

    def tell(self) -> None:
        """Hand the connection on; in the loop."""
        self.end(self.connection, self.next)


class Mail:
    """Jobs that are over, on their way from the threads of connections to one loop.

    To wake a loop costs a system call on both sides. While a wake-up is on its way, others have their jobs carried by
    it.
    """

    __slots__ = ("_is_called", "_jobs", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._jobs: deque[Job] = deque()
        self._is_called = False

    def put(self, job: Job) -> None:
        """Have the loop told that a job is over; raises RuntimeError when the loop is closed."""
        self._jobs.append(job)
        if not self._is_called:
            self._is_called = True
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # First, so that whoever finds nothing called has its job found here, or calls again.
        self._is_called = False
        jobs = self._jobs
        while jobs:
            jobs.popleft().tell()


class _Line:
    """The thread's side of a connection: what the thread needs, and nothing that keeps its user alive."""

    def __init__(self, mail: Mail, options: ConnectOptions, read_timeout: float | None, single: bool) -> None:
        self.mail = mail
        self.options = options
        self.read_timeout = read_timeout
        self.single = single
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.connection: Connection | None = None
        self.done: asyncio.Future[None] = mail.loop.create_future()
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

    def push(self, once: Once[Any], ring: Ring | None) -> None:
        connection = self.connection
        if connection is None:
            raise DriverError(2006, "the connection is closed", -1)
        try:
            connection.push(once.text, once.count, once.needed)
            if connection.tail_errno in REFUSED_ERRNOS and ring is not None and ring.was_refused(connection):
                with contextlib.suppress(DriverError):
                    connection.run(ring.report, 1)
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
            try:
                job.answer = job.call()
            except BaseException as raised:  # noqa: BLE001 - it belongs to whoever awaits the job
                job.error = raised
            job.is_over = True
            # The loop may have been closed without closing the broker: then nobody waits for the answer any more.
            with contextlib.suppress(RuntimeError):
                self.mail.put(job)
            del job  # nothing of it is kept while waiting for the next
        if self.connection is not None:
            self.connection.close()
        with contextlib.suppress(RuntimeError):
            self.mail.loop.call_soon_threadsafe(_finish, self.done)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


class ThreadConnection:
    """A connection that lives on a thread of its own; used from the event loop.

    The thread ends when it is told to, and when nobody has this object any more.
    """

    def __init__(
        self, mail: Mail, options: ConnectOptions, read_timeout: float | None = None, single: bool = False
    ) -> None:
        self._loop = mail.loop
        self._line = _Line(mail, options, read_timeout, single)
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

    def submit(self, call: Callable[[], Any]) -> Job:
        """Queue a call for the thread; whoever awaits the job gets its result."""
        job = Job(call, self._loop)
        self._line.jobs.put(job)
        return job

    def begin(self, shift: Shift) -> None:
        """Queue the sending of singles."""
        self._line.jobs.put(shift)

    def open(self) -> Job:
        """Queue the opening of the connection."""
        return self.submit(self._line.open)

    @property
    def tail_errno(self) -> int:
        """Error number of the last packet's statement that was allowed to fail; 0 when none did."""
        connection = self._line.connection
        return 0 if connection is None else connection.tail_errno

    def send(self, text: bytes, count: int, needed: int | None = None) -> Job:
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
