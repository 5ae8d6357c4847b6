"""One worker of a database deletes what is old, and another goes on when it is gone (spec 07)."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from datetime import timedelta

import pytest

from celers import SerializedTask, ValidationError
from celers.cli.upkeep import period
from celers.components.consumer import Completion
from celers.worker.upkeep import Retention, Upkeep
from tests.acceptance.test_cli import celers, printed  # noqa: F401 - the fixture
from tests.fixtures.waiting import until
from tests.fixtures.workers import workers


def finish(broker, count: int) -> list:
    """Complete tasks with results."""
    ids = broker.enqueue_batch([SerializedTask.new("job") for _ in range(count)])
    while messages := broker.dequeue_batch(1000):
        broker.consumer.complete([Completion(message, "1") for message in messages])
    return ids


def wait(seconds: float) -> bool:
    time.sleep(min(seconds, 0.01))
    return False


def whole_round(retention: Retention) -> None:
    while retention.work() == 0.0:
        pass


@pytest.mark.spec("MAINT-04", "MAINT-11", "DLQ-07", "RES-06")
def test_each_rule_deletes_what_it_names_and_nothing_else(make_sync, tables):
    broker, other = make_sync(record_history=True), make_sync("other")
    finish(broker, 700)
    finish(other, 30)
    for each in (broker, other):
        each.enqueue_batch([SerializedTask.new("job", max_retries=0) for _ in range(3)])
        dead, _ = each.dequeue_batch(2)
        each.reject(dead.task_id, dead.receipt_handle)

    def count(table: str) -> int:
        return tables.value(f"SELECT COUNT(*) FROM celers_{table}")

    history = count("task_history")
    whole_round(Retention(broker, Upkeep(), wait))
    whole_round(Retention(broker, Upkeep(*[timedelta(hours=1)] * 5), wait))
    assert (count("tasks"), count("task_results"), count("dead_letter_queue")) == (734, 730, 2)
    whole_round(Retention(broker, Upkeep(keep_finished=0), wait))
    assert (count("tasks"), count("task_results"), count("dead_letter_queue")) == (4, 730, 2)
    whole_round(Retention(broker, Upkeep(keep_results=0), wait))
    assert (count("task_results"), count("dead_letter_queue"), count("task_history")) == (0, 2, history)
    whole_round(Retention(broker, Upkeep(keep_dead_letters=0), wait))
    assert (count("dead_letter_queue"), count("task_history")) == (0, history)
    whole_round(Retention(broker, Upkeep(keep_history=0), wait))
    assert count("task_history") == 0
    tables.rows("UPDATE celers_tasks SET started_at = started_at - INTERVAL 10 SECOND WHERE state = 'processing'")
    whole_round(Retention(broker, Upkeep(overdue_after=5), wait))
    for each in (broker, other):
        statistics = each.get_statistics()
        assert (statistics.processing, statistics.dlq, statistics.pending) == (0, 1, 1)


@pytest.mark.spec("DATA-02")
def test_bad_rules_are_refused():
    for values in ({"keep_finished": -1}, {"keep_history": "7d"}, {"overdue_after": 0}, {"keep_results": True}):
        with pytest.raises(ValidationError, match=next(iter(values))):
            Upkeep(**values)
    assert Upkeep().is_off
    assert Upkeep(keep_finished=timedelta(days=7)).keep_finished == 604_800


@pytest.mark.spec("MAINT-04", "DEF-106")
def test_claims_go_on_while_old_tasks_are_deleted(make_sync, database_url, tables):
    broker, worker = make_sync(), make_sync()
    finish(broker, 6000)
    broker.enqueue_batch([SerializedTask.new("job") for _ in range(1000)])
    retention = Retention(broker, Upkeep(keep_finished=0, keep_results=0), wait)
    ended = threading.Event()

    def upkeep() -> None:
        whole_round(retention)
        ended.set()

    thread = threading.Thread(target=upkeep)
    thread.start()
    claims = 0
    while not ended.is_set():
        message = worker.dequeue()
        if message is None:
            worker.enqueue(SerializedTask.new("job"))
            continue
        worker.consumer.give_back([message])
        claims += 1
    thread.join()
    assert claims > 10, "claims went on"
    assert broker.get_statistics().completed == 0
    tables.check(broker)


@pytest.mark.spec("MAINT-04", "CORE-15")
def test_one_worker_leads_and_another_takes_over(make_sync, database_url, tmp_path):
    broker = make_sync()
    leads = "keeps house for the database now"
    old = finish(broker, 20)
    with workers(database_url, tmp_path) as group:
        for _ in range(2):
            group.start(keep_finished="0s", processes=1)
        until(lambda: leads in group.logs())
        until(lambda: broker.get_task(old[0]) is None and broker.get_statistics().completed == 0)
        (leader,) = (worker for worker in group.started if leads in worker.log())
        (other,) = (worker for worker in group.started if worker is not leader)
        # It leads still, and deletes nothing more.
        leader.process.send_signal(signal.SIGSTOP)
        old = finish(broker, 20)
        leader.kill()
        until(lambda: leads in other.log())
        until(lambda: broker.get_statistics().completed == 0)
        assert broker.get_task(old[0]) is None
        until(lambda: "finished tasks deleted" in other.log())
        assert other.stop() == 0


@pytest.mark.parametrize(("text", "secs"), [("90", 90), ("1.5m", 90), ("12h", 43_200), ("7d", 604_800), ("0s", 0)])
def test_periods_are_written_with_a_unit(text, secs):
    assert period(text) == secs


@pytest.mark.parametrize("text", ["", "d", "-1", "7 weeks", "nan", "inf", "1e400d"])
def test_other_periods_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="period"):
        period(text)


@pytest.mark.spec("MAINT-04")
def test_upkeep_by_hand(celers, make_sync, database_url):  # noqa: F811
    broker = make_sync()
    finish(broker, 5)
    url = {"CELERS_URL": database_url}
    asked = celers("db", "maintain", "--keep-finished", "0s", **url)
    assert asked.returncode != 0
    assert "--yes" in asked.stderr
    assert broker.get_statistics().completed == 5
    harmless = celers("db", "maintain", **url)
    assert harmless.returncode == 0, harmless.stderr
    assert broker.get_statistics().completed == 5
    found = printed(celers("db", "maintain", "--keep-finished", "0s", "--yes", "--json", **url))
    assert {"queue": "default", "what": "finished tasks deleted", "count": 5} in found
    assert broker.get_statistics().completed == 0
