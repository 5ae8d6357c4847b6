"""Connections: settings, pool, forks, secrets, and servers that do not fit."""

# ruff: noqa: PT017 - one of several outcomes

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

import pytest

from celers import (
    AsyncMysqlBroker,
    BrokerConnectionError,
    BrokerError,
    ConfigurationError,
    DbTaskState,
    MysqlBroker,
    PoolConfig,
    PoolTimeoutError,
    SerializedTask,
    TaskNotFoundError,
    ValidationError,
)
from celers.db import driver as driver_module
from celers.db import pool as pool_module
from celers.db.driver import Connection, connect
from celers.db.outcome import DriverError
from celers.db.pool import Pool
from celers.db.server import check_version, parse_version
from celers.db.url import parse_url
from tests.fixtures.server import database_at, running
from tests.fixtures.waiting import INNODB_EVERY, until

pytestmark = pytest.mark.timeout(60)

new = SerializedTask.new


def with_options(url: str, **options: object) -> str:
    mark = "&" if "?" in url else "?"
    return url + mark + "&".join(f"{key}={value}" for key, value in options.items())


def one(connection: Connection, text: bytes) -> tuple[bytes | None, ...]:
    return connection.run(text, 1)[0].rows[0]


@pytest.fixture
def raw(database_url):
    """A connection as the broker opens it."""
    made = connect(parse_url(database_url))
    yield made
    made.close()


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


# Session


@pytest.mark.spec("ARCH-06", "ARCH-11")
def test_the_session_does_not_depend_on_the_server(raw):
    settings = one(
        raw,
        b"SELECT @@time_zone, @@autocommit, @@lock_wait_timeout, @@innodb_lock_wait_timeout, @@group_concat_max_len,"
        b" @@character_set_client, @@character_set_connection, @@character_set_results, @@sql_safe_updates,"
        b" @@completion_type",
    )
    assert settings[:5] == (b"+00:00", b"1", b"5", b"5", b"16777216")
    assert settings[5:8] == (b"utf8mb4",) * 3
    assert settings[8:] == (b"0", b"NO_CHAIN")
    isolation = b"@@tx_isolation" if raw.server.is_mariadb else b"@@transaction_isolation"
    assert one(raw, b"SELECT " + isolation) == (b"READ-COMMITTED",)
    limit = b"@@max_statement_time" if raw.server.is_mariadb else b"@@max_execution_time"
    assert float(one(raw, b"SELECT " + limit)[0]) == 0
    mode = set(one(raw, b"SELECT @@sql_mode")[0].split(b","))
    assert b"STRICT_TRANS_TABLES" in mode
    assert b"NO_BACKSLASH_ESCAPES" not in mode


@pytest.mark.spec("ARCH-06")
def test_rows_that_match_are_counted_and_not_those_that_change(raw):
    raw.run(b"CREATE TEMPORARY TABLE t (a INT)", 1)
    raw.run(b"INSERT INTO t VALUES (1), (1)", 1)
    assert raw.run(b"UPDATE t SET a = 1", 1)[0].affected == 2


@pytest.mark.spec("ARCH-06")
def test_nothing_is_cut_off_silently(raw):
    raw.run(b"CREATE TEMPORARY TABLE t (a VARCHAR(2), b TINYINT)", 1)
    for values in (b"('long', 1)", b"('x', 1000)"):
        with pytest.raises(DriverError):
            raw.run(b"INSERT INTO t VALUES " + values, 1)


