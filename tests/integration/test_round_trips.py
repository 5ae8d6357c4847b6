"""How many packets each operation sends: one commit and one round trip where the design promises it."""

from __future__ import annotations

import pytest

from celers import App, BatchResultInput, MysqlBroker, SerializedTask, TaskResultStatus, Worker, WorkerStatus
from celers.components.consumer import Completion


def job(**options) -> SerializedTask:
    return SerializedTask.new("job", b"x" * 100, **options)


def pairs(messages) -> list[tuple]:
    return [(message.task_id, message.receipt_handle) for message in messages]


@pytest.fixture
def warm(broker):
    """A broker that knows its queue, has opened its consumer and asked for the next due time."""
    broker.enqueue(job())
    message = broker.dequeue_with_worker_id("worker")
    broker.ack(message.task_id, message.receipt_handle)
    assert broker.dequeue() is None
    return broker


@pytest.mark.spec("CORE-07", "ARCH-04", "SCHED-01", "SCHED-02")
def test_an_enqueue_is_one_packet(warm, packets):
    assert packets.count(lambda: warm.enqueue(job())) == 1
    assert packets.count(lambda: warm.enqueue(job(priority=5, extra={"a": 1}, group_id="g", timeout=5))) == 1
    assert packets.count(lambda: warm.enqueue_after(job(), 60)) == 1
    assert packets.count(lambda: warm.enqueue_at(job(), 2_000_000_000)) == 1
    for text in packets.sent[-4:]:
        assert text.startswith(b"START TRANSACTION;")
        assert text.count(b";COMMIT") == 1
        assert text.count(b"COMMIT") == 1


@pytest.mark.spec("BATCH-01")
@pytest.mark.parametrize("count", [2, 1000])
def test_a_batch_is_one_packet(warm, packets, count):
    assert packets.count(lambda: warm.enqueue_batch([job() for _ in range(count)])) == 1
    assert packets.count(lambda: warm.producer.submit([job() for _ in range(count)], delay_secs=60)) == 1


