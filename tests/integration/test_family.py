"""The brokers of several queues that share a pool, the pool's limits, and the leadership."""

from __future__ import annotations

import asyncio
import gc

import pytest

from celers import AsyncMysqlBroker, BrokerError, MysqlBroker, PoolConfig, SerializedTask, ValidationError

pytestmark = pytest.mark.timeout(60)

new = SerializedTask.new
CONSUMERS = "SELECT COUNT(*) FROM celers_consumers"


@pytest.mark.spec("CONF-04", "CORE-15")
def test_closing_a_broker_closes_those_of_other_queues(make_broker, tables):
    broker = make_broker()
    children = [broker.for_queue(name) for name in ("one", "two")]
    children.append(children[0].for_queue("three"))
    for one in (broker, *children):
        one.enqueue(new("job"))
        message = one.dequeue()
        one.ack(message.task_id, message.receipt_handle)
    assert tables.value(CONSUMERS) == 4
    children[1].close()
    assert tables.value(CONSUMERS) == 3
    broker.close()
    assert tables.value(CONSUMERS) == 0
    for child in children:
        with pytest.raises(BrokerError):
            child.enqueue(new("job"))


@pytest.mark.spec("CONF-04", "CORE-15")
def test_a_broker_of_another_queue_that_was_forgotten_is_closed_too(make_broker, tables):
    broker = make_broker()
    assert broker.for_queue("one").dequeue() is None
    gc.collect()
    assert tables.value(CONSUMERS) == 1
    broker.close()
    assert tables.value(CONSUMERS) == 0


@pytest.mark.spec("CONF-05", "TYPE-42")
def test_the_default_of_min_connections_follows_a_small_maximum(make_broker):
    config = PoolConfig(max_connections=1)
    assert (config.min_connections, type(config.min_connections)) == (1, int)
    assert PoolConfig().min_connections == 2
    assert type(PoolConfig().min_connections) is int
    assert config.to_dict()["min_connections"] == 1
    assert PoolConfig(max_connections=2) == PoolConfig(max_connections=2, min_connections=2)
    with pytest.raises(ValidationError):
        PoolConfig(max_connections=1, min_connections=2)
    broker = make_broker(pool_config=config)
    broker.enqueue(new("job"))
    assert broker.dequeue() is not None


@pytest.mark.spec("ARCH-01")
def test_one_leader_of_blocking_and_asyncio_brokers(database_url, tables):
    async def main():
        async with AsyncMysqlBroker(database_url) as broker, AsyncMysqlBroker(database_url) as second:
            lead = await broker.try_lead()
            assert lead is not None
            assert await lead.alive()
            assert await second.try_lead() is None
            with MysqlBroker(database_url) as blocking:
                assert blocking.try_lead() is None
                await lead.release()
                await lead.release()
                assert not await lead.alive()
                other = blocking.try_lead()
                assert other is not None
                assert await broker.try_lead() is None
                other.release()
            lead = await second.try_lead()
            assert lead is not None
            name = f"KILL {lead._held._connection.thread_id}"
            tables.rows(name)
            assert not await lead.alive()
            await lead.release()

    asyncio.run(main())


@pytest.mark.spec("ARCH-01")
def test_a_cancelled_candidate_does_not_keep_the_leadership(database_url):
    async def main():
        async with AsyncMysqlBroker(database_url) as broker:
            for _ in range(5):
                candidate = asyncio.create_task(broker.try_lead())
                await asyncio.sleep(0)
                candidate.cancel()
                await asyncio.gather(candidate, return_exceptions=True)
                async with asyncio.timeout(10):
                    while (lead := await broker.try_lead()) is None:
                        await asyncio.sleep(0.01)
                await lead.release()

    asyncio.run(main())
