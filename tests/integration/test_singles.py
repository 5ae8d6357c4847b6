"""Single tasks of the asyncio broker: threads take them from the line of those who wait for a connection."""

from __future__ import annotations

import asyncio

import pytest

from celers import (
    AsyncMysqlBroker,
    BrokerError,
    DuplicateTaskError,
    MysqlBroker,
    PoolConfig,
    PoolTimeoutError,
    SerializedTask,
)
from tests.integration.test_asyncio import TASKS, Gate, cancelled, run, settled, threads

pytestmark = [pytest.mark.spec("ARCH-01"), pytest.mark.timeout(60)]

new = SerializedTask.new
ONE = PoolConfig(max_connections=1, min_connections=0)


def test_singles_in_line_are_sent_without_a_turn_of_the_loop(database_url, tables, monkeypatch):
    async def main():
        async with AsyncMysqlBroker(database_url, pool_config=ONE) as broker:
            await broker.queue_size()
            gate = Gate(monkeypatch, TASKS)
            calls = [asyncio.create_task(broker.enqueue(new("x"))) for _ in range(20)]
            await gate.arrival()
            while len(broker._pool._line) < 19:
                await asyncio.sleep(0)
            gate.open.set()
            while broker._pool._line:  # the loop takes no turn meanwhile: nothing here awaits
                pass
            await asyncio.gather(*calls)
            assert broker.pool().waits == 19
            assert (broker.pool().size, broker.pool().active) == (1, 0)
            assert await broker.queue_size() == 20

    run(main)
    with MysqlBroker(database_url) as broker:
        tables.check(broker)


def test_who_waits_among_singles_has_the_connection_in_turn(database_url, monkeypatch):
    async def main():
        async with AsyncMysqlBroker(database_url, pool_config=ONE) as broker:
            await broker.queue_size()
            gate = Gate(monkeypatch, TASKS)
            before = [asyncio.create_task(broker.enqueue(new("x"))) for _ in range(3)]
            await gate.arrival()
            size = asyncio.create_task(broker.queue_size())
            gone = asyncio.create_task(broker.queue_size())
            await asyncio.sleep(0)
            after = [asyncio.create_task(broker.enqueue(new("x"))) for _ in range(3)]
            await asyncio.sleep(0)
            await cancelled(gone)
            gate.open.set()
            assert await size == 3
            await asyncio.gather(*before, *after)
            assert await broker.queue_size() == 6

    run(main)


def test_a_cancelled_single_is_sent_whole_or_not_at_all(database_url, tables, monkeypatch):
    async def main():
        async with AsyncMysqlBroker(database_url, pool_config=ONE) as broker:
            await broker.queue_size()
            gate = Gate(monkeypatch, TASKS)
            sent, waiting, last = (asyncio.create_task(broker.enqueue(new(name))) for name in ("a", "b", "c"))
            await gate.arrival()
            await cancelled(sent)
            await cancelled(waiting)
            gate.open.set()
            await last
            await settled(broker)
            assert [m.task.metadata.name for m in await broker.dequeue_batch(5)] == ["a", "c"]
            assert broker.pool().active == 0

    run(main)
    with MysqlBroker(database_url) as broker:
        tables.check(broker)


def test_a_single_that_fails_keeps_its_connection_to_itself(database_url, tables):
    async def main():
        async with AsyncMysqlBroker(database_url, pool_config=ONE) as broker:
            await broker.queue_size()
            task = new("x")
            calls = [broker.enqueue(task if number in (2, 7) else new("y")) for number in range(10)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(answer) for answer in answers].count(DuplicateTaskError) == 1
            assert await broker.queue_size() == 9
            assert (broker.pool().size, broker.pool().active) == (1, 0)

    run(main)
    with MysqlBroker(database_url) as broker:
        tables.check(broker)


@pytest.mark.parametrize("gone", [False, True])
def test_a_single_whose_connection_is_lost_is_stored_once(database_url, tables, monkeypatch, gone):
    async def main():
        async with AsyncMysqlBroker(database_url, pool_config=ONE) as broker:
            held = await broker._pool.acquire()
            lost = held.thread_id
            broker._pool.release(held)
            await broker.queue_size()
            gate = Gate(monkeypatch, TASKS)
            calls = [asyncio.create_task(broker.enqueue(new(str(number)))) for number in range(5)]
            await gate.arrival()
            tables.connection.cursor().execute(f"KILL {lost}")
            if gone:
                await cancelled(calls[0])
            gate.open.set()
            await asyncio.gather(*calls[gone:])
            await settled(broker)
            found = sorted(m.task.metadata.name for m in await broker.dequeue_batch(9))
            assert found == ["0", "1", "2", "3", "4"]
            assert broker.pool().active == 0

    run(main)
    with MysqlBroker(database_url) as broker:
        tables.check(broker)


