"""`with_transaction`, and operations on connections of the caller."""

# ruff: noqa: PT012 - blocks are what is tested here

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from celers import (
    AsyncMysqlBroker,
    BrokerError,
    ConfigurationError,
    DbTaskState,
    DuplicateTaskError,
    InvalidStateTransitionError,
    MysqlBroker,
    QueueDrainingError,
    SerializationError,
    SerializedTask,
    TaskNotFoundError,
    TaskResultStatus,
    ValidationError,
)
from tests.fixtures.waiting import INNODB_EVERY, until

pytestmark = [pytest.mark.spec("CORE-13"), pytest.mark.timeout(60)]

new = SerializedTask.new
HOSTILE = [
    "o'neil",
    'say "x"',
    "back\\slash",
    "'; DROP TABLE celers_tasks; -- ",
    "\\'; COMMIT; -- ",
    "naïve-ü-漢-😀",
    "%s %% ?",
]
EVERY_BYTE = bytes(range(256)) * 3


class Stop(Exception):
    """Ends a block."""


@pytest.fixture
def own_rows(server, tables, database_url):
    """A table of the application, beside the queue's."""
    tables.rows("CREATE TABLE own_rows (id INT PRIMARY KEY, note VARCHAR(100))")
    yield lambda: tables.rows("SELECT id, note FROM own_rows ORDER BY id")
    tables.rows("DROP TABLE own_rows")


@pytest.fixture
def mine(server, database_url):
    """Connections of the caller, closed at the end."""
    made = []

    def connect(**options):
        name = urlsplit(database_url).path[1:]
        made.append(server.connect(name, **{"autocommit": False, **options}))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


# with_transaction


@pytest.mark.spec("ARCH-04")
def test_everything_in_the_block_is_committed_together(sync_broker, tables, own_rows):
    held = sync_broker.dequeue_batch(0) or None
    sync_broker.enqueue_batch([new("a"), new("b"), new("c")])
    held = sync_broker.dequeue_batch(3)
    with sync_broker.with_transaction() as tx:
        assert tx.execute("INSERT INTO own_rows VALUES (%s, %s)", (1, "it's")) == 1
        one = tx.enqueue(new("next"))
        later = tx.enqueue_after(new("later"), 3600)
        at = tx.enqueue_at(new("at"), datetime.now(UTC) + timedelta(hours=1))
        more = tx.enqueue_batch([new("m1"), new("m2")])
        tx.ack(held[0].task_id, held[0].receipt_handle)
        assert tx.ack_batch([(held[1].task_id, held[1].receipt_handle)]) == 1
        tx.reject(held[2].task_id, held[2].receipt_handle, error="no")
        assert tx.cancel(later) is True
        tx.store_result(held[0].task_id, "a", TaskResultStatus.SUCCESS, result=[1])
        assert tx.fetch_one("SELECT COUNT(*) FROM celers_tasks") == (8,)
        # Nobody else sees any of it.
        assert sync_broker.queue_size() == 0
        assert own_rows() == () or own_rows() == []
    assert list(own_rows()) == [(1, "it's")]
    assert sync_broker.get_result(held[0].task_id).result == [1]
    assert [message.task_id for message in sync_broker.dequeue_batch(10)] == [one, *more]
    assert sync_broker.get_task(at).state is DbTaskState.PENDING
    statistics = sync_broker.get_statistics()
    assert (statistics.completed, statistics.cancelled) == (2, 1)
    tables.check(sync_broker)


@pytest.mark.spec("ARCH-04")
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, ValidationError])
def test_an_exception_undoes_the_block_and_passes_on(sync_broker, tables, own_rows, error):
    sync_broker.enqueue(new("a"))
    held = sync_broker.dequeue()

    def block(tx):
        tx.execute("INSERT INTO own_rows VALUES (1, 'x')")
        tx.enqueue(new("next"))
        tx.ack(held.task_id, held.receipt_handle)
        raise error

    with pytest.raises(error):
        sync_broker.with_transaction(block)
    assert list(own_rows()) == []
    assert sync_broker.queue_size() == 0
    tables.check(sync_broker)
    sync_broker.ack(held.task_id, held.receipt_handle)
    assert sync_broker.pool().failures == 0
    assert sync_broker.pool().active == 0


