"""What kind of server answers: its version, and what follows from that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from celers.errors import ConfigurationError

__all__ = ["ServerInfo", "check_version", "knows_snapshot_isolation", "parse_version"]

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_FIRST_WITH_SNAPSHOT_ISOLATION = {(10, 6): 18, (10, 11): 8, (11, 0): 6, (11, 1): 5, (11, 2): 4, (11, 4): 2}


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a connection learned about its server when it was opened."""

    version: str
    version_tuple: tuple[int, int, int]
    is_mariadb: bool
    max_allowed_packet: int
    identity: tuple[str, ...]
    """Host name, port, server id and socket: two connections with equal identities talk to the same server."""


def parse_version(text: str) -> tuple[tuple[int, int, int], bool]:
    """Read ``"5.5.5-10.11.19-MariaDB"`` or ``"9.7.4"`` as (version, is MariaDB)."""
    is_mariadb = "mariadb" in text.lower()
    text = text.removeprefix("5.5.5-") if is_mariadb else text
    match = _VERSION.search(text)
    if match is None:
        raise ConfigurationError(f"cannot read the server's version {text!r}")
    major, minor, patch = (int(part) for part in match.groups())
    return (major, minor, patch), is_mariadb


@lru_cache(maxsize=16)
def knows_snapshot_isolation(text: str) -> bool:
    """Has a server of this version the setting `innodb_snapshot_isolation`?"""
    version, is_mariadb = parse_version(text)
    first = _FIRST_WITH_SNAPSHOT_ISOLATION.get(version[:2])
    return is_mariadb and (version >= (11, 5, 0) or (first is not None and version[2] >= first))


def check_version(text: str) -> tuple[tuple[int, int, int], bool]:
    """Read a version as `parse_version` does, and refuse a server that is too old."""
    version, is_mariadb = parse_version(text)
    oldest = (10, 6, 0) if is_mariadb else (8, 0, 19)
    if version < oldest:
        name = "MariaDB" if is_mariadb else "MySQL"
        needed = ".".join(str(part) for part in oldest)
        raise ConfigurationError(f"{name} {text} is too old: celers needs {name} {needed} or newer")
    return version, is_mariadb
