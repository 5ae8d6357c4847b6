"""Recorded transitions: one row for each change of a task's state, in the transaction that makes it."""

from __future__ import annotations

import pytest

from celers import (
    BatchResultInput,
    DbTaskState,
    DuplicateTaskError,
    InvalidStateTransitionError,
    QueueDrainingError,
    SerializedTask,
    TaskResultStatus,
    ValidationError,
)
from celers.components.consumer import Completion
from tests.fixtures.filling import silence

NEW = (None, "pending")
START = ("pending", "processing")
DONE = ("processing", "completed")
RETRY = ("processing", "pending")
FAIL = ("processing", "failed")
DEAD = ("processing", "dead_letter")
CANCEL = ("pending", "cancelled")
STOP = ("processing", "cancelled")


@pytest.fixture
def broker(make_broker):
    return make_broker(record_history=True)


def put(broker, **options):
    return broker.enqueue(SerializedTask.new("job", **options))


def moves(broker, task_id):
    found = broker.get_task_state_transitions(task_id)
    times = [step.transitioned_at for step in found]
    assert times == sorted(times)
    return [(step.from_state and str(step.from_state), str(step.to_state)) for step in found]


@pytest.mark.spec("SCHEMA-02", "INSP-15", "DEF-09", "CONF-01")
def test_the_life_of_a_task(broker, tables):
    task_id = put(broker, max_retries=1)
    assert moves(broker, task_id) == [NEW]
    broker.reject(task_id, broker.dequeue_with_worker_id("one").receipt_handle, error="first")
    tables.pass_time(60)
    message = broker.dequeue_with_worker_id("two")
    assert moves(broker, task_id) == [NEW, START, RETRY, START]
    broker.reject(task_id, message.receipt_handle, error="boom")
    found = broker.get_task_state_transitions(task_id)
    assert [(step.to_state, step.worker_id, step.message) for step in found] == [
        ("pending", None, None),
        ("processing", "one", None),
        ("pending", "one", "first"),
        ("processing", "two", None),
        ("dead_letter", "two", "boom"),
    ]
    (letter,) = broker.list_dlq(1, 0)
    new_id = broker.requeue_from_dlq(letter.id)
    (created,) = broker.get_task_state_transitions(new_id)
    assert created.from_state is None
    assert str(letter.id) in created.message
    assert str(task_id) in created.message
    message = broker.dequeue()
    assert message.task_id == new_id
    broker.ack(new_id, message.receipt_handle)
    broker.ack(new_id, message.receipt_handle)
    assert moves(broker, new_id) == [NEW, START, DONE]
    assert broker.purge_all() == 1
    assert moves(broker, new_id) == [NEW, START, DONE]
    assert moves(broker, task_id) == [NEW, START, RETRY, START, DEAD]
    tables.check(broker)


@pytest.mark.spec("SCHEMA-02")
def test_every_way_of_settling(broker, tables):
    ids = broker.enqueue_batch([SerializedTask.new("job") for _ in range(9)])
    held = broker.dequeue_batch(9)
    assert [message.task_id for message in held] == ids
    broker.ack_batch([(held[0].task_id, held[0].receipt_handle)])
    broker.ack_batch([(held[0].task_id, held[0].receipt_handle)])
    result = BatchResultInput(ids[1], "job", TaskResultStatus.SUCCESS, 1)
    broker.ack_batch_with_results([(ids[1], held[1].receipt_handle, result)])
    assert broker.consumer.complete([Completion(held[2], "1"), Completion(held[0], "1")]) == [True, True]
    broker.reject_batch([(ids[3], held[3].receipt_handle, False)])
    broker.reject_with_retry_policy(ids[4], "x")
    assert broker.consumer.fail(held[5], error="x", dead_letter=True) == "dead_letter"
    assert broker.consumer.give_back([held[6]]) == 1
    broker.cancel(ids[7])
    assert broker.recover_stuck_tasks(1e-6) == 1
    ends = [DONE, DONE, DONE, FAIL, RETRY, DEAD, RETRY, STOP, RETRY]
    assert [moves(broker, task_id) for task_id in ids] == [[NEW, START, end] for end in ends]
    tables.check(broker)