@pytest.mark.spec("ARCH-10", "TEST-05")
def test_times_are_the_servers_and_in_utc_whatever_its_zone_and_the_clients_clock(place, monkeypatch):
    with running(place / "server", options=["--default-time-zone=+05:00"]) as started:
        database = database_at(started.ensure_started())
        assert database.rows("SELECT @@global.time_zone") == [("+05:00",)]
        with MysqlBroker(database.url("celers"), heartbeat=False) as broker:
            broker.migrate()
            # This process believes in another time altogether.
            monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
            before = datetime.now(UTC)
            task = broker.enqueue(new("now"))
            broker.enqueue_after(new("later"), 3600)
            (later,) = broker.list_scheduled_tasks(10, 0)
            message = broker.dequeue()
            assert message.task_id == task
            broker.ack(message.task_id, message.receipt_handle)
            info = broker.get_task(task)
            after = datetime.now(UTC)
            slack = timedelta(seconds=1)
            for moment in (info.created_at, info.started_at, info.completed_at, message.delivered_at):
                assert before - slack <= moment <= after + slack
                assert moment.tzinfo is not None
            assert 3590 <= later.delay_remaining_secs <= 3600
            assert abs(later.scheduled_at - before - timedelta(hours=1)) < timedelta(seconds=2)
            # A caller's session in the server's zone stores the same times.
            own = database.connect("celers", autocommit=False)
            try:
                foreign = broker.enqueue_after(new("foreign"), 60, connection=own)
                own.commit()
            finally:
                own.close()
            stored = broker.get_task(foreign)
            assert abs(stored.created_at - before) < timedelta(seconds=5)
            assert abs(stored.scheduled_at - stored.created_at - timedelta(seconds=60)) < slack


# Servers that do not fit


@pytest.mark.spec("CONF-01", "ARCH-07", "ERR-03")
@pytest.mark.parametrize(
    ("text", "version", "mariadb"),
    [
        ("9.7.4", (9, 7, 4), False),
        ("8.0.36-0ubuntu0.22.04.1", (8, 0, 36), False),
        ("8.0.19", (8, 0, 19), False),
        ("5.5.5-10.11.19-MariaDB", (10, 11, 19), True),
        ("10.6.0-MariaDB-log", (10, 6, 0), True),
        ("11.8.2-MariaDB-ubu2404", (11, 8, 2), True),
    ],
)
def test_versions_are_read(text, version, mariadb):
    assert parse_version(text) == (version, mariadb)
    check_version(text)


@pytest.mark.spec("CONF-01", "ERR-03")
@pytest.mark.parametrize("text", ["8.0.18", "5.7.44-log", "5.5.5-10.5.27-MariaDB", "10.5.9-MariaDB", "unknown"])
def test_old_servers_are_refused(text):
    with pytest.raises(ConfigurationError):
        check_version(text)


@pytest.mark.spec("ARCH-06")
def test_a_server_that_logs_statements_is_refused(place):
    with running(place / "server", options=["--log-bin=log", "--server-id=1", "--binlog-format=MIXED"]) as started:
        server = database_at(started.ensure_started())
        url = server.url("celers")
        MysqlBroker(url).close()
        server.rows("SET GLOBAL binlog_format = 'STATEMENT'")
        with pytest.raises(ConfigurationError, match="STATEMENT"):
            MysqlBroker(url)
        server.rows("SET GLOBAL binlog_format = 'ROW'")
        MysqlBroker(url).close()


@pytest.mark.spec("CONF-01")
def test_tls_that_was_asked_for_is_in_use_or_refused(server, database_url):
    url = with_options(database_url, ssl_mode="REQUIRED")
    options = parse_url(url)
    try:
        connection = connect(options)
    except ConfigurationError as error:
        assert "not encrypted" in str(error)
    except BrokerConnectionError as error:
        assert error.errno in (2026, 1045)  # the library itself found no TLS
    else:
        assert one(connection, b"SHOW STATUS LIKE 'Ssl_cipher'")[1]
        connection.close()
        assert not server.is_mariadb or parse_version(server.version)[0] >= (11, 4, 0)


