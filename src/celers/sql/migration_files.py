"""The packaged migration files."""

from __future__ import annotations

import enum
import functools
import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from celers.errors import ConfigurationError
from celers.sql.splitter import Statement, split, with_prefix

__all__ = ["MigrationFile", "Role", "packaged"]

_FILE_NAME = re.compile(r"(\d{3})_(\w+)\.sql")


class Role(enum.Enum):
    """What `migrate` does with a file."""

    BOOTSTRAP = enum.auto()
    """Run before every other one and not recorded."""
    REQUIRED = enum.auto()
    OPTIONAL = enum.auto()
    """Applied and removed on request."""
    GUIDE = enum.auto()
    """Text for people, never executed."""


_ROLES = {
    "000": Role.BOOTSTRAP,
    "003": Role.OPTIONAL,
    "004": Role.GUIDE,
    "005": Role.GUIDE,
}


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """One file of the directory ``migrations``."""

    version: str
    """Such as ``001``."""
    name: str
    """Such as ``init``."""
    text: str
    """With ``\\n`` as newline, whatever the file has."""

    @property
    def role(self) -> Role:
        """What `migrate` does with the file."""
        return _ROLES.get(self.version, Role.REQUIRED)

    @property
    def checksum(self) -> str:
        """SHA-256 of the text in 64 hexadecimal digits; the same for every table prefix and newline style."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def statements(self, prefix: str) -> list[Statement]:
        """Return the statements with `prefix` in the place of ``celers_``."""
        return [
            Statement(with_prefix(statement.text, prefix), statement.number, statement.line)
            for statement in split(self.text)
        ]


def _directory() -> Traversable:
    """Find the files: installed as the package ``celers.migrations``, or at the top of a checkout."""
    try:
        return resources.files("celers.migrations")
    except ModuleNotFoundError:
        checkout = Path(__file__).parents[3] / "migrations"
        if not checkout.is_dir():
            raise ConfigurationError(
                "the migration files are missing: this installation of celers is incomplete, install it again"
            ) from None
        return checkout


@functools.cache
def packaged() -> tuple[MigrationFile, ...]:
    """Return all packaged files in order of their versions."""
    found = []
    for entry in _directory().iterdir():
        match = _FILE_NAME.fullmatch(entry.name)
        if match is not None:
            text = entry.read_bytes().decode().replace("\r\n", "\n").replace("\r", "\n")
            found.append(MigrationFile(match[1], match[2], text))
    return tuple(sorted(found, key=lambda file: file.version))
