"""Make a data directory and the command line of the server that uses it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from celers.embedded.binary import ServerBinary
from celers.embedded.paths import read_json, sync_directory, write_json
from celers.errors import BrokerConnectionError, ConfigurationError

MARKER = "celers-server.json"
_TIMEOUT = 600.0

# The server's own statements for its system tables; newer releases of MariaDB renamed the files.
_SYSTEM_TABLES = (
    "{}_system_tables.sql",
    "{}_performance_tables.sql",
    "{}_system_tables_data.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "{}_sys_schema.sql",
)

TEMPORARY = "tmp"
"""Directory of the server's temporary files, in its runtime directory."""


def server_arguments(
    binary: ServerBinary,
    *,
    data: Path,
    runtime: Path,
    socket: str,
    log: Path,
    options: Sequence[str] = (),
    root: bool = False,
) -> list[str]:
    """Build the command line of a private server: a unix socket only, durable commits, modest memory.

    Parameters
    ----------
    binary
        The server program.
    data, runtime, log
        Data directory, directory of the socket, file for the server's messages.
    socket
        Name of the socket in `runtime`.
    options
        Further options, which win over those chosen here.
    root
        True when the server runs as root, which it has to be told.
    """
    arguments = [
        *binary.command,
        f"--datadir={data}",
        f"--socket={runtime / socket}",
        f"--pid-file={runtime / 'server.pid'}",
        # A starting MariaDB deletes what it takes for its own leftovers in there, also those of another server.
        f"--tmpdir={runtime / TEMPORARY}",
        f"--log-error={log}",
        "--skip-networking",
        "--port=0",
        "--skip-name-resolve",
        "--skip-log-bin",
        "--event-scheduler=OFF",
        "--local-infile=OFF",
        "--default-time-zone=+00:00",
        "--character-set-server=utf8mb4",
        "--max-connections=500",
        "--max-allowed-packet=64M",  # the largest payload, written as hex, and its row
        "--innodb-flush-log-at-trx-commit=1",
        "--innodb-buffer-pool-size=128M",
        "--innodb-autoinc-lock-mode=2",
    ]
    if binary.flavour == "mysql":
        # Clients have to be root by the socket's directory; nobody shall read files through the server.
        arguments += ["--loose-mysqlx=OFF", "--secure-file-priv=NULL"]
    else:
        arguments += ["--performance-schema=OFF"]
    if root:
        arguments.append("--user=root")
    return [*arguments, *options]


def check_data(data: Path, binary: ServerBinary) -> None:
    """Refuse a data directory of another server or release series.

    Servers convert files of an older series without asking and cannot read those of a newer one, so this is a
    decision for a person.
    """
    made_by = read_json(data / MARKER)
    if made_by is None:
        raise ConfigurationError(f"{data} was not made by celers (it has no {MARKER})")
    before = f"{made_by.get('flavour')} {made_by.get('series')}"
    now = f"{binary.flavour} {binary.series}"
    if before != now:
        raise ConfigurationError(
            f"{data} was made by {before}, but the server on this machine is {now} ({binary.path}). "
            "Name the old program in CELERS_MYSQLD, or choose another directory, or dump the data with the "
            "old server and load it into a new directory"
        )


def initialise(directory: Path, binary: ServerBinary, *, lock_fd: int, log: Path) -> None:
    """Make `directory`/data. An attempt that was cut off before is thrown away.

    Parameters
    ----------
    directory
        The embedded server's directory.
    binary
        The server program.
    lock_fd
        An open lock which the installing process inherits, so that nobody starts over while it still writes.
    log
        File that takes what the installing process prints.
    """
    fresh = directory / "data.new"
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.mkdir(mode=0o700)
    with log.open("ab") as messages, tempfile.TemporaryDirectory(prefix="celers-") as temporary:
        if binary.flavour == "mysql":
            command = [*binary.command, "--initialize-insecure", "--loose-mysqlx=OFF", "--skip-log-bin"]
            command += [f"--datadir={fresh}", f"--tmpdir={temporary}", *_as_root()]
            script = b""
        else:
            share = _share_directory(binary)
            if share is None:
                _run_installer(binary, fresh, lock_fd, messages.fileno())
                _finish(directory, fresh, binary)
                return
            command = [*binary.command, "--bootstrap", f"--datadir={fresh}", "--skip-log-bin"]
            command += ["--log-warnings=0", "--enforce-storage-engine=", f"--tmpdir={temporary}", *_as_root()]
            script = _bootstrap_script(share)
        _run(command, script, lock_fd, messages.fileno(), log)
    _finish(directory, fresh, binary)


