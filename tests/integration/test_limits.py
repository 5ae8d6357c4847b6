"""Priorities that rise with the time of waiting, and rate limits (spec 14, CTRL-09 and CTRL-10)."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

import pytest

from celers import MysqlBroker, RateLimit, RateLimitStatus, SerializedTask, ValidationError
from tests.fixtures.waiting import until


def new(name="job", **arguments):
    return SerializedTask.new(name, **arguments)


def wait_for(tables, seconds, ids):
    """Let tasks have waited."""
    marks = ",".join(["%s"] * len(ids))
    tables.rows(
        f"UPDATE celers_tasks SET scheduled_at = scheduled_at - INTERVAL %s SECOND WHERE id IN ({marks})",
        (seconds, *(task_id.bytes for task_id in ids)),
    )


def priorities(broker):
    return [task.priority for task in reversed(broker.list_tasks(None, 10_000, 0))]


@pytest.mark.spec("CTRL-09", "DEF-72", "CONF-06")
def test_tasks_that_have_waited_pass_others(broker, tables):
    old = broker.enqueue_batch([new(priority=priority) for priority in (0, 1, 995, 1000, 1500, -7)])
    young = broker.enqueue(new(priority=3))
    later = broker.enqueue_after(new(), 3600)
    blocked = broker.enqueue(new(dependencies=[young]))
    busy = broker.enqueue(new(priority=2000))
    elsewhere = broker.for_queue("other")
    other = elsewhere.enqueue(new())
    assert broker.dequeue().task_id == busy
    wait_for(tables, 100, [*old, busy, other, blocked])
    assert broker.apply_priority_aging(50, 10) == 4
    assert priorities(broker) == [10, 11, 1000, 1000, 1500, 3, 3, 0, 0, 2000]
    assert elsewhere.get_task(other).priority == 0
    order = [message.task_id for message in broker.dequeue_batch(10)]
    assert order == [old[4], old[2], old[3], old[1], old[0], old[5], young]
    assert broker.queue.age_priorities(timedelta(hours=2), 1) == 0
    assert broker.get_task(later).priority == 0


@pytest.mark.spec("CTRL-09")
def test_aging_keeps_every_place(sync_broker, tables):
    """More than a page, several priorities, and a second time on top of the first."""
    ids = sync_broker.enqueue_batch([new(priority=index % 3) for index in range(1300)])
    wait_for(tables, 10, ids)
    assert sync_broker.apply_priority_aging(5, 1) == 1300
    assert priorities(sync_broker) == [index % 3 + 1 for index in range(1300)]
    tables.check(sync_broker)
    assert sync_broker.apply_priority_aging(5, 2000) == 1300
    assert set(priorities(sync_broker)) == {1000}
    assert sync_broker.apply_priority_aging(5, 1) == 0
    tables.check(sync_broker)
    assert [message.task_id for message in sync_broker.dequeue_batch(100)] == ids[:100]


@pytest.mark.spec("CTRL-09")
def test_tasks_that_became_due_unnoticed_are_aged_too(broker, tables):
    task_id = broker.enqueue_after(new(), 100)
    tables.pass_time(200)
    assert broker.apply_priority_aging(101, 5) == 0
    assert broker.apply_priority_aging(99, 5) == 1
    assert broker.get_task(task_id).priority == 5
    tables.check(broker)


@pytest.mark.spec("CTRL-09", "DATA-10")
def test_bad_parameters_of_aging(broker, caplog):
    for bad in (0, -1, None, "1", True, float("nan")):
        with pytest.raises(ValidationError, match="age_threshold_secs"):
            broker.apply_priority_aging(bad, 1)
    for bad in (0, -1, 1.5, None, True, 2**31):
        with pytest.raises(ValidationError, match="priority_boost"):
            broker.apply_priority_aging(1, bad)
    with caplog.at_level(logging.WARNING):
        assert broker.apply_priority_aging(1, 100) == 0
        assert not caplog.records
        assert broker.apply_priority_aging(1, 101) == 0
    assert len(caplog.records) == 1


@pytest.mark.spec("CTRL-09", "CORE-08")
def test_claims_go_on_while_tasks_age(make_sync, tables):
    broker, ager = make_sync(), make_sync()
    ids = broker.enqueue_batch([new(priority=index % 5) for index in range(1000)])
    wait_for(tables, 1000, ids)
    done = threading.Event()
    raised = []

    def age():
        while not done.is_set():
            raised.append(ager.apply_priority_aging(1, 1))

    thread = threading.Thread(target=age)
    thread.start()
    try:
        until(lambda: raised)
        taken = []

        def take():
            messages = broker.dequeue_batch(20)
            broker.ack_batch([(message.task_id, message.receipt_handle) for message in messages])
            taken.extend(message.task_id for message in messages)
            return len(taken) >= 1000

        until(take, 60)
    finally:
        done.set()
        thread.join()
    assert sorted(taken) == sorted(ids)
    tables.check(broker)


# Rate limits


@pytest.mark.spec("CTRL-10", "TYPE-24", "CONF-06")
def test_places_of_a_minute(broker, tables):
    free = RateLimitStatus("mail", 0.0, 0, 0, False)
    assert broker.check_rate_limit("mail", 2) == free
    first = broker.check_rate_limit("mail", 2, reserve=True)
    assert first == RateLimitStatus("mail", 1 / 60, 1, 1, False)
    assert broker.queue.check_rate_limit("mail", 1) == RateLimitStatus("mail", 1 / 60, 1, 1, True)
    assert broker.check_rate_limit("mail", 2, reserve=True) == RateLimitStatus("mail", 2 / 60, 2, 2, False)
    refused = broker.check_rate_limit("mail", 2, reserve=True)
    assert refused == broker.check_rate_limit("mail", 2) == RateLimitStatus("mail", 2 / 60, 2, 2, True)
    assert broker.check_rate_limit("Mail", 2) == RateLimitStatus("Mail", 0.0, 0, 0, False)
    assert broker.for_queue("other").check_rate_limit("mail", 2) == free
    tables.rows("UPDATE celers_rate_limit_hits SET hit_at = hit_at - INTERVAL 60 SECOND LIMIT 1")
    assert broker.check_rate_limit("mail", 2) == RateLimitStatus("mail", 1 / 60, 1, 2, False)
    assert broker.check_rate_limit("mail", 2, reserve=True) == RateLimitStatus("mail", 2 / 60, 2, 3, False)
    tables.rows("UPDATE celers_rate_limit_hits SET hit_at = hit_at - INTERVAL 3600 SECOND")
    assert broker.check_rate_limit("mail", 1, reserve=True) == RateLimitStatus("mail", 1 / 60, 1, 1, False)
    assert tables.value("SELECT COUNT(*) FROM celers_rate_limit_hits") == 1, "what is over is deleted"


@pytest.mark.spec("CTRL-10", "DEF-73")
def test_deliveries_count_where_they_are_recorded(make_broker):
    broker = make_broker(record_history=True)
    broker.enqueue_batch([new("mail") for _ in range(3)] + [new("other")])
    broker.dequeue_batch(4)
    assert broker.check_rate_limit("mail", 4) == RateLimitStatus("mail", 3 / 60, 3, 3, False)
    assert broker.check_rate_limit("mail", 3).limit_exceeded
    assert broker.check_rate_limit("mail", 3, reserve=True).limit_exceeded
    assert not broker.check_rate_limit("mail", 4, reserve=True).limit_exceeded
    # The larger number counts, not their sum: whoever reserves is delivered, too.
    assert broker.check_rate_limit("mail", 4) == RateLimitStatus("mail", 3 / 60, 3, 3, False)
    assert make_broker().check_rate_limit("mail", 4).current_per_minute == 1


@pytest.mark.spec("CTRL-10", "DEF-73")
def test_many_callers_never_get_more_places_than_there_are(make_sync):
    brokers = [make_sync() for _ in range(8)]
    got = []

    def reserve(broker):
        for _ in range(10):
            got.append(not broker.check_rate_limit("mail", 30, reserve=True).limit_exceeded)

    threads = [threading.Thread(target=reserve, args=(broker,)) for broker in brokers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (got.count(True), got.count(False)) == (30, 50)
    assert brokers[0].check_rate_limit("mail", 30).current_per_minute == 30


@pytest.mark.spec("CTRL-10", "DATA-10", "DATA-05")
def test_bad_parameters_of_a_rate(broker):
    for bad in (0, -1, 1.0, None, True):
        with pytest.raises(ValidationError, match="max_per_minute"):
            broker.check_rate_limit("mail", bad)
    for bad in ("", " x", None, 1):
        with pytest.raises(ValidationError, match="task_name"):
            broker.check_rate_limit(bad, 1)
    with pytest.raises(ValidationError, match="reserve"):
        broker.check_rate_limit("mail", 1, reserve=1)


@pytest.mark.spec("TYPE-23")
def test_a_limit_is_checked():
    assert RateLimit("mail", 0.5, 1, None).to_dict() == {
        "task_name": "mail",
        "max_per_second": 0.5,
        "max_per_minute": 1,
        "max_per_hour": None,
    }
    for bad in ({"max_per_second": 0}, {"max_per_minute": 0}, {"max_per_hour": 1.5}):
        with pytest.raises(ValidationError):
            RateLimit("mail", **bad)
    with pytest.raises(ValidationError):
        RateLimit("")


def test_brokers_of_both_kinds_have_them():
    from celers import AsyncMysqlBroker

    for name in ("apply_priority_aging", "check_rate_limit"):
        assert getattr(MysqlBroker, name) is getattr(AsyncMysqlBroker, name)
