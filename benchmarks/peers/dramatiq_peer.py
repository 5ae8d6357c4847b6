"""dramatiq on Redis: its default of eight threads in each process; a prefetch of 1000, twice as fast as its default."""

from __future__ import annotations

import logging
import os
import time
from importlib.metadata import version
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from benchmarks.driver import Driver, main
from benchmarks.peers.marks import mark
from benchmarks.tally import Tally

PREFETCH_VARIABLE = "dramatiq_queue_prefetch"
PREFETCH = "1000"


class DramatiqDriver(Driver):
    """Measures dramatiq."""

    module = "benchmarks.peers.dramatiq_peer"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        os.environ[PREFETCH_VARIABLE] = PREFETCH  # read by the workers when they import dramatiq
        logging.getLogger("dramatiq").setLevel(logging.ERROR)
        self.redis = redis.Redis(unix_socket_path=config["socket"])
        self.broker = RedisBroker(url=f"unix://{config['socket']}")
        dramatiq.set_broker(self.broker)
        self.task = dramatiq.actor(mark, actor_name="noop", broker=self.broker)

    def versions(self) -> dict[str, str]:
        """Return versions."""
        return {name: version(name) for name in ("dramatiq", "redis")}

    def clear(self) -> None:
        """Empty the queue."""
        self.redis.flushdb()

    def left(self) -> int:
        """Count messages that are not acknowledged."""
        return int(self.redis.hlen("dramatiq:default.msgs"))

    def enqueue(self, payload: str) -> None:
        """Store one task."""
        self.task.send(payload)

    def work(self, tally: Tally) -> None:
        """Run one worker process."""
        worker = dramatiq.Worker(self.broker)
        tally.wait_at_gate()
        worker.start()
        while True:
            time.sleep(1)


if __name__ == "__main__":
    main(DramatiqDriver)
