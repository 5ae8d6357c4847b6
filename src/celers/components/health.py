"""Health: can this broker work now, and how does its connection pool do?"""

from __future__ import annotations

import logging
from collections.abc import Collection

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.components.migrations import Migrations
from celers.components.pooling import Ping, diagnostics, ping, ping_async, warm_up, warm_up_async
from celers.components.throughput import throughput
from celers.errors import BrokerConnectionError, BrokerError, CelersError
from celers.model.database import ConnectionDiagnostics, PerformanceMetrics
from celers.model.stats import HealthStatus
from celers.operation import Packet, Steps, operation, paired

__all__ = ["Health", "is_good", "optimal_batch_size"]

logger = logging.getLogger("celers.health")

ACQUIRE_SECS = 5.0
SLOW_ACQUIRE_SECS = 1.0
SLOW_QUERY_SECS = 0.1
FULL_PERCENT = 90.0
DEFAULT_BATCH = 200
LARGE_BATCH = 10_000


class Health(Component[M]):
    """Can this broker work now?"""

    attribute = "health"

    @operation("read", needs_queue=False)
    def check(self) -> Steps[HealthStatus]:
        """Return the server's version, the numbers of the queue, and the pool's; never raises.

        Returns
        -------
        HealthStatus
            `healthy` is False and `error` set when the database cannot be asked, for whatever reason.

        Notes
        -----
        Two round trips; costs what is pending and processing, not what is stored. The connection that asks counts
        as idle.
        """
        core, pool = self.core, self.runner.pool
        try:
            version, found = yield Packet(b"SELECT VERSION()", core.sql("queues", "find", name=core.queue_name))
            row: tuple[bytes | None, ...] = (b"0", b"0", b"0")
            if found.rows:
                queue_id = read.integer(found.rows[0][0])
                numbers = core.sql("health", "statistics", queue_id=queue_id, queue_name=core.queue_name)
                row = (yield Packet(numbers))[0].rows[0]
        except CelersError as error:
            return HealthStatus(
                healthy=False, connection_pool_size=pool.size, idle_connections=pool.idle, error=str(error)
            )
        return HealthStatus(
            healthy=True,
            connection_pool_size=pool.size,
            idle_connections=pool.idle + 1,
            pending_tasks=read.integer(row[0]),
            processing_tasks=read.integer(row[1]),
            dlq_tasks=read.integer(row[2]),
            database_version=read.text(version.rows[0][0]),
        )

    @operation("read", needs_queue=False)
    def is_ready(self) -> Steps[bool]:
        """Return whether a query succeeds, the pool has room, and all required migrations are applied; never raises.

        One round trip for the query, the others read the catalogue: about 10 ms.
        """
        pool = self.runner.pool
        if pool.idle == 0 and pool.size >= pool.max_connections:
            logger.warning("not ready: all %d connections are in use", pool.max_connections)
            return False
        try:
            yield Packet(b"SELECT 1")
            migrations: Migrations[M] = Migrations(self.core, self.runner)
            verified = yield from Migrations.verify.steps(migrations)
        except CelersError as error:
            logger.warning("not ready: %s", error)
            return False
        return not verified.missing_migrations

    @operation("read")
    def performance(self) -> Steps[PerformanceMetrics]:
        """Return throughput, the time of enqueue and dequeue in this process, depths, and the pool.

        Notes
        -----
        One round trip; costs what is pending and processing, not what is stored. Throughput as `get_task_throughput`.
        """
        core = self.core
        completed, numbers = yield Packet(
            core.sql("throughput", "read", queue_id=core.queue_id),
            core.sql("health", "statistics", queue_id=core.queue_id, queue_name=core.queue_name),
        )
        row = numbers.rows[0]
        return PerformanceMetrics(
            timestamp=read.instant(row[3]),
            tasks_per_second=throughput(completed.rows).tasks_per_second,
            avg_dequeue_time_ms=_mean_ms(core.meters["dequeue"]),
            avg_enqueue_time_ms=_mean_ms(core.meters["enqueue"]),
            queue_depth=read.integer(row[0]),
            processing_tasks=read.integer(row[1]),
            dlq_size=read.integer(row[2]),
            connection_pool=diagnostics(self.runner.pool),
        )

    @operation("read")
    def optimal_batch_size(self, max_batch_size: int | None = None) -> Steps[int]:
        """Suggest how many tasks to claim at once, by the number of due ones.

        Parameters
        ----------
        max_batch_size : int, optional
            Upper limit, above 0; 200 when left out.

        Notes
        -----
        One round trip. Counts only as far as the answer depends on it.
        """
        most = DEFAULT_BATCH if max_batch_size is None else validate.integer(max_batch_size, "max_batch_size", 1)
        if most > LARGE_BATCH:
            logger.warning("max_batch_size=%d is large: a claim that is lost takes as many tasks with it", most)
        bound = max(100, most * 4)
        results = yield Packet(self.core.sql("health", "count_due", queue_id=self.core.queue_id, most=bound))
        return optimal_batch_size(read.integer(results[0].rows[0][0]), most)

    # The pool: no statements of an operation, so each kind of broker has a form of its own

    def _connections(self) -> ConnectionDiagnostics:
        """Return the counters of the connection pool; no I/O."""
        return diagnostics(self.runner.pool)

    async def _connections_async(self) -> ConnectionDiagnostics:
        return diagnostics(self.runner.pool)

    def _pool(self) -> ConnectionDiagnostics:
        """Ask one connection something, then return the counters of the connection pool.

        Raises
        ------
        BrokerConnectionError
            No connection, or no answer.
        """
        try:
            ping(self)
        except BrokerError as error:
            raise _no_answer(error) from error
        return diagnostics(self.runner.pool)

    async def _pool_async(self) -> ConnectionDiagnostics:
        try:
            await ping_async(self)
        except BrokerError as error:
            raise _no_answer(error) from error
        return diagnostics(self.runner.pool)

    def _check_connection(self) -> bool:
        """Return True when a connection is there at once and answers at once, False when the broker is degraded.

        Degraded means: a connection took more than 1 s to get, its answer more than 100 ms, or 90 % of the pool's
        limit are in use by others. Each finding is logged as a warning.

        Raises
        ------
        PoolTimeoutError
            No connection within 5 s.
        BrokerError
            It does not answer.
        """
        return is_good(ping(self, ACQUIRE_SECS))

    async def _check_connection_async(self) -> bool:
        return is_good(await ping_async(self, ACQUIRE_SECS))

    def _warm_up(self) -> int:
        """Open connections until the pool's minimum is open at the same time; return how many are open.

        Raises
        ------
        BrokerConnectionError
            One of them cannot be opened.
        """
        return warm_up(self)

    async def _warm_up_async(self) -> int:
        return await warm_up_async(self)

    connections = paired(_connections, _connections_async)
    pool = paired(_pool, _pool_async)
    check_connection = paired(_check_connection, _check_connection_async)
    warm_up = paired(_warm_up, _warm_up_async)


