"""Find a database server program on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from celers.errors import ConfigurationError

Flavour = Literal["mariadb", "mysql"]

# Packages put servers where an ordinary user's PATH does not look.
_DIRECTORIES = (
    "/usr/sbin",
    "/usr/libexec",
    "/usr/libexec/mysqld",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/local/libexec",
    "/usr/local/mysql/bin",
    "/usr/local/opt/mariadb/bin",
    "/usr/local/opt/mysql/bin",
    "/opt/homebrew/bin",
    "/opt/homebrew/opt/mariadb/bin",
    "/opt/homebrew/opt/mysql/bin",
    "/opt/local/lib/mariadb/bin",
)
# MariaDB first: where both are installed its start is quicker, and Ubuntu confines mysqld to /var/lib/mysql.
_NAMES = ("mariadbd", "mysqld")

_OLDEST: dict[Flavour, tuple[int, int, int]] = {"mariadb": (10, 6, 0), "mysql": (8, 0, 19)}
_LABEL: dict[Flavour, str] = {"mariadb": "MariaDB", "mysql": "MySQL"}

MISSING = (
    "no MariaDB or MySQL server program was found on this machine. Install one: "
    "Debian, Ubuntu: sudo apt-get install mariadb-server; Fedora: sudo dnf install mariadb-server; "
    "macOS: brew install mariadb. Or name the program in CELERS_MYSQLD, "
    "or give the URL of a running server (mysql://user:password@host/database)"
)


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A database server program that can be started.

    Attributes
    ----------
    path
        The program.
    flavour
        `"mariadb"` or `"mysql"`.
    version
        The three numbers of its version.
    defaults_chosen
        True when the program is a script that already decides about option files; the switch that ignores
        them must then not be given again.
    """

    path: Path
    flavour: Flavour
    version: tuple[int, int, int]
    defaults_chosen: bool = False

    @property
    def series(self) -> str:
        """The release series, whose members share one format of the data directory, for example `"10.11"`."""
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def label(self) -> str:
        """Name and version for people, for example `"MariaDB 10.11.6"`."""
        return f"{_LABEL[self.flavour]} {'.'.join(map(str, self.version))}"

    @property
    def command(self) -> list[str]:
        """The program and the switch that keeps it from reading the machine's option files."""
        return [str(self.path)] if self.defaults_chosen else [str(self.path), "--no-defaults"]


def parse_version(text: str) -> tuple[Flavour, tuple[int, int, int]] | None:
    """Read what `mysqld --version` prints.

    Returns
    -------
    tuple or None
        Flavour and version numbers; None when the text is not from a server program.
    """
    match = re.search(r"\bVer\s+(\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        return None
    flavour: Flavour = "mariadb" if "mariadb" in text[match.start() :].lower() else "mysql"
    return flavour, (int(match[1]), int(match[2]), int(match[3]))


def find_server() -> ServerBinary:
    """Find the server program to start.

    The program or command named in the environment variable `CELERS_MYSQLD` is taken when it is set.
    Otherwise `mariadbd`, then `mysqld`, is looked for on the PATH and where packages put them.

    Returns
    -------
    ServerBinary
        The first program found that runs.

    Raises
    ------
    ConfigurationError
        When there is none, or it is too old.
    """
    chosen = os.environ.get("CELERS_MYSQLD", "").strip()
    if chosen:
        found = _which(chosen)
        if found is None:
            raise ConfigurationError(f"CELERS_MYSQLD names {chosen!r}, which is no program on this machine")
        binary = _inspect(found)
        if binary is None:
            raise ConfigurationError(
                f"CELERS_MYSQLD names {chosen!r}, but '{found} --version' does not answer like a server"
            )
        _check_age(binary)
        return binary
    for path in _candidates():
        binary = _inspect(path)
        if binary is not None:
            _check_age(binary)
            return binary
    raise ConfigurationError(MISSING)


def _which(name: str) -> Path | None:
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *_DIRECTORIES])
    found = shutil.which(name, path=search)
    return None if found is None else Path(found).absolute()


def _candidates() -> Iterator[Path]:
    for name in _NAMES:
        found = _which(name)
        if found is not None:
            yield found


def _inspect(path: Path) -> ServerBinary | None:
    """Ask the program for its version; None when it does not run or is something else."""
    try:
        answer = subprocess.run(  # noqa: S603 - a program that the user installed or named
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    parsed = parse_version(answer.stdout)
    if answer.returncode != 0 or parsed is None:
        return None
    return ServerBinary(path, parsed[0], parsed[1], _chooses_defaults(path))


def _chooses_defaults(path: Path) -> bool:
    """True for a script that gives the server a switch about option files, which it takes only once."""
    try:
        with path.open("rb") as file:
            head = file.read(65536)
    except OSError:
        return False
    return head.startswith(b"#!") and re.search(rb"--(no-defaults|defaults-file)\b", head) is not None


def _check_age(binary: ServerBinary) -> None:
    oldest = _OLDEST[binary.flavour]
    if binary.version < oldest:
        raise ConfigurationError(
            f"{binary.path} is {binary.label}; celers needs {_LABEL[binary.flavour]} "
            f"{'.'.join(map(str, oldest))} or newer"
        )