@pytest.mark.spec("CONF-01")
def test_tls_over_the_network(place):
    """MySQL makes its own certificates, and MariaDB since 11.4; an older one has none."""
    options = ["--skip-networking=0", "--port=0", "--bind-address=127.0.0.1"]
    port = free_port()
    options[1] = f"--port={port}"
    with running(place / "server", options=options) as started:
        database = database_at(started.ensure_started())
        host = "127.0.0.1" if not database.is_mariadb else "localhost"
        database.rows(f"CREATE USER 'net'@'{host}' IDENTIFIED BY 'sec''ret'")
        database.rows(f"GRANT ALL ON celers.* TO 'net'@'{host}'")
        if database.is_mariadb:
            database.rows("CREATE USER 'net'@'127.0.0.1' IDENTIFIED BY 'sec''ret'")
            database.rows("GRANT ALL ON celers.* TO 'net'@'127.0.0.1'")
        url = f"mysql://net:sec%27ret@127.0.0.1:{port}/celers?ssl_mode=REQUIRED"
        try:
            encrypted = MysqlBroker(url)
        except (ConfigurationError, BrokerConnectionError) as error:
            # The server has no certificate, or the client library does not trust the one that it made.
            assert database.is_mariadb
            assert "sec" not in str(error)
            MysqlBroker(url.replace("?ssl_mode=REQUIRED", "?ssl_mode=DISABLED")).close()
        else:
            with encrypted as broker:
                connection = broker._pool.acquire()
                assert one(connection, b"SHOW STATUS LIKE 'Ssl_cipher'")[1]
                broker._pool.release(connection)
                fork_and_go_on(broker, migrate=True)


def free_port() -> int:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.mark.spec("ERR-03")
def test_a_database_without_tables_says_what_to_do(empty_database_url):
    with MysqlBroker(empty_database_url) as broker:
        for call in (
            broker.queue_size,
            lambda: broker.enqueue(new("x")),
            broker.dequeue,
            broker.maintenance.rescue_dead,
        ):
            with pytest.raises(ConfigurationError, match="celers migrate"):
                call()


@pytest.mark.spec("ERR-03")
def test_a_missing_column_says_what_to_do(empty_database_url, server):
    with MysqlBroker(empty_database_url) as broker:
        broker.migrate()
        broker.enqueue(new("x"))
        server.rows("ALTER TABLE celers_tasks DROP COLUMN isolated", database=urlsplit(empty_database_url).path[1:])
        with pytest.raises(ConfigurationError, match="celers migrate"):
            broker.dequeue()


@pytest.mark.spec("TEST-05")
def test_a_read_only_server_raises_and_recovers(own_server):
    database = database_at(own_server.ensure_started())
    with MysqlBroker(database.url("celers"), heartbeat=False) as admin:
        admin.migrate()
    database.rows("CREATE USER 'app'@'localhost' IDENTIFIED BY 'pass'")
    database.rows("GRANT ALL ON celers.* TO 'app'@'localhost'")
    url = database.url("celers").replace("root@", "app:pass@")
    with MysqlBroker(url, heartbeat=False) as broker:
        broker.enqueue(new("before"))
        database.rows("SET GLOBAL read_only = 1")
        for call in (lambda: broker.enqueue(new("x")), broker.dequeue):
            with pytest.raises(BrokerError) as raised:
                call()
            assert raised.value.errno in (1290, 1836)
            assert not raised.value.outcome_unknown
        assert broker.queue_size() == 1
        database.rows("SET GLOBAL read_only = 0")
        broker.enqueue(new("after"))
        assert len(broker.dequeue_batch(10)) == 2


# Names and prefixes


@pytest.mark.spec("CONF-03", "ARCH-08")
def test_a_prefix_stands_before_every_name(empty_database_url, server):
    with MysqlBroker(empty_database_url, table_prefix="shop_") as broker:
        broker.migrate()
        parent = broker.enqueue(new("a"))
        broker.enqueue(new("b", dependencies=[parent]))
        message = broker.dequeue()
        broker.ack(message.task_id, message.receipt_handle)
        assert broker.get_statistics().completed == 1
    names = server.rows(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = %s",
        (urlsplit(empty_database_url).path[1:],),
    )
    assert names
    assert all(name.startswith("shop_") for (name,) in names)


@pytest.mark.spec("CONF-03", "ARCH-08")
@pytest.mark.parametrize("prefix", ["", "a-b", "x`; DROP", "a" * 33, "ä_"])
def test_other_prefixes_are_refused(database_url, prefix):
    with pytest.raises(ValidationError):
        MysqlBroker(database_url, table_prefix=prefix)


