"""Worker processes that are killed all the time: nothing is lost and nothing is settled twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import pytest

from celers import App
from celers.db.url import parse_url
from tests.fixtures import jobs
from tests.fixtures.waiting import until
from tests.fixtures.workers import ROOT, Acknowledgements, WorkerProcess, workers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

TASKS = 20_000
KILLS = 12


def start_producer(url: str, first: int, count: int, path: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.fixtures.producers", url, jobs.nap.name),
            *(str(value) for value in (first, count, 100, path)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


@pytest.mark.spec("CORE-15")
def test_workers_that_are_killed_every_second(database_url, tmp_path, server):
    """Two workers of two processes each; every fourth kill takes a whole worker, which is then started anew."""
    rng = random.Random(20260101)
    database = parse_url(database_url).database
    paths = [tmp_path / "ids-0", tmp_path / "ids-1"]
    with workers(database_url, tmp_path) as group:
        options = {"processes": 2, "threads": 1, "lease": 4}
        running: list[WorkerProcess] = [group.start(**options) for _ in range(2)]
        producers = [
            start_producer(database_url, number * TASKS, TASKS // 2, path) for number, path in enumerate(paths)
        ]
        extra = 0
        killed: set[int] = set()
        broker = App(database_url).broker
        for kill in range(KILLS):
            until(lambda: sum(len(worker.children()) for worker in running) >= 3)
            # Time must go by between two kills: this is the one thing that is not waited for.
            time.sleep(1.0)
            if broker.queue_size() < 2000 and all(one.poll() is not None for one in producers):
                extra += 1
                paths.append(tmp_path / f"ids-extra-{extra}")
                producers.append(start_producer(database_url, (9 + extra) * TASKS, 4000, paths[-1]))
            number = rng.randrange(2)
            if kill % 4 == 3:
                running[number].kill()
                killed.update(running[number].ever_started())
                running[number] = group.start(**options)
            else:
                victims = running[number].children()
                if victims:
                    victim = rng.choice(victims)
                    killed.add(victim)
                    os.kill(victim, signal.SIGKILL)
        for producer in producers:
            assert producer.wait(120) == 0
        ids = [line for path in paths for line in path.read_text().split()]
        assert len(ids) == len(set(ids)) >= TASKS
        until(lambda: (s := broker.get_statistics()).completed == len(ids) and not s.processing, 180)
        for worker in running:
            assert worker.stop() == 0
        statistics = broker.get_statistics()
        acks = Acknowledgements([worker.log() for worker in group.started])
    assert (statistics.pending, statistics.processing, statistics.failed, statistics.dlq) == (0, 0, 0, 0)
    stored = server.rows("SELECT id, state, deliveries, consumer_no FROM celers_tasks", database=database)
    completed = {
        (str(UUID(bytes=task_id)), delivery, consumer)
        for task_id, state, delivery, consumer in stored
        if state == "completed"
    }
    assert sorted(task_id for task_id, _, _ in completed) == sorted(ids)
    # No acknowledgement was reported twice, and each is the delivery, to the consumer, that the row shows: a task has
    # one row, so at most one acknowledgement of it was reported.
    assert len(acks.reported) == len(set(acks.reported))
    assert set(acks.reported) <= completed
    # The others are exactly those that processes were killed with: intended in their last packet, stored by it, and
    # not confirmed to them any more. A process that was not killed has confirmed everything that it did.
    committed_by_the_killed = {
        receipt for pid in killed for receipt in acks.in_flight.get(pid, ()) if receipt in completed
    }
    assert completed - set(acks.reported) == committed_by_the_killed
    assert any(delivery > 1 for _, delivery, _ in completed)
