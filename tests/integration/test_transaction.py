"""`with_transaction`, and operations on a connection of the caller (spec 01, CORE-13)."""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from celers import (
    AsyncMysqlBroker,
    BrokerError,
    DbTaskState,
    DuplicateTaskError,
    InvalidStateTransitionError,
    QueueDrainingError,
    SerializedTask,
    StaleReceiptError,
    TaskNotFoundError,
    TaskResultStatus,
    ValidationError,
)
from celers.retry import Fixed, RetryPolicy

PENDING, PROCESSING, COMPLETED = DbTaskState.PENDING, DbTaskState.PROCESSING, DbTaskState.COMPLETED


class Stop(Exception):
    """Ends a transaction of the test."""


def new(name="a", **arguments):
    return SerializedTask.new(name, **arguments)


@pytest.fixture
def broker(sync_broker):
    return sync_broker


@pytest.fixture
def orders(tables):
    """A table of the application beside the queue; the next test's database drops it."""
    tables.rows("CREATE TABLE orders (id INT PRIMARY KEY, note VARCHAR(50)) ENGINE=InnoDB")
    return lambda: tables.rows("SELECT id, note FROM orders ORDER BY id")


def everything(tx, tasks, messages):
    """Use each bound operation once."""
    tx.enqueue(tasks[0])
    tx.enqueue_at(tasks[1], 1)
    tx.enqueue_after(tasks[2], 500)
    tx.enqueue_batch(tasks[3:])
    tx.ack(messages[0].task_id, messages[0].receipt_handle)
    assert tx.ack_batch([(messages[1].task_id, messages[1].receipt_handle)]) == 1
    tx.reject(messages[2].task_id, messages[2].receipt_handle)
    assert tx.cancel(messages[3].task_id) is True
    tx.store_result(messages[0].task_id, "a", TaskResultStatus.SUCCESS, result=[1])
    assert tx.update_task_metadata(tasks[0].metadata.id, "$.step", 2) is True
    assert tx.update_error_message(tasks[0].metadata.id, "odd") is True


@pytest.mark.spec("CORE-13", "DEF-18", "ARCH-04")
def test_operations_are_committed_together(broker, tables, orders):
    held = [broker.enqueue(new()) for _ in range(4)]
    messages = broker.dequeue_batch(4)
    tasks = [new(str(n)) for n in range(5)]

    def work(tx):
        assert tx.execute("INSERT INTO orders VALUES (%s, %s)", (1, "it's")) == 1
        everything(tx, tasks, messages)
        assert tables.value("SELECT COUNT(*) FROM celers_tasks") == 4  # nobody else sees it yet
        return "done"

    assert broker.with_transaction(work) == "done"
    assert orders() == [(1, "it's")]
    assert [broker.get_task(key).state.value for key in held] == ["completed", "completed", "pending", "cancelled"]
    assert broker.get_result(held[0]).result == [1]
    info = broker.get_task(tasks[0].metadata.id)
    assert (info.metadata["step"], info.error_message) == (2, "odd")
    tables.check(broker)
    assert [message.task_name for message in broker.dequeue_batch(10)] == ["0", "1", "3", "4"]


@pytest.mark.spec("CORE-13", "DEF-18", "ARCH-04")
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_any_exception_undoes_everything(broker, tables, orders, error):
    held = [broker.enqueue(new()) for _ in range(4)]
    messages = broker.dequeue_batch(4)

    def work(tx):
        tx.execute("INSERT INTO orders VALUES (1, 'x')")
        everything(tx, [new() for _ in range(5)], messages)
        raise error

    with pytest.raises(error):
        broker.with_transaction(work)
    assert not orders()
    assert {broker.get_task(key).state for key in held} == {PROCESSING}
    assert broker.get_result(held[0]) is None
    tables.check(broker)
    for message in messages:  # the deliveries are still ours
        broker.ack(message.task_id, message.receipt_handle)
    tables.check(broker)
    assert broker.pool().active == 0


@pytest.mark.spec("CORE-13", "CORE-02", "CORE-09", "CORE-10", "CORE-04")
def test_a_refused_operation_leaves_the_transaction_usable(broker, tables, orders):
    task = new()
    broker.enqueue(task)
    with broker.with_transaction() as tx:
        first = tx.enqueue(new())
        with pytest.raises(DuplicateTaskError):
            tx.enqueue_batch([new(), task])
        with pytest.raises(TaskNotFoundError):
            tx.enqueue(new(dependencies=[uuid4()]))
        with pytest.raises(InvalidStateTransitionError):
            tx.ack(task.metadata.id)
        with pytest.raises(StaleReceiptError):
            tx.reject(task.metadata.id, "0" * 32)
        with pytest.raises(TaskNotFoundError):
            tx.ack(uuid4())
        with pytest.raises(ValidationError):
            tx.enqueue("not a task")
        assert tx.cancel(uuid4()) is False
        tx.execute("INSERT INTO orders VALUES (7, NULL)")
    assert len(orders()) == 1
    assert broker.get_task(first).state is PENDING
    assert broker.queue_size() == 2
    broker.enable_drain_mode()
    with pytest.raises(QueueDrainingError), broker.with_transaction() as tx:
        tx.enqueue(new())
    tables.check(broker)


