"""`celers demo`, which the quickstart runs: the whole path once, on real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.fixtures.server import need_server, private_directory


def demo(*arguments: str, cwd, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "celers", "demo", *arguments],
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key != "CELERS_URL"} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture
def tree(tmp_path):
    """Sixty files of all kinds."""
    base = tmp_path / "tree with a space"
    for i in range(60):
        path = base / f"d{i % 7}" / f"file {i} ü"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(i * 50) if i % 2 else b"some text\n" * i)
    return base


@pytest.mark.spec("CORE-01", "RES-01")
def test_every_result_is_verified(tree, database_url, tmp_path):
    done = demo(str(tree), "--processes", "2", "--batch", "25", CELERS_URL=database_url, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 60 results verified" in done.stdout
    assert "p99" in done.stdout
    assert "What to try next" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_json_and_keep(tree, database_url, tmp_path):
    done = demo(
        str(tree), "--processes", "1", "--limit", "20", "--keep", "--json", CELERS_URL=database_url, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["tasks"], report["verified"], report["problems"]) == (20, 20, [])
    from celers import MysqlBroker

    with MysqlBroker(database_url, report["queue"], heartbeat=False) as broker:
        # One more: the task that told that the workers were up.
        assert broker.get_statistics().completed == 21


def test_nothing_is_left_behind(tree, database_url, tmp_path, server):
    assert demo(str(tree), "--limit", "20", CELERS_URL=database_url, cwd=tmp_path).returncode == 0
    name = database_url.split("?")[0].rsplit("/", 1)[1]
    for table in ("celers_tasks", "celers_ready", "celers_task_results"):
        assert server.rows(f"SELECT COUNT(*) FROM {table}", database=name)[0][0] == 0


def test_on_the_private_server_which_ends_afterwards(tree, tmp_path):
    need_server()
    with private_directory() as home:
        done = demo(str(tree), "--limit", "30", XDG_DATA_HOME=str(home), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all 30 results verified" in done.stdout
        status = subprocess.run(
            [sys.executable, "-m", "celers", "server", "status"],
            env={key: value for key, value in os.environ.items() if key != "CELERS_URL"} | {"XDG_DATA_HOME": str(home)},
            capture_output=True,
            timeout=60,
        )
        assert status.returncode == 3
