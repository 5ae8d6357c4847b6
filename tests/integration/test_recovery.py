"""Taking tasks back from whoever holds them, and purging (spec 07)."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from uuid import uuid4

import pytest

from celers import (
    BatchResultInput,
    DbTaskState,
    InvalidStateTransitionError,
    MysqlBroker,
    QueueStatistics,
    SerializedTask,
    StaleReceiptError,
    TaskNotFoundError,
    TaskResultStatus,
    ValidationError,
)
from celers.components.consumer import Completion


def fill(broker, count: int, **options) -> list:
    return broker.enqueue_batch([SerializedTask.new("job", **options) for _ in range(count)])


def age(tables, task_id, secs: float = 1000) -> None:
    """Let a task look as if it had started long ago."""
    tables.rows(
        "UPDATE celers_tasks SET started_at = started_at - INTERVAL %s SECOND WHERE id=%s", (secs, task_id.bytes)
    )


@pytest.mark.spec("MAINT-05", "CORE-15", "INSP-01")
def test_stuck_tasks_are_pending_again_with_an_attempt_counted(broker, tables):
    fill(broker, 3, max_retries=1)
    old, young, done = broker.dequeue_batch(3, worker_id="one")
    age(tables, old.task_id)
    age(tables, done.task_id)
    broker.ack(done.task_id, done.receipt_handle)
    assert broker.recover_stuck_tasks(timedelta(seconds=1001)) == 0
    assert broker.recover_stuck_tasks(999) == 1
    assert broker.recover_stuck_tasks(999) == 0
    info = broker.get_task(old.task_id)
    assert info.state is DbTaskState.PENDING
    assert info.retry_count == 1
    assert info.started_at is None
    assert info.worker_id is None
    assert "recovered" in info.error_message
    assert broker.get_task(young.task_id).state is DbTaskState.PROCESSING
    assert broker.get_task(done.task_id).state is DbTaskState.COMPLETED
    tables.check(broker)
    again = broker.dequeue()
    assert (again.task_id, again.retry_count, again.isolated) == (old.task_id, 1, False)
    assert again.receipt_handle != old.receipt_handle


@pytest.mark.spec("MAINT-05", "DLQ-01", "CORE-10", "RES-01")
def test_a_stuck_task_without_retries_is_a_dead_letter_and_its_dependants_are_cancelled(broker, tables):
    (task_id,) = fill(broker, 1, max_retries=0)
    child = SerializedTask.new("child", dependencies=[task_id])
    broker.enqueue(child)
    message = broker.dequeue()
    age(tables, task_id)
    assert broker.recover_stuck_tasks(10) == 1
    assert broker.get_task(task_id) is None
    (letter,) = broker.list_dlq(10, 0)
    assert letter.task_id == task_id
    assert "recovered" in letter.error_message
    info = broker.get_task(child.metadata.id)
    assert info.state is DbTaskState.CANCELLED
    assert str(task_id) in info.error_message
    with pytest.raises(TaskNotFoundError):
        broker.ack(task_id, message.receipt_handle)
    tables.check(broker)


@pytest.mark.spec("MAINT-05", "CORE-15", "ERR-14")
def test_the_former_owner_can_settle_nothing_any_more(make_broker, tables):
    first, second = make_broker(), make_broker()
    fill(first, 1)
    old = first.dequeue()
    age(tables, old.task_id)
    assert second.recover_stuck_tasks(10) == 1
    for _ in range(2):
        with pytest.raises(StaleReceiptError):
            first.ack(old.task_id, old.receipt_handle)
        with pytest.raises(StaleReceiptError):
            first.reject(old.task_id, old.receipt_handle)
        assert first.ack_batch([(old.task_id, old.receipt_handle)]) == 0
        assert first.consumer.complete([Completion(old, "1")]) == [False]
        assert first.consumer.fail(old, error="late") == "lost"
        assert first.consumer.give_back([old]) == 0
        new = second.dequeue()
    assert new is None
    assert first.get_result(old.task_id) is None
    tables.check(first)


@pytest.mark.spec("CORE-15")
def test_a_consumer_that_takes_its_lost_task_again_cannot_use_the_older_receipt(broker, tables):
    fill(broker, 1)
    old = broker.dequeue()
    age(tables, old.task_id)
    assert broker.recover_stuck_tasks(10) == 1
    new = broker.dequeue()
    assert new.task_id == old.task_id
    with pytest.raises(StaleReceiptError):
        broker.ack(old.task_id, old.receipt_handle)
    assert broker.consumer.complete([Completion(old, "1")]) == [False]
    broker.ack(new.task_id, new.receipt_handle)
    with pytest.raises(InvalidStateTransitionError):
        broker.ack(old.task_id, old.receipt_handle)
    tables.check(broker)


@pytest.mark.spec("MAINT-05", "DATA-02")
@pytest.mark.parametrize("threshold", [0, 0.0, timedelta(0), -1, float("nan"), float("inf"), True, "1", None], ids=repr)
def test_a_threshold_must_be_a_duration_above_zero(sync_broker, threshold):
    with pytest.raises(ValidationError, match="stuck_threshold"):
        sync_broker.recover_stuck_tasks(threshold)


@pytest.mark.spec("MAINT-05", "CONF-06")
def test_only_the_broker_s_own_queue_is_recovered(make_broker, tables):
    one, two = make_broker("one"), make_broker("two")
    for broker in (one, two):
        fill(broker, 1)
        age(tables, broker.dequeue_with_worker_id("w").task_id)
    assert one.recover_stuck_tasks(10) == 1
    assert two.get_statistics() == QueueStatistics(processing=1, total=1)
    assert two.requeue_stuck_tasks_by_worker("w") == 1


@pytest.mark.spec("MAINT-05")
def test_thousands_of_stuck_tasks_are_recovered(sync_broker, tables):
    fill(sync_broker, 1200, max_retries=1)
    fill(sync_broker, 1200, max_retries=0)
    held = []
    while batch := sync_broker.dequeue_batch(1000):
        held += batch
    assert len(held) == 2400
    tables.rows("UPDATE celers_tasks SET started_at = started_at - INTERVAL 1 HOUR")
    assert sync_broker.recover_stuck_tasks(60) == 2400
    assert sync_broker.get_statistics() == QueueStatistics(pending=1200, dlq=1200, total=1200)
    tables.check(sync_broker)


@pytest.mark.spec("MAINT-07")
def test_tasks_of_a_worker_are_requeued_whatever_their_age(broker, tables):
    fill(broker, 4, max_retries=1)
    fill(broker, 1, max_retries=0, priority=-1)
    mine = broker.dequeue_batch(2, worker_id="one")
    other = broker.dequeue_with_worker_id("two")
    plain = broker.dequeue()
    broker.dequeue_with_worker_id("one")
    broker.ack(mine[1].task_id, mine[1].receipt_handle)
    assert broker.requeue_stuck_tasks_by_worker("nobody") == 0
    assert broker.requeue_stuck_tasks_by_worker("one") == 2
    assert broker.requeue_stuck_tasks_by_worker("one") == 0
    assert broker.get_task(mine[0].task_id).state is DbTaskState.PENDING
    assert "one" in broker.get_task(mine[0].task_id).error_message
    assert len(broker.list_dlq(10, 0)) == 1
    for message in (other, plain):
        assert broker.get_task(message.task_id).state is DbTaskState.PROCESSING
    tables.check(broker)


@pytest.mark.spec("MAINT-07")
def test_two_callers_at_once_requeue_each_task_once(sync_broker, database_url, tables):
    fill(sync_broker, 300)
    sync_broker.dequeue_batch(100, worker_id="one")
    sync_broker.dequeue_batch(200, worker_id="one")
    counts = []
    start = threading.Barrier(3)

    def requeue():
        with MysqlBroker(database_url) as broker:
            start.wait()
            counts.append(broker.requeue_stuck_tasks_by_worker("one"))

    threads = [threading.Thread(target=requeue) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 300
    assert tables.rows("SELECT DISTINCT retry_count FROM celers_tasks") == [(1,)]
    tables.check(sync_broker)


@pytest.mark.spec("MAINT-05", "MAINT-07", "TEST-05")
@pytest.mark.parametrize("by_worker", [False, True], ids=["stuck", "worker"])
def test_a_delivery_that_began_after_the_look_is_not_taken_back(sync_broker, database_url, tables, packets, by_worker):
    """Between finding a task and locking it, others recover it and somebody claims it anew."""
    fill(sync_broker, 1)
    old = sync_broker.dequeue_with_worker_id("one")
    age(tables, old.task_id)
    with MysqlBroker(database_url) as other:
        claimed = []

        def in_between():
            assert other.recover_stuck_tasks(10) == 1
            claimed.append(other.dequeue_with_worker_id("two"))

        packets.before(b"ORDER BY seq FOR UPDATE", in_between)
        if by_worker:
            assert sync_broker.requeue_stuck_tasks_by_worker("one") == 0
        else:
            assert sync_broker.recover_stuck_tasks(10) == 0
        (message,) = claimed
        other.ack(message.task_id, message.receipt_handle)
    assert sync_broker.get_task(old.task_id).retry_count == 1


@pytest.mark.spec("MAINT-08")
def test_a_purge_deletes_every_task_and_keeps_dead_letters_and_results(broker, make_broker, tables, caplog):
    parent = SerializedTask.new("parent", max_retries=0, priority=10)
    broker.enqueue(parent)
    broker.enqueue(SerializedTask.new("child", dependencies=[parent.metadata.id]))
    broker.enqueue_after(SerializedTask.new("later"), 3600)
    fill(broker, 6, max_retries=0)
    held, done, failed, cancelled, dead = broker.dequeue_batch(5)
    broker.consumer.complete([Completion(done, "1")])
    broker.reject(failed.task_id, failed.receipt_handle, requeue=False)
    broker.cancel(cancelled.task_id)
    broker.reject(dead.task_id, dead.receipt_handle)
    tables.rows("UPDATE celers_tasks SET dedup_key = 'k' WHERE id = %s", (done.task_id.bytes,))
    tables.rows(
        "INSERT INTO celers_task_dedup (queue_name, dedup_key, task_id, created_at)"
        " VALUES ('default', 'k', %s, UTC_TIMESTAMP(6)), ('other', 'k', %s, UTC_TIMESTAMP(6))",
        (done.task_id.bytes, uuid4().bytes),
    )
    tables.rows(
        "INSERT INTO celers_task_idempotency (id, queue_name, idempotency_key, task_name, task_id, created_at,"
        " expires_at) VALUES (%s, 'default', 'k', 'job', %s, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
        (uuid4().bytes, done.task_id.bytes),
    )
    other = make_broker("other")
    fill(other, 2)
    other.dequeue()
    with caplog.at_level(logging.WARNING, "celers"):
        assert broker.purge_all() == 8
    assert "default" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
    assert broker.get_statistics() == QueueStatistics(dlq=1)
    assert other.get_statistics() == QueueStatistics(pending=1, processing=1, total=2)
    for table, left in {
        "tasks": 2,
        "ready": 1,
        "scheduled": 0,
        "blocked": 0,
        "task_dependencies": 0,
        "task_dedup": 1,
        "task_idempotency": 0,
        "task_results": 1,
        "dead_letter_queue": 1,
    }.items():
        assert tables.value(f"SELECT COUNT(*) FROM celers_{table}") == left, table
    with pytest.raises(TaskNotFoundError):
        broker.ack(held.task_id, held.receipt_handle)
    assert broker.purge_all() == 0
    assert broker.dequeue() is None
    (fresh,) = fill(broker, 1)
    assert broker.dequeue().task_id == fresh


@pytest.mark.spec("MAINT-08")
def test_thousands_are_purged_in_chunks(sync_broker):
    fill(sync_broker, 2500)
    sync_broker.dequeue_batch(50)
    sync_broker.store_result_batch([BatchResultInput(uuid4(), "job", TaskResultStatus.SUCCESS)])
    assert sync_broker.purge_all() == 2500
    assert sync_broker.get_statistics() == QueueStatistics()


@pytest.mark.spec("MAINT-08")
def test_a_purge_and_claims_at_the_same_time_lose_nothing(sync_broker, database_url, tables):
    fill(sync_broker, 3000)
    taken = []
    stop = threading.Event()

    def claim():
        with MysqlBroker(database_url) as broker:
            while not stop.is_set():
                messages = broker.dequeue_batch(20)
                taken.append(broker.ack_batch([(message.task_id, message.receipt_handle) for message in messages]))

    thread = threading.Thread(target=claim)
    thread.start()
    purged = sync_broker.purge_all()
    stop.set()
    thread.join()
    assert purged <= 3000
    assert sync_broker.get_statistics().pending == 0
    tables.check(sync_broker)


@pytest.mark.spec("CORE-15", "MAINT-05")
@pytest.mark.parametrize("how", ["give_back", "ack", "ack_batch", "complete", "reject", "fail"])
def test_settling_an_older_delivery_leaves_the_newer_one_in_the_lease(broker, make_sync, tables, how):
    """The same consumer has lost a task and taken it again; then its older delivery is settled, late."""
    fill(broker, 1)
    old = broker.dequeue()
    age(tables, old.task_id)
    other = make_sync()
    assert other.recover_stuck_tasks(10) == 1
    new = broker.dequeue()
    assert new.task_id == old.task_id
    if how == "give_back":
        assert broker.consumer.give_back([old]) == 0
    elif how == "ack_batch":
        assert broker.ack_batch([(old.task_id, old.receipt_handle)]) == 0
    elif how == "complete":
        assert broker.consumer.complete([Completion(old)]) == [False]
    elif how == "fail":
        assert broker.consumer.fail(old, error="late") == "lost"
    else:
        with pytest.raises(StaleReceiptError):
            getattr(broker, how)(old.task_id, old.receipt_handle)
    fill(broker, 1)
    broker.dequeue()  # writes the lease
    tables.check(broker)
    assert other.consumers.rescue(broker.consumers.numbers(), None) == 2


@pytest.mark.spec("CORE-15")
@pytest.mark.parametrize("how", ["give_back", "ack", "ack_batch", "reject", "fail"])
def test_a_lost_delivery_is_not_held_any_longer_once_its_owner_knows(broker, make_sync, tables, how):
    fill(broker, 1)
    old = broker.dequeue()
    age(tables, old.task_id)
    assert make_sync().recover_stuck_tasks(10) == 1
    if how == "give_back":
        broker.consumer.give_back([old])
    elif how == "ack_batch":
        broker.ack_batch([(old.task_id, old.receipt_handle)])
    elif how == "fail":
        broker.consumer.fail(old, error="late")
    else:
        with pytest.raises(StaleReceiptError):
            getattr(broker, how)(old.task_id, old.receipt_handle)
    broker.close()
    assert tables.value("SELECT COUNT(*) FROM celers_consumers WHERE consumer_no <> 0") == 0


@pytest.mark.spec("CORE-09", "CORE-15")
def test_a_receipt_of_another_task_ends_neither_delivery(broker, tables):
    fill(broker, 2)
    one, two = broker.dequeue_batch(2)
    with pytest.raises(StaleReceiptError):
        broker.ack(one.task_id, two.receipt_handle)
    fill(broker, 1)
    broker.dequeue()  # writes the lease
    tables.check(broker)