def _no_answer(error: BrokerError) -> BrokerConnectionError:
    if isinstance(error, BrokerConnectionError):
        return error
    return BrokerConnectionError(f"no connection of the pool can be used: {error}", errno=error.errno)


def is_good(found: Ping) -> bool:
    """Judge a ping, and log what is wrong."""
    findings = []
    if found.acquire_secs > SLOW_ACQUIRE_SECS:
        findings.append(f"a connection took {found.acquire_secs:.3f} s to get")
    if found.query_secs > SLOW_QUERY_SECS:
        findings.append(f"a trivial query took {found.query_secs * 1000:.0f} ms")
    if found.used_percent >= FULL_PERCENT:
        findings.append(f"{found.used_percent:.0f} % of the connections are in use")
    for finding in findings:
        logger.warning("degraded: %s", finding)
    return not findings


def optimal_batch_size(due: int, most: int = DEFAULT_BATCH) -> int:
    """Suggest a batch for a number of due tasks: small queues are shared, large ones cut into at least four."""
    if due < 10:
        size = min(max(due, 1), 5)
    elif due < 100:
        size = min(due // 2, 50)
    else:
        size = due // 4
    return max(1, min(size, most))


def _mean_ms(times: Collection[float]) -> float:
    taken = tuple(times)
    return sum(taken) * 1000.0 / len(taken) if taken else 0.0