def _as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []


def _finish(directory: Path, fresh: Path, binary: ServerBinary) -> None:
    marker = {
        "flavour": binary.flavour,
        "series": binary.series,
        "version": ".".join(map(str, binary.version)),
        "made_at": time.time(),
    }
    write_json(fresh / MARKER, marker)
    fresh.rename(directory / "data")
    sync_directory(directory)


def _run(command: list[str], script: bytes, lock_fd: int, output: int, log: Path) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command,
            input=script,
            stdout=output,
            stderr=output,
            pass_fds=(lock_fd,),
            cwd="/",
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerConnectionError(f"the data directory could not be made: {error}") from error
    if done.returncode != 0:
        raise BrokerConnectionError(
            f"the data directory could not be made ({command[0]} ended with status {done.returncode}): "
            f"{explain_log(log)}"
        )


def _roots(binary: ServerBinary) -> Iterator[Path]:
    """Places where the program may have been installed: the first directory above bin, sbin or libexec."""
    for path in (binary.path, binary.path.resolve()):
        yield path.parent.parent
    yield from (Path("/usr"), Path("/usr/local"))


def _share_directory(binary: ServerBinary) -> Path | None:
    for root in _roots(binary):
        for name in ("share/mariadb", "share/mysql", "share"):
            if _system_tables(root / name) is not None:
                return root / name
    return None


def _system_tables(share: Path) -> list[Path] | None:
    for prefix in ("mariadb", "mysql"):
        files = [share / name.format(prefix) for name in _SYSTEM_TABLES]
        if all(file.is_file() for file in files):
            return files
    return None


def _bootstrap_script(share: Path) -> bytes:
    """Join the server's own files: root@localhost without a password, no anonymous account, no help texts."""
    files = _system_tables(share)
    assert files is not None
    parts = [b"CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n"]
    for file in files:
        # Lines about the machine's own name are for accounts that come over TCP, which does not exist here.
        lines = file.read_bytes().splitlines(keepends=True)
        parts += [line for line in lines if b"@current_hostname" not in line]
        parts.append(b"\n")
    parts.append(b"DELETE FROM mysql.global_priv WHERE Host <> 'localhost';\n")
    return b"".join(parts)


def _run_installer(binary: ServerBinary, fresh: Path, lock_fd: int, output: int) -> None:
    """Use the server's shell script when its files are not where they are expected."""
    places = [str(root / part) for root in _roots(binary) for part in ("bin", "scripts")]
    search = os.pathsep.join([*places, os.defpath])
    names = ("mariadb-install-db", "mysql_install_db")
    installer = next(filter(None, (shutil.which(name, path=search) for name in names)), None)
    if installer is None:
        raise ConfigurationError(
            f"{binary.path} comes without its system tables (mariadb_system_tables.sql) and without "
            "mariadb-install-db; install the whole server package (Debian, Ubuntu, Fedora: mariadb-server)"
        )
    command = [installer, "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]
    # The script cannot take a path with a space, so it runs inside the data directory.
    command += ["--force", "--datadir=.", *_as_root()]
    done = subprocess.run(  # noqa: S603 - our own command
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=(lock_fd,),
        cwd=fresh,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise BrokerConnectionError(f"{installer} ended with status {done.returncode}")


def explain_log(log: Path) -> str:
    """The last error lines of a log, with a hint when the confinement of programs is the likely reason."""
    try:
        lines = log.read_text("utf-8", errors="replace").splitlines()[-200:]
    except OSError:
        return "no log was written"
    errors = [line.strip() for line in lines if "[ERROR]" in line or "ERROR:" in line]
    text = " | ".join(errors[-4:]) or " | ".join(lines[-4:]) or "the log is empty"
    if "ermission denied" in text or "rrcode: 13" in text:
        text += (
            " (when the permissions are right, AppArmor or SELinux may confine this program to "
            "/var/lib/mysql: install mariadb-server, or set CELERS_MYSQLD to a program that is not confined)"
        )
    return f"{text} (log: {log})"
