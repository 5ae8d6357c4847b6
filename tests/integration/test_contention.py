"""Several processes on one queue: nothing lost, nothing twice, no deadlocks to speak of, one leader."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter

import pytest

from celers import MysqlBroker, SerializedTask
from celers.heartbeat import lock_name
from tests.fixtures import contenders
from tests.fixtures.contenders import contest
from tests.fixtures.waiting import until

DEADLOCK, LOCK_WAIT = 1213, 1205


@pytest.fixture
def brokers(database_url):
    """Makes blocking brokers: leadership is theirs alone."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, url=database_url, **kwargs: stack.enter_context(MysqlBroker(url, *args, **kwargs))


def errors(found) -> Counter[int]:
    total: Counter[int] = Counter()
    for one in found:
        total.update(one["errors"])
    return total


@pytest.mark.spec("TEST-03", "CORE-08", "CORE-12", "CORE-15", "BATCH-03", "MAINT-05", "ARCH-05", "INSP-03")
def test_claims_recovery_and_cancels_at_the_same_time_lose_and_double_nothing(sync_broker, database_url, tables):
    tasks = [SerializedTask.new("job", max_retries=1000, priority=index % 3) for index in range(600)]
    ids = sync_broker.enqueue_batch(tasks)
    with contest(
        database_url,
        *[(contenders.consume, seed) for seed in range(4)],
        (contenders.recover, 0.2),
        (contenders.tend,),
        (contenders.cancel, ids[::5]),
    ) as running:
        until(lambda: running.check() and open_tasks(sync_broker) == 0, 120)
        found = running.end()
    completed = [task_id for one in found for task_id in one.get("completed", ())]
    cancelled = [task.id for task in sync_broker.list_tasks(None, 10_000, 0) if task.state.value == "cancelled"]
    assert len(set(completed)) == len(completed)
    assert set(completed).isdisjoint(cancelled)
    assert {*completed, *cancelled} == set(ids)
    assert len(cancelled) > 0
    assert sum(one.get("recovered", 0) for one in found) > 0
    tables.check(sync_broker)
    # Deadlocks are repeated, unseen by the callers; they must stay rare, and nobody may wait for a lock in vain.
    seen = errors(found)
    assert seen[LOCK_WAIT] == 0
    assert seen[DEADLOCK] <= 0.02 * sum(one.get("delivered", 0) for one in found), seen
    assert seen.keys() <= {DEADLOCK}


def open_tasks(broker: MysqlBroker) -> int:
    statistics = broker.get_statistics()
    return statistics.pending + statistics.processing


@pytest.mark.spec("TEST-03", "CORE-08", "ARCH-05")
@pytest.mark.parametrize("size", [1, 10])
def test_claims_on_a_nearly_empty_queue_never_deadlock(sync_broker, database_url, tables, size):
    with contest(
        database_url,
        *[(contenders.drain, size)] * 4,
        *[(contenders.produce, 150)] * 2,
    ) as running:
        until(lambda: running.check() and sync_broker.get_statistics().completed == 300, 120)
        found = running.end()
    completed = [task_id for one in found for task_id in one.get("completed", ())]
    assert len(completed) == len(set(completed)) == 300
    assert errors(found) == {}
    tables.check(sync_broker)


