"""What the server has measured of statements of one form: the digests of its performance schema."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from celers import rows as read
from celers.components.catalogue import whole
from celers.errors import BrokerError, CelersError
from celers.model.database import QueryPerformanceProfile, QueryStats, SlowQueryInfo
from celers.operation import Packet, Steps
from celers.sql import Raw

if TYPE_CHECKING:
    from celers.core import Core

__all__ = ["digests", "forget_digests", "profile_of", "slow_query_of", "stats_of"]

logger = logging.getLogger("celers.database")

PICOSECONDS_PER_MS = 1e9
_NO_TABLE, _NO_SUCH_COLUMN = 1146, 1054
_DENIED = (1044, 1045, 1142, 1143, 1227)


class _Unreadable(CelersError):
    """The performance schema is there but not for this account, or it is not there."""


def digests(core: Core, order_by: str, least_ms: float, count: int) -> Steps[Sequence[tuple[bytes | None, ...]]]:
    """Return rows of the statement `digests`: none, and a warning in the log, when they cannot be had.

    Parameters
    ----------
    order_by : str
        The column that puts the greatest first.
    least_ms : float
        Average time of those that are returned, at least 0.
    count : int
        Rows at most.
    """
    least = min(math.ceil(Decimal(least_ms) * Decimal(PICOSECONDS_PER_MS)), 2**63 - 1)
    order = Raw(order_by.encode())
    try:
        switch, found = yield Packet(
            b"SELECT @@performance_schema",
            core.sql("database", "digests", prefix=core.prefix, least=least, order_by=order, count=count),
            errors={(1, errno): _Unreadable for errno in (*_DENIED, _NO_TABLE, _NO_SUCH_COLUMN)},
        )
    except _Unreadable:
        logger.warning("the performance schema cannot be read by this account: no statistics of statements")
        return ()
    if not read.flag(switch.rows[0][0]):
        logger.warning("the server's performance schema is switched off: no statistics of statements")
        return ()
    return found.rows


def forget_digests(core: Core) -> Steps[None]:
    """Have the server begin to count anew."""
    yield Packet(
        core.sql("database", "forget_digests"),
        errors={(0, _NO_TABLE): lambda: BrokerError("the server has no performance schema", errno=_NO_TABLE)},
    )


def stats_of(row: tuple[bytes | None, ...]) -> QueryStats:
    """Read from a row of `digests` how often and how long."""
    return QueryStats(
        query_name=read.text(row[0]),
        execution_count=whole(row[1]),
        total_time_ms=_milliseconds(row[2]),
        avg_time_ms=_milliseconds(row[3]),
        min_time_ms=_milliseconds(row[4]),
        max_time_ms=_milliseconds(row[5]),
    )


def slow_query_of(row: tuple[bytes | None, ...]) -> SlowQueryInfo:
    """Read from a row of `digests` how long."""
    return SlowQueryInfo(
        query_text=read.text(row[0]),
        execution_count=whole(row[1]),
        avg_time_ms=_milliseconds(row[3]),
        max_time_ms=_milliseconds(row[5]),
        total_time_ms=_milliseconds(row[2]),
    )


def profile_of(row: tuple[bytes | None, ...]) -> QueryPerformanceProfile:
    """Read from a row of `digests` what was read for it, and by which index."""
    return QueryPerformanceProfile(
        query_digest=read.text(row[0]),
        execution_count=whole(row[1]),
        avg_execution_time_ms=_milliseconds(row[3]),
        total_rows_examined=whole(row[6]),
        total_rows_sent=whole(row[7]),
        no_index_used_count=whole(row[8]),
        no_good_index_used_count=whole(row[9]),
        needs_optimization=whole(row[8]) > 0 or whole(row[9]) > 0,
    )


def _milliseconds(value: bytes | None) -> float:
    """Read a timer, which counts picoseconds."""
    return whole(value) / PICOSECONDS_PER_MS
