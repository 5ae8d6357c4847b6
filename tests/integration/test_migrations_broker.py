"""Migrations and procedures together with the brokers."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit
from uuid import UUID

import pytest

import celers
from celers.errors import ConfigurationError
from celers.model.task import SerializedTask
from tests.fixtures.migrations import REQUIRED


@pytest.mark.spec("MIG-02", "MIG-06", "OPS-03")
def test_the_blocking_broker_migrates(empty_database_url) -> None:
    with celers.MysqlBroker(empty_database_url) as broker:
        with pytest.raises(ConfigurationError, match="celers migrate"):
            broker.enqueue(SerializedTask.new("t"))
        assert not broker.verify_migrations().is_complete
        assert broker.migrate() == REQUIRED
        assert broker.migrate(reporting_indexes=True) == ["003"]
        assert [info.version for info in broker.list_migrations()] == sorted([*REQUIRED, "003"])
        assert broker.migrations.verify() == broker.verify_migrations()
        assert broker.verify_migrations().is_complete


@pytest.mark.spec("MIG-02", "ARCH-01")
def test_the_asyncio_broker_migrates(empty_database_url) -> None:
    async def run() -> None:
        async with celers.AsyncMysqlBroker(empty_database_url, table_prefix="aio_") as broker:
            assert await broker.migrate() == REQUIRED
            assert await broker.migrate() == []
            assert (await broker.verify_migrations()).is_complete
            assert len(await broker.list_migrations()) == 6

    asyncio.run(run())


@pytest.mark.spec("CORE-08", "DLQ-01", "DLQ-03", "INSP-03")
def test_brokers_understand_what_procedures_did(server, database_url) -> None:
    database = urlsplit(database_url).path[1:]

    def call(text: str) -> list[tuple]:
        return server.rows(text, database=database)

    with celers.MysqlBroker(database_url, "mail") as broker:
        ((low,),) = call("CALL celers_enqueue('mail', 'low', '[[], {}]', -5, 0)")
        ((high,),) = call("CALL celers_enqueue('mail', 'high', '[[1], {}]', 5, NULL)")
        ((later,),) = call("CALL celers_enqueue('mail', 'later', '', 0, 600)")
        assert broker.get_statistics().pending == 3
        message = broker.dequeue()
        assert message is not None
        assert (str(message.task_id), message.task_name, message.priority) == (high, "high", 5)
        assert message.task.payload == b"[[1], {}]"
        child = broker.enqueue(SerializedTask.new("child", dependencies=[UUID(high)]))

        call(f"CALL move_to_dlq('{high}')")
        call(f"CALL move_to_dlq('{later}')")
        found = broker.get_statistics()
        assert (found.pending, found.processing, found.cancelled, found.dlq) == (1, 0, 1, 2)
        cancelled = broker.get_task(child)
        assert cancelled is not None
        assert high in str(cancelled.error_message)
        letters = {str(letter.task_id): letter for letter in broker.list_dlq(10, 0)}
        assert set(letters) == {high, later}
        message = broker.dequeue()
        assert message is not None
        assert str(message.task_id) == low
        assert broker.dequeue() is None
