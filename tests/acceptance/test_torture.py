"""Worker processes that are killed all the time: nothing is lost and nothing is settled twice."""

from __future__ import annotations

import os
import random
import re
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
from tests.fixtures.workers import ROOT, WorkerProcess, workers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

TASKS = 20_000
KILLS = 12
KILLED_PROCESSES = KILLS + KILLS // 4  # every fourth kill takes two
IN_ONE_PACKET = 10


def start_producer(url: str, first: int, count: int, path: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.fixtures.producers", url, jobs.nap.name),
            *(str(value) for value in (first, count, 100, path)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def acknowledged(log: str) -> dict[str, list[int]]:
    """Which deliveries of each task were reported as completed."""
    found: dict[str, list[int]] = {}
    for task_id, delivery in re.findall(r"completed ([0-9a-f-]{36}) in delivery (\d+)", log):
        found.setdefault(task_id, []).append(int(delivery))
    return found


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
                running[number] = group.start(**options)
            else:
                victims = running[number].children()
                if victims:
                    os.kill(rng.choice(victims), signal.SIGKILL)
        for producer in producers:
            assert producer.wait(120) == 0
        ids = [line for path in paths for line in path.read_text().split()]
        assert len(ids) == len(set(ids)) >= TASKS
        until(lambda: (s := broker.get_statistics()).completed == len(ids) and not s.processing, 180)
        for worker in running:
            assert worker.stop() == 0
        statistics = broker.get_statistics()
        acks = acknowledged(group.logs())
    assert (statistics.pending, statistics.processing, statistics.failed, statistics.dlq) == (0, 0, 0, 0)
    stored = server.rows("SELECT id, state, deliveries FROM celers_tasks", database=database)
    deliveries = {str(UUID(bytes=task_id)): count for task_id, state, count in stored if state == "completed"}
    assert set(deliveries) == set(ids)
    # Each acknowledgement that was reported is the one that the row shows, and there is one for each task.
    wrong = {one: seen for one, seen in acks.items() if seen != [deliveries[one]]}
    assert wrong == {}
    # Only a process that was killed between its commit and its log line can have left some out: those of one packet.
    assert len(ids) - len(acks) <= KILLED_PROCESSES * IN_ONE_PACKET
    assert any(count > 1 for count in deliveries.values())