def test_the_function_form_returns_its_result(sync_broker):
    assert sync_broker.with_transaction(lambda tx: tx.fetch_all("SELECT 1 UNION SELECT 2")) == [(1,), (2,)]


def test_a_savepoint_undoes_its_own_part(sync_broker, tables, own_rows):
    with sync_broker.with_transaction() as tx:
        kept = tx.enqueue(new("kept"))
        with pytest.raises(Stop), tx.savepoint():
            tx.enqueue(new("undone"))
            tx.execute("INSERT INTO own_rows VALUES (1, 'x')")
            with tx.savepoint():
                tx.execute("INSERT INTO own_rows VALUES (2, 'x')")
            raise Stop
        with tx.savepoint():
            tx.execute("INSERT INTO own_rows VALUES (3, 'x')")
    assert list(own_rows()) == [(3, "x")]
    assert [task.id for task in sync_broker.list_tasks(None, 10, 0)] == [kept]


def test_an_operation_that_fails_leaves_nothing_and_the_rest_goes_on(sync_broker, tables):
    taken = sync_broker.enqueue(new("taken"))
    with sync_broker.with_transaction() as tx:
        first = tx.enqueue(new("first"))
        fresh = new("fresh")
        with pytest.raises(DuplicateTaskError):
            tx.enqueue_batch([fresh, new("dup", id=taken)])
        with pytest.raises(TaskNotFoundError):
            tx.ack(uuid4())
        with pytest.raises(ValidationError):
            tx.enqueue_after(new("x"), -1)
        last = tx.enqueue(new("last"))
    assert [message.task_id for message in sync_broker.dequeue_batch(10)] == [taken, first, last]
    assert sync_broker.get_task(fresh.metadata.id) is None
    tables.check(sync_broker)


def test_it_cannot_be_used_after_its_end(sync_broker):
    with sync_broker.with_transaction() as tx:
        enqueue = tx.enqueue
    for call in (lambda: tx.execute("SELECT 1"), lambda: tx.fetch_one("SELECT 1"), lambda: enqueue(new("x"))):
        with pytest.raises(BrokerError, match="ended"):
            call()
    with pytest.raises(BrokerError, match="ended"), tx.savepoint():
        pass


@pytest.mark.spec("ARCH-06")
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; SELECT 2",
        "INSERT INTO own_rows VALUES (9, 'x'); COMMIT",
        "",
        "-- nothing",
        "COMMIT",
        "  rollback",
        "/* now */ COMMIT",
        "START TRANSACTION",
        "BEGIN",
        "SET autocommit = 1",
        "SET SESSION autocommit = 1",
    ],
)
def test_one_statement_only_and_none_that_ends_the_transaction(sync_broker, own_rows, sql):
    with sync_broker.with_transaction() as tx:
        tx.execute("INSERT INTO own_rows VALUES (1, 'x')")
        with pytest.raises(ValidationError):
            tx.execute(sql)
    assert list(own_rows()) == [(1, "x")]


@pytest.mark.spec("ARCH-08")
def test_values_are_values_whatever_is_in_them(sync_broker, own_rows):
    with sync_broker.with_transaction() as tx:
        for number, text in enumerate(HOSTILE):
            tx.execute("INSERT INTO own_rows VALUES (%s, %s)", (number, text))
        assert tx.fetch_one("SELECT %s, %s, 7 %% 4", (EVERY_BYTE, None)) == (EVERY_BYTE, None, 3)
        assert tx.fetch_all("SELECT note FROM own_rows WHERE note = %s", ("o'neil",)) == [("o'neil",)]
        with pytest.raises(ValidationError, match="2 values for 1 places"):
            tx.execute("SELECT %s", (1, 2))
        with pytest.raises(SerializationError):
            tx.execute("SELECT '\ud800'")
    assert [note for _, note in own_rows()] == HOSTILE


def test_the_server_itself_refuses_a_second_statement(sync_broker, own_rows):
    """Even one that the splitter did not see."""
    with pytest.raises(BrokerError) as raised, sync_broker.with_transaction() as tx:
        tx._run(b"SELECT 1; INSERT INTO own_rows VALUES (1, 'x')")
    assert raised.value.errno == 1064
    assert list(own_rows()) == []