@pytest.mark.spec("BATCH-01", "DATA-08")
def test_a_batch_larger_than_a_packet_is_as_many_as_the_server_demands(sync_broker, packets):
    allowed = sync_broker.core.packet_bytes
    sync_broker.enqueue(job())
    size = 1_000_000
    count = allowed // (2 * size) + 3
    tasks = [SerializedTask.new("job", bytes(size)) for _ in range(count)]
    least = -(-count * 2 * size // allowed)
    assert packets.count(lambda: sync_broker.enqueue_batch(tasks)) <= least + 1
    assert sync_broker.queue_size() == count + 1


@pytest.mark.spec("CORE-08", "BATCH-02", "WORK-01")
@pytest.mark.parametrize("count", [1, 2, 100, 1000])
def test_a_claim_is_one_packet(warm, packets, count):
    warm.enqueue_batch([job() for _ in range(count)])
    found = []
    assert packets.count(lambda: found.extend(warm.dequeue_batch(count))) == 1
    assert len(found) == count
    assert packets.sent[-1].count(b";COMMIT") == 1
    assert packets.count(lambda: warm.ack_batch(pairs(found))) == 1


@pytest.mark.spec("CORE-08", "CORE-16")
def test_a_claim_that_finds_nothing_is_one_packet(warm, packets):
    assert packets.count(warm.dequeue) == 1
    assert packets.count(lambda: warm.dequeue_batch(100)) == 1
    assert packets.count(lambda: warm.dequeue_with_worker_id("worker")) == 1


@pytest.mark.spec("CORE-08", "SCHED-01")
def test_the_first_claim_opens_the_consumer_and_promotes(make_broker, packets):
    make_broker().enqueue(job())
    broker = make_broker()
    broker.queue_size()
    assert packets.count(broker.dequeue) == 2
    assert packets.count(broker.dequeue) == 1


@pytest.mark.spec("CORE-09", "BATCH-03", "BATCH-07", "RES-03")
def test_settling_own_claims_is_one_packet(warm, packets):
    warm.enqueue_batch([job() for _ in range(400)])
    held = warm.dequeue_batch(400)
    one, two = held[:2]
    assert packets.count(lambda: warm.ack(one.task_id, one.receipt_handle)) == 1
    assert packets.count(lambda: warm.ack_batch(pairs(held[2:102]))) == 1
    assert packets.count(lambda: warm.consumer.complete([Completion(two, "1", 5)])) == 1
    assert packets.count(lambda: warm.consumer.complete([Completion(m, "1") for m in held[102:202]])) == 1
    assert packets.count(lambda: warm.consumer.complete([Completion(m, store=False) for m in held[202:302]])) == 1
    assert packets.count(lambda: warm.consumer.give_back(held[302:400])) <= 2
    assert warm.get_statistics().completed == 303


@pytest.mark.spec("CORE-10", "RETRY-04")
def test_a_failure_is_two_packets(warm, packets):
    """The row is read under a lock and then changed."""
    warm.enqueue_batch([job(max_retries=index) for index in (1, 0, 1)])
    held = {message.task.metadata.max_retries: message for message in warm.dequeue_batch(2)}
    (other,) = warm.dequeue_batch(1)
    assert packets.count(lambda: warm.consumer.fail(held[1], error="x", traceback="y")) == 2
    assert packets.count(lambda: warm.consumer.fail(held[0], error="x", traceback="y")) == 2
    assert packets.count(lambda: warm.reject(other.task_id, other.receipt_handle)) == 2


@pytest.mark.spec("INSP-01", "INSP-02", "INSP-03", "RES-04", "RES-07", "RES-08", "WORK-04")
def test_reads_are_one_packet(warm, packets):
    task = job()
    warm.enqueue(task)
    task_id = task.metadata.id
    result = BatchResultInput(task_id, "job", TaskResultStatus.SUCCESS)
    for call in (
        lambda: warm.get_task(task_id),
        lambda: warm.list_tasks(None, 100, 0),
        lambda: warm.list_scheduled_tasks(100, 0),
        warm.get_statistics,
        warm.queue_size,
        warm.is_paused,
        lambda: warm.store_result(task_id, "job", TaskResultStatus.STARTED),
        lambda: warm.store_result_batch([result] * 100),
        lambda: warm.get_result(task_id),
        lambda: warm.get_result_batch([task_id] * 100),
        lambda: warm.delete_result(task_id),
        lambda: warm.register_worker("w", WorkerStatus.IDLE),
        lambda: warm.get_all_worker_heartbeats(60),
        warm.list_active_workers,
        lambda: warm.consumers.beat(warm.consumers.numbers()),
        warm.maintenance.promote_due,
    ):
        assert packets.count(call) == 1, packets.sent[-3:]


@pytest.mark.spec("CORE-13")
def test_nothing_is_sent_for_nothing(warm, packets):
    for call in (
        lambda: warm.enqueue_batch([]),
        lambda: warm.dequeue_batch(0),
        lambda: warm.ack_batch([]),
        lambda: warm.reject_batch([]),
        lambda: warm.consumer.complete([]),
        lambda: warm.consumer.give_back([]),
        lambda: warm.list_tasks(None, 0, 0),
        lambda: warm.get_result_batch([]),
        lambda: warm.store_result_batch([]),
        lambda: warm.consumers.rescue([], None),
    ):
        assert packets.count(call) == 0


@pytest.mark.spec("CONF-01", "CONF-06")
def test_a_new_queue_costs_what_it_must(database_url, packets):
    with MysqlBroker(database_url, "new") as broker:
        assert packets.count(lambda: broker.enqueue(job())) <= 3
        assert packets.count(lambda: broker.enqueue(job())) == 1


@pytest.mark.spec("CORE-08", "CORE-09", "BATCH-03", "WORK-01")
def test_a_busy_worker_sends_one_packet_a_cycle(database_url, packets):
    app, count, ran = App(database_url), 600, 0

    @app.task(ignore_result=True)
    def one(number):
        nonlocal ran
        ran += 1
        if ran == count:
            worker.stop()

    one.enqueue_many([(number,) for number in range(count)])
    worker = Worker(app, threads=1, batch=50)
    packets.sent.clear()
    worker.run()
    app.close()
    claims = [text for text in packets.sent if b"sort_rank, seq FROM celers_ready" in text]
    acks = [text for text in packets.sent if b"state = 'completed'" in text]
    assert ran == count
    assert len(claims) >= count / 50
    # A busy machine lets some wait for too long; without fusing, none would travel with a claim.
    assert len([text for text in acks if text not in claims]) <= len(claims) // 2, "they travel with the claims"
