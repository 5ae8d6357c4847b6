"""The connection on which an idle process waits, on a thread that does nothing else."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from celers.db.driver import Connection, DriverError, ServerInfo, connect

if TYPE_CHECKING:
    from celers.db.url import ConnectOptions

__all__ = ["ParkThread"]


class ParkThread:
    """A connection that waits inside statements, and its thread.

    Parameters
    ----------
    options : ConnectOptions
    secs : float
        The longest wait.
    answered : callable
        Called on the thread when a statement has answered, or failed.
    """

    def __init__(self, options: ConnectOptions, secs: float, answered: Callable[[], None]) -> None:
        self._answered = answered
        self._connection = connect(options, read_timeout=secs + 10.0)
        # Asked of the server: a proxy may have greeted with a number of its own.
        try:
            found = self._connection.run(b"SELECT CONNECTION_ID()", 1)[0].rows[0][0]
        except DriverError:
            self._connection.close()
            raise
        self.thread_id = int(found or b"0")
        self.waited = 0.0
        """Seconds that the last statement took."""
        self.broken = False
        self._error: DriverError | None = None
        self._requests: queue.SimpleQueue[tuple[bytes, threading.Event] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="celers-park", daemon=True)
        self._thread.start()

    @property
    def server(self) -> ServerInfo:
        """What the connection learned about its server."""
        return self._connection.server

    def start(self, statement: bytes) -> threading.Event:
        """Run a statement; the event is set when it has answered."""
        answer = threading.Event()
        self._requests.put((statement, answer))
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
        while (request := self._requests.get()) is not None:
            statement, answer = request
            started = time.monotonic()
            try:
                self._connection.run(statement, 1, 0)
            except DriverError as error:
                self._error = error
                self.broken = True
            self.waited = time.monotonic() - started
            answer.set()
            self._answered()
        self._connection.close()
