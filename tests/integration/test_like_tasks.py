"""Batches of tasks that differ in nothing but id and payload: stored by a shorter packet, seen no difference."""

from __future__ import annotations

import pytest

from celers import (
    App,
    BrokerError,
    DuplicateTaskError,
    MysqlBroker,
    PayloadTooLargeError,
    PoolConfig,
    QueueDrainingError,
    SerializedTask,
    TaskHook,
)
from celers.components import inserting
from celers.db.driver import connect
from celers.db.url import parse_url
from celers.model.like import LikeTasks, gather

MOST = 1_000_000


def like(count, **options):
    return [SerializedTask.new("job", b"%d" % number, **options) for number in range(count)]


@pytest.fixture
def admin(database_url):
    connection = connect(parse_url(database_url))
    yield lambda text: connection.run(text.encode(), 1)[0].rows
    connection.close()


@pytest.mark.spec("CORE-01", "BATCH-01")
@pytest.mark.parametrize("count", [1, 2, 250])
@pytest.mark.parametrize("options", [{}, {"priority": 7}, {"priority": -7, "max_retries": 9}, {"timeout": 9}])
def test_like_tasks_are_stored_whole(broker, tables, count, options):
    batch = like(count, **options)
    assert gather(batch, MOST) is not None
    assert broker.enqueue_batch(batch) == [task.metadata.id for task in batch]
    tables.check(broker)
    info = broker.get_task(batch[-1].metadata.id)
    assert info.scheduled_at == info.created_at
    assert info.started_at is None
    messages = broker.dequeue_batch(count)
    assert [message.task_id for message in messages] == [task.metadata.id for task in batch]
    for message, task in zip(messages, batch, strict=True):
        assert message.task.payload == task.payload
        assert message.task_name == "job"
        assert message.priority == options.get("priority", 0)
        assert message.task.metadata.max_retries == options.get("max_retries", 3)
        assert message.task.metadata.timeout_secs == options.get("timeout")


@pytest.mark.spec("CORE-01", "CTRL-04")
@pytest.mark.parametrize("count", [1, 3])
def test_a_draining_queue_takes_none(broker, tables, count):
    broker.enqueue(SerializedTask.new("job"))
    broker.enable_drain_mode()
    with pytest.raises(QueueDrainingError):
        broker.enqueue_batch(like(count))
    assert broker.queue_size() == 1
    tables.check(broker)


@pytest.mark.spec("BATCH-01")
@pytest.mark.parametrize("count", [1, 3])
def test_one_id_that_is_taken_stops_all(broker, tables, count):
    batch = like(count)
    broker.enqueue(batch[-1])
    with pytest.raises(DuplicateTaskError):
        broker.enqueue_batch(batch)
    assert broker.queue_size() == 1
    tables.check(broker)


@pytest.mark.spec("CORE-01")
@pytest.mark.parametrize("count", [1, 3])
def test_nothing_is_stored_for_a_queue_whose_row_is_gone(sync_broker, admin, count):
    sync_broker.enqueue_batch([])
    sync_broker.enqueue(SerializedTask.new("job"))
    admin("DELETE FROM celers_queues")
    if count == 1:
        with pytest.raises(BrokerError):
            sync_broker.enqueue_batch(like(count))
        assert int(admin("SELECT COUNT(*) FROM celers_tasks")[0][0]) == 1
    else:
        # Found again by their ids, as tasks are whose numbers are not what they should be.
        assert len(sync_broker.enqueue_batch(like(count))) == count
        assert int(admin("SELECT COUNT(*) FROM celers_ready")[0][0]) == 1 + count


@pytest.mark.spec("BATCH-01")
@pytest.mark.parametrize("increment", [2, 7])
def test_numbers_in_larger_steps(database_url, tables, increment):
    with MysqlBroker(database_url, pool_config=PoolConfig(max_connections=1, min_connections=1)) as broker:
        pool = broker.producer.runner.pool
        connection = pool.acquire()
        connection.run(b"SET SESSION auto_increment_increment = %d" % increment, 1)
        pool.release(connection)
        batch = like(20)
        broker.enqueue_batch(batch)
        tables.check(broker)
        assert [message.task_id for message in broker.dequeue_batch(20)] == [task.metadata.id for task in batch]


