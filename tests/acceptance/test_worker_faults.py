"""The database goes away under running workers and producers, wholly or connection by connection."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import MySQLdb
import pytest

from celers import App
from celers.db.url import parse_url
from celers_fast.ids import uuid7_many
from tests.fixtures import jobs
from tests.fixtures.producers import store
from tests.fixtures.server import Database, database_at
from tests.fixtures.waiting import until
from tests.fixtures.workers import Acknowledgements, workers


class Producer(threading.Thread):
    """Enqueues until it is told to stop."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.app = App(url)
        self.ids: list[UUID] = []
        self.failed: BaseException | None = None
        self.enough = threading.Event()
        self.longest = 0.0

    def run(self) -> None:
        number = 0
        try:
            while not self.enough.is_set():
                ids = uuid7_many(random.choice([1, 1, 10, 50]))
                started = time.monotonic()
                store(self.app, jobs.counted.name, range(number, number + len(ids)), ids, 50)
                self.longest = max(self.longest, time.monotonic() - started)
                self.ids += ids
                number += len(ids)
                self.enough.wait(0.005)
        except BaseException as error:  # noqa: BLE001 - told to the test's thread
            self.failed = error
        finally:
            self.app.close()

    def finish(self) -> list[UUID]:
        self.enough.set()
        self.join(120)
        assert not self.is_alive()
        if self.failed is not None:
            raise self.failed
        return self.ids


@contextlib.contextmanager
def producing(url: str) -> Iterator[Producer]:
    producer = Producer(url)
    producer.start()
    try:
        yield producer
    finally:
        producer.enough.set()
        producer.join(60)


def check(database: Database, name: str, ids: list[UUID], logs: list[str]) -> None:
    """Every task is completed, and by exactly one reported acknowledgement: that of its last delivery."""
    stored = database.rows("SELECT id, state, deliveries, consumer_no FROM celers_tasks", database=name)
    assert {UUID(bytes=task_id) for task_id, *_ in stored} == set(ids)
    assert {state for _, state, *_ in stored} == {"completed"}
    expected = [(str(UUID(bytes=task_id)), delivery, consumer) for task_id, _, delivery, consumer in stored]
    assert sorted(Acknowledgements(logs).reported) == sorted(expected)
    results = database.rows("SELECT COUNT(*) FROM celers_task_results WHERE status='SUCCESS'", database=name)
    assert results == [(len(ids),)]


def completed(database: Database, name: str) -> int:
    return database.rows("SELECT COUNT(*) FROM celers_tasks WHERE state='completed'", database=name)[0][0]


@pytest.mark.spec("ARCH-12", "CORE-15")
@pytest.mark.parametrize("how", ["restart", "crash"])
def test_the_server_is_restarted(own_server, tmp_path: Path, how: str):
    socket = own_server.ensure_started()
    database = database_at(socket)
    with database.fresh_database("celers_restart") as url:
        app = App(url)
        app.broker.migrate()
        app.close()
        with workers(url, tmp_path) as group, producing(url) as producer:
            worker = group.start(processes=2, threads=2, lease=15)
            for _ in range(2):
                before = completed(database, "celers_restart")
                until(lambda before=before: completed(database, "celers_restart") > before + 200, 60)
                if how == "crash":
                    os.kill(own_server.status().server_pid, signal.SIGKILL)
                    until(lambda: not own_server.status().running)
                else:
                    own_server.stop()
                time.sleep(0.5)
                assert own_server.ensure_started() == socket
            before = completed(database, "celers_restart")
            until(lambda: completed(database, "celers_restart") > before + 200, 60)
            ids = producer.finish()
            until(lambda: completed(database, "celers_restart") == len(ids), 60)
            assert worker.stop() == 0
            check(database, "celers_restart", ids, [worker.log() for worker in group.started])


class Administrator(threading.Thread):
    """Kills connections, or their statements, at random moments."""

    def __init__(self, database: Database, name: str) -> None:
        super().__init__(daemon=True)
        self.database = database
        self.name_of_database = name
        self.enough = threading.Event()
        self.kills = {"KILL": 0, "KILL QUERY": 0}

    def run(self) -> None:
        rng = random.Random(7)
        connection = self.database.connect()
        own = connection.thread_id()
        with connection.cursor() as cursor:
            while not self.enough.wait(rng.uniform(0.005, 0.05)):
                cursor.execute(
                    "SELECT id FROM information_schema.processlist WHERE db=%s AND id<>%s",
                    (self.name_of_database, own),
                )
                found = [row[0] for row in cursor.fetchall()]
                if not found:
                    continue
                word = rng.choice(list(self.kills))
                with contextlib.suppress(MySQLdb.Error):
                    cursor.execute(f"{word} {rng.choice(found)}")
                    self.kills[word] += 1
        connection.close()


@pytest.mark.spec("ARCH-12", "CORE-15")
def test_an_administrator_kills_connections_and_statements(server: Database, database_url: str, tmp_path: Path):
    name = parse_url(database_url).database
    url = f"{database_url}&read_timeout=3" if "?" in database_url else f"{database_url}?read_timeout=3"
    administrator = Administrator(server, name)
    with workers(url, tmp_path) as group, producing(url) as first, producing(url) as second:
        worker = group.start(processes=2, threads=2, lease=15)
        until(lambda: completed(server, name) > 100)
        administrator.start()
        time.sleep(15)
        administrator.enough.set()
        administrator.join(10)
        ids = first.finish() + second.finish()
        until(lambda: completed(server, name) == len(ids), 60)
        assert worker.stop() == 0
        check(server, name, ids, [worker.log() for worker in group.started])
    assert min(administrator.kills.values()) > 20
    # One read timeout, the look-up of what became of it, and room for a slow machine.
    assert max(first.longest, second.longest) < 30
