"""Rejection and retries (spec 01, CORE-10; spec 09, RETRY-03 to 06)."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta
from uuid import uuid4

import pytest

from celers import DbTaskState, InvalidStateTransitionError, SerializedTask, StaleReceiptError, TaskNotFoundError
from celers.retry import Exponential, ExponentialWithJitter, Fixed, Linear, RetryPolicy

PENDING, FAILED = DbTaskState.PENDING, DbTaskState.FAILED


def new(name="a", **arguments):
    return SerializedTask.new(name, **arguments)


def delay_of(tables, task_id):
    """Seconds between now and the due time of a task that was just rejected."""
    return tables.value(
        "SELECT TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), scheduled_at) / 1e6 FROM celers_tasks WHERE id = %s",
        (task_id.bytes,),
    )


def again(broker, tables):
    """Let the backoff pass and claim the task."""
    tables.pass_time(10_000)
    broker.core.due_unknown()
    return broker.dequeue()


@pytest.mark.spec("CORE-10", "CORE-15", "DLQ-01", "DEF-13", "DEF-115")
@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_a_task_is_delivered_once_and_once_for_each_retry(broker, tables, max_retries):
    task_id = broker.enqueue(new(max_retries=max_retries))
    message = broker.dequeue()
    for retry in range(max_retries):
        assert message.retry_count == retry
        broker.reject(task_id, message.receipt_handle, error=f"try {retry}")
        info = broker.get_task(task_id)
        assert (info.state, info.retry_count, info.error_message) == (PENDING, retry + 1, f"try {retry}")
        assert (info.started_at, info.completed_at, info.worker_id) == (None, None, None)
        assert 2 ** (retry + 1) - 1 < delay_of(tables, task_id) <= 2 ** (retry + 1)
        tables.check(broker)
        assert broker.dequeue() is None
        message = again(broker, tables)
    assert message.retry_count == max_retries
    broker.reject(task_id, message.receipt_handle)
    assert broker.get_task(task_id) is None
    (letter,) = broker.list_dlq(10, 0)
    assert (letter.task_id, letter.retry_count, letter.max_retries) == (task_id, max_retries, max_retries)
    assert letter.error_message == (f"try {max_retries - 1}" if max_retries else None)  # an older text is kept
    for call in (broker.reject, broker.ack):
        with pytest.raises(TaskNotFoundError):
            call(task_id, message.receipt_handle)
    tables.check(broker)


@pytest.mark.spec("CORE-10")
@pytest.mark.parametrize(("retry", "seconds"), [(0, 2), (1, 4), (9, 1024), (10, 2048), (11, 3600), (999, 3600)])
def test_the_delay_without_a_policy(broker, tables, retry, seconds):
    task_id = broker.enqueue(new(max_retries=1000))
    tables.rows("UPDATE celers_tasks SET retry_count = %s", (retry,))
    broker.reject(task_id, broker.dequeue().receipt_handle)
    assert seconds - 1 < delay_of(tables, task_id) <= seconds
    assert tables.task(task_id)["retry_count"] == retry + 1


@pytest.mark.spec("CORE-10", "CORE-12", "DEF-17", "DEF-109")
def test_reject_without_requeue_fails_the_task(broker, tables):
    task_id = broker.enqueue(new())
    message = broker.dequeue()
    broker.reject(task_id, message.receipt_handle, False, error="no\x00pe 🐍")
    info = broker.get_task(task_id)
    assert (info.state, info.retry_count, info.error_message) == (FAILED, 0, "no\x00pe 🐍")
    assert info.completed_at >= info.started_at
    assert broker.list_dlq(10, 0) == []
    for call in (broker.reject, broker.ack):
        for handle in (message.receipt_handle, None):
            with pytest.raises(InvalidStateTransitionError) as caught:
                call(task_id, handle)
            assert caught.value.from_state == "failed"
    assert broker.cancel(task_id) is False
    tables.check(broker)


@pytest.mark.spec("CORE-10", "ERR-09", "ERR-13", "ERR-14", "DEF-15")
def test_reject_needs_the_current_receipt(broker, tables):
    other = broker.enqueue(new("other", priority=1))
    other_handle = broker.dequeue().receipt_handle
    task_id = broker.enqueue(new())
    with pytest.raises(InvalidStateTransitionError) as early:
        broker.reject(task_id)
    assert (early.value.from_state, early.value.to_state) == ("pending", "pending")
    message = broker.dequeue()
    for wrong in ("", "x", "0" * 32, other_handle):
        with pytest.raises(StaleReceiptError):
            broker.reject(task_id, wrong)
    for handle in (None, "", "0" * 32, other_handle, message.receipt_handle):
        with pytest.raises(TaskNotFoundError):
            broker.reject(uuid4(), handle)
    assert tables.task(task_id)["retry_count"] == 0
    broker.reject(task_id, message.receipt_handle)
    with pytest.raises(StaleReceiptError):  # it is pending now: the handle belongs to the past
        broker.reject(task_id, message.receipt_handle)
    with pytest.raises(StaleReceiptError):
        broker.ack(task_id, message.receipt_handle)
    assert tables.task(task_id)["retry_count"] == 1
    broker.ack(other, other_handle)
    tables.check(broker)


@pytest.mark.spec("CORE-10", "DATA-09")
def test_a_long_error_text_is_cut(broker, tables):
    for text, stored in (
        ("x" * 65_535, "x" * 65_535),
        ("x" * 65_536, "x" * 65_532 + "…"),
        ("é" * 40_000, "é" * 32_766 + "…"),
        ("🐍" * 20_000, "🐍" * 16_383 + "…"),
        ("a\ud800b", "a\\ud800b"),
        ("", ""),
    ):
        task_id = broker.enqueue(new())
        broker.reject(task_id, broker.dequeue().receipt_handle, False, error=text)
        assert broker.get_task(task_id).error_message == stored
        assert len(stored.encode()) <= 65_535


@pytest.mark.spec("CORE-10", "DEF-16")
def test_two_rejections_at_once_count_once(make_sync, tables):
    brokers = [make_sync() for _ in range(4)]
    task_id = brokers[0].enqueue(new(max_retries=9))
    handle = brokers[0].dequeue().receipt_handle
    outcomes = []

    def reject(broker):
        try:
            outcomes.append(broker.reject(task_id, handle))
        except StaleReceiptError:
            outcomes.append("stale")

    threads = [threading.Thread(target=reject, args=(broker,)) for broker in brokers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [None, "stale", "stale", "stale"]
    assert tables.task(task_id)["retry_count"] == 1
    tables.check(brokers[0])


POLICIES = [
    (Fixed(7), [7, 7, 7]),
    (Fixed(0), [0, 0, 0]),
    (Linear(5), [5, 10, 15]),
    (Exponential(2, 2.0, 60), [2, 4, 8]),
    (Exponential(100, 10.0, 300), [100, 300, 300]),
]


@pytest.mark.spec("RETRY-03", "RETRY-04", "RETRY-05", "DEF-52", "CORE-10")
@pytest.mark.parametrize(("strategy", "delays"), POLICIES)
@pytest.mark.parametrize("plain", [True, False])
def test_the_stored_policy_gives_the_delay(broker, tables, strategy, delays, plain):
    policy = RetryPolicy(max_retries=3, strategy=strategy)
    task = new(max_retries=900)
    assert broker.enqueue_with_retry_policy(task, policy) == task.metadata.id
    stored = tables.task(task.metadata.id)
    assert stored["max_retries"] == 3
    assert RetryPolicy.from_dict(json.loads(stored["retry_policy"])) == policy
    message = broker.dequeue()
    assert message.task.metadata.max_retries == 3
    for retry, delay in enumerate(delays):
        if plain:
            broker.reject(message.task_id, message.receipt_handle)
        else:
            assert broker.reject_with_retry_policy(message.task_id, "why", receipt_handle=message.receipt_handle)
            assert broker.get_task(message.task_id).error_message == "why"
        assert delay - 1 < delay_of(tables, message.task_id) <= delay
        assert tables.task(message.task_id)["retry_count"] == retry + 1
        tables.check(broker)
        message = again(broker, tables)
    assert message.retry_count == 3
    assert broker.reject_with_retry_policy(message.task_id, "last", receipt_handle=message.receipt_handle) is True
    (letter,) = broker.list_dlq(10, 0)
    assert (letter.task_id, letter.error_message) == (task.metadata.id, "last")
    assert RetryPolicy.from_dict(json.loads(tables.letter(task.metadata.id)["retry_policy"])) == policy


@pytest.mark.spec("RETRY-01", "RETRY-05", "DEF-51")
def test_jitter_keeps_fractions(broker, tables):
    policy = RetryPolicy(max_retries=5, strategy=ExponentialWithJitter(100, 2.0, 1000))
    seen = set()
    for _ in range(3):
        task_id = broker.enqueue_with_retry_policy(new(), policy)
        broker.reject(task_id, broker.dequeue().receipt_handle)
        delay = float(delay_of(tables, task_id))
        assert 74 < delay <= 100
        seen.add(round(delay, 2))
    assert len(seen) == 3


@pytest.mark.spec("RETRY-04", "ERR-13", "ERR-14")
def test_reject_with_retry_policy(broker, tables):
    assert broker.reject_with_retry_policy(uuid4()) is False
    assert broker.reject_with_retry_policy(uuid4(), "x", receipt_handle="0" * 32) is False
    task_id = broker.enqueue(new())
    with pytest.raises(InvalidStateTransitionError):
        broker.reject_with_retry_policy(task_id)
    message = broker.dequeue()
    with pytest.raises(StaleReceiptError):
        broker.reject_with_retry_policy(task_id, receipt_handle="0" * 32)
    assert broker.reject_with_retry_policy(task_id, "first", receipt_handle=message.receipt_handle) is True
    assert 59 < delay_of(tables, task_id) <= 60  # without a policy
    assert tables.task(task_id)["retry_count"] == 1
    message = again(broker, tables)
    assert broker.reject_with_retry_policy(task_id, None, False) is True
    info = broker.get_task(task_id)
    assert (info.state, info.error_message, info.retry_count) == (FAILED, "first", 1)
    tables.check(broker)


@pytest.mark.spec("RETRY-06")
@pytest.mark.parametrize("delay", [2.6e11, 1e15, 1e300])
def test_a_delay_beyond_the_last_year_is_cut_there(broker, tables, delay):
    task_id = broker.enqueue_with_retry_policy(new(), RetryPolicy(max_retries=2, strategy=Fixed(delay)))
    broker.reject(task_id, broker.dequeue().receipt_handle)
    assert tables.task(task_id)["scheduled_at"] == datetime(9999, 12, 31, 23, 59, 59, 999999)  # noqa: DTZ001
    tables.check(broker)


@pytest.mark.spec("CORE-10", "CORE-15")
def test_give_back_counts_no_attempt(broker, tables):
    ids = broker.enqueue_batch([new(max_retries=0), new(max_retries=0)])
    messages = broker.dequeue_batch(2)
    assert broker.consumer.give_back(messages[:1]) == 1
    assert broker.consumer.give_back(messages[1:], delay_secs=timedelta(minutes=5)) == 1
    assert broker.consumer.give_back(messages) == 0
    assert 299 < delay_of(tables, ids[1]) <= 300
    assert [tables.task(key)["retry_count"] for key in ids] == [0, 0]
    tables.check(broker)
    assert broker.dequeue().task_id == ids[0]
    assert broker.dequeue() is None
