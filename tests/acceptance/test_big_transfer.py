"""Export of 200,000 tasks and import into another database: same content, little memory, progress on a terminal."""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from celers import DbTaskState, MysqlBroker, SerializedTask
from tests.fixtures.tables import Tables

MANY = 200_000
BATCH = 5_000
MOST_BYTES = 200 * 1024 * 1024

# Everything of a task but the number that the database gives it, and what only deliveries change.
TASKS = """
SELECT COUNT(*), BIT_XOR(CAST(CONV(LEFT(digest, 16), 16, 10) AS UNSIGNED)) FROM (
  SELECT SHA2(CONCAT_WS('|', HEX(t.id), t.task_name, HEX(t.payload), t.payload_encoding, t.state, t.priority,
    t.retry_count, t.max_retries, IFNULL(t.timeout_secs, '-'), t.created_at, t.scheduled_at, IFNULL(t.started_at, '-'),
    IFNULL(t.completed_at, '-'), IFNULL(w.worker_id, '-'), t.unmet_dependencies, IFNULL(t.error_message, '-'),
    IFNULL(t.metadata, '-'), IFNULL(t.retry_policy, '-'), IFNULL(t.group_id, '-'), IFNULL(HEX(t.chord_id), '-'),
    IFNULL(HEX(t.parent_task_id), '-')), 256) AS digest
  FROM celers_tasks t LEFT JOIN celers_workers w ON w.worker_no = t.worker_no) each_task
"""
DEPENDENCIES = """
SELECT COUNT(*), BIT_XOR(CAST(CONV(LEFT(digest, 16), 16, 10) AS UNSIGNED)) FROM (
  SELECT SHA2(CONCAT_WS('|', HEX(task_id), HEX(parent_task_id), satisfied), 256) AS digest
  FROM celers_task_dependencies) each_dependency
"""
PLACES = """
SELECT (SELECT COUNT(*) FROM celers_ready), (SELECT COUNT(*) FROM celers_scheduled),
  (SELECT COUNT(*) FROM celers_blocked)
"""


@dataclass(frozen=True)
class Ended:
    """A finished child: what it said on its terminal, what it took."""

    status: int
    said: str
    seconds: float
    max_bytes: int


def run_on_terminal(*arguments: str, url: str, cwd: Path) -> Ended:
    """Run `celers` with a terminal as its standard error."""
    master, slave = pty.openpty()
    said: list[bytes] = []

    def listen() -> None:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the last one to hold the terminal has closed it
                return
            said.append(data)

    listener = threading.Thread(target=listen)
    listener.start()
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "celers", *arguments],
        cwd=cwd,
        env={**os.environ, "CELERS_URL": url},
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    listener.join()
    os.close(master)
    unit = 1 if sys.platform == "darwin" else 1024
    return Ended(child.returncode, b"".join(said).decode(), time.monotonic() - started, usage.ru_maxrss * unit)


def fill(broker: MysqlBroker, tables: Tables) -> None:
    """Make tasks in every state, some of them scheduled, some waiting for others."""
    parent = SerializedTask.new("parent")
    broker.enqueue(parent)
    for at in range(0, MANY - 1, BATCH):
        tasks = [
            SerializedTask.new(
                f"job{number % 17}",
                number.to_bytes(4, "big") * 25,
                priority=number % 3,
                timeout=30 if number % 5 == 0 else None,
                group_id=f"group{number % 7}" if number % 2 else None,
                extra={"customer": {"id": number, "name": "Ä"}} if number % 4 == 0 else None,
                dependencies=[parent.metadata.id] if at == 0 else (),
            )
            for number in range(at, min(at + BATCH, MANY - 1))
        ]
        delay = 86_400 if at % (4 * BATCH) == BATCH else 0
        ids = broker.producer.submit(tasks, delay_secs=delay)
        state = {2: DbTaskState.COMPLETED, 5: DbTaskState.FAILED, 7: DbTaskState.CANCELLED}.get(at // BATCH % 8)
        if state is not None:
            assert broker.update_batch_state(ids, state) == len(ids)
    assert tables.value("SELECT COUNT(*) FROM celers_tasks") == MANY


def content(path: Path) -> str:
    """Digest of an export without its first line, which tells the time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.readline()
        for line in file:
            digest.update(line)
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.spec("IMPEX-01", "IMPEX-02", "IMPEX-03", "TEST-02")
def test_two_hundred_thousand_tasks(server, database_url, tmp_path, capsys):
    tables = Tables(server, database_url)
    with MysqlBroker(database_url, heartbeat=False) as broker:
        fill(broker, tables)
        before = broker.get_statistics()
    out = run_on_terminal("export", "tasks.jsonl", url=database_url, cwd=tmp_path)
    assert out.status == 0, out.said
    assert f"{MANY:,}/{MANY:,} (100%)" in out.said
    assert f"exported {MANY:,} tasks to tasks.jsonl" in out.said
    assert out.max_bytes < MOST_BYTES
    with server.fresh_database(f"celers_other_{os.getpid()}") as other_url:
        with MysqlBroker(other_url, heartbeat=False) as other:
            other.migrate()
            into = run_on_terminal("import", "tasks.jsonl", url=other_url, cwd=tmp_path)
            assert into.status == 0, into.said
            assert "read " in into.said
            assert f"{MANY:,}/{MANY:,} (100%)" in into.said
            assert into.max_bytes < MOST_BYTES
            assert other.get_statistics() == before
        there = Tables(server, other_url)
        for query in (TASKS, DEPENDENCIES, PLACES):
            assert there.rows(query) == tables.rows(query)
        there.connection.close()
        again = run_on_terminal("export", "again.jsonl", url=other_url, cwd=tmp_path)
        assert again.status == 0, again.said
        assert content(tmp_path / "again.jsonl") == content(tmp_path / "tasks.jsonl")
    tables.connection.close()
    with capsys.disabled():
        size = (tmp_path / "tasks.jsonl").stat().st_size
        print(
            f"\n{server.version}: {MANY:,} tasks, {size / 1e6:.0f} MB of JSON;"
            f" export {out.seconds:.1f} s, {out.max_bytes / 1e6:.0f} MB of memory;"
            f" import {into.seconds:.1f} s, {into.max_bytes / 1e6:.0f} MB of memory"
        )
