"""The supervisor's own connection to its server."""

from __future__ import annotations

from pathlib import Path

from MySQLdb import Error, _mysql

AdminError = Error
"""What a method raises when the server cannot be reached or refuses."""


class Admin:
    """A connection as root through the socket; connects on first use and again after it was lost.

    Parameters
    ----------
    socket
        The server's socket.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)
        self._connection: _mysql.connection | None = None

    def query(self, text: str) -> list[tuple[str, ...]]:
        """Run one statement and return its rows as text."""
        if self._connection is None:
            self._connection = _mysql.connect(
                unix_socket=self._socket, user="root", password="", connect_timeout=5, read_timeout=10, charset="utf8mb4"
            )
        try:
            self._connection.query(text.encode())
            result = self._connection.store_result()
            rows = [] if result is None else result.fetch_row(maxrows=0)
        except Error:
            self.close()
            raise
        return [tuple("" if value is None else value.decode() for value in row) for row in rows]

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
            try:
                self._connection.close()
            finally:
                self._connection = None
