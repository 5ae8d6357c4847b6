"""The edge to mysqlclient: the only module that imports it.

The driver is used at its low level (`MySQLdb._mysql`), because one packet of several statements needs the results
one by one, and because the high level converts every value to a Python object that the row decoder would undo.
Values come back as bytes.

A packet is sent as one text. The server stops it at the first error, so an error carries the index of its
statement: everything before it ran, nothing after it did.
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from MySQLdb import _exceptions, _mysql
from MySQLdb.constants import CLIENT, FIELD_TYPE, FLAG
from MySQLdb.converters import conversions

from celers import forks
from celers.db.outcome import LOST_ERRNOS, DriverError, Result, Row
from celers.db.server import LATEST, ServerInfo, acquainted, greeting, knows_snapshot_isolation
from celers.errors import BrokerConnectionError

if TYPE_CHECKING:
    from celers.db.url import ConnectOptions

__all__ = ["SLOW_SECS", "Connection", "DriverError", "Result", "ServerInfo", "connect", "foreign_run"]

SLOW_SECS = 3600.0
"""Read timeout of connections for statements that may take long."""

NEVER_SENT_ERRNO = 2006
"""The client library gives this number when it could not write the packet, so the server never ran it."""

_FLAGS = CLIENT.MULTI_STATEMENTS | CLIENT.MULTI_RESULTS | CLIENT.FOUND_ROWS

_LATEST_ONLY = b"SET STATEMENT " + LATEST + b" FOR "
_READS_AND_WRITES = (b"SELECT", b"INSERT", b"UPDATE", b"DELETE")

_OK_EMPTY: tuple[Row, ...] = ()
_tuple = tuple.__new__  # what the constructor of a named tuple calls, by Python code
_NO_NUMBER = (0, 2000)


def _collect(raw: Any, count: int) -> list[Result]:
    """Read the results of a packet that was just sent."""
    results: list[Result] = []
    add = results.append
    try:
        while True:
            if raw.field_count():
                rows = _mysql.result(raw, 0, {}).fetch_row(0)
                add(_tuple(Result, (rows, len(rows), 0)))
            else:
                add(_tuple(Result, (_OK_EMPTY, raw.affected_rows(), raw.insert_id())))
            if raw.next_result() == -1:
                break
    except _exceptions.MySQLError as error:
        # An error inside a result set surfaces when the set is read.
        failure = _driver_error(error, len(results))
        failure.results = results
        raise failure from error
    if len(results) != count:
        failure = _cut_short(len(results), count)
        failure.results = results
        raise failure
    return results


def _cut_short(done: int, count: int) -> DriverError:
    """KILL QUERY between two statements ends a packet early; what follows cannot be told apart, so give it up."""
    return DriverError(2013, f"the server answered {done} of {count} statements", done)


def _send(raw: Any, text: bytes) -> None:
    try:
        raw.query(text)
    except _exceptions.MySQLError as error:
        failure = _driver_error(error, 0)
        if failure.errno == NEVER_SENT_ERRNO:
            failure.index = -1
        raise failure from error


def _driver_error(error: _exceptions.MySQLError, index: int) -> DriverError:
    errno = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    message = str(error.args[1]) if len(error.args) > 1 else str(error)
    if errno in _NO_NUMBER:
        # mysqlclient reports an unreadable state (a closed or desynchronised connection) without a number.
        errno = 2013
    return DriverError(errno, message, index)


class Connection:
    """One connection to the server, for one packet at a time.

    Not safe to share: whoever holds it uses it alone. In the child of a fork it is broken.
    """

    __slots__ = (
        "__weakref__",
        "_fd",
        "_inode",
        "_raw",
        "broken",
        "created_at",
        "last_used",
        "pid",
        "server",
        "tail_errno",
        "thread_id",
    )

    def __init__(self, raw: Any, server: ServerInfo) -> None:
        self._raw = raw
        self.server = server
        self.thread_id: int = raw.thread_id()
        # Taken now: while another thread waits for an answer the driver refuses to tell.
        self._fd: int = raw.fileno()
        self._inode = os.fstat(self._fd).st_ino
        self.pid = os.getpid()
        self.created_at = self.last_used = time.monotonic()
        self.broken = False
        self.tail_errno = 0
        """Error number of the last packet's statement that was allowed to fail; 0 when none did."""
        forks.watch(self)

    def forked(self) -> None:
        """Let go of the parent's socket: nothing that is written in this process reaches it any more."""
        raw, self._raw = self._raw, None
        self.broken = True
        if raw is not None:
            with contextlib.suppress(OSError):
                if self._owns_fd():
                    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                    os.dup2(null, self._fd, inheritable=False)
                    os.close(null)
            _orphans.append(raw)

    def run(self, text: bytes, count: int, needed: int | None = None) -> list[Result]:
        """Send one packet of `count` statements and return their results in order.

        Parameters
        ----------
        needed : int, optional
            Statements that have to succeed; all when None. An error of a later one ends the packet there, and only its
            number is kept, in `tail_errno`.

        Raises
        ------
        DriverError
            With the index of the statement that failed. After an error that does not lose the connection it can be
            used again (the caller rolls back).
        """
        raw = self._raw
        if raw is None:
            raise DriverError(2006, "the connection is closed", -1)
        try:
            self.tail_errno = 0
            _send(raw, text)
            results = _collect(raw, count)
        except DriverError as failure:
            self.broken = failure.lost
            if failure.lost or needed is None or failure.index < needed:
                raise
            self.tail_errno = failure.errno
            results = failure.results
        except BaseException:
            # An interrupt in the middle of a packet leaves results unread.
            self.broken = True
            raise
        self.last_used = time.monotonic()
        return results

    def push(self, text: bytes, count: int, needed: int | None = None) -> None:
        """As `run`, for statements without rows whose results say nothing beyond that they have succeeded."""
        raw = self._raw
        if raw is None:
            raise DriverError(2006, "the connection is closed", -1)
        done = errno = 0
        try:
            raw.query(text)
            done = 1
            while raw.next_result() != -1:
                done += 1
            if done != count:
                raise _cut_short(done, count)
        except _exceptions.MySQLError as error:
            # A ring that finds nobody ends most packets here: nothing is made of it.
            errno = error.args[0] if error.args else 0
            if needed is None or done < needed or errno in _NO_NUMBER or errno in LOST_ERRNOS:
                failure = _driver_error(error, done)
                if not done and failure.errno == NEVER_SENT_ERRNO:
                    failure.index = -1
                self.broken = failure.lost
                raise failure from error
        except BaseException:
            self.broken = True
            raise
        self.tail_errno = errno
        self.last_used = time.monotonic()

    def fetch(self, text: bytes) -> tuple[tuple[tuple[Any, ...], ...], int]:
        """Run one statement of the caller: the rows of its first result as Python values, and how many it touched.

        A procedure answers with several results; those after the first are read and dropped.
        """
        raw = self._raw
        if raw is None:
            raise DriverError(2006, "the connection is closed", -1)
        try:
            _send(raw, text)
            try:
                rows: tuple[tuple[Any, ...], ...] = ()
                affected: int = 0
                if raw.field_count():
                    rows = _mysql.result(raw, 0, _converters()).fetch_row(0)
                    affected = len(rows)
                else:
                    affected = raw.affected_rows()
                while raw.next_result() != -1:
                    _store(raw)
            except _exceptions.MySQLError as error:
                raise _driver_error(error, 0) from error
        except DriverError as failure:
            self.broken = failure.lost
            raise
        except BaseException:
            self.broken = True
            raise
        self.last_used = time.monotonic()
        return rows, affected

    def multi_statements(self, on: bool) -> None:
        """Switch packets of several statements on or off on this connection (off while callers send their SQL)."""
        try:
            self._raw.set_server_option(0 if on else 1)
        except _exceptions.MySQLError as error:
            self.broken = True
            raise _driver_error(error, -1) from error

    def close(self) -> None:
        """Close without complaint."""
        raw, self._raw = self._raw, None
        self.broken = True
        if raw is None:
            return
        with contextlib.suppress(_exceptions.MySQLError):
            raw.close()

    def shutdown_socket(self) -> None:
        """Wake a thread that waits for this connection's answer; used only when closing takes too long."""
        if self._raw is None:
            return
        import socket

        with contextlib.suppress(OSError):
            if self._owns_fd():
                duplicate = socket.socket(fileno=os.dup(self._fd))
                with duplicate:
                    duplicate.shutdown(socket.SHUT_RDWR)

    def _owns_fd(self) -> bool:
        """Is the number still that of our socket? The client library closes it when the connection is lost."""
        return os.fstat(self._fd).st_ino == self._inode


