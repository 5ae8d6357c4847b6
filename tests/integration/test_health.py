"""Health of the broker and of its connection pool (spec 07 and 08)."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from celers import (
    AsyncMysqlBroker,
    BrokerConnectionError,
    MysqlBroker,
    PoolConfig,
    PoolTimeoutError,
    SerializedTask,
    ValidationError,
)
from celers.components.health import is_good, optimal_batch_size
from celers.components.pooling import Ping
from tests.fixtures.filling import numbers


def fill(broker, count):
    broker.enqueue_batch([SerializedTask.new("job", max_retries=0) for _ in range(count)])


@pytest.mark.spec("MAINT-01", "TYPE-16")
def test_health_says_what_there_is(broker):
    fill(broker, 4)
    dead, _ = broker.dequeue_batch(2)
    broker.reject(dead.task_id, dead.receipt_handle, error="bad")
    found = broker.check_health()
    assert found == broker.health.check()
    assert found.healthy
    assert found.error is None
    assert (found.pending_tasks, found.processing_tasks, found.dlq_tasks) == (2, 1, 1)
    assert found.connection_pool_size == found.idle_connections == broker.pool().size == 1
    assert found.database_version.startswith(broker.server_version)


@pytest.mark.spec("MAINT-01", "CONF-06")
def test_health_of_a_queue_that_nobody_used_makes_none(make_broker):
    found = make_broker("unused").check_health()
    assert (found.healthy, found.pending_tasks) == (True, 0)
    assert make_broker().queue.names() == []


@pytest.mark.spec("MAINT-01", "MAINT-03")
def test_an_empty_database_is_neither_healthy_nor_ready(make_broker, empty_database_url):
    broker = make_broker(url=empty_database_url)
    found = broker.check_health()
    assert not found.healthy
    assert "celers migrate" in found.error
    assert broker.is_ready() is False
    broker.migrate()
    assert broker.is_ready() is True
    assert broker.check_health().healthy


@pytest.mark.spec("MAINT-01", "MAINT-03", "DBMON-14", "MAINT-13")
def test_without_a_server_nothing_is_raised_where_nothing_may_be(tmp_path):
    url = f"mysql://root@localhost/celers?unix_socket={quote(str(tmp_path / 'none'), safe='')}"

    async def run() -> None:
        broker = AsyncMysqlBroker(url)
        found = await broker.check_health()
        assert not found.healthy
        assert "cannot connect" in (found.error or "")
        assert (found.connection_pool_size, found.pending_tasks, found.database_version) == (0, 0, "")
        assert await broker.is_ready() is False
        for call in (broker.get_pool_health, broker.warmup_connection_pool, broker.check_connection_health):
            with pytest.raises(BrokerConnectionError):
                await call()
        await broker.close()

    asyncio.run(run())


@pytest.mark.spec("MAINT-01")
def test_a_closed_broker_raises(broker):
    broker.close()
    with pytest.raises(Exception, match="closed"):
        broker.check_health()


@pytest.mark.spec("MAINT-02")
def test_a_good_connection(broker, caplog):
    with caplog.at_level(logging.WARNING):
        assert broker.check_connection_health() is True
    assert not caplog.records
    assert broker.pool().active == 0


@pytest.mark.spec("MAINT-02")
@pytest.mark.parametrize(
    ("found", "good"),
    [
        (Ping(1.0, 0.1, 89.9), True),
        (Ping(1.001, 0.0, 0.0), False),
        (Ping(0.0, 0.101, 0.0), False),
        (Ping(0.0, 0.0, 90.0), False),
    ],
)
def test_limits_of_a_degraded_connection(found, good, caplog):
    with caplog.at_level(logging.WARNING):
        assert is_good(found) is good
    assert len(caplog.records) == (not good)


@pytest.mark.spec("MAINT-02", "MAINT-03", "DBMON-13")
def test_a_pool_in_use(make_sync, caplog):
    broker = make_sync(pool_config=PoolConfig(max_connections=1, min_connections=0, acquire_timeout_secs=0.05))
    assert broker.check_connection_health() is True, "the connection that checks does not count"
    with broker.with_transaction():
        assert broker.is_ready() is False
        found = broker.get_connection_diagnostics()
        assert (found.total_connections, found.idle_connections, found.active_connections) == (1, 0, 1)
        assert (found.max_connections, found.pool_utilization_percent) == (1, 100.0)
        with pytest.raises(PoolTimeoutError):
            broker.check_connection_health()
    assert broker.is_ready() is True


@pytest.mark.spec("MAINT-02")
def test_a_nearly_full_pool_is_degraded(make_sync):
    broker = make_sync(pool_config=PoolConfig(max_connections=2, min_connections=0))
    with broker.with_transaction():
        assert broker.check_connection_health() is True, "50 % are in use"
    full = make_sync(pool_config=PoolConfig(max_connections=10, min_connections=0))
    entered, leave = threading.Barrier(10), threading.Event()

    def hold():
        with full.with_transaction():
            entered.wait(30)
            leave.wait(30)

    with ThreadPoolExecutor(9) as threads:
        held = [threads.submit(hold) for _ in range(9)]
        entered.wait(30)
        try:
            assert full.check_connection_health() is False, "90 % are in use"
        finally:
            leave.set()
        for one in held:
            one.result(30)


@pytest.mark.spec("DBMON-13", "DBMON-14", "TYPE-38")
def test_counters_of_the_pool(broker):
    found = broker.get_pool_health()
    assert found.total_connections == found.idle_connections == 1
    assert found.active_connections == 0
    assert found.max_connections == 20
    assert found.pool_utilization_percent == 5.0
    assert found.connection_wait_time_ms >= 0
    again = broker.get_connection_diagnostics()
    assert again == broker.health.connections()
    assert again == found


@pytest.mark.spec("DBMON-13")
def test_nobody_has_waited_before_the_first_use(database_url):
    async def run() -> None:
        broker = AsyncMysqlBroker(database_url)
        assert (await broker.get_connection_diagnostics()).connection_wait_time_ms is None
        await broker.close()

    asyncio.run(run())


@pytest.mark.spec("MAINT-13", "CONF-05")
def test_the_minimum_is_open_at_the_same_time(make_broker, server):
    broker = make_broker(pool_config=PoolConfig(max_connections=6, min_connections=4))
    assert broker.warmup_connection_pool() == 4
    assert (broker.pool().size, broker.pool().idle) == (4, 4)
    assert broker.warmup_connection_pool() == 4


@pytest.mark.spec("DBMON-15", "TYPE-39")
def test_performance(make_broker, tables):
    broker = make_broker()
    before = broker.get_performance_metrics()
    assert (before.tasks_per_second, before.avg_dequeue_time_ms, before.avg_enqueue_time_ms) == (0.0, 0.0, 0.0)
    fill(broker, 10)
    done = broker.dequeue_batch(6)
    broker.ack_batch([(message.task_id, message.receipt_handle) for message in done[:3]])
    broker.reject(done[3].task_id, done[3].receipt_handle)
    found = broker.get_performance_metrics()
    assert found.tasks_per_second == 3 / 60
    assert (found.queue_depth, found.processing_tasks, found.dlq_size) == (4, 2, 1)
    assert 0 < found.avg_dequeue_time_ms < 10_000
    assert 0 < found.avg_enqueue_time_ms < 10_000
    assert found.connection_pool.total_connections == 1
    assert found.timestamp > before.timestamp
    tables.rows("UPDATE celers_throughput SET taken_at = taken_at - INTERVAL 66 SECOND")
    assert broker.get_performance_metrics().tasks_per_second == 0.0


@pytest.mark.spec("MAINT-12")
@pytest.mark.parametrize(
    ("due", "most", "size"),
    [
        *[(0, 200, 1), (3, 200, 3), (9, 200, 5), (10, 200, 5), (99, 200, 49), (100, 200, 25), (1000, 200, 200)],
        *[(9, 2, 2), (0, 1, 1), (50, 10, 10), (799, 200, 199), (800, 200, 200), (40_000, 10_000, 10_000)],
    ],
)
def test_the_suggested_batch(due, most, size):
    assert optimal_batch_size(due, most) == size


@pytest.mark.spec("MAINT-12")
def test_the_suggested_batch_counts_what_is_due(broker, tables, caplog):
    assert broker.get_optimal_batch_size() == 1
    fill(broker, 1)
    queue = tables.value("SELECT queue_id FROM celers_queues")
    tables.rows(
        "INSERT INTO celers_ready (queue_id, sort_rank, seq)"
        f" SELECT {queue}, 0, 1000 + n FROM ({numbers(3)}) many WHERE n < 99"
    )
    broker.enqueue_after(SerializedTask.new("later"), 3600)
    assert broker.get_optimal_batch_size() == 25
    assert broker.get_optimal_batch_size(10) == 10
    for bad in (0, -1, 1.5, True, "1"):
        with pytest.raises(ValidationError, match="max_batch_size"):
            broker.get_optimal_batch_size(bad)
    with caplog.at_level(logging.WARNING):
        assert broker.get_optimal_batch_size(10_000) == 25
        assert not caplog.records
        assert broker.get_optimal_batch_size(10_001) == 25
    assert len(caplog.records) == 1
    tables.rows("DELETE FROM celers_ready WHERE seq >= 1000")


@pytest.mark.spec("MAINT-01", "ARCH-01")
def test_both_brokers_have_the_same_names():
    for name in ("check_health", "is_ready", "get_pool_health", "warmup_connection_pool", "check_connection_health"):
        assert getattr(MysqlBroker, name) is getattr(AsyncMysqlBroker, name)