def test_procedures_may_be_called(sync_broker, tables):
    tables.rows("CREATE PROCEDURE two_results() BEGIN SELECT 1, 'a'; SELECT 2; END")
    try:
        with sync_broker.with_transaction() as tx:
            assert tx.fetch_all("CALL two_results()") == [(1, "a")]
            assert tx.execute("CALL two_results()") == 1
            assert tx.fetch_one("SELECT 3") == (3,)
    finally:
        tables.rows("DROP PROCEDURE two_results")


def test_settings_of_a_block_do_not_reach_the_next_user(sync_broker):
    with sync_broker.with_transaction() as tx:
        tx.execute("SET SESSION sql_mode = ''")
        tx.execute("SET time_zone = '+05:00'")
    for _ in range(3):
        with sync_broker.with_transaction() as tx:
            mode, zone = tx.fetch_one("SELECT @@sql_mode, @@time_zone")
            assert "STRICT_TRANS_TABLES" in mode
            assert zone == "+00:00"


def test_after_a_deadlock_nothing_more_is_accepted(sync_broker, own_rows, mine, tables):
    tables.rows("INSERT INTO own_rows VALUES (1, 'x'), (2, 'x')")
    other = mine()
    cursor = other.cursor()
    with pytest.raises(BrokerError, match="undone") as raised, sync_broker.with_transaction() as tx:
        tx.enqueue(new("lost"))
        tx.execute("UPDATE own_rows SET note = 'a' WHERE id = 1")
        # The other is heavier, so that this transaction is the one to end.
        cursor.execute(
            "INSERT INTO own_rows SELECT 10 + d1.n * 10 + d0.n, 'w' FROM"
            " (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3) d1,"
            " (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3) d0"
        )
        cursor.execute("UPDATE own_rows SET note = 'b' WHERE id = 2")
        waiting = threading.Thread(target=lambda: cursor.execute("UPDATE own_rows SET note = 'b' WHERE id = 1"))
        waiting.start()
        wait_for_a_lock_wait(tables)
        with pytest.raises(BrokerError) as first:
            tx.execute("UPDATE own_rows SET note = 'a' WHERE id = 2")
        assert first.value.errno == 1213
        assert first.value.retryable
        # Each of these would be committed by itself.
        with pytest.raises(BrokerError, match="undone"):
            tx.execute("INSERT INTO own_rows VALUES (3, 'alone')")
        with pytest.raises(BrokerError, match="undone"):
            tx.enqueue(new("alone"))
        waiting.join(20)
    assert raised.value.retryable
    other.rollback()
    assert list(own_rows()) == [(1, "x"), (2, "x")]
    assert sync_broker.queue_size() == 0


def wait_for_a_lock_wait(tables):
    waits = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    until(lambda: tables.value(waits), 10, every=INNODB_EVERY)


def test_dead_pooled_connections_are_replaced_before_the_block(sync_broker, server, tables):
    numbers = [connection.thread_id for connection in sync_broker._pool._idle]
    assert numbers
    for number in numbers:
        server.rows(f"KILL {number}")
    with sync_broker.with_transaction() as tx:
        tx.enqueue(new("x"))
    assert sync_broker.queue_size() == 1


def test_a_connection_lost_inside_ends_the_block(sync_broker, server, own_rows):
    with pytest.raises(BrokerError), sync_broker.with_transaction() as tx:
        tx.enqueue(new("lost"))
        server.rows(f"KILL {tx._connection.thread_id}")
        with pytest.raises(BrokerError) as raised:
            tx.enqueue(new("lost"))
        assert not raised.value.outcome_unknown
    assert sync_broker.queue_size() == 0


# connection=


def test_nothing_is_committed_on_the_callers_connection(sync_broker, tables, mine):
    connection = mine()
    one = sync_broker.enqueue(new("one"), connection=connection)
    batch = sync_broker.enqueue_batch([new("b1"), new("b2", priority=5)], connection=connection)
    later = sync_broker.enqueue_after(new("later"), 3600, connection=connection)
    at = sync_broker.enqueue_at(new("at"), datetime(2020, 1, 1, tzinfo=UTC), connection=connection)
    assert sync_broker.queue_size() == 0
    assert sync_broker.dequeue() is None
    connection.commit()
    assert [message.task_id for message in sync_broker.dequeue_batch(10)] == [batch[1], one, batch[0], at]
    assert sync_broker.list_scheduled_tasks(10, 0)[0].id == later
    tables.check(sync_broker)


