"""Waking idle consumers by a ring instead of polling (`wake_up=True`)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from celers import MysqlBroker, SerializedTask

LONG = 60.0


@pytest.fixture
def broker(make_broker):
    return make_broker(wake_up=True)


@pytest.mark.spec("CORE-16")
def test_an_enqueue_wakes_a_waiting_consumer(broker, database_url):
    # It would look again only after a minute; the test's own limit is shorter.
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(broker.dequeue_wait, LONG, poll_interval_secs=LONG)
        with MysqlBroker(database_url, wake_up=True) as producer:
            task_id = producer.enqueue(SerializedTask.new("x"))
            assert waiting.result(20).task_id == task_id


@pytest.mark.spec("CORE-16")
def test_each_of_many_tasks_is_heard(broker, database_url):
    received = []
    count = 60

    def consume():
        while len(received) < count:
            message = broker.dequeue_wait(LONG, poll_interval_secs=LONG)
            received.append(message.task_id)
            broker.ack(message.task_id, message.receipt_handle)

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    with MysqlBroker(database_url, wake_up=True) as producer:
        sent = [producer.enqueue(SerializedTask.new("x")) for _ in range(count)]
    thread.join(40)
    assert received == sent


@pytest.mark.spec("CORE-16")
def test_ring_after_a_commit_of_the_callers_own(broker, database_url, server):
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(broker.dequeue_wait, LONG, poll_interval_secs=LONG)
        with MysqlBroker(database_url, wake_up=True) as producer:
            with producer.with_transaction() as tx:
                task_id = tx.enqueue(SerializedTask.new("x"))
            while not waiting.done():
                producer.ring()
            assert waiting.result(20).task_id == task_id
