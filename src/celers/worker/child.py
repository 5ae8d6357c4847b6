"""A child process of a worker: runs tasks until its parent says stop, or is gone.

The parent starts it with the read end of a pipe as standard input. The first line is the path for imports, the second
the configuration; later lines are orders; the end of the file means that the parent has ended.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from typing import IO, Any

from celers.app import App, load_app
from celers.broker import MysqlBroker
from celers.errors import BrokerError
from celers.model.config import PoolConfig
from celers.worker.board import Board
from celers.worker.loop import ClaimLoop
from celers.worker.settings import WorkerSettings

__all__ = ["BOOTSTRAP", "EXIT_ORPHAN", "main", "open_brokers"]

BOOTSTRAP = r"""import json, os, sys
line = b""
while not line.endswith(b"\n"):
    part = os.read(0, 1)
    if not part:
        sys.exit(3)
    line += part
sys.path[:] = json.loads(line)
from celers.worker.child import main
main()"""
"""The program of a child: byte by byte, so that what follows the first line stays in the pipe."""

EXIT_ORPHAN = 3
SWITCH_SECS = 0.001
YOUNG_OBJECTS = 10_000
LOG_FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"

log = logging.getLogger("celers.worker.child")


class _Orders(threading.Thread):
    """Reads the parent's orders, and ends the process when there is no parent any more."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(name="celers-orders", daemon=True)
        self._pipe = pipe
        # A signal handler may come while its own thread holds it.
        self._lock = threading.RLock()
        self._grace: float | None = None
        self._loop: ClaimLoop | None = None

    @property
    def told_to_stop(self) -> bool:
        """Was there an order to stop?"""
        return self._grace is not None

    def serve(self, loop: ClaimLoop) -> None:
        """Pass orders on to this loop."""
        with self._lock:
            self._loop = loop
            if self._grace is not None:
                loop.stop(self._grace)

    def stop(self, grace_secs: float) -> None:
        """Carry out an order to stop."""
        with self._lock:
            self._grace = grace_secs
            if self._loop is not None:
                self._loop.stop(grace_secs)

    def run(self) -> None:
        for line in self._pipe:
            word, _, value = line.decode().strip().partition(" ")
            if word == "stop":
                self.stop(float(value))
        # Nobody beats for this process any more, so its tasks are about to be given to others.
        os._exit(EXIT_ORPHAN)


def main() -> None:
    """Run as a child of a worker."""
    pipe = os.fdopen(os.dup(0), "rb")
    config: dict[str, Any] = json.loads(pipe.readline() or b"null") or sys.exit(EXIT_ORPHAN)
    # Tasks that read standard input shall find it empty.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _end_with_parent(config["parent"])
    # The terminal sends ^C to the parent too, which decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = WorkerSettings(**config["settings"])
    if settings.log_level is not None:
        logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT)
    orders = _Orders(pipe)
    orders.start()
    signal.signal(signal.SIGTERM, lambda *_: orders.stop(settings.grace_secs))
    app = load_app(config["app"])
    app.connect_to(config["url"])
    board = Board.attach(config["board"], settings.slots)
    brokers = _connect(app, config["url"], settings, orders)
    if brokers:
        loop = ClaimLoop(app, brokers, settings, board, abandon_overdue=False)
        orders.serve(loop)
        _tune()
        loop.run()
        for broker in reversed(brokers):
            broker.close()
    logging.shutdown()
    sys.stdout.flush()
    # Threads of tasks that did not end in time hold nothing any more and must not delay the end.
    os._exit(0)


def _tune() -> None:
    """Set the interpreter to run many small tasks beside one thread that talks to the database."""
    # Each statement of a packet gives the interpreter's lock away, and waits for it behind the threads of the tasks.
    sys.setswitchinterval(SWITCH_SECS)
    # What was imported stays, and what is claimed is gone before so many objects are made: not to be looked at again
    # and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def open_brokers(app: App, url: str, settings: WorkerSettings, *, heartbeat: bool) -> list[MysqlBroker]:
    """Open one broker for each queue of a worker, on one small pool."""
    options = dict(app.broker_options) | {"pool_config": PoolConfig(max_connections=4, min_connections=1)}
    first = MysqlBroker(url, settings.queues[0], lease_secs=settings.lease_secs, heartbeat=heartbeat, **options)
    return [first, *(first.for_queue(name) for name in settings.queues[1:])]


def _connect(app: App, url: str, settings: WorkerSettings, orders: _Orders) -> list[MysqlBroker]:
    """Open the brokers, for as long as it takes; none when the order to stop comes first."""
    pause = 0.1
    while not orders.told_to_stop:
        try:
            return open_brokers(app, url, settings, heartbeat=False)
        except BrokerError as error:
            if not error.retryable:
                raise
            log.warning("the database cannot be reached and is tried again: %s", error)
            deadline = time.monotonic() + pause
            while time.monotonic() < deadline and not orders.told_to_stop:
                time.sleep(0.05)
            pause = min(5.0, pause * 2)
    return []


def _end_with_parent(parent: int) -> None:
    """On Linux, have the kernel end this process with its parent, even while C code holds the interpreter."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if sys.platform != "win32" and os.getppid() != parent:
        os._exit(EXIT_ORPHAN)
