"""A server that is restarted while it is in use."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from celers import (
    AsyncMysqlBroker,
    BrokerConnectionError,
    BrokerError,
    CelersError,
    DuplicateTaskError,
    InvalidStateTransitionError,
    MysqlBroker,
    SerializedTask,
)
from tests.fixtures.cuts import drain
from tests.fixtures.server import database_at
from tests.fixtures.waiting import until

pytestmark = [pytest.mark.spec("ARCH-12", "TEST-05"), pytest.mark.timeout(60)]
new = SerializedTask.new


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_server_restarted_under_use(own_server, how):
    import os
    import signal

    url = database_at(own_server.ensure_started()).url("celers")
    with MysqlBroker(url, heartbeat=False) as broker:
        broker.migrate()
        held = broker.enqueue(new("job"))
        message = broker.dequeue()
        ids, errors = [], []
        stop = threading.Event()

        def produce():
            while not stop.is_set():
                task = new("job")
                while True:
                    try:
                        broker.enqueue(task)
                    except DuplicateTaskError:
                        pass
                    except CelersError as error:
                        errors.append(error)
                        time.sleep(0.02)
                        continue
                    ids.append(task.metadata.id)
                    break

        producers = [threading.Thread(target=produce, daemon=True) for _ in range(2)]
        for producer in producers:
            producer.start()
        until(lambda: len(ids) > 20)
        if how == "stop":
            own_server.stop()
        else:
            os.kill(own_server.status().server_pid, signal.SIGKILL)
        own_server.ensure_started()
        before = len(ids)
        until(lambda: len(ids) > before + 20)
        stop.set()
        for producer in producers:
            producer.join(30)
            assert not producer.is_alive()
        assert all(isinstance(error, BrokerError) for error in errors), errors
        broker.ack(held, message.receipt_handle)
        with pytest.raises(InvalidStateTransitionError):
            broker.ack(held)
        assert sorted(message.task_id for message in drain(broker)) == sorted(ids)


def test_an_asyncio_broker_over_a_restart(own_server):
    async def main():
        url = database_at(own_server.ensure_started()).url("celers")
        async with AsyncMysqlBroker(url, heartbeat=False) as broker:
            await broker.migrate()
            await asyncio.gather(*(broker.enqueue(new("job")) for _ in range(10)))
            message = await broker.dequeue()
            loop = asyncio.get_running_loop()
            stopping = threading.Thread(target=lambda: (own_server.stop(), own_server.ensure_started()))
            stopping.start()
            while stopping.is_alive():
                with contextlib.suppress(BrokerConnectionError):
                    await broker.queue_size()
                await asyncio.sleep(0.01)
            assert loop.is_running()
            await broker.ack(message.task_id, message.receipt_handle)
            assert len(await broker.dequeue_batch(20)) == 9

    asyncio.run(asyncio.wait_for(main(), 50))
