"""huey on its SQL storage (peewee) with MySQL: no results, one thread in each process, a look every 100 ms."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any

from huey.contrib.sql_huey import SqlHuey
from peewee import MySQLDatabase

from benchmarks.driver import Driver, main
from benchmarks.peers.marks import mark
from benchmarks.tally import Tally


class HueyDriver(Driver):
    """Measures huey."""

    module = "benchmarks.peers.huey_peer"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        logging.getLogger("huey").setLevel(logging.ERROR)
        self.database = MySQLDatabase(config["database"], user="root", unix_socket=config["socket"])
        self.huey = SqlHuey("bench", database=self.database, results=False)
        self.task = self.huey.task(name="noop")(_noop)

    def versions(self) -> dict[str, str]:
        """Return versions."""
        return {name: version(name) for name in ("huey", "peewee")}

    def clear(self) -> None:
        """Empty the queue."""
        self.huey.flush()

    def left(self) -> int:
        """Count stored tasks."""
        return int(self.huey.pending_count())

    def enqueue(self, payload: str) -> None:
        """Store one task."""
        self.task(payload)

    def work(self, tally: Tally) -> None:
        """Run one worker process."""
        consumer = self.huey.create_consumer(
            workers=1, worker_type="thread", initial_delay=0.1, max_delay=0.1, periodic=False, check_worker_health=False
        )
        tally.wait_at_gate()
        consumer.run()


def _noop(payload: str) -> None:
    mark(payload)


if __name__ == "__main__":
    main(HueyDriver)
