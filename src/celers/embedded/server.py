"""Start, find and stop an embedded server."""

from __future__ import annotations

import dataclasses
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import celers
from celers.db.url import ConnectOptions
from celers.embedded import control
from celers.embedded.binary import ServerBinary, find_server
from celers.embedded.paths import Lock, default_directory, prepare_directory, read_json
from celers.errors import BrokerConnectionError, ConfigurationError

DEFAULT_IDLE_SECS = 1800.0
DEFAULT_DATABASE = "celers"
_START_TIMEOUT = 660.0  # above the supervisor's own limit, whose reason is the better one


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What is known of an embedded server.

    Attributes
    ----------
    directory
        Its directory.
    running
        True when it answers.
    socket
        Its unix socket; this and what follows is None while it does not run.
    server
        Name and version.
    server_pid, supervisor_pid
        Process numbers of the server and of the process that watches it.
    started_at
        Unix time of the start.
    connections
        Clients connected now.
    idle_secs
        Seconds without connections after which it ends; 0 for never.
    """

    directory: str
    running: bool
    socket: str | None = None
    server: str | None = None
    server_pid: int | None = None
    supervisor_pid: int | None = None
    started_at: float | None = None
    connections: int | None = None
    idle_secs: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as a dictionary ready for JSON."""
        return dataclasses.asdict(self)


