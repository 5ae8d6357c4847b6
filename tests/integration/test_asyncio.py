"""The asyncio broker: cancellation at every stage, closing, and a loop that never waits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
import warnings

import pytest

from celers import (
    AsyncMysqlBroker,
    BrokerConnectionError,
    BrokerError,
    DbTaskState,
    MysqlBroker,
    PoolConfig,
    PoolTimeoutError,
    SerializedTask,
    TaskResultStatus,
)
from celers.db import aiopool, lines
from celers.db.driver import Connection
from tests.fixtures.waiting import until

pytestmark = [pytest.mark.spec("ARCH-01"), pytest.mark.timeout(60)]

new = SerializedTask.new


def run(main):
    """Run a coroutine, with everything that asyncio complains about as an error."""
    complaints = []

    async def guarded():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await main()
        await asyncio.sleep(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(asyncio.wait_for(guarded(), 50), debug=False)
        gc.collect()
    assert complaints == []


def threads():
    return [thread for thread in threading.enumerate() if thread.name in ("celers-connection", "celers-heartbeat")]


class Gate:
    """Holds packets with certain words on their thread: before they are sent, or after their answer has come."""

    def __init__(self, monkeypatch, *words, after=False, times=1):
        self.reached = threading.Event()
        self.open = threading.Event()
        self.left = times

        def gated(original):
            def held(connection, text, count, needed=None):
                matches = self.left > 0 and all(word in text for word in words)
                if matches:
                    self.left -= 1
                results = original(connection, text, count, needed) if after or not matches else None
                if matches:
                    self.reached.set()
                    assert self.open.wait(20)
                return results if after or not matches else original(connection, text, count, needed)

            return held

        for name in ("run", "push"):
            monkeypatch.setattr(Connection, name, gated(getattr(Connection, name)))

    async def arrival(self):
        while not self.reached.is_set():
            await asyncio.sleep(0.001)


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def settled(broker):
    """Wait for operations whose callers were cancelled."""
    while broker._pool.tasks:
        await asyncio.sleep(0.001)


TASKS = b"INSERT INTO celers_tasks"
LEASE = b"UPDATE lease ="


# Cancellation


@pytest.mark.parametrize("after", [False, True])
def test_a_cancelled_enqueue_that_was_sent_is_stored_completely(database_url, tables, monkeypatch, after):
    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            await broker.queue_size()
            gate = Gate(monkeypatch, TASKS, after=after)
            tasks = [new("a"), new("b")]
            call = asyncio.create_task(broker.enqueue_batch(tasks))
            await gate.arrival()
            await cancelled(call)
            gate.open.set()
            await settled(broker)
            assert [m.task_id for m in await broker.dequeue_batch(5)] == [task.metadata.id for task in tasks]

    run(main)


def test_a_cancelled_enqueue_of_several_packets_is_stored_completely(database_url, monkeypatch):
    from dataclasses import replace

    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            await broker.queue_size()
            broker.core.server = replace(broker.core.server, max_allowed_packet=60_000)
            gate = Gate(monkeypatch, TASKS)
            call = asyncio.create_task(broker.enqueue_batch([new("a", b"x" * 2000) for _ in range(40)]))  # noqa: RUF006 - awaited by `cancelled`
            await gate.arrival()
            await cancelled(call)
            gate.open.set()
            await settled(broker)
            assert await broker.queue_size() == 40
            assert broker.pool().active == 0

    run(main)


def test_a_packet_that_was_not_sent_is_not(database_url, tables):
    """The caller is cancelled before the connection's thread has taken the packet."""

    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            await broker.queue_size()
            connection = broker._pool._idle[0]
            blocked = threading.Event()
            job = connection.submit(lambda: blocked.wait(10))
            call = asyncio.create_task(broker.enqueue(new("never")))
            while connection._line.jobs.qsize() == 0:
                await asyncio.sleep(0.001)
            await cancelled(call)
            blocked.set()
            await job
            await settled(broker)
            assert await broker.queue_size() == 0
            assert broker.pool().active == 0
            assert broker.pool().failures == 0

    run(main)


@pytest.mark.spec("CORE-15")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("how", ["one", "batch", "worker"])
def test_a_cancelled_claim_is_given_back(database_url, tables, monkeypatch, after, how):
    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            tasks = await broker.enqueue_batch([new("a"), new("b"), new("c")])
            gate = Gate(monkeypatch, LEASE, after=after)
            claim = {
                "one": broker.dequeue,
                "batch": lambda: broker.dequeue_batch(2),
                "worker": lambda: broker.dequeue_with_worker_id("w"),
            }[how]
            call = asyncio.create_task(claim())
            await gate.arrival()
            await cancelled(call)
            gate.open.set()
            await settled(broker)
            assert await broker.queue_size() == 3
            again = await broker.dequeue_batch(5)
            assert [m.task_id for m in again] == tasks
            assert [m.retry_count for m in again] == [0, 0, 0]
            assert await broker.ack_batch([(m.task_id, m.receipt_handle) for m in again]) == 3

    run(main)
    with MysqlBroker(database_url) as broker:
        tables.check(broker)


