"""What the server made of a packet: results, or the error of one statement and what it means."""

from __future__ import annotations

from typing import NamedTuple

from celers.errors import BrokerConnectionError, BrokerError, ConfigurationError, SerializationError

__all__ = ["LOST_ERRNOS", "DriverError", "Result", "Row", "map_error"]

Row = tuple[bytes | None, ...]

LOST_ERRNOS = frozenset({1053, 1927, 2006, 2013, 2014, 2055, 3169, 4031})
"""Numbers after which a connection cannot be used again."""

JSON_ERRNOS = frozenset({3140, 3157, 4025})
"""Not JSON, nested deeper than the server takes (MySQL), refused by the check of a JSON column (MariaDB)."""


class Result(NamedTuple):
    """What one statement of a packet answered."""

    rows: tuple[Row, ...]
    affected: int
    insert_id: int


class DriverError(Exception):
    """An error of the driver, before it is mapped to the package's own.

    Attributes
    ----------
    errno : int
    message : str
    index : int
        Index in the packet of the statement that failed; -1 when the packet never left.
    """

    def __init__(self, errno: int, message: str, index: int) -> None:
        super().__init__(errno, message)
        self.errno = errno
        self.message = message
        self.index = index
        self.results: list[Result] = []
        """What the statements before it have answered."""

    @property
    def lost(self) -> bool:
        """Is the connection gone?"""
        return self.errno in LOST_ERRNOS


def map_error(
    failure: DriverError, *, outcome_unknown: bool = False
) -> BrokerError | ConfigurationError | SerializationError:
    """Turn a driver's error into one of the package's, by its number alone."""
    errno, text = failure.errno, f"[{failure.errno}] {failure.message}"
    if failure.lost or outcome_unknown:
        reason = "the connection to the server was lost"
        if outcome_unknown:
            reason += " while a commit was under way, whose outcome is unknown"
        return BrokerConnectionError(f"{reason}: {text}", errno=errno, outcome_unknown=outcome_unknown)
    if errno in (1146, 1054):
        return ConfigurationError(f"the database's schema does not fit this version: run `celers migrate` ({text})")
    if errno in JSON_ERRNOS:
        return SerializationError(f"the server cannot keep this value in a JSON column: {text}")
    return BrokerError(f"the database refused a statement: {text}", errno=errno, outcome_unknown=outcome_unknown)
