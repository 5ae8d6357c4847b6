"""Pause, drain and capacity (spec 14, CTRL-01 to 08)."""

from __future__ import annotations

import threading

import pytest

from celers import MysqlBroker, QueueDrainingError, QueueFullError, SerializedTask
from celers.errors import TaskNotFoundError
from celers.retry import Fixed, RetryPolicy
from tests.fixtures.waiting import until


def new(name="a", **arguments):
    return SerializedTask.new(name, **arguments)


@pytest.mark.spec("CTRL-01", "CTRL-02", "CTRL-03", "DEF-70")
def test_pause_is_stored_and_valid_everywhere(make_broker, database_url):
    broker, elsewhere = make_broker(), make_broker()
    assert broker.is_paused() is False
    held = broker.enqueue(new())
    later = broker.enqueue_after(new(), 0)
    message = broker.dequeue()
    elsewhere.pause()
    elsewhere.pause()
    assert (broker.is_paused(), elsewhere.is_paused()) == (True, True)
    assert (broker.dequeue(), broker.dequeue_with_worker_id("w")) == (None, None)
    assert (broker.dequeue_batch(10), broker.dequeue_batch(2, worker_id="w")) == ([], [])
    assert broker.dequeue_wait(0.05, poll_interval_secs=0.01) is None
    broker.enqueue(new())
    broker.reject(held, message.receipt_handle)
    with MysqlBroker(database_url) as restarted:
        assert (restarted.is_paused(), restarted.dequeue()) == (True, None)
    assert broker.for_queue("other").is_paused() is False
    broker.resume()
    broker.resume()
    assert elsewhere.is_paused() is False
    assert elsewhere.dequeue().task_id == later


@pytest.mark.spec("CTRL-01")
def test_tasks_in_processing_go_on_while_paused(broker, tables):
    ids = broker.enqueue_batch([new() for _ in range(5)])
    messages = broker.dequeue_batch(5)
    broker.pause()
    broker.ack(ids[0], messages[0].receipt_handle)
    assert broker.ack_batch([(ids[1], None)]) == 1
    assert broker.reject_batch([(ids[2], messages[2].receipt_handle, False)]) == 1
    assert broker.consumer.give_back(messages[3:]) == 2
    tables.check(broker)
    assert broker.dequeue() is None
    broker.resume()
    assert [message.task_id for message in broker.dequeue_batch(5)] == ids[3:]


@pytest.mark.spec("CTRL-04", "CTRL-05", "CTRL-06", "CORE-04", "DEF-33", "ERR-16")
def test_drain_refuses_every_enqueue(make_broker, tables):
    broker, elsewhere = make_broker(), make_broker()
    assert broker.is_drain_mode() is False
    held = broker.enqueue(new())
    message = broker.dequeue()
    parent = broker.enqueue(new())
    elsewhere.enable_drain_mode()
    elsewhere.enable_drain_mode()
    assert (broker.is_drain_mode(), elsewhere.is_drain_mode()) == (True, True)
    refused = [
        lambda: broker.enqueue(new()),
        lambda: broker.enqueue(new(dependencies=[parent])),
        lambda: broker.enqueue_at(new(), 1),
        lambda: broker.enqueue_after(new(), 0),
        lambda: broker.enqueue_after(new(), 60),
        lambda: broker.enqueue_batch([new(), new()]),
        lambda: broker.producer.submit([new()], delay_secs=5),
        lambda: broker.enqueue_with_retry_policy(new(), RetryPolicy(3, Fixed(1))),
        lambda: broker.enqueue_with_capacity(new(), 100),
    ]
    for call in refused:
        with pytest.raises(QueueDrainingError):
            call()
    assert broker.enqueue_batch([]) == []
    assert tables.value("SELECT COUNT(*) FROM celers_tasks") == 2
    assert broker.for_queue("other").enqueue(new())
    # What is stored is still worked off, retries included.
    broker.reject(held, message.receipt_handle)
    taken = broker.dequeue()
    broker.ack(taken.task_id, taken.receipt_handle)
    assert broker.queue_size() == 1
    elsewhere.disable_drain_mode()
    elsewhere.disable_drain_mode()
    assert broker.is_drain_mode() is False
    broker.enqueue(new())


