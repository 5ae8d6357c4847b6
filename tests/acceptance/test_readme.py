"""The README's tour, run as it is printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import MySQLdb
import pytest

README = Path(__file__).parents[2] / "README.md"
# A program and its arguments after the prompt; what follows on other lines is a comment of the text.
COMMAND = re.compile(r"^\$ (celers .*)$", re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def tour(tmp_path) -> Path:
    """A directory with the files of the tour, each named in the first line of its block."""
    for block in blocks("python"):
        name = re.match(r"# (\w+\.py)\n", block)
        assert name, f"a block of Python without a file's name:\n{block}"
        (tmp_path / name[1]).write_text(block)
    return tmp_path


def expected(program: str) -> list[str]:
    """What the comments beside the calls of print say, as far as they say it exactly."""
    found = re.findall(r"^\s*print\(.*\)\s+# (.*)$", program, re.MULTILINE)
    return [text.split(",")[0] for text in found]


def run(*arguments: str, cwd: Path, **settings) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=cwd, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **settings
    )


@pytest.mark.spec("TEST-06")
def test_the_tour(tour, database_url, monkeypatch):
    monkeypatch.setenv("CELERS_URL", database_url)
    commands = [shlex.split(line) for line in COMMAND.findall(README.read_text("utf-8"))]
    assert ["celers", "status"] in commands
    (worker_command,) = [words for words in commands if words[1] == "worker"]
    log = (tour / "worker.log").open("wb")
    worker = subprocess.Popen(
        [sys.executable, "-m", *worker_command], cwd=tour, stdout=log, stderr=log, stdin=subprocess.DEVNULL
    )
    try:
        for name in ("enqueue.py", "enqueue_async.py", "buffered.py"):
            done = run(sys.executable, name, cwd=tour)
            assert done.returncode == 0, done.stdout + done.stderr + (tour / "worker.log").read_text()
            lines = iter(done.stdout.splitlines())
            for text in expected((tour / name).read_text()):
                line = next(lines)
                assert line.startswith(text.removesuffix("...")), done.stdout
        for words in commands:
            if words[1] not in ("worker", "server", "migrate"):
                done = run(sys.executable, "-m", *words, cwd=tour)
                assert done.returncode == 0, done.stderr
                assert done.stdout
        assert worker.poll() is None, (tour / "worker.log").read_text()
    finally:
        worker.terminate()
        status = worker.wait(60)
        log.close()
    assert status == 0, (tour / "worker.log").read_text()


def test_enqueue_in_a_transaction_of_ones_own(tour, database_url, server, monkeypatch):
    name = database_url.split("?")[0].rsplit("/", 1)[1]
    connection: MySQLdb.Connection = server.connect(name, autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, customer VARCHAR(50))")
    program = (
        "import sys, MySQLdb\n"
        "from orders import place_order\n"
        "connection = MySQLdb.connect(**eval(sys.argv[1]))\n"
        "place_order(connection, 'Ada')\n"
        "connection.close()\n"
    )
    monkeypatch.setenv("CELERS_URL", database_url)
    arguments = {**server._arguments, "autocommit": False, "database": name}
    settings = repr({key: value for key, value in arguments.items() if value != ""})
    done = run(sys.executable, "-c", program, settings, cwd=tour, env={**os.environ, "PYTHONPATH": str(tour)})
    assert done.returncode == 0, done.stderr
    assert server.rows("SELECT customer FROM orders", database=name) == [("Ada",)]
    stored = server.rows("SELECT task_name FROM celers_tasks", database=name)
    assert [found[0] for found in stored] in ([b"tasks.send_receipt"], ["tasks.send_receipt"])
    connection.close()


def test_links_lead_somewhere():
    text = README.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (README.parent / target).exists(), target
