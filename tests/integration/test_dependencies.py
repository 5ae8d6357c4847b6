"""Dependencies (spec 01, CORE-06; spec 12, CHAIN-03 and 04)."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest

from celers import (
    CyclicDependencyError,
    DbTaskState,
    InvalidStateTransitionError,
    SerializedTask,
    TaskNotFoundError,
)
from celers.retry import Fixed, RetryPolicy

PENDING, PROCESSING = DbTaskState.PENDING, DbTaskState.PROCESSING
COMPLETED, FAILED, CANCELLED = DbTaskState.COMPLETED, DbTaskState.FAILED, DbTaskState.CANCELLED


def new(name="a", **arguments):
    return SerializedTask.new(name, **arguments)


def unmet(broker, task_id):
    return broker.get_task(task_id).unmet_dependencies


def finish(broker, name):
    message = broker.dequeue()
    assert message.task_name == name
    broker.ack(message.task_id, message.receipt_handle)


@pytest.mark.spec("CORE-06", "CHAIN-03", "DEF-113")
def test_a_task_waits_for_all_its_dependencies(broker, tables):
    parents = [broker.enqueue(new(f"p{n}")) for n in range(3)]
    finish(broker, "p0")
    child = broker.enqueue(new("child", priority=99, dependencies=parents))
    assert unmet(broker, child) == 2
    assert sorted(broker.get_task(child).metadata["dependencies"]) == sorted(map(str, parents))
    tables.check(broker)
    finish(broker, "p1")
    assert unmet(broker, child) == 1
    tables.check(broker)
    last = broker.dequeue()
    assert (last.task_name, broker.dequeue()) == ("p2", None)
    broker.ack(last.task_id)
    assert unmet(broker, child) == 0
    tables.check(broker)
    finish(broker, "child")
    assert broker.enqueue(new("late", dependencies=[*parents, child]))
    finish(broker, "late")
    tables.check(broker)


@pytest.mark.spec("CORE-06", "CONF-06")
def test_a_dependency_must_exist_in_the_queue(broker, tables):
    stranger = broker.for_queue("other").enqueue(new())
    known = broker.enqueue(new())
    for missing in (uuid4(), stranger):
        with pytest.raises(TaskNotFoundError, match=str(missing)) as caught:
            broker.enqueue(new(dependencies=[known, missing]))
        assert caught.value.task_id == missing
        with pytest.raises(TaskNotFoundError):
            broker.enqueue_after(new(dependencies=[missing]), 5)
    assert broker.queue_size() == 1
    assert tables.value("SELECT COUNT(*) FROM celers_task_dependencies") == 0


@pytest.mark.spec("CORE-06")
@pytest.mark.parametrize("end", ["failed", "cancelled", "dead_letter"])
def test_a_dependency_that_ended_badly_is_refused(broker, tables, end):
    parent = broker.enqueue(new(max_retries=0))
    if end == "cancelled":
        broker.cancel(parent)
    else:
        broker.reject(parent, broker.dequeue().receipt_handle, end == "dead_letter")
    with pytest.raises(InvalidStateTransitionError) as caught:
        broker.enqueue(new(dependencies=[parent]))
    assert caught.value.from_state == end
    assert str(parent) in str(caught.value)
    assert broker.queue_size() == 0


@pytest.mark.spec("CORE-06", "BATCH-01", "ERR-18")
def test_tasks_of_a_batch_depend_on_each_other(broker, tables):
    ids = [uuid4() for _ in range(4)]
    top, left, right, bottom = ids
    batch = [
        new("bottom", id=bottom, dependencies=[left, right]),
        new("left", id=left, dependencies=[top]),
        new("right", id=right, dependencies=[top]),
        new("top", id=top),
    ]
    assert broker.enqueue_batch(batch) == [task.metadata.id for task in batch]
    tables.check(broker)
    for name in ("top", "left", "right", "bottom"):
        finish(broker, name)
        tables.check(broker)
    one, two, three = uuid4(), uuid4(), uuid4()
    with pytest.raises(CyclicDependencyError):
        broker.enqueue_batch([new(id=one, dependencies=[three]), new(id=two, dependencies=[one]),
                              new(id=three, dependencies=[two])])  # fmt: skip
    with pytest.raises(CyclicDependencyError):
        broker.enqueue(new(id=one, dependencies=[one]))
    assert broker.queue_size() == 0


@pytest.mark.spec("CHAIN-03", "SCHED-02")
def test_a_released_task_keeps_its_own_later_time(broker, tables):
    parent = broker.enqueue(new("p"))
    later = broker.enqueue_after(new("later", dependencies=[parent]), 100)
    soon = broker.enqueue(new("soon", dependencies=[parent]))
    assert broker.count_scheduled_tasks() == 0
    finish(broker, "p")
    assert [info.id for info in broker.list_scheduled_tasks(10, 0)] == [later]
    assert broker.dequeue().task_id == soon
    assert broker.dequeue() is None
    tables.check(broker)


@pytest.mark.spec("CHAIN-03")
def test_a_released_task_is_due_after_the_delay_of_its_chain(broker, tables):
    parent = broker.enqueue(new("p"))
    child = broker.enqueue(new("c", dependencies=[parent]))
    tables.rows("UPDATE celers_task_dependencies SET delay_secs = 50.5")
    finish(broker, "p")
    (info,) = broker.list_scheduled_tasks(10, 0)
    assert (info.id, info.delay_remaining_secs) == (child, 51)
    assert broker.dequeue() is None
    tables.check(broker)


@pytest.mark.spec("CHAIN-03", "BATCH-03", "BATCH-06", "BATCH-07")
@pytest.mark.parametrize("how", ["ack", "ack_batch", "elsewhere", "complete", "by hand", "pending by hand"])
def test_every_way_to_complete_releases(make_broker, tables, how):
    from celers.components.consumer import Completion

    broker = make_broker()
    parent = broker.enqueue(new("p"))
    other = broker.enqueue(new("q"))
    child = broker.enqueue(new("c", dependencies=[parent]))
    if how == "pending by hand":
        broker.update_batch_state([parent], COMPLETED)
        finish(broker, "q")
    else:
        first, second = broker.dequeue_batch(2)
        if how == "ack":
            broker.ack(parent, first.receipt_handle)
        elif how == "ack_batch":
            pairs = [(first.task_id, first.receipt_handle), (second.task_id, second.receipt_handle)]
            assert broker.ack_batch(pairs) == 2
        elif how == "elsewhere":
            make_broker().ack(parent, first.receipt_handle)
        elif how == "complete":
            assert broker.consumer.complete([Completion(first, "1"), Completion(second)]) == [True, True]
            assert broker.get_result(parent).result == 1
        else:
            broker.update_batch_state([parent, other], COMPLETED)
    tables.check(broker)
    assert broker.dequeue().task_id == child


@pytest.mark.spec("CHAIN-04", "CORE-12", "DEF-65", "DEF-66", "SCHED-06", "MAINT-05")
@pytest.mark.parametrize(
    ("how", "word"),
    [("reject", "failed"), ("cancel", "cancelled"), ("cancel pending", "cancelled"), ("dead letter", "dead"),
     ("batch", "failed"), ("by hand", "failed"), ("expire", "cancelled"), ("recover", "dead"), ("fail", "failed")],
)  # fmt: skip
def test_every_way_to_end_cancels_what_waits(broker, tables, how, word):
    root = broker.enqueue(new("root", max_retries=0))
    other = broker.enqueue(new("other"))
    child = broker.enqueue(new("child", dependencies=[root, other]))
    grandchild = broker.enqueue(new("grandchild", dependencies=[child, root]))
    great = broker.enqueue_after(new("great", dependencies=[grandchild]), 60)
    mere = broker.enqueue(new("mere child", parent_task_id=root))
    if how not in ("cancel pending", "expire"):
        message = broker.dequeue()
        assert message.task_id == root
    if how == "reject":
        broker.reject(root, message.receipt_handle, False)
    elif how.startswith("cancel"):
        broker.cancel(root)
    elif how == "dead letter":
        broker.reject(root, message.receipt_handle)
    elif how == "batch":
        broker.reject_batch([(root, None, False)])
    elif how == "by hand":
        broker.update_batch_state([root], FAILED)
    elif how == "recover":
        broker.recover_stuck_tasks(1e-6)
    elif how == "fail":
        broker.consumer.fail(message, error="x", requeue=False)
    else:
        tables.rows("UPDATE celers_tasks SET scheduled_at = scheduled_at - INTERVAL 1 HOUR WHERE task_name = 'root'")
        assert broker.expire_pending_tasks(1800) == 1
    for key in (child, grandchild, great):
        info = broker.get_task(key)
        assert (info.state, info.completed_at is not None) == (CANCELLED, True)
        assert str(root) in info.error_message  # the task that failed, not the one in between
        assert word in info.error_message
    assert {broker.get_task(key).state for key in (other, mere)} == {PENDING}
    assert broker.get_statistics().cancelled == (4 if how in ("cancel", "cancel pending", "expire") else 3)
    tables.check(broker)


@pytest.mark.spec("CHAIN-04", "CORE-10")
def test_a_retry_of_the_parent_changes_nothing_for_what_waits(broker, tables):
    parent = broker.enqueue_with_retry_policy(new("p"), RetryPolicy(2, Fixed(0)))
    child = broker.enqueue(new("c", dependencies=[parent]))
    for _ in range(2):
        message = broker.dequeue()
        broker.reject(parent, message.receipt_handle)
        assert (broker.get_task(child).state, unmet(broker, child)) == (PENDING, 1)
    message = broker.dequeue()
    broker.consumer.give_back([message])
    finish(broker, "p")
    finish(broker, "c")
    tables.check(broker)


@pytest.mark.spec("BATCH-06", "CORE-06")
def test_tasks_brought_back_by_hand_wait_for_their_dependencies(broker, tables):
    parent = broker.enqueue(new("p"))
    child = broker.enqueue(new("c", dependencies=[parent]))
    broker.cancel(parent)
    assert broker.update_batch_state([child], PENDING) == 1
    assert (broker.dequeue(), unmet(broker, child)) == (None, 1)
    tables.check(broker)
    broker.update_batch_state([parent], PENDING)
    finish(broker, "p")
    finish(broker, "c")
    # Completed in the meantime: nothing to wait for.
    second = broker.enqueue(new("p2"))
    child = broker.enqueue(new("c2", dependencies=[second]))
    broker.cancel(child)
    finish(broker, "p2")
    broker.update_batch_state([child], PENDING)
    finish(broker, "c2")
    tables.check(broker)


@pytest.mark.spec("BATCH-06", "CORE-06")
def test_a_blocked_task_started_by_hand_waits_no_longer(broker, tables):
    parent = broker.enqueue(new("p"))
    child = broker.enqueue_with_retry_policy(new("c", dependencies=[parent]), RetryPolicy(3, Fixed(0)))
    assert broker.update_batch_state([child], PROCESSING) == 1
    tables.check(broker)
    broker.reject(child)
    assert unmet(broker, child) == 0
    tables.check(broker)
    broker.cancel(parent)
    assert broker.get_task(child).state is PENDING
    finish(broker, "c")


@pytest.mark.spec("CHAIN-03", "CORE-06", "ARCH-05")
def test_parents_that_end_while_children_come(make_sync, tables):
    """Whichever comes first, no child stays blocked behind a completed parent."""
    worker, *producers = [make_sync() for _ in range(4)]
    parents = worker.enqueue_batch([new(f"p{n}") for n in range(60)])
    children: list = []

    def enqueue(producer, number):
        for parent in parents[number:]:
            children.append(producer.enqueue(new("child", priority=-1, dependencies=[parent, parents[-1]])))

    threads = [threading.Thread(target=enqueue, args=(producer, n)) for n, producer in enumerate(producers)]
    for thread in threads:
        thread.start()
    done = 0
    while any(thread.is_alive() for thread in threads) or worker.queue_size():
        for message in worker.dequeue_batch(3):
            worker.ack(message.task_id, message.receipt_handle)
            done += 1
    assert done == len(parents) + len(children) == 60 + 60 + 59 + 58
    tables.check(worker)


@pytest.mark.spec("BATCH-05", "BATCH-06", "CHAIN-03", "CHAIN-04")
@pytest.mark.parametrize("state", [COMPLETED, FAILED, CANCELLED, None])
def test_a_parent_and_its_child_changed_together(broker, tables, state):
    parent = broker.enqueue(new())
    child = broker.enqueue(new(dependencies=[parent]))
    grandchild = broker.enqueue(new(dependencies=[child]))
    if state is None:
        assert broker.cancel_batch([grandchild, parent, child]) == 3
    else:
        assert broker.update_batch_state([grandchild, parent, child], state) == 3
    assert {broker.get_task(key).state for key in (parent, child, grandchild)} == {state or CANCELLED}
    tables.check(broker)