# Connections inherited over a fork, cut off from their sockets. Kept, because one that a thread of the parent was using
# at that moment cannot be closed in a process without that thread.
_orphans: list[Any] = []


def _store(raw: Any) -> Any:
    return _mysql.result(raw, 0, {}) if raw.field_count() else None


@lru_cache(maxsize=1)
def _converters() -> dict[int, object]:
    """The driver's own converters, with text as `str` and binary values as `bytes`."""
    found: dict[int, object] = dict(conversions)
    for kind in (
        FIELD_TYPE.STRING,
        FIELD_TYPE.VAR_STRING,
        FIELD_TYPE.VARCHAR,
        FIELD_TYPE.TINY_BLOB,
        FIELD_TYPE.BLOB,
        FIELD_TYPE.MEDIUM_BLOB,
        FIELD_TYPE.LONG_BLOB,
    ):
        found[kind] = ((FLAG.BINARY, bytes), (None, str))
    found[FIELD_TYPE.JSON] = str
    return found


def foreign_run(connection: Any, text: bytes) -> Result:
    """Run one statement on a connection that belongs to the caller (a `MySQLdb` connection).

    Values come back as bytes, whatever converters the caller has set. Locks are taken on the latest rows, whatever the
    age of the caller's snapshot; the session stays as it is.
    """
    if text.startswith(_READS_AND_WRITES) and knows_snapshot_isolation(connection.get_server_info()):
        text = _LATEST_ONLY + text
    try:
        connection.query(text)
        result = _store(connection)
        if result is None:
            return Result(_OK_EMPTY, connection.affected_rows(), connection.insert_id())
        rows = result.fetch_row(0)
        return Result(rows, len(rows), 0)
    except _exceptions.MySQLError as error:
        raise _driver_error(error, 0) from error


