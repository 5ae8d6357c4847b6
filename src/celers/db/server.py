"""What kind of server answers: its version, what follows from that, and how a session on it begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from celers.db.outcome import Result
from celers.errors import ConfigurationError

__all__ = [
    "LATEST",
    "ServerInfo",
    "acquainted",
    "check_version",
    "greeting",
    "knows_snapshot_isolation",
    "parse_version",
]

# READ COMMITTED: under REPEATABLE READ claims of several consumers deadlock on MariaDB and starve producers.
# group_concat_max_len also bounds JSON_ARRAYAGG on MariaDB, which would cut a large claim.
_SESSION = (
    b"SET SESSION time_zone='+00:00', autocommit=1, lock_wait_timeout=5, innodb_lock_wait_timeout=5,"
    b" group_concat_max_len=16777216, completion_type=0, sql_safe_updates=0, sql_select_limit=DEFAULT, %s,"
    b" sql_mode='STRICT_TRANS_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION';"
    b"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;"
    b"SHOW VARIABLES WHERE Variable_name IN"
    b" ('max_allowed_packet','binlog_format','log_bin','hostname','port','server_id','socket');"
    b"SHOW STATUS LIKE 'Ssl_cipher'"
)
_SESSION_STATEMENTS = 4

LATEST = b"innodb_snapshot_isolation=OFF"
"""The storage protocol looks at what it decides about with locks, which read the latest rows. MariaDB refuses that in
a transaction whose snapshot is older (error 1020) unless this is off, and it is on by default since 11.6."""

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


def greeting(version_text: str) -> tuple[bytes, int]:
    """Return the packet that begins a session on a server of this version, and how many statements it has.

    Raises
    ------
    ConfigurationError
        The server is too old.
    """
    _, is_mariadb = check_version(version_text)
    settings = b"max_statement_time=0" if is_mariadb else b"max_execution_time=0"
    if knows_snapshot_isolation(version_text):
        settings += b", " + LATEST
    return _SESSION % settings, _SESSION_STATEMENTS


def acquainted(version_text: str, answers: Sequence[Result], ssl_mode: str | None) -> ServerInfo:
    """Return what the answers to a `greeting` tell of the server.

    Raises
    ------
    ConfigurationError
        It logs statements only, or TLS was required and is not in use.
    """
    version, is_mariadb = parse_version(version_text)
    found = {(row[0] or b"").decode().lower(): (row[1] or b"").decode("utf-8", "replace") for row in answers[2].rows}
    if found.get("log_bin", "OFF").upper() in ("ON", "1") and found.get("binlog_format", "ROW").upper() == "STATEMENT":
        raise ConfigurationError(
            "the server's binlog_format is STATEMENT, which READ COMMITTED cannot use: set it to ROW or MIXED"
        )
    mode = (ssl_mode or "").upper()
    cipher = answers[3].rows[0][1] if answers[3].rows else b""
    if mode in ("REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY") and not cipher:
        raise ConfigurationError(f"ssl_mode={mode} was asked for, but the connection to the server is not encrypted")
    return ServerInfo(
        version=version_text.removeprefix("5.5.5-"),
        version_tuple=version,
        is_mariadb=is_mariadb,
        max_allowed_packet=int(found.get("max_allowed_packet", "1048576")),
        identity=tuple(found.get(key, "") for key in ("hostname", "port", "server_id", "socket")),
    )


def check_version(text: str) -> tuple[tuple[int, int, int], bool]:
    """Read a version as `parse_version` does, and refuse a server that is too old."""
    version, is_mariadb = parse_version(text)
    oldest = (10, 6, 0) if is_mariadb else (8, 0, 19)
    if version < oldest:
        name = "MariaDB" if is_mariadb else "MySQL"
        needed = ".".join(str(part) for part in oldest)
        raise ConfigurationError(f"{name} {text} is too old: celers needs {name} {needed} or newer")
    return version, is_mariadb
