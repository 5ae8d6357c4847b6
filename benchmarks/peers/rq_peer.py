"""RQ on Redis: `SimpleWorker`, which runs tasks in its own process as RQ's notes on performance advise; no results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import redis
from rq import Queue, SimpleWorker
from rq.registry import StartedJobRegistry

from benchmarks.driver import Driver, main
from benchmarks.tally import Tally

TASK = "benchmarks.peers.marks.mark"


class RqDriver(Driver):
    """Measures RQ."""

    module = "benchmarks.peers.rq_peer"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        logging.getLogger("rq").setLevel(logging.ERROR)
        self.redis = redis.Redis(unix_socket_path=config["socket"])
        self.queue = Queue("bench", connection=self.redis)

    def versions(self) -> dict[str, str]:
        """Return versions."""
        return {name: version(name) for name in ("rq", "redis")}

    def clear(self) -> None:
        """Empty the queue."""
        self.redis.flushdb()

    def left(self) -> int:
        """Count jobs that have not ended."""
        started = StartedJobRegistry(queue=self.queue)
        return int(self.queue.count) + int(self.redis.zcard(started.key))

    def enqueue(self, payload: str) -> None:
        """Store one task."""
        self.queue.enqueue(TASK, payload, result_ttl=0)

    def enqueue_many(self, payloads: Sequence[str]) -> None:
        """Store a batch in one pipeline."""
        self.queue.enqueue_many([Queue.prepare_data(TASK, args=(payload,), result_ttl=0) for payload in payloads])

    def work(self, tally: Tally) -> None:
        """Run one worker process."""
        worker = SimpleWorker([self.queue], connection=self.redis)
        tally.wait_at_gate()
        worker.work(logging_level="ERROR")


if __name__ == "__main__":
    main(RqDriver)
