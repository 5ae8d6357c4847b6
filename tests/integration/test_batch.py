"""Batch operations (spec 02)."""

from __future__ import annotations

from uuid import uuid4

import pytest

from celers import (
    DbTaskState,
    DuplicateTaskError,
    InvalidStateTransitionError,
    SerializedTask,
    StaleReceiptError,
    TaskNotFoundError,
    TaskResultStatus,
    ValidationError,
)
from celers.model.result import BatchResultInput

PENDING, PROCESSING = DbTaskState.PENDING, DbTaskState.PROCESSING
COMPLETED, FAILED, CANCELLED = DbTaskState.COMPLETED, DbTaskState.FAILED, DbTaskState.CANCELLED


def tasks(count, **arguments):
    return [SerializedTask.new(f"t{number}", b"%d" % number, **arguments) for number in range(count)]


def state(broker, task_id):
    return broker.get_task(task_id).state


@pytest.mark.spec("BATCH-01", "DEF-19", "DEF-20")
def test_a_batch_keeps_its_order(broker, tables):
    first, second = tasks(250), tasks(250)
    ids = broker.enqueue_batch(iter(first)) + broker.enqueue_batch(tuple(second))
    assert ids == [task.metadata.id for task in first + second]
    tables.check(broker)
    assert [message.task_id for message in broker.dequeue_batch(500)] == ids