@pytest.mark.spec("SCHEMA-02")
def test_changes_by_hand_and_of_dependants(broker, tables):
    parent = put(broker)
    child = put(broker, dependencies=[parent])
    grandchild = put(broker, dependencies=[child])
    later = broker.enqueue_after(SerializedTask.new("job"), 60)
    assert [moves(broker, task_id) for task_id in (parent, child, grandchild, later)] == [[NEW]] * 4
    broker.cancel(parent)
    for task_id in (parent, child, grandchild):
        assert moves(broker, task_id) == [NEW, CANCEL]
    for state in (DbTaskState.PROCESSING, DbTaskState.FAILED, DbTaskState.PENDING, DbTaskState.COMPLETED):
        assert broker.update_batch_state([later], state) == 1
    back, by_hand = ("failed", "pending"), ("pending", "completed")
    assert moves(broker, later) == [NEW, START, FAIL, back, by_hand]
    assert broker.update_batch_state([parent], DbTaskState.PENDING) == 1
    tables.pass_time(10)
    assert broker.expire_pending_tasks(5) == 1
    assert moves(broker, parent) == [NEW, CANCEL, ("cancelled", "pending"), CANCEL]
    tables.check(broker)


@pytest.mark.spec("SCHEMA-02", "CORE-15")
def test_the_tasks_of_a_dead_consumer(broker, tables):
    task_id = put(broker)
    broker.dequeue_with_worker_id("one")
    silence(tables)
    assert broker.maintenance.rescue_dead() == 1
    assert moves(broker, task_id) == [NEW, START, RETRY]
    assert broker.get_task_state_transitions(task_id)[2].worker_id == "one"
    tables.check(broker)


@pytest.mark.spec("SCHEMA-02", "ARCH-04")
def test_what_does_not_happen_is_not_recorded(broker, tables):
    task = SerializedTask.new("job")
    broker.enqueue(task)
    for batch in ([task], [SerializedTask.new("job"), task]):
        with pytest.raises(DuplicateTaskError):
            broker.enqueue_batch(batch)
    broker.enable_drain_mode()
    with pytest.raises(QueueDrainingError):
        put(broker)
    broker.disable_drain_mode()
    message = broker.dequeue()
    broker.ack(message.task_id, message.receipt_handle)
    with pytest.raises(InvalidStateTransitionError):
        broker.reject(message.task_id, message.receipt_handle)
    assert broker.cancel(message.task_id) is False
    assert broker.dequeue() is None
    assert tables.value("SELECT COUNT(*) FROM celers_task_history") == 3


@pytest.mark.spec("SCHEMA-02", "CORE-13")
def test_a_transaction_that_is_rolled_back_leaves_no_history(make_sync, tables):
    broker = make_sync(record_history=True)

    def fail(tx):
        tx.enqueue(SerializedTask.new("job"))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        broker.with_transaction(fail)
    assert tables.value("SELECT COUNT(*) FROM celers_task_history") == 0
    with broker.with_transaction() as tx:
        task_id = tx.enqueue(SerializedTask.new("job"))
        tx.cancel(task_id)
    assert moves(broker, task_id) == [NEW, CANCEL]


@pytest.mark.spec("SCHEMA-02", "BATCH-01")
def test_a_large_batch_and_other_queues(broker, tables):
    other = broker.for_queue("other")
    other.enqueue_batch([SerializedTask.new(f"job{number}") for number in range(2500)])
    assert tables.value("SELECT COUNT(*) FROM celers_task_history WHERE queue_name = 'other'") == 2500
    assert len(other.dequeue_batch(500)) == 500
    assert tables.value("SELECT COUNT(*) FROM celers_task_history WHERE state = 'processing'") == 500


@pytest.mark.spec("CORE-06", "SCHEMA-02")
def test_a_dependency_that_was_archived_is_known_by_its_history(broker):
    parent = put(broker)
    broker.ack(parent, broker.dequeue().receipt_handle)
    broker.purge_all()
    child = put(broker, dependencies=[parent])
    assert broker.dequeue().task_id == child


@pytest.mark.spec("SCHEMA-02", "CONF-01")
def test_history_is_off_by_default(make_broker, tables):
    broker = make_broker()
    task_id = put(broker)
    broker.ack(task_id, broker.dequeue().receipt_handle)
    assert tables.value("SELECT COUNT(*) FROM celers_task_history") == 0
    with pytest.raises(ValidationError, match="record_history"):
        make_broker(record_history=1)
