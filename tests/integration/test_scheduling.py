"""Delayed execution (spec 03)."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from celers import (
    DbTaskState,
    DuplicateTaskError,
    PayloadTooLargeError,
    QueueDrainingError,
    SerializedTask,
    ValidationError,
)
from tests.fixtures.waiting import until

LAST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


def new(name="a", **arguments):
    return SerializedTask.new(name, **arguments)


@pytest.mark.spec("SCHED-01", "DATA-03", "DEF-23", "DATA-11")
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (datetime(2199, 5, 6, 7, 8, 9, 123456, tzinfo=UTC), datetime(2199, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)),
        (datetime(2199, 5, 6, 7, 8, tzinfo=timezone(timedelta(hours=5.5))), datetime(2199, 5, 6, 1, 38, tzinfo=UTC)),
        (7258118400, datetime(2200, 1, 1, tzinfo=UTC)),
        (7258118400.25, datetime(2200, 1, 1, 0, 0, 0, 250000, tzinfo=UTC)),
        (1, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        (LAST, LAST),
    ],
)
def test_enqueue_at_keeps_the_instant(broker, tables, given, stored):
    task = new(extra={"scheduled_for": "mine", "a": 1})
    assert broker.enqueue_at(task, given) == task.metadata.id
    assert tables.task(task.metadata.id)["scheduled_at"].replace(tzinfo=UTC) == stored
    info = broker.get_task(task.metadata.id)
    assert info.scheduled_at == stored
    assert info.metadata["scheduled_for"] == pytest.approx(stored.timestamp(), abs=1e-4)
    tables.check(broker)
    message = broker.dequeue()
    if stored.year == 1970:
        assert message.task.metadata.extra == {"a": 1}
    else:
        assert message is None
        assert broker.count_scheduled_tasks() == 1


@pytest.mark.spec("SCHED-02", "DATA-02", "ARCH-10", "DATA-11")
@pytest.mark.parametrize("delay", [0, 0.0, 0.000001, 12.345678, timedelta(days=3, microseconds=7), 10**9, 2.4e11])
def test_enqueue_after_counts_from_the_databases_clock(broker, tables, delay):
    task_id = broker.enqueue_after(new(extra={"delay_seconds": "mine"}), delay)
    stored = tables.task(task_id)
    wanted = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
    assert stored["scheduled_at"] - stored["created_at"] == wanted
    assert broker.get_task(task_id).metadata["delay_seconds"] == wanted.total_seconds()
    tables.check(broker)
    if wanted < timedelta(seconds=1):
        assert broker.dequeue_wait(5).task.metadata.extra == {}


@pytest.mark.spec("SCHED-01", "SCHED-02", "CORE-02", "CORE-04", "DATA-08")
def test_delayed_tasks_are_refused_like_others(make_broker, tables):
    broker = make_broker(max_payload_bytes=4)
    task = new()
    broker.enqueue_after(task, 60)
    for again in (lambda: broker.enqueue_at(task, 1), lambda: broker.enqueue_after(task, 0)):
        with pytest.raises(DuplicateTaskError):
            again()
    big = new(payload=b"12345")
    for large in (lambda: broker.enqueue_at(big, 1), lambda: broker.enqueue_after(big, 0)):
        with pytest.raises(PayloadTooLargeError):
            large()
    broker.enable_drain_mode()
    for refused in (
        lambda: broker.enqueue_at(new(), 1),
        lambda: broker.enqueue_at(new(), LAST),
        lambda: broker.enqueue_after(new(), 5),
        lambda: broker.producer.submit([new()], delay_secs=5),
    ):
        with pytest.raises(QueueDrainingError):
            refused()
    assert broker.queue_size() == 1
    tables.check(broker)


@pytest.mark.spec("SCHED-02")
def test_a_delay_beyond_the_last_year_is_refused(broker):
    for delay in (2.52e11, timedelta.max, 1e300):
        with pytest.raises(ValidationError, match="delay_secs"):
            broker.enqueue_after(new(), delay)
    assert broker.queue_size() == 0


@pytest.mark.spec("SCHED-03", "DEF-24")
def test_due_tasks_are_delivered_by_themselves(make_broker, tables):
    broker, other = make_broker(), make_broker()
    started = time.monotonic()
    low = broker.enqueue_after(new("low"), 0.15)
    high = broker.enqueue_after(new("high", priority=5), 0.15)
    assert (broker.dequeue(), other.dequeue()) == (None, None)
    until(lambda: time.monotonic() > started + 0.25)
    assert other.dequeue().task_id == high
    assert broker.dequeue().task_id == low
    tables.check(broker)


@pytest.mark.spec("SCHED-03", "CORE-08")
def test_a_due_task_takes_its_place_by_priority_then_seq(broker, tables):
    names = [("a", 0, 5), ("b", 9, 60), ("c", 5, 1), ("d", 0, 3), ("e", 5, 2)]
    for name, priority, delay in names:
        broker.enqueue_after(new(name, priority=priority), delay * 100)
    broker.enqueue(new("f"))
    broker.enqueue(new("g", priority=5))
    assert broker.dequeue().task_name == "g"
    tables.pass_time(1000)
    broker.core.due_unknown()
    tables.check(broker)
    assert [message.task_name for message in broker.dequeue_batch(10)] == ["c", "e", "a", "d", "f"]
    assert broker.dequeue() is None
    tables.check(broker)


@pytest.mark.spec("SCHED-03")
def test_what_another_process_scheduled_is_found(make_broker):
    consumer, producer = make_broker(), make_broker()
    assert consumer.dequeue() is None
    task_id = producer.enqueue_at(new(), 5)  # due at once, whatever the consumer was told before
    assert consumer.dequeue().task_id == task_id
    later = producer.enqueue_after(new(), 0.05)
    assert consumer.dequeue_wait(10, poll_interval_secs=0.02).task_id == later


@pytest.mark.spec("SCHED-03")
def test_promotion_for_all_queues(make_broker, tables):
    broker = make_broker()
    other = broker.for_queue("other")
    ids = [broker.enqueue_after(new(), 100), other.enqueue_after(new(priority=3), 100)]
    broker.enqueue_after(new(), 10_000)
    assert broker.maintenance.promote_due() == 0
    tables.pass_time(200)
    assert broker.maintenance.promote_due() == 2
    assert tables.value("SELECT COUNT(*) FROM celers_scheduled") == 1
    assert [broker.dequeue().task_id, other.dequeue().task_id] == ids


@pytest.mark.spec("SCHED-03", "ARCH-05")
def test_many_due_tasks_are_promoted_once_by_many_consumers(make_sync, tables):
    brokers = [make_sync() for _ in range(4)]
    ids = brokers[0].producer.submit([new() for _ in range(2500)], delay_secs=500)
    tables.pass_time(1000)
    found: list = []

    def drain(broker):
        while messages := broker.dequeue_batch(100):
            found.extend(message.task_id for message in messages)

    threads = [threading.Thread(target=drain, args=(broker,)) for broker in brokers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(ids)
    tables.check(brokers[0])


@pytest.mark.spec("SCHED-04", "SCHED-05", "DATA-04", "TYPE-05")
def test_scheduled_tasks_are_listed(broker, tables):
    ids = {}
    for name, delay in (("b", 200.5), ("d", 400), ("a", 100), ("c", 300)):
        ids[name] = broker.enqueue_after(new(name, priority=ord(name)), delay)
    same = datetime.now(UTC) + timedelta(hours=1)
    twins = [broker.enqueue_at(new(name), same) for name in "xyz"]
    broker.enqueue_at(new("past"), 1)
    broker.enqueue(new("ready"))
    blocked = broker.enqueue_after(new("blocked", dependencies=[ids["a"]]), 50)
    listed = broker.list_scheduled_tasks(100, 0)
    assert [info.task_name for info in listed] == [*"abcdxyz"]
    assert [info.id for info in listed[4:]] == twins
    assert blocked not in {info.id for info in listed}
    assert broker.count_scheduled_tasks() == 7
    assert broker.list_scheduled_tasks(2, 1) == listed[1:3]
    assert broker.list_scheduled_tasks(5, 7) == broker.list_scheduled_tasks(0, 0) == []
    info = listed[1]
    assert (info.id, info.priority) == (ids["b"], ord("b"))
    assert info.delay_remaining_secs in (200, 201)
    assert info.scheduled_at - info.created_at == timedelta(seconds=200.5)
    assert broker.for_queue("other").count_scheduled_tasks() == 0
    tables.check(broker)


@pytest.mark.spec("SCHED-04", "SCHED-05", "CORE-10")
def test_retries_that_wait_are_listed(broker):
    task_id = broker.enqueue(new())
    message = broker.dequeue()
    broker.reject(task_id, message.receipt_handle)
    assert [info.id for info in broker.list_scheduled_tasks(10, 0)] == [task_id]
    assert broker.count_scheduled_tasks() == 1


@pytest.mark.spec("SCHED-06", "DEF-24", "CHAIN-04", "MAINT-08")
def test_expiry_counts_from_the_due_time(broker, tables):
    old = broker.enqueue_batch([new(), new()])
    child = broker.enqueue(new(dependencies=[old[0]]))
    promoted = broker.enqueue_after(new(), 2000)
    held = broker.enqueue(new(priority=9))
    assert broker.dequeue().task_id == held
    tables.pass_time(3600)
    future = broker.enqueue_after(new(), 5)
    fresh = broker.enqueue(new())
    assert broker.expire_pending_tasks(7200) == 0
    assert broker.expire_pending_tasks(timedelta(seconds=3500)) == 2
    for key in old:
        info = broker.get_task(key)
        assert (info.state, info.completed_at is not None) == (DbTaskState.CANCELLED, True)
        assert "expired" in info.error_message
        assert "3600 s" in info.error_message
    gone = broker.get_task(child)
    assert (gone.state, str(old[0]) in gone.error_message) == (DbTaskState.CANCELLED, True)
    assert broker.expire_pending_tasks(1500) == 1
    assert broker.get_task(promoted).state is DbTaskState.CANCELLED
    assert broker.get_task(held).state is DbTaskState.PROCESSING
    assert {broker.get_task(key).state for key in (future, fresh)} == {DbTaskState.PENDING}
    assert broker.expire_pending_tasks(1e300) == 0
    tables.check(broker)


@pytest.mark.spec("SCHED-06")
def test_blocked_tasks_never_expire(broker, tables):
    parent = broker.enqueue_after(new(), 10_000)
    child = broker.enqueue(new(dependencies=[parent]))
    tables.pass_time(5000)
    assert broker.expire_pending_tasks(1) == 0
    assert broker.get_task(child).state is DbTaskState.PENDING


@pytest.mark.spec("SCHED-06")
def test_expiry_of_many(sync_broker, tables):
    sync_broker.enqueue_batch([new() for _ in range(2100)])
    tables.pass_time(100)
    assert sync_broker.expire_pending_tasks(50) == 2100
    tables.check(sync_broker)
