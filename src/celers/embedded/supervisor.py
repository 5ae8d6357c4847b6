"""The process that owns an embedded server: starts it, watches it, ends it when nobody needs it.

Started by `celers.embedded.server` as `python -m celers.embedded.supervisor CONFIG` with the supervisor's
lock already held through an inherited descriptor. It leaves its starter at once, so that no end of the
starter reaches it. It never restarts a server that died: it ends, and the next client that needs the server
starts both anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celers.embedded import control
from celers.embedded.binary import ServerBinary
from celers.embedded.paths import CONTROL_NAME, Lock, read_json, runtime_directory, write_json
from celers.embedded.process import ServerProcess, StartCancelled
from celers.errors import BrokerConnectionError, BrokerError, CelersError, ConfigurationError

logger = logging.getLogger("celers.embedded")

_LONGEST_LOOK = 10.0


class Supervisor:
    """One embedded server.

    Parameters
    ----------
    directory
        The server's directory.
    binary
        The program.
    idle_secs
        Seconds without connections after which it ends; 0 for never.
    options
        Further options for the server.
    lock
        The supervisor's lock, held.
    """

    def __init__(
        self, directory: Path, binary: ServerBinary, *, idle_secs: float, options: list[str], lock: Lock
    ) -> None:
        self.directory = directory
        self.idle_secs = idle_secs
        self.lock = lock
        self.runtime = runtime_directory(directory)
        self.control = self.runtime / CONTROL_NAME
        self.state = directory / "state.json"
        old_pid = (read_json(self.state) or {}).get("server_pid")
        self.server = ServerProcess(
            directory,
            self.runtime,
            binary,
            options=options,
            old_pid=old_pid if isinstance(old_pid, int) else None,
        )
        self.admin = self.server.admin
        self.started_at = time.time()
        self.last_active = time.monotonic()
        self.connections_seen = -1
        self.clients = 0
        self.stopping = False
        # Clients connect while the server starts and wait there for the answer.
        self.listener = control.listen(self.control)
        self.wake_up, self._wake_fd = _signal_pipe()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # to be woken by it
        self._write_state()

    def _ask_to_stop(self, *_: object) -> None:
        self.stopping = True

    def _write_state(self) -> None:
        write_json(
            self.state,
            {
                "socket": str(self.server.socket),
                "control": str(self.control),
                "supervisor_pid": os.getpid(),
                "server_pid": self.server.pid,
            },
        )

    def start(self, database: str) -> None:
        """Have a server that answers, with a database."""
        self.server.start(lambda: self.stopping, self._write_state)
        self.admin.create_database(database)
        self.last_active = time.monotonic()

    # Watch

    def watch(self) -> str:
        """Serve requests until there is a reason to end; the reason is returned."""
        interval = min(max(self.idle_secs / 10, 0.05), _LONGEST_LOOK) if self.idle_secs > 0 else _LONGEST_LOOK
        next_look = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            selector.register(self.wake_up, selectors.EVENT_READ)
            while True:
                if time.monotonic() >= next_look:
                    reason = self._look()
                    if reason is not None:
                        return reason
                    next_look = time.monotonic() + interval
                ready = {key.fileobj for key, _ in selector.select(max(0.0, next_look - time.monotonic()))}
                if self.wake_up in ready:
                    self.wake_up.recv(4096)
                if self.stopping:
                    return "asked to stop"
                if self.server.died():
                    return "the server ended by itself"
                if self.listener in ready:
                    self._serve_pending(self._answer)
                    if self.stopping:
                        return "asked to stop"

    def _look(self) -> str | None:
        """Check what cannot be waited for: removed files, clients, idle time."""
        if not self.lock.in_place():
            return "the directory was removed"
        if self.server.died():
            return "the server ended by itself"
        if not self.server.socket.exists() or not self.control.exists():
            return "the socket was removed: nobody could connect any more"
        now = time.monotonic()
        try:
            self.clients, connections = self.admin.activity()
        except BrokerError as error:
            logger.warning("cannot count connections: %s", error)
            self.connections_seen = -1
            self.last_active = now
            return None
        if self.clients > 0 or connections != self.connections_seen:
            self.connections_seen = connections
            self.last_active = now
        elif 0 < self.idle_secs <= now - self.last_active:
            return f"no connection for {self.idle_secs:g} s"
        return None

    # Requests

    def _serve_pending(self, answer: Callable[[control.Message], control.Message | None]) -> None:
        while True:
            try:
                channel, _ = self.listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            with channel, contextlib.suppress(OSError):
                request = control.receive(channel, 5.0)
                reply = None if request is None else answer(request)
                if reply is not None:
                    control.send(channel, reply)

    def _answer(self, request: control.Message) -> control.Message | None:
        match request.get("command"):
            case "ensure":
                return self._ensure(str(request.get("database")))
            case "status":
                with contextlib.suppress(BrokerError):
                    self.clients, _ = self.admin.activity()
                return self._status()
            case "stop":
                self.stopping = True
                return {"ok": True}
            case _:
                return {"ok": False, "kind": "configuration", "error": "unknown request"}

    def _ensure(self, database: str) -> control.Message | None:
        self.last_active = time.monotonic()
        for last in (False, True):
            try:
                self.admin.create_database(database)
            except BrokerError as error:
                # The first time it may be this connection alone that was lost. Without an answer the client
                # tries again, which is right for a server that has just died.
                if self.server.died(0.5):
                    return None
                if last:
                    return _error_reply(BrokerConnectionError(f"the database could not be made: {error}"))
            else:
                break
        return {"ok": True, "socket": str(self.server.socket)}

    def _status(self) -> dict[str, Any]:
        return {
            "ok": True,
            "socket": str(self.server.socket),
            "supervisor_pid": os.getpid(),
            "server_pid": self.server.pid,
            "server": self.server.binary.label,
            "started_at": self.started_at,
            "connections": self.clients,
            "idle_secs": self.idle_secs,
        }

    def refuse_pending(self, error: CelersError) -> None:
        """Give those who wait for a start that failed the reason, instead of letting each try for itself."""
        self._serve_pending(lambda _: _error_reply(error))

    # End

    def end(self) -> None:
        """End the server, and remove what is worthless without it, before the lock is given up."""
        self.server.stop()
        for path in (self.control, self.state):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        self.server.clean_up()
        with contextlib.suppress(OSError):
            self.runtime.rmdir()
        self.listener.close()


def _error_reply(error: CelersError) -> control.Message:
    kind = "configuration" if isinstance(error, ConfigurationError) else "connection"
    return {"ok": False, "kind": kind, "error": str(error)}


def _signal_pipe() -> tuple[socket.socket, socket.socket]:
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    return reader, writer


def run(config: dict[str, Any], report: Callable[[control.Message], None]) -> int:
    """Supervise one server from start to end.

    Parameters
    ----------
    config
        What the starter sent: directory, binary, idle_secs, options, database, lock_fd.
    report
        Called once with the outcome of the start.

    Returns
    -------
    int
        Exit status.
    """
    directory = Path(config["directory"])
    lock = Lock(directory / "supervisor.lock", config["lock_fd"])
    binary = ServerBinary(
        Path(config["binary"]["path"]),
        config["binary"]["flavour"],
        tuple(config["binary"]["version"]),
        config["binary"]["defaults_chosen"],
    )
    try:
        supervisor = Supervisor(directory, binary, idle_secs=config["idle_secs"], options=config["options"], lock=lock)
    except CelersError as error:
        report(_error_reply(error))
        return 1
    try:
        supervisor.start(config["database"])
    except (CelersError, OSError) as error:
        logger.error("%s", error)
        failure = error if isinstance(error, CelersError) else BrokerConnectionError(str(error))
        supervisor.refuse_pending(failure)
        supervisor.end()
        report(_error_reply(failure))
        return 1
    except StartCancelled:
        supervisor.end()
        return 0
    report({"ok": True, "socket": str(supervisor.server.socket)})
    logger.info("%s answers at %s", binary.label, supervisor.server.socket)
    reason = supervisor.watch()
    logger.info("the end: %s", reason)
    supervisor.end()
    return 0


def main() -> int:
    """Leave the starter, then supervise; the outcome of the start goes to the standard output."""
    config = json.loads(sys.argv[1])
    # The starter waits for this process, which ends here; its child has nobody who could forget to.
    if os.fork() > 0:
        os._exit(0)
    os.umask(0o077)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    def report(outcome: control.Message) -> None:
        with contextlib.suppress(OSError):  # the starter may be gone
            os.write(1, json.dumps(outcome).encode() + b"\n")
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.close(null)

    return run(config, report)


if __name__ == "__main__":
    sys.exit(main())
