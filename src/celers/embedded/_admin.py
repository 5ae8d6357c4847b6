"""The supervisor's own connection to its server."""

from __future__ import annotations

from pathlib import Path

from celers.db.driver import Connection, DriverError, connect
from celers.db.url import ConnectOptions
from celers.errors import BrokerError


class Admin:
    """A connection as root through the socket; connects on first use and again after it was lost.

    Methods raise BrokerError when the server cannot be reached or refuses.

    Parameters
    ----------
    socket
        The server's socket.
    """

    def __init__(self, socket: Path) -> None:
        self._options = ConnectOptions(user="root", unix_socket=str(socket), connect_timeout=5)
        self._connection: Connection | None = None

    def query(self, text: str) -> list[tuple[str, ...]]:
        """Run one statement and return its rows as text."""
        if self._connection is None:
            self._connection = connect(self._options, read_timeout=10)
        try:
            (result,) = self._connection.run(text.encode(), 1)
        except DriverError as error:
            self.close()
            raise BrokerError(error.message, errno=error.errno) from error
        return [tuple("" if value is None else value.decode() for value in row) for row in result.rows]

    def activity(self) -> tuple[int, int]:
        """Count connections.

        Returns
        -------
        tuple
            Clients connected now, without this connection; connections opened since the server started.
        """
        rows = self.query("SHOW GLOBAL STATUS WHERE Variable_name IN ('Connections', 'Threads_connected')")
        values = {name.lower(): int(value) for name, value in rows}
        return values["threads_connected"] - 1, values["connections"]

    def create_database(self, name: str) -> None:
        """Make a database unless it exists."""
        quoted = name.replace("`", "``")
        self.query(f"CREATE DATABASE IF NOT EXISTS `{quoted}` CHARACTER SET utf8mb4")

    def shutdown(self) -> None:
        """Ask the server to end."""
        self.query("SHUTDOWN")

    def close(self) -> None:
        """Close the connection when there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