@pytest.mark.spec("TEST-03", "CORE-08")
def test_as_many_callers_as_tasks_each_get_one(sync_broker, brokers):
    callers = [brokers(heartbeat=False) for _ in range(8)]
    for caller in callers:
        assert caller.dequeue() is None
    for _ in range(10):
        sync_broker.enqueue_batch([SerializedTask.new("job") for _ in range(8)])
        start = threading.Barrier(8)
        found = []

        def take(caller, start=start, found=found):
            start.wait()
            found.append(caller.dequeue())

        threads = [threading.Thread(target=take, args=(caller,)) for caller in callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert None not in found
        assert len({message.task_id for message in found}) == 8


# Times of several processes are compared: the monotonic clock is that of the machine.


@pytest.mark.spec("TEST-03", "CTRL-04", "CORE-04", "DEF-33")
def test_nothing_is_stored_once_drain_mode_is_acknowledged(sync_broker, database_url, tables):
    with contest(database_url, *[(contenders.produce_until_refused, size) for size in (1, 1, 5, 50)]) as running:
        until(lambda: running.check() and sync_broker.queue_size() > 300, 60)
        sync_broker.enable_drain_mode()
        acknowledged = time.monotonic()
        time.sleep(0.3)
        found = running.end()
    assert [one["last"] < acknowledged for one in found] == [True] * 4
    assert all(one["stored"] > 0 and one["refused"] > 0 for one in found)
    assert sync_broker.queue_size() == sum(one["stored"] for one in found)
    tables.check(sync_broker)


@pytest.mark.spec("TEST-03", "CTRL-08", "DEF-71")
def test_eight_processes_never_pass_a_limit(sync_broker, database_url, tables):
    most, taken = 40, []
    with contest(database_url, *[(contenders.fill_up, most)] * 8) as running:

        def take() -> bool:
            assert sync_broker.queue_size() <= most
            messages = sync_broker.dequeue_batch(7)
            sync_broker.ack_batch([(message.task_id, message.receipt_handle) for message in messages])
            taken.extend(message.task_id for message in messages)
            return running.check() and len(taken) >= 300

        until(take, 60)
        until(lambda: running.check() and sync_broker.queue_size() == most, 60)
        found = running.end()
    assert sync_broker.queue_size() == most
    assert sum(len(one["stored"]) for one in found) == len(taken) + most
    assert sum(one["full"] for one in found) > 0
    tables.check(sync_broker)


AT_WORK = "SELECT COUNT(*) FROM celers_consumers WHERE completed > 0"


@pytest.mark.spec("TEST-03", "CTRL-01", "DEF-70")
def test_the_next_claim_of_every_process_sees_a_pause(sync_broker, database_url, tables):
    sync_broker.enqueue_batch([SerializedTask.new("job") for _ in range(20_000)])
    with contest(database_url, *[(contenders.claim_until_stopped, size) for size in (1, 1, 10, 10)]) as running:
        until(lambda: running.check() and tables.value(AT_WORK) == 4, 60)
        sync_broker.pause()
        paused = time.monotonic()
        time.sleep(0.2)
        # However fast they were before, there is something left to claim afterwards.
        sync_broker.enqueue_batch([SerializedTask.new("job") for _ in range(100)])
        left = sync_broker.queue_size()
        resuming = time.monotonic()
        sync_broker.resume()
        until(lambda: running.check() and sync_broker.queue_size() < left, 60)
        found = running.end()
    for one in found:
        between = [count for began, count in one["claims"] if paused < began < resuming]
        assert len(between) > 1, "it went on asking"
        # The last of them may have been under way when the queue was resumed.
        assert set(between[:-1]) <= {0}, "a claim that began under the pause got something"
        assert sum(count for began, count in one["claims"] if began < paused) > 0
    tables.check(sync_broker)


@pytest.mark.spec("TEST-03", "CORE-15")
def test_there_are_never_two_leaders_at_once(database_url):
    with contest(database_url, *[(contenders.lead,)] * 4) as running:
        with MysqlBroker(database_url) as broker:
            until(lambda: broker.try_lead() is None)
        time.sleep(0.5)
        found = running.end()
    reigns = sorted(reign for one in found for reign in one["reigns"])
    assert len(reigns) > 5
    for (_, end), (began, _) in itertools.pairwise(reigns):
        assert end <= began


@pytest.mark.spec("CORE-15", "TEST-05")
def test_leadership_passes_on_when_the_leader_releases_it_or_its_connection_is_killed(brokers, tables):
    first, second, third = brokers(), brokers("other"), brokers()
    leader = first.try_lead()
    assert leader.alive()
    assert second.try_lead() is None
    assert first.try_lead() is None
    leader.release()
    assert not leader.alive()
    leader = second.try_lead()
    assert leader.alive()
    assert first.try_lead() is None
    tables.rows(f"KILL {holder(tables)}")
    found = []
    until(lambda: found.append(third.try_lead()) or found[-1])
    assert not leader.alive()
    assert found[-1].alive()
    leader.release()
    assert found[-1].alive()
    assert first.try_lead() is None
    found[-1].release()


def holder(tables) -> int:
    """The connection that holds the lock of the leader of this database."""
    return int(tables.value("SELECT IS_USED_LOCK(%s)", (lock_name("leader", tables.name, "celers_"),)))


@pytest.mark.spec("CORE-15", "CONF-03")
def test_each_database_and_prefix_has_a_leader_of_its_own(brokers, empty_database_url):
    leaders = [
        brokers().try_lead(),
        brokers(table_prefix="other_").try_lead(),
        brokers(url=empty_database_url).try_lead(),
    ]
    assert [leader.alive() for leader in leaders] == [True] * 3
    for leader in leaders:
        leader.release()