def test_the_caller_of_a_discarded_connection_s_next_single_opens_one(database_url):
    async def main():
        async with AsyncMysqlBroker(database_url, pool_config=ONE) as broker:
            await broker.queue_size()
            held = await broker._pool.acquire()
            first, second, third = (asyncio.create_task(broker.enqueue(new("x"))) for _ in range(3))
            await asyncio.sleep(0)
            broker._pool.discard(held, lost=False)
            await cancelled(first)  # it was given the place, and passes it on
            await asyncio.gather(second, third)
            assert await broker.queue_size() == 2
            assert (broker.pool().size, broker.pool().active) == (1, 0)

    run(main)


def test_a_single_waits_no_longer_than_the_pool_allows(database_url):
    async def main():
        config = PoolConfig(max_connections=1, min_connections=0, acquire_timeout_secs=0.1)
        async with AsyncMysqlBroker(database_url, pool_config=config) as broker:
            await broker.queue_size()
            held = await broker._pool.acquire()
            for _ in range(2):
                calls = [broker.enqueue(new("x")) for _ in range(3)]
                answers = await asyncio.gather(*calls, return_exceptions=True)
                assert [type(answer) for answer in answers] == [PoolTimeoutError] * 3
            broker._pool.release(held)
            await broker.enqueue(new("x"))
            assert await broker.queue_size() == 1

    run(main)


@pytest.mark.spec("CONF-04")
def test_closing_refuses_singles_in_line_and_ends_what_was_sent(database_url, monkeypatch):
    async def main():
        broker = AsyncMysqlBroker(database_url, pool_config=ONE)
        await broker.queue_size()
        gate = Gate(monkeypatch, TASKS)
        sent = asyncio.create_task(broker.enqueue(new("a")))
        await gate.arrival()
        waiting = asyncio.create_task(broker.enqueue(new("b")))
        await asyncio.sleep(0)
        closing = asyncio.create_task(broker.close())
        with pytest.raises(BrokerError, match="closed"):
            await waiting
        gate.open.set()
        await sent
        await closing
        assert threads() == []

    run(main)
    with MysqlBroker(database_url) as broker:
        assert broker.queue_size() == 1


@pytest.mark.spec("CONF-05")
def test_a_thread_that_sends_singles_closes_an_old_connection(database_url, monkeypatch):
    async def main():
        config = PoolConfig(max_connections=1, min_connections=0, max_lifetime_secs=3600)
        async with AsyncMysqlBroker(database_url, pool_config=config) as broker:
            await broker.queue_size()
            gate = Gate(monkeypatch, TASKS)
            calls = [asyncio.create_task(broker.enqueue(new("x"))) for _ in range(5)]
            await gate.arrival()
            (connection,) = broker._pool._used
            connection._line.created_at -= 3601
            del connection
            gate.open.set()
            await asyncio.gather(*calls)
            assert await broker.queue_size() == 5
            assert broker.pool().size == 1
            assert broker.pool().failures == 0

    run(main)


def test_many_coroutines_store_singles_beside_everything_else(database_url, tables):
    async def main():
        async with AsyncMysqlBroker(database_url, pool_config=PoolConfig(max_connections=3)) as broker:

            async def produce():
                for _ in range(10):
                    await broker.enqueue(new("x"))
                    await broker.queue_size()

            async def give_up():
                for number in range(10):
                    call = asyncio.create_task(broker.enqueue(new("y")))
                    await asyncio.sleep(number / 5000)
                    call.cancel()
                    await asyncio.gather(call, return_exceptions=True)

            await asyncio.gather(*(produce() for _ in range(20)), *(give_up() for _ in range(10)))
            await settled(broker)
            assert 200 <= await broker.queue_size() <= 300
            assert broker.pool().active == 0

    run(main)
    with MysqlBroker(database_url) as broker:
        tables.check(broker)