def is_driver_connection(value: object) -> bool:
    """Is this a connection of mysqlclient?"""
    return isinstance(value, _mysql.connection)


def _ssl_options(options: ConnectOptions) -> dict[str, Any]:
    found = {
        key: value
        for key, value in (("ca", options.ssl_ca), ("cert", options.ssl_cert), ("key", options.ssl_key))
        if value
    }
    arguments: dict[str, Any] = {}
    if found:
        arguments["ssl"] = found
    if options.ssl_mode:
        arguments["ssl_mode"] = options.ssl_mode
    return arguments


def connect(options: ConnectOptions, *, read_timeout: float | None = None, single: bool = False) -> Connection:
    """Open a connection with the session settings that the storage protocol needs.

    Parameters
    ----------
    options : ConnectOptions
        Where and as whom. An embedded server is started when it does not run.
    read_timeout : float, optional
        Seconds to wait for an answer before the connection counts as lost; overrides the options' value.
    single : bool
        Refuse packets of several statements, because text of a caller becomes part of one.

    Raises
    ------
    BrokerConnectionError
        The server cannot be reached or refuses the account.
    ConfigurationError
        The server is too old, logs statements only, or TLS was required and is not in use.
    """
    if options.embedded_dir is not None:
        from celers.embedded import ensure

        options = ensure(options)
    arguments: dict[str, Any] = {
        "user": options.user or "",
        "connect_timeout": max(1, round(options.connect_timeout)),
        "read_timeout": max(1, round(read_timeout if read_timeout is not None else options.read_timeout)),
        "write_timeout": max(1, round(options.write_timeout)),
        "client_flag": _FLAGS,
        "conv": {},
        "charset": "utf8mb4",
        **_ssl_options(options),
    }
    if options.password:
        arguments["password"] = options.password
    if options.database:
        arguments["database"] = options.database
    if options.unix_socket:
        arguments["unix_socket"] = options.unix_socket
    else:
        arguments["host"] = options.host
        arguments["port"] = options.port
    try:
        raw = _mysql.connect(**arguments)
    except _exceptions.MySQLError as error:
        failure = _driver_error(error, -1)
        raise BrokerConnectionError(
            f"cannot connect to {options.safe_url()}: [{failure.errno}] {failure.message}", errno=failure.errno
        ) from error
    try:
        connection = _greet(raw, options)
        if single:
            connection.multi_statements(False)
        return connection
    except BaseException as error:
        with contextlib.suppress(_exceptions.MySQLError):
            raw.close()
        if isinstance(error, DriverError):
            raise BrokerConnectionError(
                f"cannot set up the session on {options.safe_url()}: [{error.errno}] {error.message}",
                errno=error.errno,
            ) from error
        raise


def _greet(raw: Any, options: ConnectOptions) -> Connection:
    """Check the server and set the session up, in one round trip."""
    version: str = raw.get_server_info()
    text, count = greeting(version)
    _send(raw, text)
    return Connection(raw, acquainted(version, _collect(raw, count), options.ssl_mode))
