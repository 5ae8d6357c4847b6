"""Enqueue, dequeue, acknowledge, reject, cancel (spec 01)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from celers import (
    BrokerError,
    DbTaskState,
    DuplicateTaskError,
    InvalidStateTransitionError,
    PayloadTooLargeError,
    PoolConfig,
    SerializedTask,
    StaleReceiptError,
    TaskNotFoundError,
    ValidationError,
)
from celers.errors import PoolTimeoutError
from tests.fixtures.waiting import until

ODD = "ta'sk \\ \"ünï☃ %s 🐍"
EVERY_BYTE = bytes(range(256))


def test_a_task_goes_from_enqueue_to_ack(broker):
    task = SerializedTask.new("mail.send", b"\x00payload\xff", priority=3, extra={"customer_id": 7})
    assert broker.enqueue(task) == task.metadata.id
    assert broker.queue_size() == 1
    message = broker.dequeue()
    assert message.task_id == task.metadata.id
    broker.ack(message.task_id, message.receipt_handle)
    assert broker.get_task(message.task_id).state is DbTaskState.COMPLETED
    assert broker.dequeue() is None


@pytest.mark.spec("CORE-01", "CORE-07", "CORE-08", "CORE-11", "DATA-11", "TYPE-03")
def test_the_message_carries_what_was_enqueued(broker, tables):
    chord, parent = uuid4(), uuid4()
    extra = {"customer_id": 7, "queue": "mine", "enqueued_at": 1, "nested": {"ä": [None, True, 1.5, "'\\"]}}
    task = SerializedTask.new(
        ODD,
        EVERY_BYTE,
        priority=-(2**31),
        max_retries=1000,
        timeout=90,
        group_id=ODD[::-1],
        chord_id=chord,
        parent_task_id=parent,
        extra=extra,
    )
    before = datetime.now(UTC)
    assert broker.enqueue(task) == task.metadata.id
    stored = tables.task(task.metadata.id)
    assert stored["state"] == "pending"
    assert stored["created_at"] == stored["scheduled_at"]
    assert abs(stored["created_at"].replace(tzinfo=UTC) - before) < timedelta(seconds=5)
    assert (stored["started_at"], stored["completed_at"], stored["deliveries"]) == (None, None, 0)

    message = broker.dequeue()
    found = message.task.metadata
    assert (message.task_id, message.task_name, message.priority) == (task.metadata.id, ODD, -(2**31))
    assert message.task.payload == EVERY_BYTE
    assert (found.max_retries, found.timeout_secs, found.group_id) == (1000, 90, ODD[::-1])
    assert (found.chord_id, found.parent_task_id) == (chord, parent)
    assert found.created_at == stored["created_at"].replace(tzinfo=UTC)
    assert found.extra == {"customer_id": 7, "nested": {"ä": [None, True, 1.5, "'\\"]}}
    assert message.retry_count == 0
    assert message.delivered_at == tables.task(task.metadata.id)["started_at"].replace(tzinfo=UTC)
    assert len(message.receipt_handle) == 32
    assert set(message.receipt_handle) <= set("0123456789abcdef")

    info = broker.get_task(message.task_id)
    assert info.metadata["queue"] == "default"
    assert datetime.fromisoformat(info.metadata["enqueued_at"]) == info.created_at
    assert info.metadata["customer_id"] == 7
    assert (info.state, info.worker_id, info.started_at) == (DbTaskState.PROCESSING, None, message.delivered_at)
    broker.ack(message.task_id, message.receipt_handle)


@pytest.mark.spec("CORE-02", "ERR-11", "ARCH-04")
def test_an_id_is_stored_once(broker, tables):
    task = SerializedTask.new("first", b"1")
    broker.enqueue(task)
    with pytest.raises(DuplicateTaskError) as caught:
        broker.enqueue(SerializedTask.new("second", b"2", id=task.metadata.id))
    assert caught.value.task_id == task.metadata.id
    assert str(task.metadata.id) in str(caught.value)
    for state in (DbTaskState.COMPLETED, DbTaskState.COMPLETED):
        broker.update_batch_state([task.metadata.id], state)
        with pytest.raises(DuplicateTaskError):
            broker.enqueue_after(task, 5)
    assert tables.rows("SELECT task_name FROM celers_tasks") == [("first",)]
    tables.check(broker)
    with pytest.raises(DuplicateTaskError):  # the id is unique in the database, not only in the queue
        broker.for_queue("other").enqueue(task)


@pytest.mark.spec("CORE-03", "DATA-08", "ERR-02", "DEF-12")
def test_a_payload_over_the_limit_is_refused(make_broker, tables):
    broker = make_broker(max_payload_bytes=10)
    broker.enqueue(SerializedTask.new("fits", b"x" * 10))
    with pytest.raises(PayloadTooLargeError) as caught:
        broker.enqueue(SerializedTask.new("does not", b"x" * 11))
    assert (caught.value.size, caught.value.limit, caught.value.parameter) == (11, 10, "payload")
    with pytest.raises(PayloadTooLargeError):
        broker.enqueue_batch([SerializedTask.new("a", b""), SerializedTask.new("b", b"x" * 11)])
    assert broker.queue_size() == 1


@pytest.mark.spec("DATA-08", "CORE-03")
def test_payload_sizes_up_to_the_servers_packet(make_broker, tables):
    broker = make_broker()
    allowed = tables.value("SELECT @@max_allowed_packet")
    # Hexadecimal needs twice the size, so this one travels as escaped text.
    for size, filler in ((0, b""), (1, b"\x00"), (min(allowed, 16_777_215) * 3 // 4, b"mostly plain text\0\\'")):
        payload = (filler * (size // max(len(filler), 1) + 1))[:size]
        broker.enqueue(SerializedTask.new("sized", payload))
        message = broker.dequeue()
        assert message.task.payload == payload
        broker.ack(message.task_id, message.receipt_handle)
    if allowed <= 16_777_215:
        with pytest.raises(PayloadTooLargeError, match="max_allowed_packet") as caught:
            broker.enqueue(SerializedTask.new("sized", b"q" * allowed))
        assert caught.value.size > caught.value.limit
        assert broker.queue_size() == 0


@pytest.mark.spec("CORE-08", "IMPEX-06")
def test_a_compressed_payload_is_delivered_as_it_was(make_broker, tables):
    writer, reader = make_broker(compress_payloads=True), make_broker()
    payload = b"abc" * 5000
    task_id = writer.enqueue(SerializedTask.new("big", payload))
    assert tables.task(task_id)["payload_encoding"] == "deflate"
    assert len(tables.task(task_id)["payload"]) < 1000
    assert reader.dequeue().task.payload == payload


@pytest.mark.spec("CORE-08", "DATA-07", "DEF-07")
def test_order_is_priority_then_enqueue(broker):
    ids = {}
    for number, priority in enumerate((0, 5, 0, 2**31 - 1, 5, -(2**31), 0)):
        ids[number] = broker.enqueue(SerializedTask.new(str(number), priority=priority))
    order = [int(broker.dequeue().task_name) for _ in ids]
    assert order == [3, 1, 4, 0, 2, 6, 5]
    assert broker.dequeue() is None


@pytest.mark.spec("CORE-08", "CONF-06", "DEF-04")
def test_a_queue_is_seen_by_its_own_broker_only(broker, tables):
    other = broker.for_queue("Default")  # another name: names are case sensitive
    mine = broker.enqueue(SerializedTask.new("mine"))
    assert (other.dequeue(), other.queue_size(), other.get_task(mine)) == (None, 0, None)
    with pytest.raises(TaskNotFoundError):
        other.ack(mine)
    with pytest.raises(TaskNotFoundError):
        other.reject(mine)
    assert other.cancel(mine) is False
    assert other.cancel_batch([mine]) == other.update_batch_state([mine], DbTaskState.FAILED) == 0
    message = broker.dequeue()
    with pytest.raises(TaskNotFoundError):
        other.ack(mine, message.receipt_handle)
    with pytest.raises(TaskNotFoundError):
        other.reject(mine, message.receipt_handle)
    assert other.ack_batch([(mine, message.receipt_handle)]) == other.purge_all() == 0
    other.pause()
    other.enable_drain_mode()
    broker.enqueue(SerializedTask.new("still accepted"))
    broker.ack(mine, message.receipt_handle)


@pytest.mark.spec("CORE-08", "ERR-04", "DATA-10", "DLQ-01")
def test_a_row_that_cannot_be_read_becomes_a_dead_letter(broker, tables):
    bad = [broker.enqueue(SerializedTask.new(f"bad{n}", b"zz", priority=1)) for n in range(12)]
    child = broker.enqueue(SerializedTask.new("child", dependencies=[bad[0]]))
    good = broker.enqueue(SerializedTask.new("good"))
    tables.rows("UPDATE celers_tasks SET payload_encoding = 'lost' WHERE priority = 1")
    assert broker.dequeue() is None  # ten bad ones and no more
    assert len(broker.list_dlq(100, 0)) == 10
    assert broker.dequeue().task_id == good
    letters = broker.list_dlq(100, 0)
    assert {letter.task_id for letter in letters} == set(bad)
    assert all("cannot be read" in letter.error_message for letter in letters)
    assert tables.letter(bad[0])["payload"] == b"zz"
    assert broker.get_task(child).state is DbTaskState.CANCELLED
    tables.check(broker)


@pytest.mark.spec("CORE-09", "CORE-15", "ERR-09", "ERR-13", "ERR-14", "DEF-10", "DEF-15")
def test_ack_needs_the_current_receipt(broker, tables):
    unknown = uuid4()
    for handle in (None, "", "0" * 32):
        with pytest.raises(TaskNotFoundError) as missing:
            broker.ack(unknown, handle)
        assert isinstance(missing.value, LookupError)
    task_id = broker.enqueue(SerializedTask.new("a"))
    with pytest.raises(InvalidStateTransitionError) as early:
        broker.ack(task_id)
    assert (early.value.from_state, early.value.to_state) == ("pending", "completed")
    with pytest.raises(StaleReceiptError):
        broker.ack(task_id, "0" * 32)
    message = broker.dequeue()
    for wrong in ("", "x", "0" * 32, message.receipt_handle.upper() + "0", message.receipt_handle[:-1] + "e"):
        with pytest.raises(StaleReceiptError):
            broker.ack(task_id, wrong)
    assert broker.get_task(task_id).state is DbTaskState.PROCESSING
    broker.ack(str(task_id), message.receipt_handle)
    done = broker.get_task(task_id)
    assert (done.state, done.completed_at >= done.started_at) == (DbTaskState.COMPLETED, True)
    broker.ack(task_id, message.receipt_handle)  # repeated: no-op
    assert broker.get_task(task_id) == done
    for handle in (None, "", "0" * 32):
        with pytest.raises(InvalidStateTransitionError) as late:
            broker.ack(task_id, handle)
        assert not isinstance(late.value, StaleReceiptError)
    with pytest.raises(InvalidStateTransitionError):
        broker.reject(task_id, message.receipt_handle)
    tables.check(broker)


@pytest.mark.spec("CORE-09")
def test_ack_without_a_receipt_and_from_another_process(make_broker, tables):
    broker, elsewhere = make_broker(), make_broker()
    first = broker.enqueue(SerializedTask.new("a"))
    second = broker.enqueue(SerializedTask.new("b"))
    one, two = broker.dequeue(), broker.dequeue()
    elsewhere.ack(first)
    elsewhere.ack(second, two.receipt_handle)
    broker.ack(first, one.receipt_handle)  # somebody was faster with the same receipt's task: a repetition
    assert broker.get_statistics().completed == 2
    tables.check(broker)


@pytest.mark.spec("CORE-15", "CORE-09", "CORE-10", "DEF-15")
def test_the_former_owner_is_told(broker, tables):
    task_id = broker.enqueue(SerializedTask.new("a"))
    old = broker.dequeue()
    assert broker.consumer.give_back([old]) == 1
    with pytest.raises(StaleReceiptError):
        broker.ack(task_id, old.receipt_handle)
    new = broker.dequeue()
    assert new.receipt_handle != old.receipt_handle
    assert new.retry_count == 0
    for attempt in (broker.ack, broker.reject):
        with pytest.raises(StaleReceiptError):
            attempt(task_id, old.receipt_handle)
    assert broker.ack_batch([(task_id, old.receipt_handle)]) == 0
    assert broker.reject_batch([(task_id, old.receipt_handle, True)]) == 0
    broker.ack(task_id, new.receipt_handle)
    with pytest.raises(InvalidStateTransitionError):
        broker.ack(task_id, old.receipt_handle)
    tables.check(broker)


@pytest.mark.spec("CORE-11")
def test_queue_size_counts_what_is_pending(broker):
    assert broker.queue_size() == 0
    parent = broker.enqueue(SerializedTask.new("ready"))
    broker.enqueue_after(SerializedTask.new("scheduled"), 60)
    broker.enqueue(SerializedTask.new("blocked", dependencies=[parent]))
    assert broker.queue_size() == 3
    message = broker.dequeue()
    assert broker.queue_size() == 2
    broker.reject(message.task_id, message.receipt_handle)
    assert broker.queue_size() == 3
    assert broker.for_queue("unknown").queue_size() == 0


@pytest.mark.spec("CORE-12", "SCHEMA-03", "DEF-17")
def test_cancel(broker, tables):
    assert broker.cancel(uuid4()) is False
    waiting = broker.enqueue(SerializedTask.new("waiting"))
    later = broker.enqueue_after(SerializedTask.new("later"), 60)
    assert broker.cancel(waiting) is True
    assert broker.cancel(str(later)) is True
    assert broker.cancel(waiting) is False
    info = broker.get_task(waiting)
    assert (info.state, info.completed_at is not None) == (DbTaskState.CANCELLED, True)
    assert broker.dequeue() is None

    running = broker.enqueue(SerializedTask.new("running", extra={}))
    mere_child = broker.enqueue_after(SerializedTask.new("child", parent_task_id=running), 60)
    message = broker.dequeue()
    assert broker.cancel(running) is True
    for call in (broker.ack, broker.reject):
        for handle in (message.receipt_handle, None):
            with pytest.raises(InvalidStateTransitionError) as caught:
                call(running, handle)
            assert caught.value.from_state == "cancelled"
    assert broker.get_task(running).state is DbTaskState.CANCELLED
    assert broker.get_task(mere_child).state is DbTaskState.PENDING
    tables.check(broker)


@pytest.mark.spec("CORE-14")
def test_pool_counters(make_broker):
    broker = make_broker(pool_config=PoolConfig(max_connections=3, min_connections=1))
    broker.queue_size()
    pool = broker.pool()
    assert (pool.max_connections, pool.min_connections) == (3, 1)
    assert (pool.size, pool.idle, pool.active) == (1, 1, 0)
    assert (pool.waits, pool.avg_wait_ms, pool.failures) == (0, 0.0, 0)
    with pytest.raises(AttributeError):
        pool.size = 5


@pytest.mark.spec("CORE-14", "ERR-07")
def test_pool_counters_while_connections_are_held(make_sync):
    broker = make_sync(pool_config=PoolConfig(max_connections=1, min_connections=0, acquire_timeout_secs=0.05))
    with broker.with_transaction():
        assert (broker.pool().active, broker.pool().idle) == (1, 0)
        with pytest.raises(PoolTimeoutError) as caught:
            broker.queue_size()
        assert isinstance(caught.value, BrokerError)
    assert broker.pool().waits == 1
    assert broker.pool().avg_wait_ms >= 50


@pytest.mark.spec("CORE-16")
def test_dequeue_wait(broker, make_broker):
    started = time.monotonic()
    assert broker.dequeue_wait(0) is None
    assert broker.dequeue_wait(0.15, poll_interval_secs=0.02) is None
    assert 0.15 <= time.monotonic() - started < 2
    task_id = broker.enqueue_after(SerializedTask.new("soon"), 0.2)
    message = broker.dequeue_wait(timedelta(seconds=20), worker_id="w1", poll_interval_secs=0.05)
    assert message.task_id == task_id
    assert broker.get_task(task_id).worker_id == "w1"
    for bad in (-1, True, "1", float("nan")):
        with pytest.raises(ValidationError, match="timeout_secs"):
            broker.dequeue_wait(bad)
    with pytest.raises(ValidationError, match="poll_interval_secs"):
        broker.dequeue_wait(1, poll_interval_secs=0)


@pytest.mark.spec("CORE-16")
def test_dequeue_wait_without_end_sees_what_others_enqueue(make_sync):
    import threading

    broker, producer = make_sync(), make_sync()
    found = []
    thread = threading.Thread(target=lambda: found.append(broker.dequeue_wait(None, poll_interval_secs=0.01)))
    thread.start()
    task_id = producer.enqueue(SerializedTask.new("a"))
    until(lambda: found)
    thread.join()
    assert found[0].task_id == task_id
    assert isinstance(found[0].task_id, UUID)


@pytest.fixture
def no_dead_letters(tables):
    """The dead letters cannot be written until the returned function is called."""
    away = [True]
    tables.rows("RENAME TABLE celers_dead_letter_queue TO celers_away")

    def put_back():
        if away:
            away.clear()
            tables.rows("RENAME TABLE celers_away TO celers_dead_letter_queue")

    yield put_back
    put_back()


@pytest.mark.spec("CORE-08", "CORE-15", "ERR-04")
@pytest.mark.parametrize("goods", [0, 2])
def test_a_row_that_cannot_be_read_is_buried_later_when_that_fails(broker, tables, no_dead_letters, goods, caplog):
    bad = [broker.enqueue(SerializedTask.new("bad", b"zz", priority=1)) for _ in range(2)]
    ids = [broker.enqueue(SerializedTask.new("good")) for _ in range(goods)]
    tables.rows("UPDATE celers_tasks SET payload_encoding = 'lost' WHERE priority = 1")
    assert [message.task_id for message in broker.dequeue_batch(4)] == ids
    assert "cannot be read" in caplog.text
    assert broker.dequeue() is None  # fails again, and is no obstacle
    no_dead_letters()
    last = broker.enqueue(SerializedTask.new("good"))
    assert broker.dequeue().task_id == last
    assert {letter.task_id for letter in broker.list_dlq(100, 0)} == set(bad)
    assert broker.get_statistics().processing == goods + 1
    tables.check(broker)


@pytest.mark.spec("CORE-08", "CORE-15", "CONF-04")
def test_a_row_that_could_not_be_buried_is_given_back_at_the_end(make_broker, sync_broker, tables, no_dead_letters):
    broker = make_broker()
    bad = broker.enqueue(SerializedTask.new("bad", b"zz"))
    tables.rows("UPDATE celers_tasks SET payload_encoding = 'lost'")
    assert broker.dequeue() is None
    broker.close()
    no_dead_letters()
    assert sync_broker.get_task(bad).state is DbTaskState.PENDING
    assert sync_broker.get_task(bad).retry_count == 0
    assert sync_broker.dequeue() is None
    assert [letter.task_id for letter in sync_broker.list_dlq(10, 0)] == [bad]
    tables.check(sync_broker)


@pytest.mark.spec("CORE-08", "ARCH-12")
@pytest.mark.parametrize("how", ["before", "after"])
def test_a_row_that_cannot_be_read_is_buried_although_the_connection_is_lost(
    proxy, make_broker, database_url, tables, how
):
    broker = make_broker(url=proxy.url(database_url, read_timeout=2))
    bad = broker.enqueue(SerializedTask.new("bad", b"zz"))
    tables.rows("UPDATE celers_tasks SET payload_encoding = 'lost'")
    rule = proxy.spoil(how, b"INSERT INTO celers_dead_letter_queue", b"COMMIT")
    assert broker.dequeue() is None
    assert rule.seen.is_set()
    assert [letter.task_id for letter in broker.list_dlq(10, 0)] == [bad]
    tables.check(broker)


def test_a_row_keeps_its_size_and_the_view_says_what_has_not_come(sync_broker, tables):
    """What a claim and an acknowledgement write has a fixed size, so that the row is changed in place (ADR 7)."""
    kinds = tables.rows(
        "SELECT column_name, is_nullable, data_type FROM information_schema.columns WHERE table_schema = DATABASE()"
        " AND table_name = 'celers_tasks' AND column_name IN"
        " ('state', 'started_at', 'completed_at', 'consumer_no', 'worker_no', 'deliveries')"
    )
    assert len(kinds) == 6
    assert {nullable for _, nullable, _ in kinds} == {"NO"}
    assert {kind for _, _, kind in kinds} == {"enum", "datetime", "int"}

    look = "SELECT started_at IS NULL, completed_at IS NULL FROM celers_tasks_view"
    task_id = sync_broker.enqueue(SerializedTask.new("job"))
    assert tables.rows(look) == [(1, 1)]
    message = sync_broker.dequeue()
    assert tables.rows(look) == [(0, 1)]
    sync_broker.reject(task_id, message.receipt_handle)
    assert tables.rows(look) == [(1, 1)]
    sync_broker.update_batch_state([task_id], DbTaskState.COMPLETED)
    assert tables.rows(look) == [(1, 0)]
    assert sync_broker.get_task(task_id).started_at is None