class EmbeddedServer:
    """A private database server in a directory.

    Nothing happens when the object is made. Any number of objects and processes may name the same directory;
    there is one server for all of them, and the settings of the one who starts it hold until it ends.

    Parameters
    ----------
    directory
        Where it keeps its data; made when missing. None for `default_directory`.
    idle_secs
        Seconds without connections after which it ends by itself; 0 for never.
    database
        Made at the start unless it exists.
    options
        Further options for the server program, for example `["--log-bin=changes"]`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        idle_secs: float = DEFAULT_IDLE_SECS,
        database: str = DEFAULT_DATABASE,
        options: Sequence[str] = (),
    ) -> None:
        self.directory = default_directory() if directory is None else Path(directory).absolute()
        self.idle_secs = idle_secs
        self.database = database
        self.options = tuple(options)

    @property
    def url(self) -> str:
        """The URL that starts this server on demand."""
        return ConnectOptions(
            embedded_dir=str(self.directory),
            embedded_idle_secs=self.idle_secs or DEFAULT_IDLE_SECS,
            database=self.database,
        ).to_url()

    def ensure_started(self) -> str:
        """Start the server unless it runs, and make the database unless it exists.

        Of many callers at once one starts the server, and all wait until it answers.

        Returns
        -------
        str
            Path of the server's socket, which accepts `root` without a password from the owner's processes.

        Raises
        ------
        ConfigurationError
            When no server program is installed, it is too old, or the directory cannot be used.
        BrokerConnectionError
            When the server does not come up.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        answer = self._ask({"command": "ensure", "database": self.database}, _START_TIMEOUT)
        if answer is None:
            binary = find_server()  # before anything is written
            directory = prepare_directory(self.directory)
            lock = Lock(directory / "supervisor.lock")
            while answer is None:
                if lock.acquire():
                    answer = self._start(directory, binary, lock)
                    break
                # Somebody else starts it, or it is about to end.
                answer = self._ask({"command": "ensure", "database": self.database}, _START_TIMEOUT)
                if answer is None:
                    if time.monotonic() >= deadline:
                        raise BrokerConnectionError(
                            f"a process holds {lock.path} but does not answer; see supervisor.log beside it"
                        )
                    time.sleep(0.02)
        if not answer.get("ok"):
            kind = ConfigurationError if answer.get("kind") == "configuration" else BrokerConnectionError
            raise kind(str(answer.get("error")))
        return str(answer["socket"])

    def status(self) -> ServerStatus:
        """Tell whether the server runs, without starting it."""
        answer = self._ask({"command": "status"}, 30.0)
        if answer is None or not answer.get("ok"):  # the latter from a start that has just failed
            return ServerStatus(str(self.directory), running=False)
        known: dict[str, Any] = {
            field.name: answer[field.name] for field in dataclasses.fields(ServerStatus) if field.name in answer
        }
        return ServerStatus(str(self.directory), running=True, **known)

    def stop(self, timeout: float = 90.0) -> bool:
        """End the server cleanly and wait until it has ended.

        Clients that are connected lose their connections.

        Parameters
        ----------
        timeout
            Seconds to wait.

        Returns
        -------
        bool
            True when there was something to stop.

        Raises
        ------
        BrokerConnectionError
            When it has not ended in time.
        """
        deadline = time.monotonic() + timeout
        stopped = False
        while True:
            answer = self._ask({"command": "stop"}, max(0.1, deadline - time.monotonic()))
            stopped = stopped or answer is not None
            if self._at_rest(max(0.0, min(1.0, deadline - time.monotonic()))):
                return stopped
            if time.monotonic() >= deadline:
                raise BrokerConnectionError(f"the embedded server in {self.directory} did not end within {timeout:g} s")
            if answer is None and self._without_supervisor():
                self.ensure_started()  # a new supervisor takes over what the dead one left, and can end it

    def _ask(self, request: control.Message, timeout: float) -> control.Message | None:
        state = read_json(self.directory / "state.json")
        if state is None:
            return None
        try:
            return control.ask(str(state.get("control")), request, timeout)
        except TimeoutError:
            raise BrokerConnectionError(
                f"the supervisor of the embedded server in {self.directory} "
                f"(process {state.get('supervisor_pid')}) does not answer"
            ) from None

    def _free(self, name: str, timeout: float = 0.0) -> bool:
        """True when nobody holds the lock."""
        if not (self.directory / name).exists():
            return True
        lock = Lock(self.directory / name)
        free = lock.acquire(timeout)
        lock.close()
        return free

    def _at_rest(self, timeout: float) -> bool:
        return self._free("supervisor.lock", timeout) and self._free("server.lock")

    def _without_supervisor(self) -> bool:
        return self._free("supervisor.lock") and not self._free("server.lock")

    def _start(self, directory: Path, binary: ServerBinary, lock: Lock) -> control.Message:
        """Start the supervisor, which inherits the lock, and wait for its word."""
        config = {
            "directory": str(directory),
            "idle_secs": self.idle_secs,
            "database": self.database,
            "options": list(self.options),
            "lock_fd": lock.fd,
            "binary": {
                "path": str(binary.path),
                "flavour": binary.flavour,
                "version": list(binary.version),
                "defaults_chosen": binary.defaults_chosen,
            },
        }
        log = directory / "supervisor.log"
        try:
            with log.open("wb") as messages:
                process = subprocess.Popen(  # noqa: S603 - our own command
                    [sys.executable, "-P", "-m", "celers.embedded.supervisor", json.dumps(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=messages,
                    cwd="/",
                    env=_environment(),
                    pass_fds=(lock.fd,),
                    start_new_session=True,
                )
        except OSError as error:
            raise BrokerConnectionError(f"cannot start the embedded server's supervisor: {error}") from error
        finally:
            lock.close()
        with process:
            assert process.stdout is not None
            line = _read_line(process.stdout, _START_TIMEOUT)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            text = log.read_text("utf-8", errors="replace").strip()[-2000:] or "it said nothing"
            raise BrokerConnectionError(f"the embedded server's supervisor ended early: {text}")
        return answer


def _environment() -> dict[str, str]:
    """The environment for the supervisor: it imports celers from where this process did."""
    source = str(Path(celers.__file__).parent.parent)
    others = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{others}" if others else source}


def _read_line(stream: IO[bytes], timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not line.endswith(b"\n") and selector.select(max(0.0, deadline - time.monotonic())):
            part = os.read(stream.fileno(), 65536)
            if not part:
                break
            line += part
    return line


def connect_options(options: ConnectOptions) -> ConnectOptions:
    """Start the server that `options` names and return the options of a plain connection to it."""
    assert options.embedded_dir is not None
    server = EmbeddedServer(
        options.embedded_dir,
        idle_secs=options.embedded_idle_secs,
        database=options.database or DEFAULT_DATABASE,
    )
    socket = server.ensure_started()
    return dataclasses.replace(
        options,
        user="root",
        password="",
        host="localhost",
        unix_socket=socket,
        database=server.database,
        embedded_dir=None,
    )
