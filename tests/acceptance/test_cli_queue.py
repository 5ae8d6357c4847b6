"""`celers queue` and `celers db` as people and scripts use them."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from celers import MysqlBroker, SerializedTask
from tests.acceptance.test_cli import celers, printed  # noqa: F401 - the fixture


@pytest.fixture
def filled(database_url):
    """A broker on a queue with a finished, a processing and two pending tasks, one of them scheduled."""
    with MysqlBroker(database_url, heartbeat=False) as broker:
        broker.enqueue_batch([SerializedTask.new("job") for _ in range(3)])
        broker.ack(broker.dequeue().task_id)
        broker.dequeue()
        broker.enqueue_after(SerializedTask.new("job"), 3600)
        yield broker


@pytest.mark.spec("INSP-03", "CTRL-03", "CTRL-06")
def test_queues_are_listed(celers, database_url, filled):  # noqa: F811
    url = {"CELERS_URL": database_url}
    filled.for_queue("other").enqueue(SerializedTask.new("job"))
    filled.for_queue("other").pause()
    shown = celers("queue", "list", **url)
    assert shown.returncode == 0, shown.stderr
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["queue", "default", "other"]
    assert shown.stdout.splitlines()[2].endswith("paused")
    default, other = printed(celers("queue", "list", "--json", **url))
    assert (default["pending"], default["processing"], default["completed"], default["paused"]) == (2, 1, 1, False)
    assert (other["name"], other["total"], other["paused"]) == ("other", 1, True)
    one = celers("queue", "show", **url)
    assert one.returncode == 0, one.stderr
    assert "2, of which 1 are scheduled" in one.stdout
    assert printed(celers("queue", "show", "-q", "other", "--json", **url))["scheduled"] == 0
    missing = celers("queue", "show", "-q", "none", **url)
    assert missing.returncode == 1
    assert "no queue 'none'" in missing.stderr
    assert "error" in printed(celers("queue", "show", "-q", "none", "--json", **url))
    assert filled.queue.names() == ["default", "other"], "a look makes no queue"


def test_a_database_without_queues(celers, database_url):  # noqa: F811
    assert celers("queue", "list", CELERS_URL=database_url).stdout == "no queues yet\n"
    assert printed(celers("queue", "list", "--json", CELERS_URL=database_url)) == []


@pytest.mark.spec("CTRL-01", "CTRL-02", "CTRL-04", "CTRL-05")
def test_queues_are_paused_and_drained(celers, database_url, filled):  # noqa: F811
    url = {"CELERS_URL": database_url}
    assert celers("queue", "pause", **url).stdout == "queue default is paused\n"
    assert filled.is_paused()
    assert celers("queue", "drain", **url).stdout == "queue default is paused, draining\n"
    assert filled.is_drain_mode()
    assert celers("queue", "resume", **url).stdout == "queue default is draining\n"
    assert printed(celers("queue", "undrain", "--json", **url)) == {
        "name": "default",
        "paused": False,
        "draining": False,
    }
    new = celers("queue", "pause", "-q", "new", **url)
    assert (new.returncode, new.stdout) == (0, "queue new is paused\n")
    assert "'new' is new" in new.stderr


@pytest.mark.spec("CTRL-07")
def test_a_script_asks_whether_there_is_room(celers, database_url, filled):  # noqa: F811
    url = {"CELERS_URL": database_url}
    assert celers("queue", "capacity", "3", **url).returncode == 0
    full = celers("queue", "capacity", "2", "--json", **url)
    assert full.returncode == 1
    assert printed(full) == {"name": "default", "pending": 2, "limit": 2, "has_capacity": False}
    assert "no room" in celers("queue", "capacity", "0", **url).stdout
    for bad in ("-1", "x"):
        assert celers("queue", "capacity", bad, **url).returncode == 2
    assert celers("queue", "capacity", "5", "-q", "none", **url).returncode == 1


@pytest.mark.spec("MAINT-08")
def test_tasks_are_deleted_only_when_it_is_meant(celers, database_url, filled):  # noqa: F811
    url = {"CELERS_URL": database_url}
    unasked = celers("queue", "purge", **url)
    assert unasked.returncode == 2
    assert "--yes" in unasked.stderr
    assert "4 tasks" in unasked.stderr
    assert filled.get_statistics().total == 4
    assert celers("queue", "purge", "--yes", "-q", "none", **url).returncode == 1
    assert printed(celers("queue", "purge", "--yes", "--json", **url)) == {"name": "default", "deleted": 4}
    assert celers("queue", "purge", "-y", **url).stdout == "deleted 0 tasks\n"


@pytest.mark.spec("DBMON-02", "DBMON-03", "DBMON-04", "DBMON-09", "DBMON-12")
def test_tables_and_indexes(celers, database_url, filled):  # noqa: F811
    url = {"CELERS_URL": database_url}
    shown = celers("db", "sizes", **url)
    assert shown.returncode == 0, shown.stderr
    assert "celers_tasks" in shown.stdout
    assert {"table_name", "row_count", "free_bytes"} <= printed(celers("db", "sizes", "--json", **url))[0].keys()
    assert "queue_id, sort_rank, seq" in celers("db", "indexes", **url).stdout
    assert printed(celers("db", "indexes", "--json", **url))[0]["columns"]
    good = celers("db", "indexes", "--check", **url)
    assert (good.returncode, good.stdout) == (0, "nothing is wrong with the indexes\n")
    assert celers("db", "analyze", **url).stdout == "all tables are analysed\n"
    assert printed(celers("db", "optimize", "--json", **url)) == {"done": True}


def test_a_missing_index_is_found(celers, empty_database_url, server):  # noqa: F811
    url = {"CELERS_URL": empty_database_url}
    assert celers("db", "sizes", **url).stdout == "no tables: run celers migrate\n"
    assert celers("migrate", **url).returncode == 0
    database = urlsplit(empty_database_url).path[1:]
    server.rows("ALTER TABLE celers_scheduled DROP KEY idx_scheduled_queue", database=database)
    found = celers("db", "indexes", "--check", **url)
    assert found.returncode == 1
    assert "idx_scheduled_queue" in found.stdout
    assert len(printed(celers("db", "indexes", "--check", "--json", **url))) == 1


@pytest.mark.spec("DBMON-10", "DBMON-11")
def test_plans(celers, database_url, filled):  # noqa: F811
    url = {"CELERS_URL": database_url}
    claim = celers("db", "explain", **url)
    assert claim.returncode == 0, claim.stderr
    assert "celers_ready" in claim.stdout
    (line,) = printed(celers("db", "explain", "SELECT * FROM celers_tasks", "--json", **url))
    assert line["query_type"] == "ALL"
    refused = celers("db", "explain", "DELETE FROM celers_tasks", **url)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert celers("db", "explain", "SELECT nothing FROM celers_tasks", **url).returncode == 1
    assert filled.get_statistics().total == 4


@pytest.mark.spec("DBMON-06", "DBMON-07", "DBMON-08")
def test_slow_statements(celers, database_url, filled, server):  # noqa: F811
    url = {"CELERS_URL": database_url}
    slow = celers("db", "slow", "--limit", "3", **url)
    assert slow.returncode == 0, slow.stderr
    profile = celers("db", "slow", "--min-ms", "0", "--json", **url)
    if server.is_mariadb:
        assert slow.stdout == "no statements\n"
        assert "switched off" in slow.stderr
        assert printed(profile) == []
    else:
        assert len(slow.stdout.splitlines()) == 4
        assert printed(profile)[0]["query_digest"]
    assert celers("db", "slow", "--limit", "0", **url).returncode == 2
    assert printed(celers("db", "slow", "--reset", "--json", **url)) == {"reset": True}


@pytest.mark.spec("MAINT-01", "MAINT-03", "DBMON-16")
def test_health(celers, database_url, empty_database_url, filled, tmp_path):  # noqa: F811
    good = celers("db", "health", "--json", "--url", database_url)
    assert good.returncode == 0, good.stderr
    found = printed(good)
    assert (found["healthy"], found["ready"], found["pending_tasks"]) == (True, True, 2)
    assert found["settings"]["version"]
    assert "healthy:" in celers("db", "health", "--url", database_url).stdout
    bad = celers("db", "health", "--url", empty_database_url)
    assert bad.returncode == 3
    assert "celers migrate" in bad.stdout
    none = celers("db", "health", "--url", f"mysql://root@localhost/x?unix_socket={tmp_path}/none")
    assert none.returncode == 3
