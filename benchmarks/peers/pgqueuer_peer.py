"""PgQueuer on PostgreSQL: asyncpg, uvloop, claims of 100 or, which is faster and as many as celers takes, of 500."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from importlib.metadata import version
from typing import Any

import asyncpg
import uvloop
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from benchmarks.driver import Driver, main
from benchmarks.peers.marks import mark
from benchmarks.tally import Tally


class PgQueuerDriver(Driver):
    """Measures PgQueuer."""

    module = "benchmarks.peers.pgqueuer_peer"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        logging.getLogger("pgqueuer").setLevel(logging.ERROR)
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.connection = self._do(self._connect())
        if "options" not in config:
            self.queries = Queries(AsyncpgDriver(self.connection))
            if not self._do(self.connection.fetchval("SELECT to_regclass('pgqueuer')::text")):
                self._do(self.queries.install())

    def _do(self, steps: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(steps)

    async def _connect(self) -> Any:
        config = self.config
        return await asyncpg.connect(host=config["host"], user=config["user"], database=config["database"])

    def versions(self) -> dict[str, str]:
        """Return versions."""
        return {name: version(name) for name in ("pgqueuer", "asyncpg", "uvloop")}

    def clear(self) -> None:
        """Empty the queue."""
        self._do(self.connection.execute("TRUNCATE pgqueuer, pgqueuer_log"))

    def left(self) -> int:
        """Count jobs that have not ended."""
        return int(self._do(self.connection.fetchval("SELECT count(*) FROM pgqueuer")))

    def enqueue(self, payload: str) -> None:
        """Store one task."""
        self._do(self.queries.enqueue("noop", payload.encode()))

    def enqueue_many(self, payloads: Sequence[str]) -> None:
        """Store a batch."""
        self._do(self._batches([payloads]))

    def enqueue_each(self, payloads: Sequence[str]) -> None:
        """Store tasks one at a time, in one coroutine."""

        async def each() -> None:
            enqueue = self.queries.enqueue
            for payload in payloads:
                await enqueue("noop", payload.encode())

        self._do(each())

    def enqueue_batches(self, batches: Sequence[Sequence[str]]) -> None:
        """Store batches, in one coroutine."""
        self._do(self._batches(batches))

    async def _batches(self, batches: Sequence[Sequence[str]]) -> None:
        for batch in batches:
            size = len(batch)
            await self.queries.enqueue(["noop"] * size, [payload.encode() for payload in batch], [0] * size)

    def fill(self, payloads: Sequence[str]) -> None:
        """Store many tasks; the statistics are brought up to date, without which claims of a full table are slow."""
        super().fill(payloads)
        self._do(self.connection.execute("ANALYZE pgqueuer"))

    def work(self, tally: Tally) -> None:
        """Run one worker process."""
        self._do(self._work(tally))

    async def _work(self, tally: Tally) -> None:
        manager = QueueManager(Queries(AsyncpgDriver(self.connection)))

        @manager.entrypoint("noop")
        async def noop(job: Job) -> None:
            mark(job.payload or b"")

        tally.wait_at_gate()
        await manager.run(batch_size=self.config["batch"])


if __name__ == "__main__":
    main(PgQueuerDriver)
