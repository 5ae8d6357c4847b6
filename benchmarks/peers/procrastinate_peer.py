"""Procrastinate on PostgreSQL: ten tasks at a time in each worker, woken by notifications."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import procrastinate
import psycopg

from benchmarks.driver import Driver, main
from benchmarks.peers.marks import mark
from benchmarks.tally import Tally

CONCURRENCY = 10


class ProcrastinateDriver(Driver):
    """Measures Procrastinate."""

    module = "benchmarks.peers.procrastinate_peer"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        self.conninfo = f"host={config['host']} user={config['user']} dbname={config['database']}"
        self.connection = psycopg.connect(self.conninfo, autocommit=True)
        self.app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=self.conninfo))
        self.app.open()
        if "options" not in config and not self._rows("SELECT to_regclass('procrastinate_jobs')::text")[0][0]:
            self.app.schema_manager.apply_schema()
        self.task = self.app.task(name="noop")(_noop)

    def _rows(self, text: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall() if cursor.description else []

    def versions(self) -> dict[str, str]:
        """Return versions."""
        return {name: version(name) for name in ("procrastinate", "psycopg")}

    def clear(self) -> None:
        """Empty the queue."""
        self._rows("TRUNCATE procrastinate_jobs CASCADE")

    def left(self) -> int:
        """Count jobs that have not ended."""
        return int(self._rows("SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')")[0][0])

    def enqueue(self, payload: str) -> None:
        """Store one task."""
        self.task.defer(payload=payload)

    def enqueue_many(self, payloads: Sequence[str]) -> None:
        """Store a batch."""
        self.task.batch_defer(*({"payload": payload} for payload in payloads))

    def work(self, tally: Tally) -> None:
        """Run one worker process."""
        asyncio.run(self._work(tally))

    async def _work(self, tally: Tally) -> None:
        app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=self.conninfo))
        app.task(name="noop")(_noop)
        async with app.open_async():
            tally.wait_at_gate()
            await app.run_worker_async(concurrency=CONCURRENCY)


async def _noop(payload: str) -> None:
    mark(payload)


if __name__ == "__main__":
    main(ProcrastinateDriver)
