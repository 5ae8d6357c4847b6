"""What the health component does with the connection pool, in a form for threads and one for asyncio."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from celers.components.base import Component
from celers.db.aiopool import AsyncPool
from celers.db.outcome import DriverError, map_error
from celers.db.pool import Counters, Pool
from celers.errors import BrokerConnectionError, BrokerError
from celers.model.database import ConnectionDiagnostics

__all__ = ["Ping", "diagnostics", "ping", "ping_async", "warm_up", "warm_up_async"]

_PING = b"SELECT 1"


@dataclass(frozen=True, slots=True)
class Ping:
    """How a connection was got and answered."""

    acquire_secs: float
    query_secs: float
    used_percent: float
    """Connections in use, the one that asked left out, as a share of the limit."""


def diagnostics(pool: Counters, *, own: int = 0) -> ConnectionDiagnostics:
    """Return the counters of a pool; `own` connections in use belong to the caller and count as idle."""
    size, idle = pool.size, pool.idle + own
    return ConnectionDiagnostics(
        total_connections=size,
        idle_connections=idle,
        active_connections=size - idle,
        max_connections=pool.max_connections,
        connection_wait_time_ms=pool.recent_wait_ms,
        pool_utilization_percent=size * 100.0 / pool.max_connections,
    )


def _ping_of(pool: Counters, started: float, acquired: float) -> Ping:
    used = (pool.active - 1) * 100.0 / pool.max_connections
    return Ping(acquired - started, time.monotonic() - acquired, used)


def ping(component: Component[Any], most_secs: float | None = None) -> Ping:
    """Take a connection, waiting at most so long, and ask it something."""
    pool: Pool = component.runner.pool
    started = time.monotonic()
    connection = pool.acquire(most_secs)
    try:
        acquired = time.monotonic()
        connection.run(_PING, 1)
        answer = _ping_of(pool, started, acquired)
    except BaseException as error:
        pool.discard(connection, lost=connection.broken)
        if isinstance(error, DriverError):
            raise map_error(error) from error
        raise
    pool.release(connection)
    return answer


async def ping_async(component: Component[Any], most_secs: float | None = None) -> Ping:
    """As `ping`."""
    pool: AsyncPool = component.runner.pool
    started = time.monotonic()
    connection = await pool.acquire(most_secs)
    try:
        acquired = time.monotonic()
        await connection.send(_PING, 1)
        answer = _ping_of(pool, started, acquired)
    except BaseException as error:
        pool.discard(connection, lost=connection.broken)
        if isinstance(error, DriverError):
            raise map_error(error) from error
        raise
    pool.release(connection)
    return answer


def warm_up(component: Component[Any]) -> int:
    """Open the minimum of connections at the same time; return how many are open."""
    try:
        return int(component.runner.pool.warm_up())
    except BrokerError as error:
        raise _cannot_open(error) from error


async def warm_up_async(component: Component[Any]) -> int:
    """As `warm_up`."""
    try:
        return int(await component.runner.pool.warm_up())
    except BrokerError as error:
        raise _cannot_open(error) from error


def _cannot_open(error: BrokerError) -> BrokerConnectionError:
    if isinstance(error, BrokerConnectionError):
        return error
    return BrokerConnectionError(f"the minimum of connections cannot be opened: {error}", errno=error.errno)