@pytest.mark.spec("CORE-15")
def test_a_cancelled_claim_of_several_packets_gives_all_of_it_back(database_url, tables, monkeypatch):
    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            await broker.enqueue_batch([new("a") for _ in range(150)])
            gate = Gate(monkeypatch, LEASE, b"LIMIT 50")
            call = asyncio.create_task(broker.dequeue_batch(150))
            await gate.arrival()
            await cancelled(call)
            gate.open.set()
            await settled(broker)
            assert await broker.queue_size() == 150

    run(main)
    with MysqlBroker(database_url) as broker:
        tables.check(broker)


@pytest.mark.spec("CORE-15")
def test_a_claim_cancelled_before_its_second_packet_left_gives_the_first_back(database_url, monkeypatch):
    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            await broker.enqueue_batch([new("a") for _ in range(150)])
            call = asyncio.create_task(broker.dequeue_batch(150))
            original = lines.ThreadConnection.send
            sent = []

            def send(connection, text, count, needed=None):
                job = original(connection, text, count, needed)
                if LEASE in text:
                    sent.append(1)
                    if len(sent) == 2:
                        call.cancel()
                return job

            # The thread is slow to take the second packet.
            monkeypatch.setattr(lines.ThreadConnection, "send", send)
            take = lines.Job.take

            def slow(job):
                if threading.current_thread().name == "celers-connection" and len(sent) == 2:
                    time.sleep(0.05)
                return take(job)

            monkeypatch.setattr(lines.Job, "take", slow)
            with pytest.raises(asyncio.CancelledError):
                await call
            await settled(broker)
            assert await broker.queue_size() == 150

    run(main)