@pytest.mark.spec("BATCH-01")
def test_numbers_that_do_not_follow_each_other(broker, tables, admin):
    """Whatever gives the rows their numbers: the tasks are found by their ids then, and may run at once."""
    broker.enqueue(SerializedTask.new("job"))
    admin(
        "CREATE TRIGGER odd BEFORE INSERT ON celers_tasks FOR EACH ROW SET NEW.seq = 1000 + MOD(CRC32(NEW.id), 1000000)"
    )
    try:
        batch = like(5)
        assert broker.enqueue_batch(batch) == [task.metadata.id for task in batch]
    finally:
        admin("DROP TRIGGER odd")
    tables.check(broker)
    found = {message.task_id for message in broker.dequeue_batch(10)}
    assert found >= {task.metadata.id for task in batch}


@pytest.mark.spec("BATCH-01")
def test_more_than_one_packet_holds(database_url, tables):
    with MysqlBroker(database_url) as broker:
        broker.enqueue(SerializedTask.new("job"))
        server = broker.producer.core.server
        size = server.max_allowed_packet // 5
        batch = [SerializedTask.new("job", bytes([number]) * size) for number in range(5)]
        broker.enqueue_batch(batch)
        tables.check(broker)
        found = []
        while messages := broker.dequeue_batch(5):
            found += messages
        assert [message.task.payload for message in found] == [task.payload for task in batch] or len(found) == 6


@pytest.mark.spec("CORE-01")
def test_a_payload_beyond_the_limit_is_refused(make_broker):
    broker = make_broker(max_payload_bytes=10)
    with pytest.raises(PayloadTooLargeError):
        broker.enqueue_batch([*like(2), SerializedTask.new("job", b"x" * 11)])
    assert broker.queue_size() == 0


@pytest.mark.spec("HOOK-01")
def test_hooks_see_each_call(database_url):
    app = App(database_url)

    @app.task(name="job", priority=4)
    def job(number):
        return number

    seen = []
    app.broker.add_hook(TaskHook.BEFORE_ENQUEUE, lambda context, task: seen.append(task))
    ids = job.enqueue_many([(number,) for number in range(4)])
    assert [task.metadata.id for task in seen] == ids
    assert [task.payload for task in seen] == [b"[[%d],{}]" % number for number in range(4)]
    assert {(task.metadata.name, task.metadata.priority) for task in seen} == {("job", 4)}
    app.close()


def test_what_counts_as_alike():
    batch = like(3)
    assert gather(batch, MOST).payloads == [b"0", b"1", b"2"]
    assert gather(batch[::-1], MOST) is None
    assert gather([batch[0], batch[0]], MOST) is None
    assert gather([*batch, SerializedTask.new("other")], MOST) is None
    for option in ({"priority": 1}, {"max_retries": 1}, {"timeout": 5}, {"group_id": "g"}, {"extra": {"a": 1}}):
        assert gather([*batch, SerializedTask.new("job", **option)], MOST) is None
    assert gather([*batch, SerializedTask.new("job", b"12345")], 4) is None
    made = LikeTasks.new("job", [b"a", b"bb"], priority=2, max_retries=5, timeout_secs=None)
    assert gather(made, 2) is made
    assert gather(made, 1) is None
    assert [task.payload for task in made] == [b"a", b"bb"]
    assert [task.metadata.id for task in made[:]] == made.ids
    assert made[1].metadata.priority == 2
    assert [task.metadata.timeout_secs for task in gather(like(2, timeout=9), MOST)] == [9, 9]


@pytest.mark.spec("IMPEX-05")
def test_a_batch_is_compressed_by_one_call(make_sync, monkeypatch):
    calls: list[int] = []
    compress = inserting.compress_payloads
    monkeypatch.setattr(inserting, "compress_payloads", lambda data: calls.append(len(data)) or compress(data))
    broker = make_sync(compress_payloads=True)
    broker.dequeue()  # the queue gets its number
    batch = [SerializedTask.new("job", b"%d" % number * 2000) for number in range(5)]
    broker.enqueue_batch(batch)
    assert calls == [5]
    assert [message.task.payload for message in broker.dequeue_batch(5)] == [task.payload for task in batch]
