"""`Worker`: runs the tasks of an application."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celers.db.url import parse_url
from celers.errors import ConfigurationError
from celers.model.base import Duration
from celers.worker.settings import WorkerSettings
from celers.worker.upkeep import Upkeep

if TYPE_CHECKING:
    from celers.app import App
    from celers.broker import MysqlBroker
    from celers.worker.loop import ClaimLoop
    from celers.worker.supervisor import Supervisor

__all__ = ["Worker"]

log = logging.getLogger("celers.worker")

OK, STOPPED_AT_ONCE = 0, 1


class Worker:
    """Claims tasks of an application and runs them, here or in child processes.

    Parameters
    ----------
    app : App
    queues : sequence of str, optional
        Queues in strict order; those of the application's tasks when None.
    processes : int
        Child processes; 0 runs the tasks in this process.
    threads, async_tasks : int
        Plain functions and coroutines at a time in each process.
    lease : timedelta, int or float
        Silence after which this worker counts as dead.
    grace : timedelta, int or float
        How long running tasks may go on after the first `stop`.
    batch : int
        Most tasks to claim at once; only tasks that are quick are claimed in such numbers.
    accept : sequence of str, optional
        Formats of arguments to read; what the application says when None.
    app_path : str, optional
        ``module:name`` from which child processes import the application; needed with `processes`.
    name : str, optional
        Noted with the tasks that run here; host and process id by default.
    log_level : str, optional
        Level of the child processes' log on standard error.
    upkeep : Upkeep, optional
        What to delete and take back in all queues when this worker leads the maintenance; nothing by default.
    wake_up : bool
        Let producers wake idle processes; False looks for tasks up to once a second instead.

    Notes
    -----
    With ``processes=0`` a plain function that runs over its time is reported as failed and left behind in its
    thread; with child processes its process is ended and replaced.
    """

    def __init__(
        self,
        app: App,
        *,
        queues: Sequence[str] | None = None,
        processes: int = 0,
        threads: int = 4,
        async_tasks: int = 100,
        lease: Duration = 15,
        grace: Duration = 30,
        batch: int = 500,
        accept: Sequence[str] | None = None,
        app_path: str | None = None,
        name: str | None = None,
        log_level: str | None = None,
        upkeep: Upkeep | None = None,
        wake_up: bool = True,
    ) -> None:
        self.app = app
        self.app_path = app_path
        names: dict[str, Any] = {} if name is None else {"name": name}
        self.settings = WorkerSettings(
            app.queues() if queues is None else tuple(queues) if not isinstance(queues, str) else queues,  # type: ignore[arg-type]
            processes=processes,
            threads=threads,
            async_tasks=async_tasks,
            lease_secs=lease,  # type: ignore[arg-type] # checked and converted there
            grace_secs=grace,  # type: ignore[arg-type]
            batch=batch,
            accept=None if accept is None else tuple(accept),
            log_level=log_level,
            upkeep=Upkeep() if upkeep is None else upkeep,
            wake_up=wake_up,
            **names,
        )
        if processes and not app_path:
            raise ConfigurationError("child processes import the application: pass app_path='module:name'")
        self._lock = threading.RLock()
        self._stops = 0
        self._inner: Supervisor | ClaimLoop | None = None

    def run(self) -> int:
        """Work until `stop`, SIGTERM or SIGINT.

        Signals are handled when this is the main thread: the first asks for an orderly end, the second ends at once.

        Returns
        -------
        int
            0 after an orderly end, 1 otherwise.

        Raises
        ------
        ConfigurationError, BrokerConnectionError
            The database cannot be used at the start. Later the worker waits for it to come back.
        """
        from celers.worker.child import open_brokers

        settings = self.settings
        url = self.app.resolve_url()
        if parse_url(url).embedded_dir is not None:
            _ = self.app.broker  # starts the server and brings its tables up to date
        brokers = open_brokers(self.app, url, settings, heartbeat=settings.processes == 0)
        try:
            for broker in brokers:
                broker.queue_size()  # fails now, and clearly, when the tables are not there
            log.info(
                "worker %s starts: queues %s, %d processes of %d threads, %s",
                settings.name,
                ", ".join(settings.queues),
                settings.processes,
                settings.threads,
                parse_url(url).safe_url(),
            )
            with self._signals():
                orderly = self._supervise(url, brokers) if settings.processes else self._work_here(brokers)
            log.info("worker %s has stopped", settings.name)
            return OK if orderly else STOPPED_AT_ONCE
        finally:
            for broker in reversed(brokers):
                broker.close()

    def stop(self) -> None:
        """Ask for an orderly end; the second time, for one at once. From any thread or signal handler."""
        with self._lock:
            self._stops += 1
            if self._inner is not None:
                self._pass_on(self._inner)

    @property
    def processes(self) -> tuple[int, ...]:
        """Process ids of the children that live; this process's own when it runs the tasks itself."""
        from celers.worker.supervisor import Supervisor

        inner = self._inner
        if isinstance(inner, Supervisor):
            return inner.processes
        return (os.getpid(),) if inner is not None else ()

    def _pass_on(self, inner: Supervisor | ClaimLoop) -> None:
        from celers.worker.supervisor import Supervisor

        if isinstance(inner, Supervisor):
            inner.stop()
        else:
            inner.stop(self.settings.grace_secs if self._stops == 1 else 0.0)

    def _begin(self, inner: Supervisor | ClaimLoop) -> None:
        with self._lock:
            self._inner = inner
            if self._stops:
                self._pass_on(inner)

    def _supervise(self, url: str, brokers: Sequence[MysqlBroker]) -> bool:
        from celers.worker.supervisor import Supervisor

        assert self.app_path is not None
        supervisor = Supervisor(self.app_path, url, self.settings, brokers)
        self._begin(supervisor)
        return supervisor.run()

    def _work_here(self, brokers: Sequence[MysqlBroker]) -> bool:
        from celers.worker.board import Board
        from celers.worker.keeper import Housekeeper
        from celers.worker.loop import ClaimLoop

        board = Board.private(self.settings.slots)
        loop = ClaimLoop(self.app, brokers, self.settings, board, abandon_overdue=True)
        housekeeper = Housekeeper(brokers, self.settings, lambda: len(board.running()))
        housekeeper.start()
        try:
            self._begin(loop)
            loop.run()
        finally:
            housekeeper.finish(5.0)
        return self._stops < 2

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn signals into `stop` while the worker runs in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handler: Callable[..., None] = lambda *_: self.stop()  # noqa: E731
        previous = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, old in previous.items():
                signal.signal(number, old)