def test_a_rollback_takes_the_task_away(sync_broker, tables, mine):
    connection = mine()
    sync_broker.enqueue(new("one"), connection=connection)
    sync_broker.enqueue_batch([new("b"), new("c")], connection=connection)
    connection.rollback()
    assert sync_broker.queue_size() == 0
    assert sync_broker.list_tasks(None, 10, 0) == []
    tables.check(sync_broker)


def test_dependencies_on_the_callers_connection(sync_broker, tables, mine):
    parent = sync_broker.enqueue(new("parent"))
    connection = mine()
    child = sync_broker.enqueue(new("child", dependencies=[parent]), connection=connection)
    connection.commit()
    message = sync_broker.dequeue()
    assert sync_broker.dequeue() is None
    sync_broker.ack(message.task_id, message.receipt_handle, connection=connection)
    assert sync_broker.dequeue() is None
    connection.commit()
    assert sync_broker.dequeue().task_id == child
    tables.check(sync_broker)


def test_automatic_commit_without_a_transaction_is_refused(sync_broker, mine):
    connection = mine(autocommit=True)
    with pytest.raises(ValidationError, match="autocommit") as raised:
        sync_broker.enqueue(new("x"), connection=connection)
    assert raised.value.parameter == "connection"
    connection.query("START TRANSACTION")
    sync_broker.enqueue(new("x"), connection=connection)
    assert sync_broker.queue_size() == 0
    connection.query("COMMIT")
    assert sync_broker.queue_size() == 1


def test_other_things_than_connections_are_refused(sync_broker, mine):
    for wrong in (object(), "mysql://", mine().cursor()):
        with pytest.raises(ValidationError, match="connection"):
            sync_broker.enqueue(new("x"), connection=wrong)
    with pytest.raises(ConfigurationError, match="utf8mb4"):
        sync_broker.enqueue(new("x"), connection=mine(charset="latin1"))


@pytest.mark.spec("ARCH-08")
@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT"])
@pytest.mark.parametrize("size", [1, 4000])
def test_hostile_names_and_payloads_under_any_sql_mode(sync_broker, tables, mine, mode, size):
    connection = mine()
    connection.query(f"SET SESSION sql_mode = '{mode}'")
    payloads = [EVERY_BYTE * size, b"'; DROP TABLE celers_tasks; -- ", b"\\", b"'", b""]
    tasks = [
        new(name.strip(), payload, extra={"k": name})
        for name in HOSTILE
        for payload in payloads[: 5 if size == 1 else 1]
    ]
    sync_broker.enqueue_batch(tasks, connection=connection)
    single = sync_broker.enqueue(new("o'neil", EVERY_BYTE), connection=connection)
    assert connection.query("SELECT @@sql_mode") is None
    connection.store_result()
    connection.commit()
    found = sync_broker.dequeue_batch(len(tasks) + 1)
    while len(found) <= len(tasks):
        found += sync_broker.dequeue_batch(100)
    assert [(m.task_name, m.task.payload, dict(m.task.metadata.extra)) for m in found[:-1]] == [
        (task.metadata.name, task.payload, dict(task.metadata.extra)) for task in tasks
    ]
    assert found[-1].task_id == single
    held = found[0]
    sync_broker.reject(held.task_id, held.receipt_handle, error='it\'s \\ "broken"', connection=connection)
    connection.commit()
    assert sync_broker.get_task(held.task_id).error_message == 'it\'s \\ "broken"'


def test_large_payloads_take_the_escaped_form_in_any_mode(sync_broker, mine):
    from dataclasses import replace

    sync_broker.core.server = replace(sync_broker.core.server, max_allowed_packet=100_000)
    payload = (EVERY_BYTE * 100)[:70_000]
    for mode in ("", "NO_BACKSLASH_ESCAPES"):
        connection = mine()
        connection.query(f"SET SESSION sql_mode = '{mode}'")
        sync_broker.enqueue(new("big", payload), connection=connection)
        connection.commit()
        assert sync_broker.dequeue().task.payload == payload


