"""Brokers and their connections: names, prefixes, opening and closing, threads, secrets, heartbeat."""

from __future__ import annotations

import contextlib
import logging
import threading
from urllib.parse import quote, urlsplit

import pytest

from celers import (
    BrokerConnectionError,
    BrokerError,
    DbTaskState,
    MysqlBroker,
    PoolConfig,
    SerializedTask,
    TaskNotFoundError,
    ValidationError,
)
from celers.db.driver import Connection
from tests.fixtures.server import database_at
from tests.fixtures.waiting import INNODB_EVERY, until

pytestmark = pytest.mark.timeout(60)
new = SerializedTask.new


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
