"""Celery, on kombu's sqlalchemy transport or on Redis.

Settings for many short tasks: no results, no events, a large prefetch, the solo pool (one process, no hop to a child),
as many processes as workers. The sqlalchemy transport looks once a second when idle: it hands the option for that to
SQLAlchemy, which refuses it.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from celery import Celery
from kombu import Connection

from benchmarks.driver import Driver, main
from benchmarks.peers.marks import mark
from benchmarks.tally import Tally

QUEUE = "celery"


class CeleryDriver(Driver):
    """Measures Celery."""

    module = "benchmarks.peers.celery_peer"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.sql = "database" in config
        if self.sql:
            broker = f"sqla+mysql+mysqldb://root@localhost/{config['database']}?unix_socket={config['socket']}"
        else:
            broker = f"redis+socket://{config['socket']}"
        self.app = Celery("benchmark", broker=broker)
        self.app.conf.update(
            task_ignore_result=True,
            worker_prefetch_multiplier=128,
            worker_send_task_events=False,
            broker_connection_retry_on_startup=True,
            worker_hijack_root_logger=False,
        )
        self.task = self.app.task(name="noop")(mark)

    def versions(self) -> dict[str, str]:
        """Return versions."""
        return {name: version(name) for name in ("celery", "kombu", "sqlalchemy" if self.sql else "redis")}

    def clear(self) -> None:
        """Empty the queue."""
        with self.app.connection_for_write() as connection:
            _purge(connection)
        if not self.sql:
            self._redis().flushdb()

    def left(self) -> int:
        """Count messages that nobody has taken."""
        if not self.sql:
            return int(self._redis().llen(QUEUE)) + int(self._redis().hlen("unacked"))
        with self.app.connection_for_read() as connection:
            return int(connection.default_channel._size(QUEUE))

    def _redis(self) -> Any:
        import redis

        return redis.Redis(unix_socket_path=self.config["socket"])

    def enqueue(self, payload: str) -> None:
        """Store one task."""
        self.task.delay(payload)

    def work(self, tally: Tally) -> None:
        """Run one worker process."""
        worker = self.app.Worker(
            pool="solo",
            concurrency=1,
            loglevel="ERROR",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            hostname=f"w{id(tally)}@localhost",
        )
        tally.wait_at_gate()
        worker.start()


def _purge(connection: Connection) -> None:
    channel = connection.default_channel
    channel.queue_declare(QUEUE)
    channel.queue_purge(QUEUE)


if __name__ == "__main__":
    main(CeleryDriver)