def test_converters_and_cursors_of_the_caller_do_not_matter(sync_broker, mine):
    import MySQLdb.cursors
    from MySQLdb.constants import FIELD_TYPE

    def refuse(value):
        raise AssertionError("the caller's converter was asked")

    connection = mine(
        conv={FIELD_TYPE.LONGLONG: refuse, FIELD_TYPE.LONG: refuse, FIELD_TYPE.BLOB: refuse},
        cursorclass=MySQLdb.cursors.DictCursor,
    )
    sync_broker.enqueue_batch([new("a"), new("b")], connection=connection)
    connection.commit()
    message = sync_broker.dequeue()
    sync_broker.ack(message.task_id, message.receipt_handle, connection=connection)
    connection.commit()
    assert sync_broker.get_task(message.task_id).state is DbTaskState.COMPLETED


# Isolation of the caller's connection


def snapshot(connection, level="REPEATABLE READ"):
    """Open a transaction that sees the database as it is now."""
    cursor = connection.cursor()
    cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
    cursor.execute("START TRANSACTION")
    cursor.execute("SELECT COUNT(*) FROM celers_tasks")
    cursor.fetchall()


@pytest.mark.spec("CORE-04")
@pytest.mark.parametrize("level", ["REPEATABLE READ", "READ COMMITTED", "SERIALIZABLE"])
def test_an_old_snapshot_does_not_miss_drain_mode(sync_broker, mine, level):
    connection = mine()
    snapshot(connection, level)
    sync_broker.enable_drain_mode()
    with pytest.raises(QueueDrainingError):
        sync_broker.enqueue(new("x"), connection=connection)
    connection.rollback()


@pytest.mark.spec("CORE-04")
def test_drain_mode_waits_for_the_callers_transaction(sync_broker, mine):
    connection = mine()
    sync_broker.enqueue(new("x"), connection=connection)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (sync_broker.enable_drain_mode(), done.set()))
    thread.start()
    assert not done.wait(0.3)
    connection.commit()
    assert done.wait(10)
    thread.join(10)
    assert sync_broker.queue_size() == 1


@pytest.mark.parametrize("receipt", [True, False])
def test_an_old_snapshot_acknowledges_what_was_claimed_since(sync_broker, tables, mine, receipt):
    """The caller's reads still show the task as pending; the broker must not believe them."""
    parent = sync_broker.enqueue(new("parent"))
    connection = mine()
    snapshot(connection)
    message = sync_broker.dequeue()
    child = sync_broker.enqueue(new("child", dependencies=[parent]))
    handle = message.receipt_handle if receipt else None
    sync_broker.ack(message.task_id, handle, connection=connection)
    connection.commit()
    # The child is younger than the snapshot, too.
    assert sync_broker.dequeue().task_id == child
    assert sync_broker.get_statistics().completed == 1
    tables.check(sync_broker)


@pytest.mark.spec("ARCH-06", "ARCH-11")
def test_snapshot_isolation_is_off_in_our_sessions_and_stays_in_the_callers(sync_broker, tables, mine, database_url):
    """MariaDB refuses to lock rows that are younger than the snapshot, where this is on."""
    connection = mine()
    cursor = connection.cursor()
    cursor.execute("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'")
    if cursor.fetchone() is None:
        pytest.skip("this server has no such setting")
    cursor.execute("SET SESSION innodb_snapshot_isolation = ON")
    tables.rows("SET GLOBAL innodb_snapshot_isolation = ON")
    try:
        with MysqlBroker(database_url, heartbeat=False) as own, own.with_transaction() as tx:
            assert tx.fetch_one("SELECT @@innodb_snapshot_isolation") == (0,)
    finally:
        tables.rows("SET GLOBAL innodb_snapshot_isolation = DEFAULT")
    sync_broker.enqueue(new("a", max_retries=0))
    snapshot(connection)
    message = sync_broker.dequeue()
    sync_broker.enqueue(new("b"), connection=connection)
    sync_broker.reject(message.task_id, message.receipt_handle, connection=connection)
    cursor.execute("SELECT @@innodb_snapshot_isolation")
    assert cursor.fetchone() == (1,)
    connection.commit()
    assert len(sync_broker.list_dlq(10, 0)) == 1
    tables.check(sync_broker)


