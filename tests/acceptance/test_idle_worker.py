"""What an idle worker costs the server, and how soon it starts what comes."""

from __future__ import annotations

import os
import time

import pytest

from celers import App
from tests.fixtures import jobs
from tests.fixtures.waiting import until
from tests.fixtures.workers import workers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

SECS = 20
MOST_A_SECOND = 0.5
WATCHER = 3  # an embedded server is looked after: a statement in ten seconds


@pytest.fixture
def app(database_url):
    jobs.app.connect_to(database_url)
    yield jobs.app
    jobs.app.close()


@pytest.fixture
def idle(app, database_url, tmp_path):
    """A worker of one process that has run a task and has nothing to do."""
    with workers(database_url, tmp_path) as group:
        worker = group.start(processes=1, lease=15)
        jobs.add.enqueue(1, 1)
        until(lambda: app.broker.get_statistics().completed == 1)
        time.sleep(1.0)
        yield worker


@pytest.mark.spec("CORE-16", "WORK-01")
def test_an_idle_worker_is_nearly_silent(idle, server):
    connection = server.connect()

    def questions() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Questions'")
            return int(cursor.fetchone()[1])

    before = questions()
    time.sleep(SECS)
    sent = questions() - before - 1
    connection.close()
    assert sent - WATCHER <= SECS * MOST_A_SECOND


@pytest.mark.spec("CORE-16")
def test_an_idle_worker_starts_a_task_at_once(idle, app: App):
    waits = []
    for number in range(2, 22):
        started = time.monotonic()
        task_id = jobs.add.enqueue(number, 1)
        until(lambda task_id=task_id: app.broker.get_task(task_id).state.value == "completed", every=0.001)
        waits.append(time.monotonic() - started)
        time.sleep(0.05)
    # Polling would take half a second; the figures without other load are in docs/adr/0006.
    assert sorted(waits)[len(waits) // 2] < 0.25
    assert max(waits) < 10


@pytest.mark.spec("CORE-16")
def test_a_worker_may_be_told_to_poll(app, database_url, tmp_path, server):
    with workers(database_url, tmp_path) as group:
        worker = group.start("--no-wake-up", processes=1)
        jobs.add.enqueue(1, 1)
        until(lambda: app.broker.get_statistics().completed == 1)
        time.sleep(0.5)
        assert not [row for row in server.rows("SHOW PROCESSLIST") if "GET_LOCK" in str(row) or "SLEEP" in str(row)]
        jobs.add.enqueue(1, 1)
        until(lambda: app.broker.get_statistics().completed == 2)
        assert worker.stop() == 0
