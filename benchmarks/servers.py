"""The servers that are measured on, started for the time of a run in directories of their own.

All listen on unix sockets (Redis and PostgreSQL, whose clients want it, also there), keep their default durable
settings, and are removed afterwards.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "Server", "find", "started"]

START_SECS = 120.0
STOP_SECS = 60.0
PROGRAMS = {
    "mariadb": ("CELERS_BENCHMARK_MARIADB", ("mariadbd", "mysqld")),
    "mysql": ("CELERS_BENCHMARK_MYSQL", ("mysqld9", "mysqld")),
    "redis": ("CELERS_BENCHMARK_REDIS", ("redis-server", "valkey-server")),
    "postgresql": ("CELERS_BENCHMARK_POSTGRESQL", ("postgres",)),
}
KINDS = tuple(PROGRAMS)
_DIRECTORIES = ("/usr/sbin", "/usr/libexec", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
_HIDDEN = {"mariadb": "mariadb", "mysql": "mysql"}


@dataclass(frozen=True)
class Program:
    """A server program."""

    kind: str
    path: str
    version: str


@dataclass(frozen=True)
class Server:
    """A running server; `config` says how to reach it."""

    name: str
    kind: str
    version: str
    config: dict[str, Any]
    pid: int


def find(kind: str) -> Program | None:
    """Find the program of a kind of server; None when this machine has none."""
    variable, names = PROGRAMS[kind]
    chosen = os.environ.get(variable)
    places = [os.environ.get("PATH", os.defpath), *_DIRECTORIES]
    places += [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    for name in (chosen,) if chosen else names:
        path = shutil.which(name, path=os.pathsep.join(places))
        if path is None:
            continue
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
            is_mariadb = "mariadb" in text.lower()
            if kind in _HIDDEN and is_mariadb != (kind == "mariadb"):
                continue
            # A snap's or Debian's link is followed, so that the programs beside it are found.
            number = re.search(r"\d+\.\d+(\.\d+)?", text)
            return Program(kind, path, number[0] if number else text.strip())
    return None


@contextlib.contextmanager
def started(kind: str, *, binlog: bool = False, directory: str | None = None) -> Iterator[Server]:
    """Run a server for the time of a `with` statement."""
    program = find(kind)
    if program is None:
        raise LookupError(f"no program for {kind} on this machine: see benchmarks/README.md")
    # Short, because the path of a socket may have 107 bytes only.
    home = Path(tempfile.mkdtemp(prefix="cb-", dir=directory))
    process: subprocess.Popen[bytes] | None = None
    log = home / "log"
    try:
        make: Callable[..., Any] = {"redis": _redis, "postgresql": _postgresql}.get(kind, _sql)
        command, config, probe, options = make(program, home, binlog)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=home, **options
            )
        deadline = time.monotonic() + START_SECS
        while not probe():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{program.path} did not start: " + log.read_text(errors="replace")[-2000:])
            time.sleep(0.05)
        yield Server(kind + ("+binlog" if binlog else ""), kind, program.version, config, process.pid)
    finally:
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(home, ignore_errors=True)


Start = tuple[list[str], dict[str, Any], Callable[[], bool], dict[str, Any]]


def _run(command: Sequence[str], log: Path, **options: Any) -> None:
    with log.open("ab") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: " + log.read_text(errors="replace")[-2000:])


def _sql(program: Program, home: Path, binlog: bool) -> Start:
    """MariaDB or MySQL: their defaults, durable commits; the binary log off, or on and synchronous."""
    data, socket = home / "data", home / "s"
    # MariaDB deletes the temporary tables of all servers that share its directory for them when it starts.
    temporary = home / "tmp"
    temporary.mkdir()
    first = [program.path] if _is_wrapper(program.path) else [program.path, "--no-defaults"]
    root = ["--user=root"] if os.geteuid() == 0 else []
    if program.kind == "mariadb":
        installer = shutil.which("mariadb-install-db") or shutil.which("mysql_install_db") or "mariadb-install-db"
        _run(
            [installer, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal",
             "--skip-test-db", f"--tmpdir={temporary}", *root],
            home / "log",
        )  # fmt: skip
        extra: list[str] = []
    else:
        _run([*first, "--initialize-insecure", f"--datadir={data}", f"--tmpdir={temporary}", *root], home / "log")
        extra = ["--mysqlx=OFF"]
    command = [
        *first,
        f"--datadir={data}",
        f"--socket={socket}",
        f"--pid-file={home / 'pid'}",
        f"--tmpdir={temporary}",
        "--skip-networking",
        "--port=0",
        "--max-connections=500",
        "--max-allowed-packet=64M",
        "--innodb-flush-log-at-trx-commit=1",
        *(["--log-bin=b", "--server-id=1", "--binlog-format=ROW", "--sync-binlog=1"] if binlog else ["--skip-log-bin"]),
        *extra,
        *root,
    ]
    return command, {"socket": str(socket)}, lambda: _answers(str(socket)), {}


def _is_wrapper(path: str) -> bool:
    """Is this a script that gives ``--no-defaults`` itself? The server takes it only as the first option."""
    with Path(path).open("rb") as file:
        head = file.read(4096)
    return head.startswith(b"#!") and b"--no-defaults" in head


def _answers(socket: str) -> bool:
    from MySQLdb import _exceptions, _mysql

    try:
        _mysql.connect(unix_socket=socket, user="root").close()
    except _exceptions.MySQLError:
        return False
    return True


def _redis(program: Program, home: Path, binlog: bool) -> Start:
    """Redis as packages configure it: snapshots now and then, nothing per command; not durable."""
    socket = home / "s"
    command = [
        program.path, "--port", "0", "--unixsocket", str(socket), "--dir", str(home), "--daemonize", "no",
        "--save", "3600 1 300 100 60 10000",
    ]  # fmt: skip
    return command, {"socket": str(socket)}, socket.exists, {}


def _postgresql(program: Program, home: Path, binlog: bool) -> Start:
    """PostgreSQL with its defaults: every commit is synchronous."""
    binaries = Path(program.path).resolve().parent
    data = home / "data"
    options: dict[str, Any] = {}
    user = getpass.getuser()
    if os.geteuid() == 0:
        # It refuses to run as root; Debian's package makes this account.
        user = "postgres"
        shutil.chown(home, user)
        options = {"user": user, "group": user, "extra_groups": []}
    (home / "log").touch()
    _run(
        [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"],
        home / "log",
        cwd=home,
        **options,
    )
    command = [
        str(binaries / "postgres"), "-D", str(data), "-k", str(home), "-c", "listen_addresses=", "-c",
        "max_connections=200",
    ]  # fmt: skip
    socket = home / ".s.PGSQL.5432"
    config = {"host": str(home), "user": "postgres", "database": "postgres", "psql": str(binaries / "psql")}

    def probe() -> bool:
        return (
            socket.exists()
            and not subprocess.run(
                [config["psql"], "-h", str(home), "-U", "postgres", "-c", "SELECT 1"], capture_output=True, check=False
            ).returncode
        )

    return command, config, probe, options


def make_database(server: Server, name: str) -> dict[str, Any]:
    """Make an empty database on a MariaDB or MySQL server, and return how to reach it."""
    from MySQLdb import _mysql

    raw = _mysql.connect(unix_socket=server.config["socket"], user="root")
    raw.query(f"DROP DATABASE IF EXISTS `{name}`".encode())
    raw.query(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4".encode())
    raw.close()
    return server.config | {"database": name}