@pytest.mark.spec("CTRL-04", "CTRL-06")
def test_drain_survives_a_restart(broker, database_url):
    broker.enable_drain_mode()
    with MysqlBroker(database_url) as restarted:
        assert restarted.is_drain_mode()
        with pytest.raises(QueueDrainingError):
            restarted.enqueue(new())
        assert restarted.recover_stuck_tasks(1) == 0


@pytest.mark.spec("CTRL-04", "CORE-04", "DEF-33")
def test_nothing_is_stored_after_drain_mode_returned(make_sync, tables):
    """Enqueues that start after the return fail; the number of stored tasks stands still once they have ended."""
    control, producers = make_sync(), [make_sync() for _ in range(4)]
    for producer in producers:
        producer.enqueue(new())
    drained = threading.Event()
    wrong, refused = [], []

    def produce(producer, number):
        batches = (lambda: [producer.enqueue(new())], lambda: producer.enqueue_batch([new(), new()]))
        while True:
            late = drained.is_set()
            try:
                batches[number % 2]()
            except QueueDrainingError:
                refused.append(number)
                if late:
                    return
            else:
                if late:
                    wrong.append(number)
                    return

    threads = [threading.Thread(target=produce, args=(producer, n)) for n, producer in enumerate(producers)]
    for thread in threads:
        thread.start()
    until(lambda: control.queue_size() > 50)
    control.enable_drain_mode()
    drained.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert set(refused) == {0, 1, 2, 3}
    tables.check(control)


@pytest.mark.spec("CTRL-04", "CORE-13")
def test_drain_waits_for_transactions_of_callers(make_sync):
    broker, control = make_sync(), make_sync()
    done = threading.Event()

    def drain():
        control.enable_drain_mode()
        done.set()

    with broker.with_transaction() as tx:
        task_id = tx.enqueue(new())
        thread = threading.Thread(target=drain)
        thread.start()
        assert not done.wait(0.1)
    thread.join()
    assert done.is_set()
    assert broker.get_task(task_id) is not None


@pytest.mark.spec("CTRL-07")
def test_has_capacity(broker):
    assert [broker.has_capacity(size) for size in (0, 1, 5)] == [False, True, True]
    parent = broker.enqueue(new())
    broker.enqueue_after(new(), 60)
    broker.enqueue(new(dependencies=[parent]))
    assert [broker.has_capacity(size) for size in (0, 2, 3, 4, 2**70)] == [False, False, False, True, True]
    broker.dequeue()
    assert broker.has_capacity(3) is True


@pytest.mark.spec("CTRL-08", "ERR-15")
def test_enqueue_with_capacity(broker, tables):
    with pytest.raises(QueueFullError):
        broker.enqueue_with_capacity(new(), 0)
    task = new(priority=3)
    assert broker.enqueue_with_capacity(task, 2) == task.metadata.id
    broker.enqueue_with_capacity(new(), 2)
    with pytest.raises(QueueFullError):
        broker.enqueue_with_capacity(new(), 2)
    with pytest.raises(QueueFullError):
        broker.enqueue_with_capacity(new(), 1)
    broker.dequeue()
    broker.enqueue_with_capacity(new(dependencies=[task.metadata.id]), 2)
    with pytest.raises(TaskNotFoundError):
        broker.enqueue_with_capacity(new(dependencies=[new().metadata.id]), 2**70)
    assert broker.queue_size() == 2
    tables.check(broker)


@pytest.mark.spec("CTRL-08", "DEF-71")
def test_capacity_holds_against_many_producers(make_sync, tables):
    brokers = [make_sync() for _ in range(8)]
    stored, full = [], []

    def produce(broker):
        for _ in range(20):
            try:
                stored.append(broker.enqueue_with_capacity(new(), 50))
            except QueueFullError:
                full.append(1)

    threads = [threading.Thread(target=produce, args=(broker,)) for broker in brokers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(stored), len(full)) == (50, 110)
    assert brokers[0].queue_size() == 50
    tables.check(brokers[0])
