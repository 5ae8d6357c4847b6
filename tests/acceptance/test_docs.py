"""What docs/upkeep.md shows, done as it is printed, beside the tasks of the README."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celers import Completion, SerializedTask
from tests.fixtures.waiting import until

ROOT = Path(__file__).parents[2]


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[list[str]]:
    """The commands behind the prompts, as words; comments are left out."""
    lines = [line for block in blocks(document, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line[2:], comments=True) for line in lines]


def command(*begin: str) -> list[str]:
    """The one command of the document with these words in it."""
    (found,) = [words for words in commands("docs/upkeep.md") if set(begin) <= set(words)]
    return found


@pytest.fixture
def place(tmp_path, database_url, monkeypatch) -> Path:
    """A directory with the files that the README and the document print, on an empty database."""
    monkeypatch.setenv("CELERS_URL", database_url)
    for document in ("README.md", "docs/upkeep.md"):
        for block in blocks(document, "python"):
            name = re.match(r"# (\w+\.py)\n", block)
            assert name, f"a block of Python without a file's name:\n{block}"
            (tmp_path / name[1]).write_text(block)
    return tmp_path


def run(words: list[str], place: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


Aged = Callable[[str, str, int], None]


@pytest.fixture
def aged(tables) -> Aged:
    """A function that makes rows of a table older: by a column, so many hours."""

    def make(table: str, column: str, hours: int) -> None:
        created = "" if table == "dead_letter_queue" else f", created_at = created_at - INTERVAL {hours} HOUR"
        tables.rows(f"UPDATE celers_{table} SET {column} = {column} - INTERVAL {hours} HOUR{created}")

    return make


def finish(broker) -> None:
    """Complete a task with a result, and let another one become a dead letter."""
    broker.enqueue_batch([SerializedTask.new("tasks.add", b"[[1, 2], {}]", max_retries=0) for _ in range(2)])
    one, other = broker.dequeue_batch(2)
    broker.consumer.complete([Completion(one, "3")])
    broker.reject(other.task_id, other.receipt_handle)


@pytest.mark.spec("MAINT-04", "DLQ-07", "RES-06", "TEST-06")
def test_upkeep_by_hand_as_printed(place, sync_broker, tables, aged):
    def count(table: str) -> int:
        return tables.value(f"SELECT COUNT(*) FROM celers_{table}")

    finish(sync_broker)
    for words, table, column, kept, gone in (
        (command("maintain", "--yes"), "tasks", "completed_at", 29 * 24, 31 * 24),
        (command("dlq", "purge"), "dead_letter_queue", "failed_at", 719, 721),
        (command("results", "purge"), "task_results", "completed_at", 167, 169),
    ):
        aged(table, column, kept)
        assert run(words, place)
        assert count(table) == 1, words
        aged(table, column, gone - kept)
        assert run(words, place)
        assert count(table) == 0, words
    for words in commands("docs/upkeep.md"):
        if words[1] != "worker":
            assert run(words, place)


@contextlib.contextmanager
def running(words: list[str], place: Path) -> Iterator[None]:
    """Run a worker; it has to end well when it is told to."""
    path = place / "worker.log"
    with path.open("wb") as log:
        worker = subprocess.Popen([sys.executable, *words], cwd=place, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        worker.terminate()
        status = worker.wait(60)
    assert status == 0, path.read_text()


@pytest.mark.spec("MAINT-04", "RES-06", "TEST-06")
@pytest.mark.parametrize("words", [["-m", *command("worker")], ["worker.py"]], ids=["command", "program"])
def test_upkeep_by_a_worker_as_printed(place, sync_broker, tables, aged, words):
    finish(sync_broker)
    aged("tasks", "completed_at", 31 * 24)
    aged("task_results", "completed_at", 8 * 24)
    fresh = sync_broker.enqueue(SerializedTask.new("tasks.add", b"[[20, 22], {}]"))
    with running(words, place):
        until(lambda: sync_broker.get_result(fresh))
        assert sync_broker.get_result(fresh).result == 42
        until(lambda: tables.value("SELECT COUNT(*) FROM celers_task_results") == 1)
        until(lambda: tables.value("SELECT COUNT(*) FROM celers_tasks") == 1)
        assert tables.value("SELECT COUNT(*) FROM celers_dead_letter_queue") == 1
