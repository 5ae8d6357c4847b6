"""What a connection sets up and checks when it is opened, and servers that do not fit."""

# ruff: noqa: PT017 - one of several outcomes

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from celers import AsyncMysqlBroker, BrokerConnectionError, BrokerError, ConfigurationError, MysqlBroker, SerializedTask
from celers.db import driver as driver_module
from celers.db.driver import Connection, connect
from celers.db.outcome import DriverError
from celers.db.server import check_version, parse_version
from celers.db.url import parse_url
from tests.fixtures.forks import fork_and_go_on
from tests.fixtures.server import database_at, running

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
