"""Where an embedded server keeps its things, and the locks that keep two from sharing them.

In the server's directory (mode 0700)::

    data/             the server's data directory; appears complete or not at all
    data.new/         an initialisation under way, or one that was cut off
    supervisor.lock   held by the supervisor while it lives
    server.lock       held by the server process: tells whether it still runs when its supervisor has died
    state.json        where the sockets are; a hint that is worth nothing until somebody answers there
    server.log  supervisor.log

The sockets live in a short path of their own, because a unix socket's path has at most 107 bytes. That is not
`XDG_RUNTIME_DIR` at first choice: it is emptied when its user logs out, and the server shall outlive that.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from celers.errors import ConfigurationError

SOCKET_NAME = "db.sock"
CONTROL_NAME = "control.sock"
_SOCKET_LIMIT = 103  # macOS has 104 bytes with the closing zero, Linux 108
_TEMPORARY = "/tmp"  # noqa: S108 - a directory of our own below it, whose owner is checked


def default_directory() -> Path:
    """Where the server is that is used when no URL is given: `celers/server` in the XDG data directory."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if not base.startswith("/"):
        home = os.environ.get("HOME", "")
        base = f"{home if home.startswith('/') else Path.home()}/.local/share"
    return Path(base, "celers", "server")


def prepare_directory(directory: Path) -> Path:
    """Make the server's directory, private to its owner.

    Returns
    -------
    Path
        The directory with symbolic links resolved.

    Raises
    ------
    ConfigurationError
        When it belongs to somebody else, holds other things, or cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        real = directory.resolve(strict=True)
        status = real.stat()
        if status.st_uid != os.geteuid():
            raise ConfigurationError(
                f"the directory of the embedded server, {real}, belongs to user {status.st_uid}, "
                f"not to the current one ({os.geteuid()})"
            )
        if not _ours(real):
            raise ConfigurationError(
                f"{real} has other things in it; an embedded server needs an empty or a new directory"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            real.chmod(0o700)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigurationError(f"cannot use {directory} for an embedded server: {reason}") from error
    return real


def _ours(real: Path) -> bool:
    names = {entry.name for entry in os.scandir(real)}
    return not names or "supervisor.lock" in names


def runtime_directory(directory: Path) -> Path:
    """Make the short directory for the sockets of the server in `directory`.

    Raises
    ------
    ConfigurationError
        When neither the directory for temporary files nor `XDG_RUNTIME_DIR` can hold it.
    """
    status = directory.stat()
    identity = f"{status.st_dev}:{status.st_ino}:{directory}".encode(errors="surrogateescape")
    name = hashlib.sha256(identity).hexdigest()[:16]
    bases = [Path(_TEMPORARY, f"celers-{os.geteuid()}")]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        bases.append(Path(runtime, "celers"))
    reasons = []
    for base in bases:
        path = base / name
        if len(os.fsencode(path / CONTROL_NAME)) > _SOCKET_LIMIT:
            reasons.append(f"{base} is too long for a socket")
            continue
        try:
            _private(base)
            _private(path)
        except OSError as error:
            reasons.append(f"{base}: {error.strerror or error}")
            continue
        return path
    raise ConfigurationError(f"no place for the embedded server's socket: {'; '.join(reasons)}")


def _private(path: Path) -> None:
    """Make a directory that only its owner can enter; OSError when something else is there."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()  # not stat: a symbolic link could lead anywhere
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(0, "not a directory")
    if status.st_uid != os.geteuid():
        raise PermissionError(0, f"belongs to user {status.st_uid}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o700)


class Lock:
    """An exclusive lock on a file, which lasts as long as any process has this opening of the file.

    Parameters
    ----------
    path
        The file, made when missing.
    fd
        An opening, already locked, that was inherited.
    """

    def __init__(self, path: Path, fd: int | None = None) -> None:
        self.path = path
        self._fd = fd

    @property
    def fd(self) -> int:
        """The open file, to be inherited by a process that shall hold the lock too."""
        assert self._fd is not None
        return self._fd

    def acquire(self, timeout: float = 0.0) -> bool:
        """Take the lock, trying for `timeout` seconds; False when somebody else keeps it."""
        deadline = time.monotonic() + timeout
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
            else:
                if _same_file(fd, self.path):
                    self._fd = fd
                    return True
                os.close(fd)  # the directory was removed and made anew between the two calls
                continue
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)

    def in_place(self) -> bool:
        """False when the file is no longer the one that was locked: somebody removed the directory."""
        return _same_file(self.fd, self.path)

    def close(self) -> None:
        """Let go of this opening; processes that inherited it keep the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def read_json(path: Path) -> dict[str, Any] | None:
    """Read an object from a file; None when it is missing or not whole."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a file in one step, so that readers and a power cut find the old text or the new one."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory safe against a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
