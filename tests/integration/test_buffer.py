"""`broker.buffer`: one commit for the enqueues of many callers, and for each caller an answer of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from celers import (
    App,
    AsyncMysqlBroker,
    BrokerError,
    DuplicateTaskError,
    MysqlBroker,
    PayloadTooLargeError,
    QueueDrainingError,
    SerializedTask,
    TaskNotFoundError,
    ValidationError,
    buffer,
)
from tests.fixtures.waiting import until

pytestmark = [pytest.mark.spec("BATCH-01"), pytest.mark.timeout(60)]


def tasks(count):
    return [SerializedTask.new("m.f", b"%d" % number) for number in range(count)]


def answer(call):
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - it is the answer
        return error


@pytest.fixture(params=["threads", "coroutines"])
def together(request, database_url):
    """A function that enqueues tasks through one buffer, each by a caller of its own, and returns their answers."""

    def by_threads(given, settings, limits, then):
        with (
            MysqlBroker(database_url, **settings) as broker,
            ThreadPoolExecutor(len(given)) as pool,
            broker.buffer(**limits) as made,
        ):

            def one(task):
                found = made.enqueue(task)
                if then is not None:
                    then(found)
                return found

            calls = [pool.submit(one, task) for task in given]
            return [answer(call.result) for call in calls]

    def by_coroutines(given, settings, limits, then):
        async def one(made, task):
            found = await made.enqueue(task)
            if then is not None:
                then(found)
            return found

        async def main():
            async with AsyncMysqlBroker(database_url, **settings) as broker, broker.buffer(**limits) as made:
                calls = [one(made, task) for task in given]
                return await asyncio.gather(*calls, return_exceptions=True)

        return asyncio.run(main())

    run = by_threads if request.param == "threads" else by_coroutines

    def enqueue(given, *, settings=None, then=None, **limits):
        return run(given, settings or {}, limits, then)

    return enqueue


def test_a_full_group_is_one_packet_and_waits_no_longer(sync_broker, together, packets):
    given = tasks(40)
    sent = packets.count(lambda: together(given, max_delay=timedelta(seconds=50), max_items=40))
    assert sync_broker.queue_size() == 40
    assert sum(b"INSERT INTO celers_tasks " in text for text in packets.sent) == 1
    assert sent < 15, "the rest opens the broker and closes it"


def test_groups_have_their_limit(sync_broker, together, packets):
    given = tasks(25)
    assert together(given, max_delay=0.2, max_items=10) == [task.metadata.id for task in given]
    assert sum(b"INSERT INTO celers_tasks " in text for text in packets.sent) >= 3
    assert sync_broker.queue_size() == 25


def test_a_caller_is_answered_after_the_commit(sync_broker, together):
    seen = []
    lock = threading.Lock()

    def look(task_id):
        with lock:
            seen.append(sync_broker.get_task(task_id).id)

    given = tasks(30)
    found = together(given, then=look)
    assert found == [task.metadata.id for task in given]
    assert sorted(seen) == sorted(found)


def test_errors_reach_exactly_the_callers_concerned(sync_broker, together):
    stored = tasks(1)[0]
    sync_broker.enqueue(stored)
    given = tasks(20)
    given[3] = stored
    given[7] = SerializedTask.new("m.f", b"x" * 101)
    given[8] = "no task"
    given[12] = SerializedTask.new("m.f", b"", dependencies=[tasks(1)[0].metadata.id])
    given[15] = given[14]
    found = together(given, settings={"max_payload_bytes": 100}, max_delay=1, max_items=19)
    kinds = {number: type(value) for number, value in enumerate(found) if isinstance(value, Exception)}
    twin = 14 if 14 in kinds else 15  # which of the two comes first is chance with threads
    assert kinds == {
        3: DuplicateTaskError,
        7: PayloadTooLargeError,
        8: ValidationError,
        12: TaskNotFoundError,
        twin: DuplicateTaskError,
    }
    others = [task.metadata.id for number, task in enumerate(given) if number not in kinds]
    assert [value for value in found if not isinstance(value, Exception)] == others
    assert sync_broker.queue_size() == len(others) + 1


def test_what_concerns_all_is_told_to_all(sync_broker, together, packets):
    sync_broker.enable_drain_mode()
    found = together(tasks(10), max_delay=50, max_items=10)
    assert [type(value) for value in found] == [QueueDrainingError] * 10
    assert sum(b"INSERT INTO celers_tasks " in text for text in packets.sent) == 1, "not sent one by one"


def test_a_connection_lost_on_the_way_is_not_heard_of(sync_broker, together, packets):
    sync_broker.enqueue(tasks(1)[0])
    killer = threading.local()

    def kill():
        killer.done = True
        rows = sync_broker.with_transaction(
            lambda tx: tx.fetch_all(
                "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db = DATABASE()"
            )
        )
        for (number,) in rows:
            answer(lambda number=number: sync_broker.with_transaction(lambda tx: tx.execute(f"KILL {int(number)}")))

    packets.before(b"INSERT INTO celers_tasks ", kill)
    given = tasks(10)
    found = together(given, max_delay=50, max_items=10)
    refused = [value for value in found if isinstance(value, Exception)]
    assert refused == [] or len(refused) == 10
    assert sync_broker.queue_size() == 1 + len(found) - len(refused)


def test_a_closed_broker_is_told_to_all(together, sync_broker, database_url):
    async def main():
        broker = AsyncMysqlBroker(database_url)
        made = broker.buffer()
        await broker.close()
        return await asyncio.gather(*[made.enqueue(task) for task in tasks(3)], return_exceptions=True)

    broker = MysqlBroker(database_url)
    made = broker.buffer()
    broker.close()
    found = [answer(lambda: made.enqueue(tasks(1)[0])), *asyncio.run(main())]
    assert all(isinstance(value, BrokerError) for value in found)
    assert sync_broker.queue_size() == 0


def test_closing_sends_what_waits(sync_broker):
    made = sync_broker.buffer(max_delay=3600)
    given = tasks(5)
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(made.enqueue, task) for task in given]
        until(lambda: len(made._waiting) == 5)
        assert sync_broker.queue_size() == 0
        made.close()
        assert [call.result(10) for call in calls] == [task.metadata.id for task in given]
    made.close()
    with pytest.raises(BrokerError, match="closed"):
        made.enqueue(given[0])
    assert sync_broker.queue_size() == 5


def test_closing_sends_what_waits_asyncio(sync_broker, database_url):
    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            made = broker.buffer(max_delay=3600)
            given = tasks(5)
            calls = [asyncio.create_task(made.enqueue(task)) for task in given]
            await asyncio.sleep(0)
            await made.close()
            assert await asyncio.gather(*calls) == [task.metadata.id for task in given]
            await made.close()
            with pytest.raises(BrokerError, match="closed"):
                await made.enqueue(given[0])

    asyncio.run(main())
    assert sync_broker.queue_size() == 5


def test_a_caller_cancelled_while_waiting_takes_its_task_back(sync_broker, database_url):
    async def main():
        async with AsyncMysqlBroker(database_url) as broker, broker.buffer(max_delay=3600) as made:
            given = tasks(3)
            calls = [asyncio.create_task(made.enqueue(task)) for task in given]
            await asyncio.sleep(0)
            calls[1].cancel()
            await asyncio.wait([calls[1]])
            await made.close()
            assert [call.cancelled() or call.result() for call in calls] == [
                given[0].metadata.id,
                True,
                given[2].metadata.id,
            ]

    asyncio.run(main())
    assert sync_broker.queue_size() == 2


def test_a_caller_cancelled_on_the_way_leaves_its_group_alone(sync_broker, database_url, packets):
    sent, go = threading.Event(), threading.Event()

    def hold():
        sent.set()
        go.wait(20)

    async def main():
        async with AsyncMysqlBroker(database_url) as broker, broker.buffer() as made:
            packets.before(b"INSERT INTO celers_tasks ", hold)
            given = tasks(3)
            calls = [asyncio.create_task(made.enqueue(task)) for task in given]
            await asyncio.to_thread(sent.wait, 20)
            calls[0].cancel()
            await asyncio.wait([calls[0]])
            late = asyncio.create_task(made.enqueue(tasks(1)[0]))
            go.set()
            await asyncio.gather(*calls[1:], late)
            assert calls[0].cancelled()

    asyncio.run(main())
    assert sync_broker.queue_size() == 4, "the packet was on its way, so all of it is stored"


def test_the_child_of_a_fork_has_an_empty_buffer_that_works(sync_broker):
    made = sync_broker.buffer(max_delay=3600)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(made.enqueue, task) for task in tasks(2)]
        until(lambda: len(made._waiting) == 2)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                made._delay = 0.0
                made.enqueue(tasks(1)[0])
                made.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert sync_broker.queue_size() == 1
        made.close()
        assert len({call.result(10) for call in calls}) == 2
    assert sync_broker.queue_size() == 3


def test_the_thread_ends_when_nothing_comes_and_another_begins(sync_broker, monkeypatch):
    def running():
        return any(thread.name == "celers-buffer" for thread in threading.enumerate())

    monkeypatch.setattr(buffer, "IDLE_SECS", 0.01)
    with sync_broker.buffer() as made:
        for number in range(3):
            made.enqueue(tasks(1)[0])
            until(lambda: not running())
            assert sync_broker.queue_size() == number + 1


@pytest.mark.parametrize(
    "limits",
    [{"max_delay": -1}, {"max_delay": "soon"}, {"max_items": 0}, {"max_items": 100_001}, {"max_items": 1.5}],
)
def test_bad_limits_are_refused(sync_broker, database_url, limits):
    with pytest.raises(ValidationError, match=next(iter(limits))):
        sync_broker.buffer(**limits)
    with pytest.raises(ValidationError, match=next(iter(limits))):
        AsyncMysqlBroker(database_url).buffer(**limits)


def test_many_threads_lose_nothing(sync_broker):
    def produce(number):
        return [made.enqueue(task) for task in tasks(50)]

    with sync_broker.buffer(max_items=7) as made, ThreadPoolExecutor(16) as pool:
        ids = [task_id for found in pool.map(produce, range(16)) for task_id in found]
    assert len(set(ids)) == 800
    assert sync_broker.queue_size() == 800
    taken = {message.task.metadata.id for _ in range(9) for message in sync_broker.dequeue_batch(100)}
    assert taken == set(ids)


def test_tasks_of_an_application_go_through_a_buffer(sync_broker, database_url):
    app = App(database_url)

    @app.task
    def add(a, b):
        return a + b

    @app.task(queue="other")
    def elsewhere():
        return None

    async def main():
        async with AsyncMysqlBroker(database_url) as broker, broker.buffer() as made:
            call = add.using(buffer=made)
            found = await asyncio.gather(*[call.aenqueue(number, 1) for number in range(20)])
            with pytest.raises(ValidationError, match="buffer"):
                call.enqueue(1, 1)
            return found

    with sync_broker.buffer() as made, ThreadPoolExecutor(8) as pool:
        call = add.using(buffer=made)
        ids = list(pool.map(lambda number: call.enqueue(number, 2), range(20)))
        for refused in (
            lambda: call.using(delay=1).enqueue(1, 1),
            lambda: call.enqueue_at(2e9, 1, 1),
            lambda: call.enqueue_many([(1, 1), (2, 2)]),
            lambda: elsewhere.using(buffer=made).enqueue(),
            lambda: asyncio.run(call.aenqueue(1, 1)),
            lambda: add.using(buffer="none").enqueue(1, 1),
        ):
            with pytest.raises(ValidationError, match="buffer"):
                refused()
        with pytest.raises(TypeError):
            call.enqueue(1)
    ids += asyncio.run(main())
    assert len(set(ids)) == sync_broker.queue_size() == 40
    message = sync_broker.dequeue()
    assert message.task.metadata.name == add.name
    app.close()