@pytest.mark.spec("CORE-15")
def test_closing_at_once_still_gives_back_what_a_cancelled_claim_brings(database_url, tables, monkeypatch):
    async def main():
        broker = AsyncMysqlBroker(database_url)
        await broker.enqueue(new("a"))
        gate = Gate(monkeypatch, LEASE)
        call = asyncio.create_task(broker.dequeue())
        await gate.arrival()
        await cancelled(call)
        closing = asyncio.create_task(broker.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        gate.open.set()
        await closing
        assert broker.pool().size == 0

    run(main)
    with MysqlBroker(database_url) as broker:
        assert broker.queue_size() == 1
        tables.check(broker)
        assert tables.value("SELECT COUNT(*) FROM celers_consumers") == 0


def test_timeouts_by_asyncio_itself_lose_nothing(database_url, tables):
    async def main():
        async with AsyncMysqlBroker(database_url, pool_config=PoolConfig(max_connections=4)) as broker:
            await broker.enqueue_batch([new("a") for _ in range(200)])
            done = []

            async def consume(index):
                for step in range(30):
                    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                        found = await asyncio.wait_for(broker.dequeue_batch(2), 0.0005 * (1 + (index + step) % 8))
                        done.extend(found)

            await asyncio.gather(*(consume(index) for index in range(6)))
            await settled(broker)
            while found := await broker.dequeue_batch(100):
                done.extend(found)
            assert len(done) == len({message.task_id for message in done}) == 200
            assert await broker.ack_batch([(m.task_id, m.receipt_handle) for m in done]) == 200
            assert broker.pool().active == 0

    run(main)
    with MysqlBroker(database_url) as broker:
        tables.check(broker)


def test_other_operations_that_were_sent_run_to_their_end(database_url, tables, monkeypatch):
    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            first, second = await broker.enqueue_batch([new("a"), new("b")])
            held = await broker.dequeue_batch(2)
            gate = Gate(monkeypatch, b"UPDATE completed =")
            call = asyncio.create_task(broker.ack(first, held[0].receipt_handle))
            await gate.arrival()
            await cancelled(call)
            gate.open.set()
            await settled(broker)
            assert (await broker.get_task(first)).state is DbTaskState.COMPLETED
            # A look with a lock, cancelled between its packets.
            gate = Gate(monkeypatch, b"celers_tasks", b"FOR UPDATE")
            call = asyncio.create_task(broker.reject(second, held[1].receipt_handle))
            await gate.arrival()
            await cancelled(call)
            gate.open.set()
            await settled(broker)
            assert (await broker.get_task(second)).retry_count == 1

    run(main)
    with MysqlBroker(database_url) as broker:
        tables.check(broker)


def test_who_is_cancelled_while_waiting_passes_its_turn_on(database_url):
    async def main():
        config = PoolConfig(max_connections=1, min_connections=0)
        async with AsyncMysqlBroker(database_url, pool_config=config) as broker:
            pool = broker._pool
            held = await pool.acquire()
            first, second = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(pool._line) == 2
            pool.release(held)
            first.cancel()  # it has been given the connection already
            assert await second is held
            with pytest.raises(asyncio.CancelledError):
                await first
            third = asyncio.create_task(pool.acquire())
            await asyncio.sleep(0)
            await cancelled(third)
            pool.release(held)
            assert (pool.size, pool.idle) == (1, 1)

    run(main)


def test_cancelled_while_a_connection_is_opened(database_url):
    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            held = await broker._pool.acquire()
            call = asyncio.create_task(broker.queue_size())
            await asyncio.sleep(0)
            await cancelled(call)
            broker._pool.release(held)
            assert await broker.queue_size() == 0
            assert broker.pool().active == 0
            assert broker.pool().failures == 0

    run(main)


# The pool


@pytest.mark.spec("CONF-05")
def test_many_coroutines_share_few_connections(database_url, tables):
    async def main():
        config = PoolConfig(max_connections=3, min_connections=1, acquire_timeout_secs=20)
        async with AsyncMysqlBroker(database_url, pool_config=config) as broker:
            ids = await asyncio.gather(*(broker.enqueue(new(f"t{number}")) for number in range(300)))
            assert broker.pool().size == 3
            assert broker.pool().waits > 100
            claims = await asyncio.gather(*(broker.dequeue() for _ in range(300)))
            assert {message.task_id for message in claims} == set(ids)
            await asyncio.gather(*(broker.ack(m.task_id, m.receipt_handle) for m in claims))
            assert (await broker.get_statistics()).completed == 300
            assert len(threads()) <= 4

    run(main)
    with MysqlBroker(database_url) as broker:
        tables.check(broker)


@pytest.mark.spec("CONF-05", "ERR-07")
def test_a_full_pool(database_url):
    async def main():
        config = PoolConfig(max_connections=1, min_connections=0, acquire_timeout_secs=0.1)
        async with AsyncMysqlBroker(database_url, pool_config=config) as broker:
            held = await broker._pool.acquire()
            with pytest.raises(PoolTimeoutError):
                await broker.queue_size()
            broker._pool.release(held)
            assert await broker.queue_size() == 0

    run(main)


@pytest.mark.spec("CONF-05")
def test_connections_grow_old_here_too(database_url):
    async def main():
        config = PoolConfig(max_connections=4, min_connections=1, idle_timeout_secs=0.1, max_lifetime_secs=30)
        async with AsyncMysqlBroker(database_url, pool_config=config) as broker:
            await asyncio.gather(*(broker.queue_size() for _ in range(8)))
            assert broker.pool().size == 4
            await asyncio.sleep(0.15)
            await broker.queue_size()
            assert broker.pool().size < 4
            assert await broker._pool.warm_up() >= 1

    run(main)


def test_a_server_that_is_not_there(place):
    async def main():
        broker = AsyncMysqlBroker(f"mysql://root@localhost/x?unix_socket={place}/none.sock")
        for _ in range(3):
            with pytest.raises(BrokerConnectionError):
                await broker.open()
        # A connection of its own for slow work counts in no other way.
        with pytest.raises(BrokerConnectionError):
            await broker.migrate()
        assert broker.pool().size == 0
        await broker.close()
        assert threads() == []

    run(main)


# The loop


def test_the_loop_is_not_kept_waiting(database_url, monkeypatch):
    """However long the server takes, everything else goes on."""
    original = Connection.run

    def slow(connection, text, count, needed=None):
        time.sleep(0.05)
        return original(connection, text, count, needed)

    async def main():
        async with AsyncMysqlBroker(database_url, pool_config=PoolConfig(max_connections=4)) as broker:
            await broker.queue_size()
            monkeypatch.setattr(Connection, "run", slow)
            lags = []
            stop = False

            async def tick():
                while not stop:
                    started = time.perf_counter()
                    await asyncio.sleep(0.001)
                    lags.append(time.perf_counter() - started)

            ticking = asyncio.create_task(tick())
            await asyncio.gather(*(broker.enqueue(new("x")) for _ in range(20)))
            stop = True
            await ticking
            lags.sort()
            assert len(lags) > 30
            assert lags[len(lags) // 2] < 0.02

    run(main)


def test_a_broker_belongs_to_one_loop(database_url):
    made = [AsyncMysqlBroker(database_url, heartbeat=False)]

    async def use():
        await made[0].queue_size()

    asyncio.run(use())
    with pytest.raises(BrokerError, match="event loop"):
        asyncio.run(use())
    made.clear()
    gc.collect()
    until(lambda: threads() == [], 10)


def test_a_forgotten_broker_ends_its_threads(database_url):
    async def main():
        broker = AsyncMysqlBroker(database_url)
        await broker.enqueue(new("x"))
        await broker.dequeue()
        assert len(threads()) == 2
        del broker
        gc.collect()
        while threads():
            await asyncio.sleep(0.01)

    run(main)


# Closing


@pytest.mark.spec("CONF-04")
def test_closing_waits_for_what_is_under_way(database_url, monkeypatch):
    async def main():
        broker = AsyncMysqlBroker(database_url)
        await broker.queue_size()
        gate = Gate(monkeypatch, TASKS)
        call = asyncio.create_task(broker.enqueue(new("x")))
        await gate.arrival()
        closing = asyncio.create_task(broker.close())
        await asyncio.sleep(0.02)
        with pytest.raises(BrokerError, match="closed"):
            await broker.queue_size()
        gate.open.set()
        await call
        await closing
        assert threads() == []

    run(main)
    with MysqlBroker(database_url) as broker:
        assert broker.queue_size() == 1


@pytest.mark.spec("CONF-04")
def test_closing_refuses_those_who_wait_for_a_connection(database_url):
    async def main():
        config = PoolConfig(max_connections=1, min_connections=0)
        broker = AsyncMysqlBroker(database_url, pool_config=config)
        await broker.queue_size()
        held = await broker._pool.acquire()
        call = asyncio.create_task(broker.queue_size())
        while not broker._pool._line:
            await asyncio.sleep(0)
        closing = asyncio.create_task(broker.close())
        with pytest.raises(BrokerError, match="closed"):
            await call
        broker._pool.release(held)
        await closing
        await broker.close()
        assert broker.pool().size == 0

    run(main)


@pytest.mark.spec("CONF-04")
def test_closing_breaks_a_socket_that_keeps_its_thread(database_url, monkeypatch):
    monkeypatch.setattr(aiopool, "CLOSE_SECS", 0.2)

    async def main():
        broker = AsyncMysqlBroker(database_url)
        await broker.queue_size()
        connection = await broker._pool.acquire()
        job = connection.send(b"SELECT SLEEP(30)", 1)
        await asyncio.sleep(0.05)
        started = time.monotonic()
        await broker.close()
        with pytest.raises(Exception, match=r"2013|2006|Lost|gone"):
            await job
        broker._pool.release(connection)
        while threads():
            await asyncio.sleep(0.01)
        assert time.monotonic() - started < 10

    run(main)


def test_nothing_is_left_behind(database_url):
    async def main():
        for _ in range(3):
            async with AsyncMysqlBroker(database_url) as broker:
                other = broker.for_queue("other")
                await asyncio.gather(*(broker.enqueue(new("x")) for _ in range(10)), other.enqueue(new("y")))
                message = await broker.dequeue()
                await broker.store_result(message.task_id, "x", TaskResultStatus.SUCCESS, result=1)
                await broker.ack(message.task_id, message.receipt_handle)
                with contextlib.suppress(Exception):
                    await broker.ack(message.task_id)
                await other.close()

    before = len(os.listdir("/proc/self/fd"))
    run(main)
    until(lambda: threads() == [], 10)
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_waiting_for_work(database_url):
    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            started = time.monotonic()
            assert await broker.dequeue_wait(0.2, poll_interval_secs=0.05) is None
            assert 0.15 < time.monotonic() - started < 3
            waiting = asyncio.create_task(broker.dequeue_wait(None, poll_interval_secs=0.02))
            await asyncio.sleep(0.05)
            task = await broker.enqueue(new("x"))
            assert (await waiting).task_id == task
            waiting = asyncio.create_task(broker.dequeue_wait(None))
            await asyncio.sleep(0.05)
            await cancelled(waiting)

    run(main)


# Forks


@pytest.mark.spec("ARCH-02")
def test_it_is_refused_in_a_child_and_the_parent_goes_on(database_url):
    async def main():
        broker = AsyncMysqlBroker(database_url)
        await broker.enqueue(new("x"))
        message = await broker.dequeue()
        child = os.fork()
        if not child:
            status = 1
            try:
                coroutine = broker.queue_size()
                try:
                    coroutine.send(None)
                except BrokerError as error:
                    status = 0 if "fork" in str(error) else 2
                closing = broker.close()
                with contextlib.suppress(StopIteration):
                    closing.send(None)
                    status = 3
                gc.collect()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        await broker.ack(message.task_id, message.receipt_handle)
        assert broker.pool().failures == 0
        await broker.close()

    run(main)
