"""How many tasks end in a minute, and how well a queue is served (spec 19)."""

from __future__ import annotations

import pytest

from celers import Completion, DbTaskState, QueueHealth, SerializedTask, TaskThroughput


def put(broker, count, **kwargs):
    return broker.enqueue_batch([SerializedTask.new("job", **kwargs) for _ in range(count)])


def finish(broker, count):
    messages = broker.dequeue_batch(count)
    assert broker.ack_batch([(message.task_id, message.receipt_handle) for message in messages]) == count


def samples(tables):
    return tables.value("SELECT COUNT(*) FROM celers_throughput")


def pass_by(tables, broker, secs):
    """Let time pass: the samples are older, and the broker is free to write the next one."""
    # By way of places that nobody takes: a sample may move to where another one still is.
    tables.rows(
        f"UPDATE celers_throughput SET taken_at = taken_at - INTERVAL {secs} SECOND,"
        f" place = 1000 + (place + 800 - {secs // 5}) MOD 800"
    )
    tables.rows("UPDATE celers_throughput SET place = place - 1000")
    broker.core.next_sample = 0.0


@pytest.mark.spec("STAT-10", "TYPE-18")
def test_what_ended_is_counted(broker, tables):
    assert broker.get_task_throughput() == TaskThroughput(0, 0, 0, 0, 0.0)
    put(broker, 12, max_retries=0)
    finish(broker, 6)
    assert broker.get_task_throughput() == TaskThroughput(6, 6, 0, 0, 0.1)
    for requeue in (False, True):  # failed, and a dead letter
        message = broker.dequeue()
        broker.reject(message.task_id, requeue=requeue)
    broker.dequeue()
    assert broker.get_task_throughput() == TaskThroughput(6, 6, 2, 2, 0.1)
    assert broker.for_queue("another").get_task_throughput() == TaskThroughput(0, 0, 0, 0, 0.0)
    # At most one sample in five seconds, and none where nothing ends.
    assert samples(tables) == 1


@pytest.mark.spec("STAT-10")
def test_windows_end_after_a_minute_and_an_hour(broker, tables):
    put(broker, 30)
    finish(broker, 10)
    pass_by(tables, broker, 100)
    assert broker.get_task_throughput() == TaskThroughput(0, 10, 0, 0, 0.0)
    finish(broker, 5)
    assert broker.get_task_throughput() == TaskThroughput(5, 15, 0, 0, 5 / 60)
    assert samples(tables) == 2
    pass_by(tables, broker, 3550)
    assert broker.get_task_throughput() == TaskThroughput(0, 5, 0, 0, 0.0)
    pass_by(tables, broker, 100)
    assert broker.get_task_throughput() == TaskThroughput(0, 0, 0, 0, 0.0)


@pytest.mark.spec("STAT-10", "MAINT-04", "MAINT-09")
def test_what_is_deleted_or_sent_back_was_completed_all_the_same(broker):
    put(broker, 9)
    finish(broker, 6)
    message = broker.dequeue()
    broker.reject(message.task_id, requeue=False)
    assert broker.update_batch_state([message.task_id], DbTaskState.PENDING) == 1
    assert broker.purge_completed() == 6
    assert broker.get_task_throughput() == TaskThroughput(6, 6, 1, 1, 0.1)


@pytest.mark.spec("STAT-10")
def test_counters_outlive_their_consumers(make_broker, tables):
    with make_broker() as broker:
        put(broker, 3)
        finish(broker, 3)
        queue = broker.queue_name
    assert tables.value("SELECT COUNT(*) FROM celers_consumers") == 0
    assert make_broker(queue).get_task_throughput().completed_last_minute == 3


@pytest.mark.spec("STAT-10", "ARCH-06")
def test_samples_cost_no_round_trip(sync_broker, packets, tables):
    broker = sync_broker
    put(broker, 20)
    first = broker.dequeue_batch(5)
    pairs = [(message.task_id, message.receipt_handle) for message in first]
    assert packets.count(lambda: broker.ack_batch(pairs)) == 1
    assert samples(tables) == 1
    pass_by(tables, broker, 10)
    second = broker.dequeue_batch(5)
    done = [Completion(message, None) for message in second]
    assert packets.count(lambda: broker.consumer.complete(done)) == 1
    assert samples(tables) == 2
    assert tables.rows("SELECT completions FROM celers_throughput ORDER BY taken_at") == [(0,), (5,)]


@pytest.mark.spec("STAT-10")
def test_a_transaction_of_the_caller_writes_no_sample(sync_broker, tables):
    """Its lock on the sample would last as long as the transaction."""
    broker = sync_broker
    put(broker, 4)
    finish(broker, 1)
    pass_by(tables, broker, 10)
    message = broker.dequeue()
    with broker.with_transaction() as transaction:
        transaction.ack(message.task_id, message.receipt_handle)
    assert samples(tables) == 1
    assert broker.get_task_throughput().completed_last_minute == 2


@pytest.mark.spec("STAT-10", "DLQ-01")
def test_the_procedure_counts_a_dead_letter(broker, tables):
    put(broker, 2)
    finish(broker, 1)
    (left,) = broker.list_tasks(DbTaskState.PENDING, 9, 0)
    tables.rows(f"CALL move_to_dlq('{left.id}')")
    assert broker.get_task_throughput() == TaskThroughput(1, 1, 1, 1, 1 / 60)


@pytest.mark.spec("DBMON-15")
def test_performance_metrics_know_the_rate(broker):
    put(broker, 3)
    finish(broker, 3)
    assert broker.get_performance_metrics().tasks_per_second == 0.05


@pytest.mark.spec("STAT-09", "TYPE-17", "DEF-87", "CONF-06")
def test_health_of_a_queue(broker, tables):
    assert broker.get_queue_health() == QueueHealth("healthy", 0, 0, 0, 0, 0.0)
    ids = put(broker, 8)
    broker.enqueue_after(SerializedTask.new("later"), 3600)
    broker.enqueue(SerializedTask.new("last", dependencies=[ids[7]]))
    for number in range(2):
        broker.dequeue_with_worker_id(f"worker {number}")
    broker.for_queue("another").enqueue(SerializedTask.new("job"))
    assert broker.get_queue_health() == QueueHealth("healthy", 8, 2, 0, 2, 3.0)
    finish(broker, 3)
    assert broker.get_queue_health() == QueueHealth("healthy", 5, 2, 0, 2, 1.0)


@pytest.mark.spec("STAT-09", "DEF-87")
def test_the_oldest_due_task_is_found(broker, tables):
    put(broker, 3, priority=5)
    (low,) = put(broker, 1, priority=1)
    broker.enqueue_after(SerializedTask.new("later"), 3600)

    def since(secs, where):
        tables.rows(f"UPDATE celers_tasks SET scheduled_at = UTC_TIMESTAMP(6) - INTERVAL {secs} SECOND WHERE {where}")
        return broker.get_queue_health()

    third = "priority = 5 ORDER BY seq DESC LIMIT 1"
    assert since(200, third).oldest_pending_age_secs in (200, 201)
    # The first of a lower priority starves behind the others.
    health = since(301, f"id = X'{low.hex}'")
    assert (health.overall_status, health.oldest_pending_age_secs // 10) == ("degraded", 30)
    # Due, but promoted by nobody.
    tables.rows("UPDATE celers_scheduled SET due_at = UTC_TIMESTAMP(6) - INTERVAL 900 SECOND")
    health = broker.get_queue_health()
    assert (health.overall_status, health.pending_tasks, health.queue_backlog_minutes) == ("critical", 5, 5.0)
    assert health.oldest_pending_age_secs // 10 == 90