@pytest.mark.spec("CONF-06")
def test_queues_do_not_see_each_other(make_broker):
    first, second = make_broker("first"), make_broker("second")
    task = first.enqueue(new("a"))
    assert second.dequeue() is None
    assert second.get_task(task) is None
    assert second.queue_size() == 0
    assert second.cancel(task) is False
    with pytest.raises(TaskNotFoundError):
        second.ack(task)
    message = first.dequeue()
    with pytest.raises(TaskNotFoundError):
        second.ack(task, message.receipt_handle)
    with pytest.raises(TaskNotFoundError):
        second.reject(task, message.receipt_handle)
    assert second.recover_stuck_tasks(0.000001) == 0
    assert second.purge_all() == 0
    first.ack(task, message.receipt_handle)
    # Names that differ in case or accent only are different queues.
    assert make_broker("FIRST").queue_size() == 0


# Making and closing brokers


@pytest.mark.spec("CONF-02")
def test_the_other_constructors(database_url):
    with MysqlBroker.with_queue(database_url, "q") as broker:
        assert broker.queue_name == "q"
    with MysqlBroker.with_config(database_url, "q", PoolConfig(max_connections=3)) as broker:
        assert broker.pool().max_connections == 3


@pytest.mark.spec("CONF-01", "ERR-06")
def test_a_server_that_is_not_there(place):
    url = f"mysql://root:hunter2@localhost/x?unix_socket={quote(str(place / 'none.sock'), safe='/')}"
    with pytest.raises(BrokerConnectionError) as raised:
        MysqlBroker(url)
    assert raised.value.errno == 2002
    assert raised.value.retryable
    assert "hunter2" not in str(raised.value)


@pytest.mark.spec("CONF-04")
def test_closing_ends_all_use(make_broker):
    broker = make_broker()
    broker.enqueue(new("x"))
    broker.close()
    broker.close()
    assert broker.pool().size == 0
    for call in (broker.queue_size, broker.dequeue, lambda: broker.enqueue(new("x"))):
        with pytest.raises(BrokerError, match="closed"):
            call()


@pytest.mark.spec("CONF-04")
def test_a_broker_is_a_context_manager(database_url):
    with MysqlBroker(database_url) as broker:
        shared = broker.for_queue("other")
        shared.enqueue(new("x"))
        shared.close()
        with pytest.raises(BrokerError, match="closed"):
            shared.queue_size()
        broker.enqueue(new("x"))
    with pytest.raises(BrokerError, match="closed"):
        broker.queue_size()
    with pytest.raises(BrokerError, match="closed"), broker.with_transaction():
        pass


@pytest.mark.spec("CONF-04")
def test_closing_while_others_wait_and_work(database_url):
    broker = MysqlBroker(database_url, pool_config=PoolConfig(max_connections=1, min_connections=0), heartbeat=False)
    pool = broker._pool
    held = pool.acquire()
    outcome = []

    def wait():
        try:
            broker.queue_size()
        except BrokerError as error:
            outcome.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: pool._turns)
    broker.close()
    waiting.join(5)
    assert "closed" in str(outcome[0])
    pool.release(held)
    assert pool.size == 0
    assert held.broken


def test_no_connection_or_thread_outlives_a_forgotten_broker(server, database_url):
    import gc

    broker = MysqlBroker(database_url)
    broker.enqueue(new("x"))
    broker.dequeue()
    number = broker._pool._idle[0].thread_id
    thread = broker._beats._thread
    del broker
    gc.collect()
    until(lambda: number not in [row[0] for row in server.rows("SHOW PROCESSLIST")])
    until(lambda: not thread.is_alive())


# Pool


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


