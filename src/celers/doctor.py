"""Looks at a database as celers needs it, and says in words what it finds."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from celers.attendant import obstacle
from celers.db.driver import Connection, connect
from celers.db.outcome import DriverError, map_error
from celers.model.base import Record
from celers.parking import ParkThread
from celers.sql import Statements

if TYPE_CHECKING:
    from celers.db.url import ConnectOptions

__all__ = ["Finding", "Level", "examine"]


RINGS = 5
RING_SECS = 5.0
CLOCK_SECS = 1.0
LARGE_PACKET = 64 * 1024 * 1024
LEAST_WAIT_SECS = 120
_NAMES = (
    "innodb_flush_log_at_trx_commit",
    "sync_binlog",
    "log_bin",
    "innodb_buffer_pool_size",
    "innodb_snapshot_isolation",
    "max_allowed_packet",
    "max_connections",
    "read_only",
    "transaction_isolation",
    "tx_isolation",
    "wait_timeout",
)


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """What one look has shown.

    Parameters
    ----------
    name : str
        What was looked at, one word or two.
    level : Level
        OK: as it should be. NOTE: good to know. WARNING: works, but costs something. PROBLEM: has to be changed.
    text : str
        One sentence for people.
    """

    name: str
    level: Level
    text: str


def examine(options: ConnectOptions, prefix: str = "celers_") -> list[Finding]:
    """Look at a database; changes nothing in it.

    Parameters
    ----------
    options : ConnectOptions
        Where, and as whom: rights are those of this account.
    prefix : str
        First part of the names of tables.

    Returns
    -------
    list of Finding

    Raises
    ------
    BrokerConnectionError
        The server cannot be reached.
    ConfigurationError
        It is too old, or logs statements only.

    Notes
    -----
    Opens two connections. About 20 statements, none of which reads more than the row of each queue.
    """
    connection = connect(options)
    try:
        found: list[Finding] = [Finding("server", Level.OK, _server(connection))]
        settings = {
            (row[0] or b"").decode().lower(): (row[1] or b"").decode()
            for row in connection.run(
                b"SHOW GLOBAL VARIABLES WHERE Variable_name IN (%s)"
                % b",".join(b"'%s'" % name.encode() for name in _NAMES),
                1,
            )[0].rows
        }
        for look in (_tables, _wake_up, _unheard, _other_accounts):
            found += look(connection, options, Statements(prefix))
        found += _durability(settings)
        found += _limits(settings)
        found.append(_network(connection))
        found.append(_clock(connection))
        return found
    except DriverError as error:
        raise map_error(error) from error
    finally:
        connection.close()


def _server(connection: Connection) -> str:
    name = "MariaDB" if connection.server.is_mariadb else "MySQL"
    return f"{name} {connection.server.version}"


def _tables(connection: Connection, options: ConnectOptions, sql: Statements) -> Iterator[Finding]:
    try:
        connection.run(b"SELECT version FROM %s LIMIT 1" % sql.table("migrations").encode(), 1)
    except DriverError as error:
        if error.lost:
            raise
        yield Finding("tables", Level.PROBLEM, f"the tables cannot be used: run `celers migrate` ({error.message})")
    else:
        yield Finding("tables", Level.OK, "they are there")


def _wake_up(connection: Connection, options: ConnectOptions, sql: Statements) -> Iterator[Finding]:
    """Park, and ring, as consumers and producers do."""
    reason = obstacle(connection)
    if reason is None:
        try:
            secs = _ring(connection, options)
        except DriverError as error:
            reason = f"[{error.errno}] {error.message}"
        except _Unanswered as error:
            reason = str(error)
        else:
            text = f"idle workers are woken by whoever enqueues, {secs * 1000:.1f} ms after the commit"
            yield Finding("wake-up", Level.OK, text)
            return
    yield Finding("wake-up", Level.WARNING, f"idle workers poll, up to once a second: {reason}")


class _Unanswered(Exception):
    """The wait went on as if nobody had rung."""


def _ring(control: Connection, options: ConnectOptions) -> float:
    """Return the median of the seconds from a ring to the answer of the wait."""
    name = f"celers:doctor:{os.urandom(12).hex()}".encode()
    gate = b"celers:doctor:" + os.urandom(12).hex().encode()
    wait = b"SLEEP(%d)" % RING_SECS
    if control.server.is_mariadb:
        control.run(b"DO GET_LOCK('%s', 5)" % gate, 1)
        wait = b"COALESCE(GET_LOCK('%s', %d), 0)" % (gate, RING_SECS)
    park = ParkThread(options, RING_SECS, _nothing)
    try:
        if park.server.identity != control.server.identity:
            raise _Unanswered("two connections reach different servers, which do not share named locks")
        took: list[float] = []
        for _ in range(RINGS):
            answer = park.start(b"DO IF(GET_LOCK('%s', 0), %s, 0) + RELEASE_ALL_LOCKS()" % (name, wait))
            deadline = time.monotonic() + RING_SECS / 2
            used = b"SELECT IS_USED_LOCK('%s') <=> %d" % (name, park.thread_id)
            while control.run(used, 1)[0].rows[0][0] != b"1":
                if time.monotonic() > deadline:
                    raise _Unanswered("the server does not show the lock of a waiting connection")
                time.sleep(0.001)
            time.sleep(0.01)
            started = time.monotonic()
            control.run(b"KILL QUERY IS_USED_LOCK('%s')" % name, 1)
            if not answer.wait(RING_SECS / 2):
                raise _Unanswered("a waiting connection was not woken")
            park.check()
            took.append(time.monotonic() - started)
        return sorted(took)[RINGS // 2]
    finally:
        park.close(control)


def _nothing() -> None:
    return None


def _unheard(connection: Connection, options: ConnectOptions, sql: Statements) -> Iterator[Finding]:
    with contextlib.suppress(DriverError):
        rows = connection.run(sql("wakeup", "list_unheard"), 1)[0].rows
        if rows:
            names = ", ".join(sorted((row[0] or b"").decode() for row in rows))
            text = (
                f"in the last day somebody who enqueues was not allowed to wake the workers of {names}, so they poll:"
                " let both use one account, or grant that one CONNECTION_ADMIN"
            )
            yield Finding("accounts", Level.WARNING, text)


def _other_accounts(connection: Connection, options: ConnectOptions, sql: Statements) -> Iterator[Finding]:
    everywhere: set[str] = set()
    for row in connection.run(b"SHOW GRANTS", 1)[0].rows:
        rights, found, _ = (row[0] or b"").decode().upper().partition(" ON *.*")
        if found:
            everywhere |= {right.strip() for right in rights.removeprefix("GRANT ").split(",")}
    if everywhere & {"ALL PRIVILEGES", "SUPER", "CONNECTION ADMIN", "CONNECTION_ADMIN"}:
        text = "this account may wake the workers of every account"
    else:
        text = "this account may wake only workers that use the same account; others poll when it enqueues"
    yield Finding("rights", Level.NOTE, text)


def _durability(settings: dict[str, str]) -> Iterator[Finding]:
    flush = settings.get("innodb_flush_log_at_trx_commit", "1")
    binlog = settings.get("log_bin", "OFF").upper() in ("ON", "1")
    sync = settings.get("sync_binlog", "1")
    lost = "when the machine fails, tasks whose enqueue has returned can be lost"
    if flush != "1":
        yield Finding("durability", Level.WARNING, f"innodb_flush_log_at_trx_commit={flush}: {lost}")
    elif binlog and sync != "1":
        text = f"sync_binlog={sync}: when the machine fails, replicas can miss tasks or have more than this server"
        yield Finding("durability", Level.WARNING, text)
    else:
        log = "the log and the binary log are" if binlog else "the log is"
        text = f"{log} written to disk with every commit, which is what an enqueue waits for"
        yield Finding("durability", Level.OK, text)


def _limits(settings: dict[str, str]) -> Iterator[Finding]:
    packet = int(settings.get("max_allowed_packet", "0"))
    text = f"max_allowed_packet={packet:,}: payloads up to about {packet // 2:,} bytes"
    yield Finding("packets", Level.OK if packet >= LARGE_PACKET else Level.NOTE, text)
    isolation = settings.get("transaction_isolation") or settings.get("tx_isolation", "")
    if isolation.upper() != "READ-COMMITTED":
        text = f"{isolation} is the default; celers' own connections use READ COMMITTED, but one of yours (connection=)"
        if settings.get("innodb_snapshot_isolation", "OFF").upper() in ("ON", "1"):
            text += " can meet error 1020 (innodb_snapshot_isolation)"
        else:
            text += " sees what there was at its first read"
        yield Finding("isolation", Level.NOTE, text)
    wait = int(settings.get("wait_timeout", "28800"))
    if wait < LEAST_WAIT_SECS:
        text = f"wait_timeout={wait}: the server closes idle connections soon, and celers opens them anew"
        yield Finding("timeouts", Level.WARNING, text)
    most = settings.get("max_connections", "0")
    text = f"max_connections={most}; an idle worker holds about four, and three more for each process"
    yield Finding("connections", Level.OK if int(most) >= 100 else Level.NOTE, text)
    if settings.get("read_only", "OFF").upper() in ("ON", "1"):
        yield Finding("read only", Level.PROBLEM, "the server is read-only: nothing can be enqueued")
    size = int(settings.get("innodb_buffer_pool_size", "0"))
    if size < 128 * 1024 * 1024:
        text = f"innodb_buffer_pool_size={size:,}: long queues will not fit into memory"
        yield Finding("memory", Level.WARNING, text)


def _network(connection: Connection) -> Finding:
    took = sorted(_timed(lambda: connection.run(b"SELECT 1", 1)) for _ in range(9))[4]
    level = Level.OK if took < 0.005 else Level.NOTE
    return Finding("round trip", level, f"{took * 1000:.2f} ms; an enqueue, a claim and a batch of both take one each")


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _clock(connection: Connection) -> Finding:
    before = datetime.now(UTC)
    row = connection.run(b"SELECT UTC_TIMESTAMP(6)", 1)[0].rows[0]
    after = datetime.now(UTC)
    there = datetime.fromisoformat((row[0] or b"").decode()).replace(tzinfo=UTC)
    off = (there - (before + (after - before) / 2)).total_seconds()
    if abs(off) > CLOCK_SECS:
        way = "ahead of" if off > 0 else "behind"
        text = f"the server's clock is {abs(off):.1f} s {way} this machine's; the server's decides when a task is due"
        return Finding("clock", Level.WARNING, text)
    return Finding("clock", Level.OK, "the server's clock agrees with this machine's")