@pytest.mark.spec("CORE-13")
def test_savepoints_undo_a_part(broker, tables, orders):
    with broker.with_transaction() as tx:
        outer = tx.enqueue(new("outer"))
        with suppress(Stop), tx.savepoint():
            tx.enqueue(new("undone"))
            tx.execute("INSERT INTO orders VALUES (1, 'undone')")
            raise Stop
        with tx.savepoint():
            tx.execute("INSERT INTO orders VALUES (2, 'kept')")
            with suppress(Stop), tx.savepoint():
                tx.cancel(outer)
                raise Stop
            tx.enqueue(new("inner"))
    assert [row[0] for row in orders()] == [2]
    assert [message.task_name for message in broker.dequeue_batch(5)] == ["outer", "inner"]
    tables.check(broker)


@pytest.mark.spec("CORE-13", "ARCH-08")
def test_statements_of_the_caller(broker, orders):
    when = datetime(2026, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    with broker.with_transaction() as tx:
        assert tx.fetch_one("SELECT 1 WHERE 1 = 0") is None
        assert tx.fetch_all("SELECT 1 WHERE 1 = 0") == []
        row = tx.fetch_one("SELECT %s, %s, '%%', %s, %s + 1, %s", (None, "a'\\\"%s;☃", b"\x00'", 5, when))
        assert isinstance(row, tuple)
        assert row[:3] == (None, "a'\\\"%s;☃", "%")
        assert row[4] == 6
        for number in range(3):
            tx.execute("INSERT INTO orders VALUES (%s, 'x');", [number])
        assert tx.execute("UPDATE orders SET note = 'x'") == 3  # matched, although none changed
        assert tx.execute("SELECT id FROM orders") == 3
        assert tx.fetch_all("SELECT id FROM orders ORDER BY id") == [(0,), (1,), (2,)]
        for bad in ("SELECT 1; SELECT 2", "", "DELETE FROM orders; DROP TABLE orders", "COMMIT", "ROLLBACK", 5):
            with pytest.raises(ValidationError, match="sql"):
                tx.execute(bad)
        for params in ((), (1, 2), [1, 2, 3]):
            with pytest.raises(ValidationError, match="params"):
                tx.execute("DELETE FROM orders WHERE id = %s" + " " * len(params), params)
        with pytest.raises(BrokerError) as caught:
            tx.execute("SELECT * FROM nowhere")
        assert caught.value.errno == 1146
    assert len(orders()) == 3


@pytest.mark.spec("CORE-13")
def test_a_transaction_that_ended_cannot_be_used(broker):
    task_id = broker.enqueue(new())
    with broker.with_transaction() as tx:
        pass
    for use in (
        lambda: tx.enqueue(new()),
        lambda: tx.ack(task_id),
        lambda: tx.execute("SELECT 1"),
        lambda: tx.fetch_one("SELECT 1"),
        lambda: tx.fetch_all("SELECT 1"),
        lambda: tx.savepoint().__enter__(),
    ):
        with pytest.raises(BrokerError):
            use()
    assert broker.queue_size() == 1


@pytest.mark.spec("CORE-13", "BATCH-03", "CHAIN-03", "CHAIN-04", "DLQ-01")
def test_dependants_and_dead_letters_inside_a_transaction(broker, tables):
    parent = broker.enqueue(new("p"))
    released = broker.enqueue(new("released", dependencies=[parent]))
    dying = broker.enqueue_with_retry_policy(new("d"), RetryPolicy(0, Fixed(1)))
    lost = broker.enqueue(new("lost", dependencies=[dying]))
    first, second = broker.dequeue_batch(2)
    with broker.with_transaction() as tx:
        assert tx.ack_batch(iter([(first.task_id, first.receipt_handle), (uuid4(), None)])) == 1
        tx.reject(second.task_id, second.receipt_handle)
        tx.enqueue(new("more", dependencies=[released]))
        tables.check(broker)
    assert broker.dequeue().task_id == released
    assert broker.get_task(lost).state is DbTaskState.CANCELLED
    assert [letter.task_id for letter in broker.list_dlq(5, 0)] == [dying]
    tables.check(broker)


@pytest.mark.spec("CORE-13", "ARCH-04")
def test_a_connection_of_the_caller_commits_and_rolls_back(broker, tables, orders):
    held = [broker.enqueue(new()) for _ in range(3)]
    messages = broker.dequeue_batch(3)
    with closing(tables.connect(autocommit=False)) as mine:
        for commit in (False, True):
            with mine.cursor() as cursor:
                cursor.execute("INSERT INTO orders VALUES (1, 'x')")
            task = new()
            assert broker.enqueue(task, connection=mine) == task.metadata.id
            broker.enqueue_after(new(), 500, connection=mine)
            broker.enqueue_at(new(), 1, connection=mine)
            broker.enqueue_batch(iter([new(), new()]), connection=mine)
            broker.ack(held[0], messages[0].receipt_handle, connection=mine)
            pair = (held[1], messages[1].receipt_handle)
            assert broker.ack_batch(iter([pair]), connection=mine) == 1
            broker.reject(held[2], messages[2].receipt_handle, connection=mine)
            with pytest.raises(DuplicateTaskError):
                broker.enqueue(task, connection=mine)
            assert broker.get_task(task.metadata.id) is None
            assert broker.dequeue() is None
            (mine.commit if commit else mine.rollback)()
            tables.check(broker)
    assert len(orders()) == 1
    assert broker.get_statistics().completed == 2
    assert len(broker.dequeue_batch(10)) == 4


@pytest.mark.spec("CORE-13", "ERR-01")
def test_connections_that_cannot_be_used(broker, tables, database_url):
    with closing(tables.connect(autocommit=True)) as mine:
        with pytest.raises(ValidationError, match="connection"):
            broker.enqueue(new(), connection=mine)  # each statement would commit by itself
        mine.query("START TRANSACTION")
        broker.enqueue(new(), connection=mine)
        mine.rollback()
    for wrong in (1, "x", object(), tables):
        with pytest.raises(ValidationError, match="connection"):
            broker.enqueue(new(), connection=wrong)
    assert broker.queue_size() == 0
    import asyncio

    async def enqueue():
        async with AsyncMysqlBroker(database_url) as other:
            with pytest.raises(ValidationError, match="connection"):
                await other.enqueue(new(), connection=tables.connection)

    asyncio.run(enqueue())


@pytest.mark.spec("CORE-13", "ARCH-11", "CORE-09", "CORE-10", "CHAIN-03")
@pytest.mark.parametrize("setting", ["SELECT 1", "SET sql_mode = 'NO_BACKSLASH_ESCAPES'", "SET time_zone = '+05:00'"])
def test_an_old_snapshot_of_the_caller_hides_nothing(broker, tables, setting):
    with closing(tables.connect(autocommit=False)) as mine:
        mine.query(setting)
        mine.store_result()
        mine.query("START TRANSACTION WITH CONSISTENT SNAPSHOT")  # REPEATABLE READ: it sees nothing of what follows
        parent = broker.enqueue(new("p'\\"))
        child = broker.enqueue(new("c", dependencies=[parent]))
        other = broker.enqueue(new("o"))
        messages = broker.dequeue_batch(2)
        broker.ack(parent, messages[0].receipt_handle, connection=mine)
        broker.reject(other, messages[1].receipt_handle, False, error="x'\\", connection=mine)
        third = new("t'\\", payload=bytes(range(256)), extra={"k": "'\\"})
        broker.enqueue(third, connection=mine)
        late = broker.enqueue(new("late", dependencies=[child]), connection=mine)
        mine.commit()
    tables.check(broker)
    assert broker.get_task(other).error_message == "x'\\"
    found = {message.task_id: message for message in broker.dequeue_batch(9)}
    assert set(found) == {child, third.metadata.id}
    assert found[third.metadata.id].task.payload == third.payload
    assert found[third.metadata.id].task_name == "t'\\"
    created = tables.task(late)["created_at"].replace(tzinfo=UTC)
    assert abs((created - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.spec("CORE-13", "CORE-04", "CTRL-04")
def test_drain_is_seen_through_an_old_snapshot(broker, tables):
    broker.queue_size()
    with closing(tables.connect(autocommit=False)) as mine:
        mine.query("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        broker.enable_drain_mode()
        with pytest.raises(QueueDrainingError):
            broker.enqueue(new(), connection=mine)


@pytest.mark.spec("CORE-13", "CORE-12", "ARCH-05")
def test_a_claim_passes_over_what_a_transaction_holds(broker, make_sync):
    other = make_sync()
    ids = broker.enqueue_batch([new(), new(), new()])
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with other.with_transaction() as tx:
            tx.cancel(ids[0])
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(20)
    assert broker.dequeue().task_id == ids[1]
    leave.set()
    thread.join()
    assert broker.dequeue().task_id == ids[2]
    assert broker.dequeue() is None
