"""`celers tasks` and `celers dlq` as people and scripts use them."""

from __future__ import annotations

from uuid import uuid4

import pytest

from celers import DbTaskState, MysqlBroker, SerializedTask
from tests.acceptance.test_cli import celers, printed  # noqa: F401 - the fixture


@pytest.fixture
def filled(database_url):
    """A broker on a queue with a task in each state, of different names, and a dead letter."""
    with MysqlBroker(database_url, heartbeat=False) as broker:
        for name in ("done", "bad", "gone", "dead", "busy", "waiting"):
            broker.enqueue(SerializedTask.new(name, max_retries=0, extra={"customer": {"id": 7, "name": name}}))
        messages = {message.task_name: message for message in (broker.dequeue_with_worker_id("w1") for _ in range(5))}
        for name in ("done", "bad", "gone", "dead"):
            message = messages[name]
            match name:
                case "done":
                    broker.ack(message.task_id, message.receipt_handle)
                case "bad":
                    broker.reject(message.task_id, message.receipt_handle, requeue=False, error="line one\nline two")
                case "gone":
                    broker.cancel(message.task_id)
                case _:
                    broker.reject(message.task_id, message.receipt_handle, error="boom")
        yield broker


def id_of(broker, name):
    return next(str(info.id) for info in broker.list_tasks(None, 10, 0) if info.task_name == name)


@pytest.mark.spec("INSP-02", "INSP-05", "INSP-06", "INSP-09")
def test_tasks_are_listed(celers, database_url, filled):  # noqa: F811
    url = {"CELERS_URL": database_url}
    shown = celers("tasks", "list", **url)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["task", "waiting", "busy", "gone", "bad", "done"]
    assert "line one line two" in shown.stdout
    for arguments, names in (
        (["--state", "failed"], ["bad"]),
        (["--worker", "w1"], ["busy", "gone", "bad", "done"]),
        (["--worker", "w1", "--limit", "1", "--offset", "1"], ["gone"]),
        (["--in-work"], ["busy"]),
        (["--where", "$.customer.name", "gone"], ["gone"]),
        (["--where", "$.customer.id", "7", "--limit", "2"], ["waiting", "busy"]),
        (["--where", "$.customer.id", '"8"'], []),
        (["-q", "other"], []),
    ):
        done = celers("tasks", "list", "--json", *arguments, **url)
        assert [task["task_name"] for task in printed(done)] == names, arguments
    assert celers("tasks", "list", "-q", "other", **url).stdout == "no tasks\n"
    refused = celers("tasks", "list", "--where", "$[*]", "1", **url)
    assert refused.returncode == 2
    assert "json_path" in refused.stderr


@pytest.mark.spec("INSP-01", "INSP-14", "INSP-15")
def test_one_task_is_shown(celers, database_url, filled):  # noqa: F811
    url = {"CELERS_URL": database_url}
    busy = id_of(filled, "busy")
    assert filled.update_task_progress(busy, 40, "halfway")
    shown = celers("tasks", "show", busy, **url)
    assert shown.returncode == 0, shown.stderr
    assert "40 % halfway" in shown.stdout
    assert "processing" in shown.stdout
    value = printed(celers("tasks", "show", busy, "--json", **url))
    assert value["progress"]["progress_percent"] == 40
    assert [step["to_state"] for step in value["transitions"]] == ["pending", "processing"]
    missing = celers("tasks", "show", str(uuid4()), **url)
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1
    assert celers("tasks", "show", "x", **url).returncode == 2


@pytest.mark.spec("CORE-12", "BATCH-06")
def test_tasks_are_cancelled_and_run_again(celers, database_url, filled):  # noqa: F811
    url = {"CELERS_URL": database_url}
    waiting, bad, gone, busy, done = (id_of(filled, name) for name in ("waiting", "bad", "gone", "busy", "done"))
    cancelled = celers("tasks", "cancel", waiting, **url)
    assert (cancelled.returncode, cancelled.stdout) == (0, "cancelled 1 of 1 tasks\n")
    assert celers("tasks", "cancel", waiting, bad, **url).returncode == 1
    again = celers("tasks", "retry", bad, gone, "--json", **url)
    assert (again.returncode, printed(again)) == (0, {"changed": 2, "asked": 2})
    assert filled.get_task(bad).state is DbTaskState.PENDING
    for other in (busy, done, str(uuid4())):
        assert celers("tasks", "retry", other, **url).returncode == 1
    assert filled.get_task(busy).state is DbTaskState.PROCESSING


@pytest.mark.spec("DLQ-02", "DLQ-03", "DLQ-06", "DLQ-08")
def test_dead_letters_are_listed_and_requeued(celers, database_url, filled):  # noqa: F811
    url = {"CELERS_URL": database_url}
    (letter,) = filled.list_dlq(10, 0)
    assert "boom" in celers("dlq", "list", **url).stdout
    assert printed(celers("dlq", "list", "--json", **url))[0]["id"] == str(letter.id)
    assert "dead" in celers("dlq", "list", "--by-name", **url).stdout
    assert printed(celers("dlq", "list", "--by-name", "--json", **url))["total_tasks"] == 1
    assert str(letter.task_id) in celers("dlq", "show", str(letter.id), **url).stdout
    assert printed(celers("dlq", "show", str(letter.id), "--json", **url))["metadata"]["customer"]["id"] == 7
    assert celers("dlq", "show", str(letter.task_id), **url).returncode == 1
    unknown = str(uuid4())
    done = celers("dlq", "requeue", str(letter.id), unknown, "--json", **url)
    assert done.returncode == 1
    made = printed(done)
    assert made[unknown] is None
    assert filled.get_task(made[str(letter.id)]).task_name == "dead"
    assert celers("dlq", "list", **url).stdout == "no dead letters\n"
    assert celers("dlq", "list", "--by-name", **url).stdout == "no dead letters\n"

    filled.cancel(id_of(filled, "waiting"))
    message = filled.dequeue()
    filled.reject(message.task_id, message.receipt_handle)
    assert printed(celers("dlq", "replay", "--name", "x", "--json", **url)) == {"replayed": 0}
    assert celers("dlq", "replay", "--limit", "0", **url).returncode == 2
    assert celers("dlq", "replay", "--name", "dead", **url).stdout == "requeued 1 dead letter\n"


@pytest.mark.spec("DLQ-04", "DLQ-05", "DLQ-07")
def test_dead_letters_are_deleted_only_when_it_is_meant(celers, database_url, filled):  # noqa: F811
    url = {"CELERS_URL": database_url}
    letter = str(filled.list_dlq(10, 0)[0].id)
    for arguments in ([], ["--all", "--older-than", "5"], [letter, "--all"], ["--older-than", "0.5", "--yes"]):
        assert celers("dlq", "purge", *arguments, **url).returncode == 2
    unasked = celers("dlq", "purge", letter, **url)
    assert unasked.returncode == 2
    assert "--yes" in unasked.stderr
    assert filled.get_statistics().dlq == 1
    assert printed(celers("dlq", "purge", "--older-than", "5", "--yes", "--json", **url)) == {"deleted": 0}
    assert celers("dlq", "purge", letter, "-y", **url).stdout == "deleted 1 dead letter\n"
    assert celers("dlq", "purge", letter, "-y", **url).returncode == 1
    assert celers("dlq", "purge", "--all", "--yes", **url).returncode == 0
    assert filled.get_statistics().dlq == 0
