"""Connections that live on threads of their own, used from an event loop.

Why a thread and not the socket: the client library reads ahead, so the second result of a packet is often in its
buffer already and the socket never becomes readable again. A thread that opens, uses and closes its connection costs
about the same and cannot hang the loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celers.db.driver import Connection, DriverError, Result, ServerInfo, connect

if TYPE_CHECKING:
    from celers.db.url import ConnectOptions

__all__ = ["Job", "ThreadConnection"]


class Job:
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
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
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

    def submit(self, call: Callable[[], Any]) -> Job:
        """Queue a call for the thread; the job's future gets its result."""
        job = Job(call, self._loop.create_future())
        self._line.jobs.put(job)
        return job

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
