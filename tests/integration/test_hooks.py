"""Hooks before and after enqueue, delivery, acknowledgement and rejection (spec 15; CORE-05)."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from dataclasses import replace

import pytest

from celers import (
    DbTaskState,
    Fixed,
    HookContext,
    RetryPolicy,
    SerializedTask,
    TaskHook,
    TaskHooks,
    ValidationError,
)
from celers.components.consumer import Completion


def new(name="job", **arguments):
    return SerializedTask.new(name, max_retries=0, **arguments)


class Log:
    """Notes every call of a hook."""

    def __init__(self, broker, *hooks: TaskHook) -> None:
        self.calls: list[tuple[TaskHook, HookContext, SerializedTask | None]] = []
        for hook in hooks or tuple(TaskHook):
            broker.add_hook(hook, functools.partial(self._note, hook))

    def _note(self, hook, context, task):
        assert context.hook is hook
        self.calls.append((hook, context, task))

    def take(self):
        """The points called since the last look, with the ids."""
        found = [(hook.value, context.task_id) for hook, context, _ in self.calls]
        self.calls.clear()
        return found


class Refused(Exception):
    pass


def refuse(context, task):
    raise Refused(context.hook)


@pytest.mark.spec("CORE-05", "HOOK-01", "HOOK-03", "DEF-34", "TYPE-61")
def test_each_way_of_enqueueing_has_hooks(broker):
    log = Log(broker, TaskHook.BEFORE_ENQUEUE, TaskHook.AFTER_ENQUEUE)
    policy = RetryPolicy(0, Fixed(1))
    ways = [
        broker.enqueue,
        lambda task: broker.enqueue(task=task),
        broker.producer.enqueue,
        lambda task: broker.enqueue_at(task, 1),
        lambda task: broker.enqueue_after(task, 0),
        lambda task: broker.enqueue_batch([task]),
        lambda task: broker.enqueue_batch(tasks=iter([task])),
        lambda task: broker.producer.submit([task], delay_secs=0),
        lambda task: broker.enqueue_with_retry_policy(task, policy),
        lambda task: broker.producer.submit_with_retry_policy([task], policy),
        lambda task: broker.enqueue_with_capacity(task, 1000),
    ]
    for way in ways:
        task = new()
        way(task)
        assert log.take() == [("before_enqueue", task.metadata.id), ("after_enqueue", task.metadata.id)]
    both = [new("a"), new("b")]
    broker.enqueue_batch(both)
    assert [(hook, context.metadata["task_name"]) for hook, context, _ in log.calls] == [
        (TaskHook.BEFORE_ENQUEUE, "a"),
        (TaskHook.BEFORE_ENQUEUE, "b"),
        (TaskHook.AFTER_ENQUEUE, "a"),
        (TaskHook.AFTER_ENQUEUE, "b"),
    ]
    assert log.calls[0][1].queue_name == "default"
    assert log.calls[0][2] == both[0]
    assert log.calls[0][1].timestamp.utcoffset() is not None
    assert log.calls[0][1].to_dict()["hook"] == "before_enqueue"


@pytest.mark.spec("HOOK-03", "HOOK-04", "OPS-01")
def test_a_load_has_hooks_once_for_each_task(broker, monkeypatch):
    monkeypatch.setattr("celers.components.loads.BATCH_ROWS", 2)
    log = Log(broker, TaskHook.BEFORE_ENQUEUE, TaskHook.AFTER_ENQUEUE)
    broker.add_hook(
        TaskHook.BEFORE_ENQUEUE,
        lambda context, task: replace(task, metadata=replace(task.metadata, extra={"synthetic": False, "tenant": 7})),
    )
    ids = broker.generate_load(3, "load", 10)
    assert log.take() == [
        *(("before_enqueue", task_id) for task_id in ids[:2]),
        *(("after_enqueue", task_id) for task_id in ids[:2]),
        ("before_enqueue", ids[2]),
        ("after_enqueue", ids[2]),
    ]
    metadata = broker.get_task(ids[0]).metadata
    assert (metadata["tenant"], metadata["synthetic"]) == (7, True)
    assert broker.delete_load(metadata["load_test_id"]) == 3


@pytest.mark.spec("CORE-05", "HOOK-03")
def test_a_buffer_has_hooks_too(make_sync):
    broker = make_sync()
    log = Log(broker, TaskHook.BEFORE_ENQUEUE, TaskHook.AFTER_ENQUEUE)
    with broker.buffer() as buffer:
        task_id = buffer.enqueue(new())
        assert log.take() == [("before_enqueue", task_id), ("after_enqueue", task_id)]
        broker.add_hook(TaskHook.BEFORE_ENQUEUE, refuse)
        with pytest.raises(Refused):
            buffer.enqueue(new())
    assert broker.queue_size() == 1


@pytest.mark.spec("CORE-05", "HOOK-03", "DEF-34")
def test_each_way_of_delivery_and_settling_has_hooks(broker):
    broker.enqueue_batch([new() for _ in range(12)])
    log = Log(broker)
    one = broker.dequeue()
    assert log.take() == [("before_dequeue", None), ("after_dequeue", one.task_id)]
    named = broker.dequeue_with_worker_id("w")
    assert log.take() == [("before_dequeue", None), ("after_dequeue", named.task_id)]
    many = broker.dequeue_batch(8)
    assert log.take() == [("before_dequeue", None), *(("after_dequeue", message.task_id) for message in many)]
    broker.ack(one.task_id, one.receipt_handle)
    assert log.take() == [("before_ack", one.task_id), ("after_ack", one.task_id)]
    broker.ack(one.task_id, one.receipt_handle)
    assert log.take() == [], "a repetition changes nothing"
    broker.ack_batch([(named.task_id, named.receipt_handle), (one.task_id, None)])
    assert log.take() == [("before_ack", named.task_id), ("after_ack", named.task_id)]
    assert broker.consumer.complete([Completion(many[0], "1")]) == [True]
    assert log.take() == [("before_ack", many[0].task_id), ("after_ack", many[0].task_id)]
    assert broker.get_result(many[0].task_id).result == 1
    done, claimed = broker.consumer.cycle([Completion(many[1], "1")], 1)
    assert (done, len(claimed)) == ([True], 1)
    assert log.take() == [
        ("before_ack", many[1].task_id),
        ("after_ack", many[1].task_id),
        ("before_dequeue", None),
        ("after_dequeue", claimed[0].task_id),
    ]
    broker.reject(many[2].task_id, many[2].receipt_handle, requeue=False)
    assert log.take() == [("before_reject", many[2].task_id), ("after_reject", many[2].task_id)]
    broker.reject_batch([(many[3].task_id, many[3].receipt_handle, True)])
    assert log.calls[-1][1].metadata == {"task_name": "job", "outcome": "dead_letter"}
    assert log.take() == [("before_reject", many[3].task_id), ("after_reject", many[3].task_id)]
    broker.reject_with_retry_policy(many[4].task_id)
    assert log.take() == [("before_reject", many[4].task_id), ("after_reject", many[4].task_id)]
    assert broker.consumer.fail(many[5], error="x") == "dead_letter"
    assert log.take() == [("before_reject", many[5].task_id), ("after_reject", many[5].task_id)]
    broker.cancel(many[6].task_id)
    broker.update_batch_state([many[7].task_id], DbTaskState.FAILED)
    assert log.take() == [], "administration rings none"


@pytest.mark.spec("CORE-05", "HOOK-03", "HOOK-04")
def test_dead_letters_that_become_tasks_have_hooks(broker, tables):
    broker.enqueue_batch([new(extra={"customer": 7}, payload=b"x" * 2000, group_id="g") for _ in range(3)])
    for message in broker.dequeue_batch(3):
        broker.reject(message.task_id, message.receipt_handle)
    log = Log(broker, TaskHook.BEFORE_ENQUEUE, TaskHook.AFTER_ENQUEUE)
    made = broker.requeue_from_dlq(broker.list_dlq(1, 0)[0].id)
    (_, _, shown), _ = log.calls
    assert (shown.payload, dict(shown.metadata.extra), shown.metadata.group_id) == (b"x" * 2000, {"customer": 7}, "g")
    assert log.take() == [("before_enqueue", made), ("after_enqueue", made)]

    def enrich(context, task):
        return SerializedTask.new(
            "richer", b"y", id=task.metadata.id, priority=5, extra={**task.metadata.extra, "rich": True}
        )

    broker.add_hook(TaskHook.BEFORE_ENQUEUE, enrich)
    assert broker.replay_dlq_batch() == 2
    assert len(log.take()) == 4
    message = broker.dequeue()
    assert (message.task_name, message.task.payload, message.priority) == ("richer", b"y", 5)
    assert dict(message.task.metadata.extra) == {"customer": 7, "rich": True}
    assert b"requeued_from" in str(tables.task(message.task_id)["metadata"]).encode()
    tables.check(broker)
    broker.reject(message.task_id, message.receipt_handle, requeue=False)
    broker.add_hook(TaskHook.BEFORE_ENQUEUE, refuse)
    last = broker.dequeue()
    broker.reject(last.task_id, last.receipt_handle)
    if broker.list_dlq(1, 0):
        with pytest.raises(Refused):
            broker.requeue_from_dlq(broker.list_dlq(1, 0)[0].id)
        assert len(broker.list_dlq(10, 0)) == 1


@pytest.mark.spec("HOOK-04", "HOOK-01")
def test_a_hook_may_return_another_task(broker):
    def with_tenant(context, task):
        return task.with_metadata({**task.metadata.extra, "tenant": "a"})

    def louder(context, task):
        assert task.metadata.extra["tenant"] == "a", "the next hook sees it"
        return task.with_priority(9)

    broker.add_hook(TaskHook.BEFORE_ENQUEUE, with_tenant)
    broker.add_hook(TaskHook.BEFORE_ENQUEUE, louder)
    log = Log(broker, TaskHook.AFTER_ENQUEUE, TaskHook.BEFORE_ACK)
    broker.enqueue_batch([new(extra={"x": 1})])
    message = broker.dequeue()
    assert (message.priority, dict(message.task.metadata.extra)) == (9, {"x": 1, "tenant": "a"})
    assert log.calls[0][2].metadata.priority == 9
    for bad in (new(), "task", 1):
        broker.clear_hooks()
        broker.add_hook(TaskHook.BEFORE_ENQUEUE, lambda context, task, bad=bad: bad)
        with pytest.raises(ValidationError, match="hook"):
            broker.enqueue(new())
    broker.clear_hooks()
    broker.add_hook(TaskHook.BEFORE_ACK, lambda context, task: "ignored")
    broker.ack(message.task_id, message.receipt_handle)
    assert broker.queue_size() == 0


@pytest.mark.spec("HOOK-03", "CORE-05")
def test_what_a_hook_before_a_change_raises_stops_it(broker, tables):
    ids = broker.enqueue_batch([new() for _ in range(3)])
    message = broker.dequeue()
    for hook, call in (
        (TaskHook.BEFORE_ENQUEUE, lambda: broker.enqueue(new())),
        (TaskHook.BEFORE_ENQUEUE, lambda: broker.enqueue_batch([new(), new()])),
        (TaskHook.BEFORE_DEQUEUE, broker.dequeue),
        (TaskHook.BEFORE_DEQUEUE, lambda: broker.dequeue_batch(5)),
        (TaskHook.BEFORE_ACK, lambda: broker.ack(message.task_id, message.receipt_handle)),
        (TaskHook.BEFORE_ACK, lambda: broker.ack_batch([(message.task_id, message.receipt_handle)])),
        (TaskHook.BEFORE_ACK, lambda: broker.consumer.complete([Completion(message, "1")])),
        (TaskHook.BEFORE_REJECT, lambda: broker.reject(message.task_id, message.receipt_handle)),
    ):
        broker.add_hook(hook, refuse)
        with pytest.raises(Refused):
            call()
        broker.clear_hooks()
        assert broker.get_task(ids[0]).state is DbTaskState.PROCESSING
        assert broker.queue_size() == 2
    broker.ack(message.task_id, message.receipt_handle)
    tables.check(broker)


@pytest.mark.spec("HOOK-03", "CORE-05")
def test_what_a_hook_after_a_change_raises_is_logged(broker, caplog, tables):
    for hook in (TaskHook.AFTER_ENQUEUE, TaskHook.AFTER_DEQUEUE, TaskHook.AFTER_ACK, TaskHook.AFTER_REJECT):
        broker.add_hook(hook, refuse)
    log = Log(broker, TaskHook.AFTER_ENQUEUE)
    with caplog.at_level(logging.ERROR, "celers.hooks"):
        broker.enqueue_batch([new(), new()])
        first, second = broker.dequeue_batch(2)
        broker.ack(first.task_id, first.receipt_handle)
        broker.reject(second.task_id, second.receipt_handle)
    assert len(caplog.records) == 6
    assert len(log.calls) == 2, "the next hook runs all the same"
    statistics = broker.get_statistics()
    assert (statistics.completed, statistics.dlq) == (1, 1)
    tables.check(broker)


@pytest.mark.spec("HOOK-03", "CORE-13")
def test_hooks_in_a_transaction(make_sync):
    broker = make_sync()
    task_id = broker.enqueue(new())
    broker.dequeue()
    log = Log(broker)
    with broker.with_transaction() as tx:
        added = tx.enqueue(new())
        assert log.take() == [("before_enqueue", added)]
        tx.ack(task_id)
        assert log.take() == [("before_ack", task_id)]
        with contextlib.suppress(ZeroDivisionError), tx.savepoint():
            tx.enqueue(new())
            raise ZeroDivisionError
        log.take()
    assert log.take() == [("after_enqueue", added), ("after_ack", task_id)]
    with contextlib.suppress(ZeroDivisionError), broker.with_transaction() as tx:
        lost = tx.enqueue(new())
        raise ZeroDivisionError
    assert log.take() == [("before_enqueue", lost)]


@pytest.mark.spec("HOOK-03", "CORE-13")
def test_hooks_on_a_connection_of_the_caller(make_sync, tables):
    broker = make_sync()
    log = Log(broker)
    connection = tables.connect(autocommit=False)
    task_id = broker.enqueue(new(), connection=connection)
    connection.commit()
    connection.close()
    assert log.take() == [("before_enqueue", task_id)], "nobody tells the broker of the commit"


@pytest.mark.spec("HOOK-02", "HOOK-05", "HOOK-01")
def test_without_hooks_nothing_is_added(broker, monkeypatch):
    log = Log(broker)
    broker.clear_hooks()
    monkeypatch.setattr("celers.hooks.HookContext", None)
    broker.enqueue(new())
    message = broker.dequeue()
    broker.ack(message.task_id, message.receipt_handle)
    assert log.calls == []
    assert broker.core.hooks.is_empty


@pytest.mark.spec("HOOK-01", "CONF-06")
def test_queues_of_one_broker_share_hooks(broker):
    log = Log(broker, TaskHook.AFTER_ENQUEUE)
    other = broker.for_queue("other")
    other.enqueue(new())
    assert log.calls[0][1].queue_name == "other"


@pytest.mark.spec("HOOK-01", "HOOK-06")
def test_what_can_be_a_hook(broker):
    async def coroutine(context, task):
        return None

    class Awaitable:
        async def __call__(self, context, task):
            return None

    for bad in (None, 1, "fn", coroutine, functools.partial(coroutine, None), Awaitable()):
        with pytest.raises(ValidationError, match="fn"):
            broker.add_hook(TaskHook.AFTER_ACK, bad)
    for bad in ("after_ack", None):
        with pytest.raises(ValidationError, match="hook"):
            broker.add_hook(bad, refuse)


@pytest.mark.spec("HOOK-06", "HOOK-01", "HOOK-02")
def test_the_container():
    hooks = TaskHooks()
    assert hooks.is_empty
    assert hooks.registered(TaskHook.AFTER_ACK) == ()
    first, second = (lambda context, task: None), (lambda context, task: None)
    hooks.add(TaskHook.AFTER_ACK, first)
    before = hooks.registered(TaskHook.AFTER_ACK)
    hooks.add(TaskHook.AFTER_ACK, second)
    assert (before, hooks.registered(TaskHook.AFTER_ACK)) == ((first,), (first, second))
    assert not hooks.is_empty
    assert hooks.any(TaskHook.BEFORE_ACK, TaskHook.AFTER_ACK)
    assert not hooks.any(TaskHook.BEFORE_ACK)
    threads = [threading.Thread(target=hooks.add, args=(TaskHook.BEFORE_ACK, first)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hooks.registered(TaskHook.BEFORE_ACK) == (first,) * 20
    hooks.clear()
    assert hooks.is_empty
