"""The command line as people and scripts use it: processes, a database, exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.fixtures.server import need_server, private_directory

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def celers(tmp_path, monkeypatch) -> Run:
    """Run `celers` with these arguments in an empty directory."""
    monkeypatch.delenv("CELERS_URL", raising=False)
    monkeypatch.delenv("CELERS_APP", raising=False)

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "celers", *arguments],
            cwd=tmp_path,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def printed(done: subprocess.CompletedProcess[str]):
    """What a command printed as JSON."""
    return json.loads(done.stdout)


def test_migrate_from_nothing(celers, empty_database_url):
    url = {"CELERS_URL": empty_database_url}
    assert celers("status", **url).returncode == 3
    assert celers("migrate", "--verify", **url).returncode == 3
    first = celers("migrate", "--json", **url)
    assert first.returncode == 0, first.stderr
    assert printed(first)["applied"][:2] == ["001", "002"]
    again = celers("migrate", **url)
    assert "nothing to do" in again.stdout
    verified = celers("migrate", "--verify", "--json", **url)
    assert verified.returncode == 0
    assert printed(verified)["schema_valid"] is True
    listed = celers("migrate", "--list", **url)
    assert listed.stdout.splitlines()[1].startswith("001")
    assert printed(celers("migrate", "--list", "--json", **url))[0]["version"] == "001"


def test_reporting_indexes_come_and_go(celers, empty_database_url):
    url = {"CELERS_URL": empty_database_url}
    made = celers("migrate", "--with", "reporting-indexes", "--json", **url)
    assert "003" in printed(made)["applied"]
    assert celers("migrate", "--verify", **url).returncode == 0
    gone = celers("migrate", "--without", "reporting-indexes", "--json", **url)
    assert printed(gone)["removed"] == ["003"]
    assert celers("migrate", "--verify", **url).returncode == 0


@pytest.mark.spec("CORE-01")
def test_enqueue_and_status(celers, database_url):
    one = celers("enqueue", "tasks.add", "--args", "[1, 2]", "--kwargs", '{"c": "ü"}', "--url", database_url)
    assert one.returncode == 0, one.stderr
    assert len(one.stdout.strip()) == 36
    many = celers("enqueue", "tasks.add", "-q", "other", "--count", "1500", "--json", CELERS_URL=database_url)
    assert len(set(printed(many)["ids"])) == 1500
    later = celers("enqueue", "tasks.add", "--delay", "3600", "--priority", "-3", "--url", database_url)
    assert later.returncode == 0
    shown = celers("status", "--url", database_url)
    assert "default" in shown.stdout
    assert "1,500" in shown.stdout
    found = {queue["name"]: queue for queue in printed(celers("status", "--json", "--url", database_url))["queues"]}
    assert found["default"]["pending"] == 2
    assert found["other"]["pending"] == 1500
    only = printed(celers("status", "--json", "-q", "other", "--url", database_url))
    assert [queue["name"] for queue in only["queues"]] == ["other"]


@pytest.mark.spec("IMPEX-06")
def test_the_payload_is_what_workers_read(celers, database_url):
    from celers import MysqlBroker

    celers("enqueue", "tasks.add", "--args", "[1]", "--kwargs", '{"b": "ü"}', "--url", database_url)
    with MysqlBroker(database_url, heartbeat=False) as broker:
        message = broker.dequeue()
        assert message is not None
        assert json.loads(message.task.payload) == [[1], {"b": "ü"}]
        assert message.task_name == "tasks.add"


TASKS = """
import celers

app = celers.App()

@app.task(queue="mail", priority=7, max_retries=5)
def send(to: str, subject: str = "") -> str:
    return to
"""


def test_enqueue_through_an_application(celers, database_url, tmp_path):
    from celers import MysqlBroker

    (tmp_path / "tasks.py").write_text(TASKS)
    settings = {"CELERS_URL": database_url, "CELERS_APP": "tasks"}
    done = celers("enqueue", "tasks.send", "--args", '["ada"]', **settings)
    assert done.returncode == 0, done.stderr
    named = celers("enqueue", "tasks.send", "--kwargs", '{"to": "eve"}', "--count", "2", **settings)
    assert named.returncode == 0, named.stderr
    for wrong in (["tasks.send"], ["tasks.send", "--args", "[1, 2, 3]"], ["tasks.other"]):
        refused = celers("enqueue", *wrong, **settings)
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1
    with MysqlBroker(database_url, "mail", heartbeat=False) as broker:
        messages = broker.dequeue_batch(10)
    assert [message.priority for message in messages] == [7, 7, 7]
    assert messages[0].task.metadata.max_retries == 5


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["status", "--url", "mysql://nobody@127.0.0.1:9/x"], 3, "cannot connect"),
        (["status", "--url", "nonsense"], 1, "bad database URL"),
        (["enqueue", "x", "--queue", " bad ", "--url", "{url}"], 2, "queue"),
        (["demo", "/nowhere/at/all", "--url", "{url}"], 1, "is not a directory"),
        (["migrate", "--table-prefix", "a-b", "--url", "{url}"], 2, "prefix"),
    ],
)
def test_failures_are_one_line(celers, database_url, arguments, status, said):
    filled = [argument.format(url=database_url) for argument in arguments]
    done = celers(*filled)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    as_json = celers(*filled, "--json")
    assert as_json.returncode == status
    assert said in printed(as_json)["error"]


def test_no_colours_and_no_bars_when_not_on_a_terminal(celers, database_url):
    done = celers("enqueue", "x", "--count", "3000", "--url", database_url)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\x1b" not in celers("status", "--url", database_url).stdout


def test_without_a_url_the_private_server_serves(celers):
    need_server()
    with private_directory() as home:
        try:
            done = celers("enqueue", "x", XDG_DATA_HOME=str(home))
            assert done.returncode == 0, done.stderr
            assert "private server" in done.stderr
            shown = celers("status", "--json", XDG_DATA_HOME=str(home))
            assert printed(shown)["queues"][0]["pending"] == 1
            assert shown.stderr == ""
        finally:
            assert celers("server", "stop", XDG_DATA_HOME=str(home)).returncode == 0
        assert celers("server", "status", XDG_DATA_HOME=str(home)).returncode == 3
