"""The pool of connections."""

from __future__ import annotations

import threading
import time

import pytest

from celers import BrokerConnectionError, BrokerError, MysqlBroker, PoolConfig, PoolTimeoutError, SerializedTask
from celers.db import pool as pool_module
from celers.db.driver import Connection
from celers.db.pool import Pool
from celers.db.url import parse_url
from tests.fixtures.waiting import until

pytestmark = pytest.mark.timeout(60)
new = SerializedTask.new


def one(connection: Connection, text: bytes) -> tuple[bytes | None, ...]:
    return connection.run(text, 1)[0].rows[0]


@pytest.fixture
def make_pool(database_url):
    """Make pools, closed at the end."""
    made = []

    def make(url=None, **config):
        made.append(Pool(parse_url(url or database_url), PoolConfig(**config)))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


@pytest.mark.spec("CONF-05", "CORE-14")
def test_the_pool_opens_lazily_up_to_its_limit(make_pool):
    pool = make_pool(max_connections=2, min_connections=1, acquire_timeout_secs=0.1)
    assert (pool.size, pool.idle, pool.active, pool.waits) == (0, 0, 0, 0)
    first, second = pool.acquire(), pool.acquire()
    assert (pool.size, pool.idle, pool.active) == (2, 0, 2)
    started = time.monotonic()
    with pytest.raises(PoolTimeoutError, match=r"0\.1 s") as raised:
        pool.acquire()
    assert 0.08 < time.monotonic() - started < 2
    assert raised.value.retryable
    assert pool.waits == 1
    assert pool.avg_wait_ms >= 90
    pool.release(first)
    assert pool.acquire() is first
    pool.release(first)
    pool.release(second)
    assert (pool.size, pool.idle, pool.active) == (2, 2, 0)


@pytest.mark.spec("CONF-05")
def test_who_waits_gets_the_next_connection_in_turn(make_pool):
    pool = make_pool(max_connections=1, min_connections=0)
    held = pool.acquire()
    order = []

    def wait(number):
        connection = pool.acquire()
        order.append(number)
        pool.release(connection)

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        until(lambda count=number + 1: len(pool._turns) == count)
    pool.release(held)
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4]
    assert pool.waits == 5


@pytest.mark.spec("CONF-05", "ERR-07")
def test_nobody_starves_when_threads_outnumber_connections(database_url):
    config = PoolConfig(max_connections=2, min_connections=0, acquire_timeout_secs=2)
    with MysqlBroker(database_url, pool_config=config, heartbeat=False) as broker:
        broker.queue_size()
        counts = [0] * 12
        stop = time.monotonic() + 1.5
        errors = []

        def use(index):
            try:
                while time.monotonic() < stop:
                    broker.queue_size()
                    counts[index] += 1
            except BrokerError as error:
                errors.append(error)

        threads = [threading.Thread(target=use, args=(index,)) for index in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert errors == []
        assert min(counts) > max(counts) / 4
        assert broker.pool().size <= 2


@pytest.mark.spec("CONF-05")
def test_a_lost_connection_gives_its_place_to_who_waits(make_pool):
    pool = make_pool(max_connections=1, min_connections=0)
    held = pool.acquire()
    found = []
    waiting = threading.Thread(target=lambda: found.append(pool.acquire()))
    waiting.start()
    until(lambda: pool._turns)
    pool.discard(held)
    waiting.join(5)
    assert found[0] is not held
    assert pool.size == 1
    assert pool.failures == 1
    pool.release(found[0])


@pytest.mark.spec("CONF-05")
def test_a_place_is_not_lost_when_no_connection_can_be_opened(make_pool, database_url):
    wrong = database_url.replace("root@", "nobody-here:x@")
    pool = make_pool(wrong, max_connections=1, min_connections=0)
    for _ in range(3):
        with pytest.raises(BrokerConnectionError):
            pool.acquire()
    assert pool.size == 0
    assert pool.failures == 3


@pytest.mark.spec("CONF-05")
def test_old_connections_are_replaced(make_pool):
    pool = make_pool(max_connections=3, min_connections=1, max_lifetime_secs=0.2)
    old = pool.acquire()
    pool.release(old)
    time.sleep(0.25)
    young = pool.acquire()
    assert young is not old
    assert old.broken
    time.sleep(0.25)
    pool.release(young)
    assert pool.size == 0


@pytest.mark.spec("CONF-05")
def test_idle_connections_are_closed_down_to_the_minimum(make_pool):
    pool = make_pool(max_connections=4, min_connections=2, idle_timeout_secs=0.1, max_lifetime_secs=None)
    held = [pool.acquire() for _ in range(4)]
    for connection in held:
        pool.release(connection)
    assert pool.size == 4
    time.sleep(0.15)
    pool.release(pool.acquire())
    assert 2 <= pool.size < 4
    time.sleep(0.15)
    pool.release(pool.acquire())
    assert pool.size == 2


@pytest.mark.spec("CONF-05")
def test_a_long_idle_connection_is_asked_before_use(make_pool, server, monkeypatch):
    pool = make_pool()
    first = pool.acquire()
    pool.release(first)
    monkeypatch.setattr(pool_module, "PING_AFTER_IDLE_SECS", 0.0)
    assert pool.acquire() is first
    pool.release(first)
    server.rows(f"KILL {first.thread_id}")
    until(lambda: first.thread_id not in [row[0] for row in server.rows("SHOW PROCESSLIST")])
    second = pool.acquire()
    assert second is not first
    assert one(second, b"SELECT 1") == (b"1",)
    pool.release(second)


@pytest.mark.spec("CONF-05")
def test_warming_up_opens_the_minimum(make_pool):
    pool = make_pool(min_connections=3, max_connections=5)
    assert pool.warm_up() == 3
    assert pool.idle == 3
    assert pool.warm_up() == 3