def test_an_old_snapshot_rejects_what_was_claimed_since(sync_broker, tables, mine):
    sync_broker.enqueue(new("a", max_retries=0))
    connection = mine()
    snapshot(connection)
    message = sync_broker.dequeue()
    sync_broker.reject(message.task_id, connection=connection)
    connection.commit()
    assert len(sync_broker.list_dlq(10, 0)) == 1
    tables.check(sync_broker)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "READ COMMITTED"])
@pytest.mark.parametrize("what", ["one", "batch", "after", "dependent"])
def test_an_open_transaction_of_the_caller_stops_nobody(sync_broker, mine, level, what):
    parent = sync_broker.enqueue(new("parent"))
    message = sync_broker.dequeue()
    connection = mine()
    snapshot(connection, level)
    if what == "one":
        sync_broker.enqueue(new("x"), connection=connection)
    elif what == "batch":
        sync_broker.enqueue_batch([new("x"), new("y")], connection=connection)
    elif what == "after":
        sync_broker.enqueue_after(new("x"), 60, connection=connection)
    else:
        sync_broker.enqueue(new("x", dependencies=[parent]), connection=connection)
    started = time.monotonic()
    mine_now = sync_broker.enqueue(new("other"))
    sync_broker.enqueue_batch([new("p"), new("q")])
    sync_broker.enqueue_after(new("later"), 1)
    assert [m.task_id for m in sync_broker.dequeue_batch(1)] == [mine_now]
    assert len(sync_broker.dequeue_batch(10)) == 2
    assert time.monotonic() - started < 1
    connection.commit()
    sync_broker.ack(message.task_id, message.receipt_handle)


def test_counters_are_right_after_the_commit(sync_broker, tables, mine):
    sync_broker.enqueue_batch([new(f"t{number}", max_retries=1) for number in range(6)])
    held = sync_broker.dequeue_batch(6)
    connection = mine()
    for message in held[:2]:
        sync_broker.ack(message.task_id, message.receipt_handle, connection=connection)
    assert sync_broker.ack_batch([(held[2].task_id, held[2].receipt_handle)], connection=connection) == 1
    sync_broker.reject(held[3].task_id, held[3].receipt_handle, requeue=False, connection=connection)
    sync_broker.reject(held[4].task_id, held[4].receipt_handle, connection=connection)
    assert sync_broker.get_statistics().completed == 0
    connection.commit()
    statistics = sync_broker.get_statistics()
    assert (statistics.completed, statistics.failed, statistics.processing, statistics.pending) == (3, 1, 1, 1)
    tables.check(sync_broker)
    # The owner's next claim leaves out of its lease what was settled elsewhere.
    sync_broker.dequeue_batch(10)
    tables.check(sync_broker)


def test_a_failed_operation_leaves_nothing_in_the_callers_transaction(sync_broker, tables, mine):
    taken = sync_broker.enqueue(new("taken"))
    connection = mine()
    kept = sync_broker.enqueue(new("kept"), connection=connection)
    with pytest.raises(DuplicateTaskError):
        sync_broker.enqueue_batch([new("x"), new("y", id=taken)], connection=connection)
    with pytest.raises(InvalidStateTransitionError):
        sync_broker.ack(taken, connection=connection)
    connection.commit()
    assert [message.task_id for message in sync_broker.dequeue_batch(10)] == [taken, kept]
    tables.check(sync_broker)


def test_an_asyncio_broker_refuses_it(database_url, mine):
    import asyncio

    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            with pytest.raises(ValidationError, match="MysqlBroker"):
                await broker.enqueue(new("x"), connection=mine())

    asyncio.run(main())


def test_a_closed_broker_refuses_it(database_url, mine):
    broker = MysqlBroker(database_url)
    broker.queue_size()
    broker.close()
    with pytest.raises(BrokerError, match="closed"):
        broker.enqueue(new("x"), connection=mine())