@pytest.mark.spec("BATCH-01", "DATA-08", "CORE-08")
def test_a_batch_larger_than_a_packet_keeps_its_order(sync_broker, tables):
    allowed = tables.value("SELECT @@max_allowed_packet")
    size = min(allowed // 8, 3_000_000)
    count = allowed // size + 3  # hexadecimal doubles it: at least three statements
    batch = [SerializedTask.new("big", b"%06d" % number + bytes(size)) for number in range(count)]
    batch += tasks(3)
    ids = sync_broker.enqueue_batch(batch)
    found = []
    while messages := sync_broker.dequeue_batch(1000):
        found += messages
    assert [message.task_id for message in found] == ids
    assert [message.task.payload[:6] for message in found] == [task.payload[:6] for task in batch]
    assert sync_broker.ack_batch([(message.task_id, message.receipt_handle) for message in found]) == len(ids)


@pytest.mark.spec("BATCH-01", "DEF-19", "DEF-20")
@pytest.mark.parametrize("count", [999, 1000, 1001, 2500])
def test_batches_around_the_size_of_a_statement(sync_broker, tables, count):
    batch = [
        SerializedTask.new("a", priority=number % 3, timeout=5 if number == count - 1 else None)
        for number in range(count)
    ]
    ids = sync_broker.enqueue_batch(batch)
    expected = [ids[number] for priority in (2, 1, 0) for number in range(count) if number % 3 == priority]
    found = []
    while messages := sync_broker.dequeue_batch(10_000):
        found += messages
    assert [message.task_id for message in found] == expected
    assert sync_broker.ack_batch([(m.task_id, m.receipt_handle) for m in found]) == count
    assert sync_broker.get_statistics().completed == count


@pytest.mark.spec("BATCH-01", "ERR-11", "ARCH-04")
def test_a_batch_is_stored_whole_or_not_at_all(broker, tables):
    batch = tasks(3)
    with pytest.raises(DuplicateTaskError):
        broker.enqueue_batch([*batch, batch[1]])
    broker.enqueue(batch[2])
    with pytest.raises(DuplicateTaskError):
        broker.enqueue_batch(batch)
    with pytest.raises(TaskNotFoundError):
        broker.enqueue_batch([batch[0], SerializedTask.new("x", dependencies=[uuid4()])])
    assert broker.queue_size() == 1
    tables.check(broker)


@pytest.mark.spec("BATCH-02")
def test_dequeue_batch(broker, tables):
    broker.enqueue_batch(tasks(5))
    assert broker.dequeue_batch(0) == []
    messages = broker.dequeue_batch(3, worker_id="worker-ü")
    assert [message.task_name for message in messages] == ["t0", "t1", "t2"]
    assert len({message.receipt_handle for message in messages}) == 3
    assert {broker.get_task(message.task_id).worker_id for message in messages} == {"worker-ü"}
    assert len(broker.dequeue_batch(10_000)) == 2
    assert broker.dequeue_batch(10_000) == []
    tables.check(broker)
    broker.enqueue_batch(tasks(2))
    broker.pause()
    assert broker.dequeue_batch(5) == []


@pytest.mark.spec("BATCH-03", "DEF-15")
def test_ack_batch_skips_what_it_may_not_complete(broker, tables):
    ids = broker.enqueue_batch(tasks(6))
    handles = {message.task_id: message.receipt_handle for message in broker.dequeue_batch(5)}
    broker.cancel(ids[3])
    done = broker.ack_batch(
        [
            (ids[0], handles[ids[0]]),
            (ids[0], handles[ids[0]]),
            (ids[1], None),
            (ids[2], handles[ids[0]]),
            (ids[3], handles[ids[3]]),
            (str(ids[4]), ""),
            (ids[5], None),
            (uuid4(), None),
        ]
    )
    assert done == 2
    assert [state(broker, key) for key in ids] == [COMPLETED, COMPLETED, PROCESSING, CANCELLED, PROCESSING, PENDING]
    tables.check(broker)


@pytest.mark.spec("BATCH-04", "CORE-10")
def test_reject_batch(broker, tables):
    plans = [(3, True), (3, False), (0, True), (3, True), (3, True), (3, True)]
    ids = [broker.enqueue(SerializedTask.new("a", max_retries=retries)) for retries, _ in plans]
    handles = {message.task_id: message.receipt_handle for message in broker.dequeue_batch(5)}
    rejected = broker.reject_batch(
        [
            (ids[0], handles[ids[0]], True),
            (ids[0], handles[ids[0]], False),
            (ids[1], None, False),
            (ids[2], handles[ids[2]], True),
            (ids[3], "0" * 32, True),
            (ids[4], handles[ids[3]], True),
            (ids[5], None, True),
            (uuid4(), None, True),
            (uuid4(), "0" * 32, False),
        ]
    )
    assert rejected == 3
    assert state(broker, ids[0]) is PENDING
    assert state(broker, ids[1]) is FAILED
    assert broker.get_task(ids[2]) is None
    assert [letter.task_id for letter in broker.list_dlq(10, 0)] == [ids[2]]
    assert [state(broker, key) for key in ids[3:]] == [PROCESSING, PROCESSING, PENDING]
    tables.check(broker)


@pytest.mark.spec("BATCH-05", "CORE-12")
def test_cancel_batch(broker, tables):
    ids = broker.enqueue_batch(tasks(3))
    ids.append(broker.enqueue_after(SerializedTask.new("later"), 60))
    child = broker.enqueue(SerializedTask.new("child", dependencies=[ids[0]]))
    held = broker.dequeue_batch(2)
    broker.ack(ids[1], held[1].receipt_handle)
    assert broker.cancel_batch([*ids, ids[0], uuid4(), str(ids[2])]) == 3
    assert [state(broker, key) for key in ids] == [CANCELLED, COMPLETED, CANCELLED, CANCELLED]
    assert state(broker, child) is CANCELLED
    assert broker.cancel_batch(ids) == 0
    tables.check(broker)


@pytest.mark.spec("BATCH-06", "SCHEMA-03", "DEF-21")
def test_update_batch_state_allows_what_the_table_of_states_allows(broker, tables):
    allowed = {
        PENDING: {PROCESSING, FAILED, CANCELLED},
        PROCESSING: {PENDING},
        COMPLETED: {PENDING, PROCESSING},
        FAILED: {PENDING, PROCESSING},
        CANCELLED: {PENDING, PROCESSING},
    }
    for target, sources in allowed.items():
        by_state = {source: broker.enqueue(SerializedTask.new(source.value)) for source in DbTaskState}
        for source, key in by_state.items():
            if source is not PENDING:
                assert broker.update_batch_state([key], source) == 1
        everything = [*by_state.values(), *by_state.values(), uuid4()]
        before = {source: tables.task(key) for source, key in by_state.items()}
        assert broker.update_batch_state(everything, target) == len(sources)
        tables.check(broker)
        for source, key in by_state.items():
            task = tables.task(key)
            if source not in sources:
                assert task == before[source]
                continue
            assert task["state"] == target.value
            was_started = source is PROCESSING and target is not PENDING
            assert (task["started_at"] is not None) == (target is PROCESSING or was_started)
            assert (task["completed_at"] is not None) == target.is_terminal
            if target is PENDING:
                assert (task["consumer_no"], task["worker_no"]) == (0, 0)
                assert task["scheduled_at"] > before[source]["scheduled_at"]
        broker.purge_all()


@pytest.mark.spec("BATCH-06", "CORE-09")
def test_a_task_set_to_processing_by_hand(broker, tables):
    ids = broker.enqueue_batch(tasks(3))
    broker.update_batch_state(ids, PROCESSING)
    assert broker.dequeue() is None
    broker.ack(ids[0])
    with pytest.raises(StaleReceiptError):
        broker.ack(ids[1], "0" * 32)
    broker.reject(ids[1], requeue=False)
    assert broker.recover_stuck_tasks(1e-6) == 1  # it is in a lease, like a delivered one
    tables.check(broker)


@pytest.mark.spec("BATCH-06", "CORE-15")
def test_a_delivery_ends_when_the_state_is_set_by_hand(broker, tables):
    task_id = broker.enqueue(SerializedTask.new("a"))
    old = broker.dequeue()
    assert broker.update_batch_state([task_id], PENDING) == 1
    with pytest.raises(StaleReceiptError):
        broker.ack(task_id, old.receipt_handle)
    new = broker.dequeue()
    with pytest.raises(StaleReceiptError):
        broker.reject(task_id, old.receipt_handle)
    broker.update_batch_state([task_id], FAILED)
    with pytest.raises(InvalidStateTransitionError):
        broker.ack(task_id, new.receipt_handle)
    tables.check(broker)


def results(ids, **changes):
    return [
        BatchResultInput(key, f"t{number}", TaskResultStatus.SUCCESS, result={"n": number}, runtime_ms=5, **changes)
        for number, key in enumerate(ids)
    ]


@pytest.mark.spec("BATCH-07", "RES-08")
def test_ack_batch_with_results(broker, tables):
    ids = broker.enqueue_batch(tasks(3))
    handles = [message.receipt_handle for message in broker.dequeue_batch(3)]
    handles[2] = None
    assert broker.ack_batch_with_results(zip(ids, handles, results(ids), strict=True)) == 3
    for number, key in enumerate(ids):
        stored = broker.get_result(key)
        assert (stored.task_name, stored.status) == (f"t{number}", TaskResultStatus.SUCCESS)
        assert stored.result == {"n": number}
        assert (stored.runtime_ms, stored.completed_at is not None) == (5, True)
    tables.check(broker)


@pytest.mark.spec("BATCH-07", "DEF-22")
@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda b, ids, h, m: b.cancel(ids[2]), InvalidStateTransitionError),
        (lambda b, ids, h, m: h.__setitem__(2, "0" * 32), StaleReceiptError),
        (lambda b, ids, h, m: h.__setitem__(2, ""), StaleReceiptError),
        (lambda b, ids, h, m: b.consumer.give_back([m[2]]), StaleReceiptError),
        (lambda b, ids, h, m: ids.__setitem__(2, uuid4()), TaskNotFoundError),
    ],
)
def test_no_result_is_stored_when_one_task_cannot_be_acknowledged(broker, tables, break_it, error):
    ids = broker.enqueue_batch(tasks(4))
    messages = broker.dequeue_batch(3)
    handles = [message.receipt_handle for message in messages]
    break_it(broker, ids, handles, messages)
    with pytest.raises(error):
        broker.ack_batch_with_results(list(zip(ids[:3], handles, results(ids[:3]), strict=True)))
    assert broker.get_result_batch(ids) == []
    assert broker.get_statistics().completed == 0
    tables.check(broker)


@pytest.mark.spec("BATCH-07", "DEF-22")
def test_an_id_and_a_result_that_differ_are_refused(broker):
    ids = broker.enqueue_batch(tasks(2))
    handles = [message.receipt_handle for message in broker.dequeue_batch(2)]
    swapped = results([ids[1], ids[0]])
    with pytest.raises(ValidationError):
        broker.ack_batch_with_results(list(zip(ids, handles, swapped, strict=True)))
    assert broker.get_result_batch(ids) == []
    assert state(broker, ids[0]) is PROCESSING