@pytest.mark.spec("CONF-05", "ARCH-11")
def test_an_interrupted_operation_leaves_no_transaction_behind(sync_broker, tables, monkeypatch):
    sync_broker.enqueue(new("x"))
    run = Connection.run

    def interrupted(self, text, count, needed=None):
        results = run(self, text, count, needed)
        if b"FOR UPDATE" in text and b"celers_tasks" in text:
            raise KeyboardInterrupt
        return results

    task = sync_broker.list_tasks(None, 1, 0)[0].id
    monkeypatch.setattr(Connection, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sync_broker.cancel(task)
    monkeypatch.undo()
    assert sync_broker.pool().active == 0
    until(lambda: tables.value("SELECT COUNT(*) FROM information_schema.innodb_trx") == 0, every=INNODB_EVERY)
    assert sync_broker.cancel(task) is True


@pytest.mark.spec("CORE-15")
def test_a_claim_that_was_interrupted_is_found_again(sync_broker, tables, monkeypatch):
    """Ctrl-C after the commit of a claim, before its answer was read."""
    wanted = sync_broker.enqueue_batch([new("a"), new("b"), new("c")])
    run = Connection.run

    def interrupted(self, text, count, needed=None):
        results = run(self, text, count, needed)
        if b"UPDATE lease =" in text:
            raise KeyboardInterrupt
        return results

    sync_broker.ack(*_first(sync_broker))
    monkeypatch.setattr(Connection, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sync_broker.dequeue_batch(2)
    monkeypatch.undo()
    assert sync_broker.get_task(wanted[1]).state is DbTaskState.PROCESSING
    assert sync_broker.dequeue().task_id == wanted[1]
    tables.check(sync_broker)
    assert [message.task_id for message in sync_broker.dequeue_batch(5)] == [wanted[2]]
    tables.check(sync_broker)


def _first(broker):
    message = broker.dequeue()
    return message.task_id, message.receipt_handle


@pytest.mark.spec("ARCH-01")
def test_many_threads_share_a_broker(sync_broker, tables):
    errors, done = [], []

    def work(number):
        try:
            for index in range(20):
                sync_broker.enqueue(new(f"t{number}-{index}"))
                for message in sync_broker.dequeue_batch(2):
                    sync_broker.ack(message.task_id, message.receipt_handle)
                    done.append(message.task_id)
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    for message in sync_broker.dequeue_batch(1000):
        sync_broker.ack(message.task_id, message.receipt_handle)
        done.append(message.task_id)
    assert len(done) == len(set(done)) == 240
    tables.check(sync_broker)


# Forks


def fork_and_go_on(broker, *, migrate=False):
    """Parent and child both use the broker; the child ends in the ordinary way, with all its clean-up."""
    if migrate:
        broker.migrate()
    broker.enqueue(new("parent"))
    message = broker.dequeue()
    before = [connection.thread_id for connection in broker._pool._idle]
    assert before
    child = os.fork()
    if not child:
        status = 1
        try:
            assert broker.pool().size == 0
            broker.enqueue(new("child"))
            assert broker.dequeue().task_name == "child"
            assert all(connection.thread_id not in before for connection in broker._pool._idle)
            broker.close()
            status = 0
        finally:
            import gc

            gc.collect()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    broker.ack(message.task_id, message.receipt_handle)
    assert broker.pool().failures == 0
    assert [connection.thread_id for connection in broker._pool._idle] == before


@pytest.mark.spec("ARCH-02", "TEST-05")
def test_parent_and_child_of_a_fork_both_go_on(sync_broker):
    fork_and_go_on(sync_broker)


FORKING = """
import os, sys, threading
from celers import MysqlBroker, SerializedTask
broker = MysqlBroker(sys.argv[1])
broker.enqueue(SerializedTask.new("a"))
message = broker.dequeue()
# Another thread is waiting for an answer when the fork happens, and one holds a transaction.
busy = broker._pool.acquire()
thread = threading.Thread(target=lambda: busy.run(b"SELECT SLEEP(1)", 1))
thread.start()
opened = broker.with_transaction()
tx = opened.__enter__()
tx.enqueue(SerializedTask.new("b"))
if os.fork() == 0:
    if sys.argv[2] == "use":
        broker.enqueue(SerializedTask.new("child"))
        broker.close()
    del broker, busy, tx, opened
    sys.exit(0)  # the whole end of an interpreter, not os._exit
os.wait()
thread.join()
opened.__exit__(None, None, None)
broker._pool.release(busy)
broker.ack(message.task_id, message.receipt_handle)
assert broker.pool().failures == 0, broker.pool().failures
print(broker.queue_size())
"""


@pytest.mark.spec("ARCH-02", "TEST-05")
@pytest.mark.parametrize("what", ["use", "leave"])
def test_a_child_that_ends_says_nothing_on_the_parents_connections(database_url, what):
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, database_url, what],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(sys.modules["celers"].__file__))},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == ("2" if what == "use" else "1")


