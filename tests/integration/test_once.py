"""Single tasks are stored by a packet that is sent before any machinery begins; nobody can tell the difference."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celers import (
    App,
    BrokerError,
    DuplicateTaskError,
    PayloadTooLargeError,
    QueueDrainingError,
    SerializedTask,
    TaskHook,
)
from celers.db.driver import Connection
from celers.db.outcome import DriverError
from celers.db.requests import Acquire, Discard, Send, Session
from celers.db.session import drive, drive_once
from celers.model.like import LikeTasks

PLAIN = [{}, {"priority": 7}, {"priority": -7, "max_retries": 9, "timeout": 30}]
MORE = [{"group_id": "g"}, {"extra": {"a": 1}}, {"parent_task_id": "00000000-0000-0000-0000-000000000001"}]
NAMES = ["job", "%s of %d%%", "it's \\ ü"]


def sent(requests, session):
    """Let an operation send its packet, and return that."""
    assert isinstance(next(requests), Acquire)
    session.connection = SimpleNamespace(tail_errno=1094)
    return requests.send(session.connection)


@pytest.mark.spec("CORE-01", "ARCH-04")
@pytest.mark.parametrize("wake_up", [True, False])
@pytest.mark.parametrize("options", PLAIN)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_packet_that_the_operation_would_send(make_sync, name, options, wake_up):
    broker = make_sync(wake_up=wake_up)
    broker.enqueue(SerializedTask.new("first"))
    producer, ring = broker.producer, broker.core.ring
    task = SerializedTask.new(name, b"%d'\\", **options)
    once = producer._enqueue_once(task)
    assert once is not None
    assert once.result == task.metadata.id
    session = Session()
    quick = sent(drive_once(once, session, ring), session)
    for make in (lambda: type(producer).enqueue.steps(producer, task), once.again):
        session = Session()
        plain = sent(drive(make, "transaction", session, ring=ring), session)
        assert isinstance(plain, Send)
        assert (plain.text, plain.count, plain.needed) == (quick.text, quick.count, quick.needed)


@pytest.mark.spec("CORE-01")
@pytest.mark.parametrize("options", [*PLAIN, *MORE])
@pytest.mark.parametrize("name", NAMES)
def test_a_single_task_is_stored_whole(broker, tables, name, options):
    broker.enqueue(SerializedTask.new("first"))
    task = SerializedTask.new(name, b"%d %s '\\ \0", **options)
    assert broker.enqueue(task) == task.metadata.id
    tables.check(broker)
    found = {message.task_id: message.task for message in broker.dequeue_batch(2)}[task.metadata.id]
    assert found.payload == task.payload
    for field in ("name", "priority", "max_retries", "timeout_secs", "group_id", "extra", "parent_task_id"):
        assert getattr(found.metadata, field) == getattr(task.metadata, field)


@pytest.mark.spec("CORE-01")
def test_what_needs_more_than_a_packet(make_sync):
    broker = make_sync(max_payload_bytes=10)
    producer, task = broker.producer, SerializedTask.new("job")
    assert producer._enqueue_once(task) is None  # the queue has no number yet
    broker.enqueue(task)
    assert producer._enqueue_once(SerializedTask.new("job")) is not None
    for other in (*(SerializedTask.new("job", **more) for more in MORE), SerializedTask.new("job", b"x" * 11), "job"):
        assert producer._enqueue_once(other) is None
    assert producer._enqueue_once(task, connection=object()) is None
    assert producer._enqueue_once() is None
    one = LikeTasks.new("job", [b"1"], priority=0, max_retries=3, timeout_secs=None)
    assert producer._submit_once(one).result == one.ids
    assert producer._submit_once(one, delay_secs=1.0) is None
    assert producer._submit_once([task]) is None
    two = LikeTasks.new("job", [b"1", b"2"], priority=0, max_retries=3, timeout_secs=None)
    assert producer._submit_once(two) is None
    for options in ({"compress_payloads": True}, {"record_history": True}):
        other = make_sync(**options)
        other.enqueue(SerializedTask.new("job"))
        assert other.producer._enqueue_once(SerializedTask.new("job")) is None


@pytest.mark.spec("CORE-01", "CTRL-04")
def test_its_errors_are_those_of_the_operation(broker, tables):
    task = SerializedTask.new("job")
    broker.enqueue(task)
    with pytest.raises(DuplicateTaskError) as raised:
        broker.enqueue(task)
    assert raised.value.task_id == task.metadata.id
    with pytest.raises(TypeError, match=r"enqueue\(\)"):
        broker.enqueue()
    broker.enable_drain_mode()
    with pytest.raises(QueueDrainingError):
        broker.enqueue(SerializedTask.new("job"))
    assert broker.queue_size() == 1
    assert broker.pool().active == 0
    tables.check(broker)


@pytest.mark.spec("CORE-01")
def test_a_payload_beyond_the_limit_is_refused(make_broker):
    broker = make_broker(max_payload_bytes=10)
    broker.enqueue(SerializedTask.new("job"))
    with pytest.raises(PayloadTooLargeError):
        broker.enqueue(SerializedTask.new("job", b"x" * 11))
    assert broker.queue_size() == 1


@pytest.mark.spec("CORE-01", "ARCH-12")
def test_a_deadlock_is_repeated_by_the_operation(sync_broker):
    sync_broker.enqueue(SerializedTask.new("first"))
    once = sync_broker.producer._enqueue_once(SerializedTask.new("job"))
    session = Session()
    requests = drive_once(once, session, sync_broker.core.ring)
    assert sent(requests, session).text == once.text
    assert requests.throw(DriverError(1213, "deadlock", 1)).text == b"ROLLBACK"
    requests.send([])  # the pause is over at once
    assert requests.send(None).text == once.text
    with pytest.raises(StopIteration) as stop:
        requests.send([])
    assert stop.value.value == once.result


@pytest.mark.spec("CORE-01", "ARCH-12")
def test_a_lost_connection_is_replaced_by_the_operation(sync_broker):
    sync_broker.enqueue(SerializedTask.new("first"))
    once = sync_broker.producer._enqueue_once(SerializedTask.new("job"))
    session = Session()
    requests = drive_once(once, session, None)
    sent(requests, session)
    assert isinstance(requests.throw(DriverError(2006, "never sent", -1)), Discard)
    assert isinstance(requests.send(None), Acquire)
    assert requests.send("another").text.startswith(b"START TRANSACTION")
    requests.close()


@pytest.mark.spec("CORE-01")
def test_an_interrupt_gives_the_connection_up(sync_broker, monkeypatch):
    sync_broker.enqueue(SerializedTask.new("first"))

    def interrupted(connection, text, count, needed=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Connection, "push", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sync_broker.enqueue(SerializedTask.new("job"))
    assert sync_broker.pool().size == 0


@pytest.mark.spec("HOOK-01")
def test_hooks_see_the_call_and_may_change_it(database_url):
    app = App(database_url)

    @app.task(name="job", priority=4, timeout=60)
    def job(number):
        return number

    job.enqueue(0)
    seen = []
    app.broker.add_hook(TaskHook.AFTER_ENQUEUE, lambda context, task: seen.append(task))
    app.broker.add_hook(TaskHook.BEFORE_ENQUEUE, lambda context, task: task.with_priority(9))
    identity = job.enqueue(1)
    assert [(task.metadata.id, task.metadata.priority, task.metadata.timeout_secs) for task in seen] == [
        (identity, 9, 60)
    ]
    assert app.broker.get_task(identity).priority == 9
    app.close()


@pytest.mark.spec("CORE-01")
def test_a_closed_broker_refuses(sync_broker):
    sync_broker.enqueue(SerializedTask.new("first"))
    sync_broker.close()
    with pytest.raises(BrokerError, match="closed"):
        sync_broker.enqueue(SerializedTask.new("job"))
