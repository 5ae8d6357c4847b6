"""The server process of an embedded server, as its supervisor sees it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from celers.embedded._admin import Admin
from celers.embedded.binary import ServerBinary
from celers.embedded.install import TEMPORARY, check_data, explain_log, initialise, server_arguments
from celers.embedded.paths import SOCKET_NAME, Lock
from celers.errors import BrokerConnectionError, BrokerError

logger = logging.getLogger("celers.embedded")

_START_TIMEOUT = 600.0  # a crash recovery may have much to read
_STOP_TIMEOUT = 60.0
_LOG_LIMIT = 8 << 20


class StartCancelled(Exception):
    """The end was asked for while the server was starting."""


class ServerProcess:
    """One server: a child of this process, or one that was left by a supervisor that died.

    The server process itself holds `server.lock`, inherited from its starter, so the lock tells whether it
    lives, whoever its parent is.

    Parameters
    ----------
    directory
        The server's directory.
    runtime
        The directory of its socket.
    binary
        The program.
    options
        Further options for the program.
    old_pid
        Process number that a supervisor before this one has noted.
    """

    def __init__(
        self,
        directory: Path,
        runtime: Path,
        binary: ServerBinary,
        *,
        options: Sequence[str] = (),
        old_pid: int | None = None,
    ) -> None:
        self.binary = binary
        self.socket = runtime / SOCKET_NAME
        self.admin = Admin(self.socket)
        self.pid = old_pid
        self._directory = directory
        self._runtime = runtime
        self._options = options
        self._log = directory / "server.log"
        self._lock = Lock(directory / "server.lock")
        self._child: subprocess.Popen[bytes] | None = None
        self._taken_over = False

    def start(self, cancelled: Callable[[], bool], noted: Callable[[], None]) -> None:
        """Start the server, or take over the one that runs, and wait until it answers.

        Parameters
        ----------
        cancelled
            Asked again and again whether to give up.
        noted
            Called when `pid` is known.
        """
        deadline = time.monotonic() + _START_TIMEOUT

        def wait(what: str) -> None:
            if cancelled():
                raise StartCancelled
            if time.monotonic() >= deadline:
                raise BrokerConnectionError(f"{what} ({self._directory}): {explain_log(self._log)}")
            time.sleep(0.02)

        while not self._lock.acquire():
            # A server lives without its supervisor. It is kept: its clients must not lose their connections.
            if self._answers():
                self._taken_over = True
                logger.warning("took over the server that runs already in %s", self._directory)
                return
            wait("a process that does not answer uses the directory")
        self._prepare()
        if cancelled():
            raise StartCancelled
        child = self._spawn()
        noted()
        while not self._answers():
            status = child.poll()
            if status is not None:
                raise BrokerConnectionError(
                    f"{self.binary.label} ended at its start, status {status}: {explain_log(self._log)}"
                )
            wait("the server does not answer")

    def _answers(self) -> bool:
        try:
            # Of a table: a member of a cluster that is not ready yet answers everything else.
            self.admin.query("SELECT COUNT(*) FROM mysql.db")
        except BrokerError:
            return False
        return True

    def _prepare(self) -> None:
        if self._log.exists() and self._log.stat().st_size > _LOG_LIMIT:
            self._log.replace(self._log.with_suffix(".log.1"))
        data = self._directory / "data"
        if not data.exists():
            initialise(self._directory, self.binary, lock_fd=self._lock.fd, log=self._log)
        check_data(data, self.binary)
        # Left by a crash. The process number in a socket's lock file may be anybody's by now, and the server
        # would refuse to start because of it; that nobody of ours runs is known from the lock.
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock", "server.pid"):
            with contextlib.suppress(OSError):
                (self._runtime / name).unlink(missing_ok=True)
        shutil.rmtree(self._runtime / TEMPORARY, ignore_errors=True)

    def _spawn(self) -> subprocess.Popen[bytes]:
        (self._runtime / TEMPORARY).mkdir(mode=0o700, exist_ok=True)
        arguments = server_arguments(
            self.binary,
            data=self._directory / "data",
            runtime=self._runtime,
            socket=SOCKET_NAME,
            log=self._log,
            options=self._options,
            root=os.geteuid() == 0,
        )
        with self._log.open("ab") as output:
            self._child = subprocess.Popen(  # noqa: S603 - our own command
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                pass_fds=(self._lock.fd,),
                start_new_session=True,
            )
        self.pid = self._child.pid
        self._lock.close()  # from here on the server process alone holds it
        return self._child

    def died(self, within: float = 0.0) -> bool:
        """True when the server does not live, or ends within some seconds."""
        deadline = time.monotonic() + within
        while not self._dead():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def _dead(self) -> bool:
        if not self._taken_over:
            return self._child is None or self._child.poll() is not None
        return self._lock_is_free()

    def _lock_is_free(self, timeout: float = 0.0) -> bool:
        try:
            free = self._lock.acquire(timeout)
        except OSError:  # the directory was removed
            return not self._answers()
        if free:
            self._lock.close()
        return free

    def stop(self) -> None:
        """End the server cleanly; by force when it takes too long, which costs nothing but a recovery."""
        if self._taken_over:
            with contextlib.suppress(BrokerError):
                self.admin.shutdown()
            self.admin.close()
            if not self._lock_is_free(_STOP_TIMEOUT):
                logger.error("the server taken over (process %s) does not end", self.pid)
            return
        self.admin.close()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                logger.error("the server did not end within %g s and is killed", _STOP_TIMEOUT)
                self._child.kill()
                self._child.wait()

    def clean_up(self) -> None:
        """Remove what a server leaves beside its data, when none runs."""
        self._lock.close()
        if self._lock_is_free():
            self._remove_leftovers()