@pytest.mark.spec("ARCH-02")
def test_a_child_does_not_keep_the_parents_session_alive(server, database_url):
    connection = connect(parse_url(database_url))
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    connection.shutdown_socket()
    number = connection.thread_id
    connection.close()
    until(lambda: number not in [row[0] for row in server.rows("SHOW PROCESSLIST")])
    os.close(write)
    os.waitpid(child, 0)


# Secrets


@pytest.mark.spec("ARCH-09")
def test_passwords_are_never_told(own_server, caplog):
    caplog.set_level(logging.DEBUG)
    database = database_at(own_server.ensure_started())
    database.rows("CREATE USER 'app'@'localhost' IDENTIFIED BY 'hunter2'")
    database.rows("GRANT ALL ON celers.* TO 'app'@'localhost'")
    good = database.url("celers").replace("root@", "app:hunter2@")
    texts = []
    with pytest.raises(BrokerConnectionError) as raised:
        MysqlBroker(good.replace("hunter2", "hunter3"))
    texts += [str(raised.value), repr(raised.value), repr(raised.value.__cause__)]
    with MysqlBroker(good, lease_secs=1) as broker:
        texts += [repr(broker), repr(broker._pool.options), repr(vars(broker)), str(broker._pool.options)]
        broker.migrate()
        broker.enqueue(new("x", b"swordfish"))
        broker.dequeue()
        broker.pause()
        broker.resume()
        broker.purge_all()
        own_server.stop()
        with pytest.raises(BrokerConnectionError) as away:
            broker.enqueue(new("y", b"swordfish"))
        texts += [str(away.value), repr(away.value)]
        until(lambda: "heartbeat" in caplog.text or not broker.consumers.numbers(), 10)
        own_server.ensure_started()
    texts.append(caplog.text)
    for text in texts:
        for secret in ("hunter2", "hunter3", "swordfish"):
            assert secret not in text


# Heartbeat and leadership


def test_the_heartbeat_survives_a_lost_connection(server, database_url, tables):
    with MysqlBroker(database_url, lease_secs=2) as broker:
        broker.enqueue(new("x"))
        broker.dequeue()
        name = urlsplit(database_url).path[1:]

        def age():
            return float(
                tables.value(
                    "SELECT TIMESTAMPDIFF(MICROSECOND, heartbeat_at, UTC_TIMESTAMP(6)) / 1e6 FROM celers_consumers"
                )
            )

        until(lambda: len([row for row in server.rows("SHOW PROCESSLIST") if row[3] == name]) >= 3, 5)
        for row in server.rows("SHOW PROCESSLIST"):
            if row[3] == name and row[0] != tables.connection.thread_id():
                with contextlib.suppress(Exception):
                    server.rows(f"KILL {row[0]}")
        tables.rows("UPDATE celers_consumers SET heartbeat_at = heartbeat_at - INTERVAL 100 SECOND")
        until(lambda: age() < 5, 5)


def test_there_is_one_leader_and_then_another(database_url):
    with MysqlBroker(database_url) as first, MysqlBroker(database_url) as second:
        leader = first.try_lead()
        assert leader is not None
        assert leader.alive()
        assert second.try_lead() is None
        leader.release()
        follower = second.try_lead()
        assert follower is not None
        follower.release()
        assert not follower.alive()


def test_an_async_broker_sees_an_old_server_too(database_url, monkeypatch):
    import asyncio

    monkeypatch.setattr(driver_module, "greeting", lambda text: (_ for _ in ()).throw(ConfigurationError("old")))

    async def main():
        broker = AsyncMysqlBroker(database_url)
        with pytest.raises(ConfigurationError, match="old"):
            await broker.open()
        assert broker.pool().size == 0
        await broker.close()

    asyncio.run(main())
