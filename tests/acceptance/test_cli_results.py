"""`celers results` and `celers workers` as people and scripts use them."""

from __future__ import annotations

from uuid import uuid4

import pytest

from celers import MysqlBroker, SerializedTask, TaskResultStatus, WorkerStatus
from tests.acceptance.test_cli import celers, printed  # noqa: F401 - the fixture
from tests.fixtures.tables import Tables


@pytest.fixture
def broker(database_url):
    with MysqlBroker(database_url, heartbeat=False) as made:
        yield made


@pytest.mark.spec("RES-04")
def test_results_are_listed_and_shown(celers, database_url, broker):  # noqa: F811
    url = {"CELERS_URL": database_url}
    assert celers("results", "list", **url).stdout == "no results\n"
    good, bad = uuid4(), uuid4()
    broker.store_result(good, "add", TaskResultStatus.SUCCESS, result={"ü": 42}, runtime_ms=1234)
    broker.store_result(bad, "div", TaskResultStatus.FAILURE, error="boom\nline", traceback="Traceback\n  here")
    shown = celers("results", "list", **url)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["task", str(bad), str(good)]
    assert "boom line" in lines[1]
    assert '{"ü": 42}' in lines[2]
    assert "1,234" in lines[2]
    for arguments, ids in (
        (["--status", "failure"], [bad]),
        (["--name", "add"], [good]),
        (["--limit", "1", "--offset", "1"], [good]),
        (["-q", "other"], []),
    ):
        found = printed(celers("results", "list", "--json", *arguments, **url))
        assert [result["task_id"] for result in found] == [str(key) for key in ids], arguments
    one = celers("results", "show", str(bad), **url)
    assert one.returncode == 0
    assert one.stdout.endswith("Traceback\n  here\n")
    assert printed(celers("results", "show", str(good), "--json", **url))["result"] == {"ü": 42}
    missing = celers("results", "show", str(uuid4()), **url)
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1
    for arguments in (["show", "x"], ["list", "--status", "odd"], ["list", "--limit", "-1"], []):
        assert celers("results", *arguments, **url).returncode == 2


@pytest.mark.spec("RES-05", "RES-06")
def test_results_are_deleted_only_when_it_is_meant(celers, database_url, broker):  # noqa: F811
    url = {"CELERS_URL": database_url}
    ids = [uuid4() for _ in range(4)]
    for key in ids[:3]:
        broker.store_result(key, "add", TaskResultStatus.SUCCESS)
    broker.store_result(ids[3], "add", TaskResultStatus.STARTED)
    for arguments in (["purge"], ["purge", "--all", "--older-than", "1"], ["purge", "--all"], ["delete", str(ids[0])]):
        refused = celers("results", *arguments, **url)
        assert refused.returncode == 2, arguments
    assert broker.get_result(ids[0]) is not None
    done = celers("results", "delete", str(ids[0]), str(ids[0]), "--yes", **url)
    assert (done.returncode, done.stdout) == (0, "deleted 1 result\n")
    assert celers("results", "delete", str(ids[0]), str(ids[1]), "-y", **url).returncode == 1
    assert printed(celers("results", "purge", "--older-than", "1", "-y", "--json", **url)) == {"deleted": 0}
    assert celers("results", "purge", "--older-than", "-1", "-y", **url).returncode == 2
    assert printed(celers("results", "purge", "--all", "-y", "--json", **url)) == {"deleted": 1}
    assert [result.status for result in broker.list_results(10, 0)] == [TaskResultStatus.STARTED]


@pytest.mark.spec("WORK-04", "WORK-06", "WORK-08")
def test_workers_are_listed_and_shown(celers, database_url, broker):  # noqa: F811
    url = {"CELERS_URL": database_url}
    assert celers("workers", "list", **url).stdout == "no workers\n"
    broker.register_worker("w1", WorkerStatus.ACTIVE, {"gpu": True})
    broker.enqueue_batch([SerializedTask.new("job") for _ in range(2)])
    message = broker.dequeue_with_worker_id("w1")
    broker.ack(message.task_id, message.receipt_handle)
    busy = broker.dequeue_with_worker_id("w1")
    broker.update_worker_heartbeat("w1", WorkerStatus.BUSY)
    shown = celers("workers", "list", **url)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[1].split()[:3] == ["w1", "busy", "1"]
    assert printed(celers("workers", "list", "--json", **url))[0]["task_count"] == 1
    assert celers("workers", "list", "-q", "other", **url).stdout == "no workers\n"
    one = celers("workers", "show", "w1", **url)
    assert one.returncode == 0
    assert '{"gpu": true}' in one.stdout
    assert str(busy.task_id) in one.stdout
    value = printed(celers("workers", "show", "w1", "--json", **url))
    assert (value["completed_tasks"], value["active_tasks"], len(value["tasks"])) == (1, 1, 1)
    assert value["heartbeat"]["status"] == "busy"
    missing = celers("workers", "show", "w2", **url)
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1


@pytest.mark.spec("WORK-05")
def test_workers_are_forgotten(celers, database_url, server, broker):  # noqa: F811
    url = {"CELERS_URL": database_url}
    for name in ("old", "older", "new"):
        broker.register_worker(name, WorkerStatus.IDLE)
    tables = Tables(server, database_url)
    tables.rows("UPDATE celers_workers SET last_heartbeat = last_heartbeat - INTERVAL 1 HOUR WHERE worker_id <> 'new'")
    tables.connection.close()
    for arguments in ([], ["old", "--offline"], ["old"]):
        assert celers("workers", "delete", *arguments, **url).returncode == 2
    assert "older   offline" in celers("workers", "list", **url).stdout
    assert celers("workers", "delete", "old", "-y", **url).stdout == "forgot 1 worker\n"
    assert celers("workers", "delete", "old", "-y", **url).returncode == 1
    assert printed(celers("workers", "delete", "--offline", "-y", "--json", **url)) == {"deleted": 1}
    assert celers("workers", "delete", "--offline", **url).stdout == "forgot 0 workers\n"
    assert [beat.worker_id for beat in broker.get_all_worker_heartbeats(10)] == ["new"]
