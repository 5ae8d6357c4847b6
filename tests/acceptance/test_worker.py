"""The command `celers worker` with real processes, which are killed, stopped and blocked."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from celers import App, DbTaskState, SerializedTask, TaskResultStatus
from tests.fixtures import jobs
from tests.fixtures.waiting import until
from tests.fixtures.workers import Workers, alive, workers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


@pytest.fixture
def app(database_url) -> Iterator[App]:
    jobs.app.connect_to(database_url)
    yield jobs.app
    jobs.app.close()


@pytest.fixture
def group(database_url, tmp_path) -> Iterator[Workers]:
    with workers(database_url, tmp_path) as group:
        yield group


class Trace:
    """What a `hold` task has noted, and the gate it waits for."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "trace"
        self.gate = directory / "gate"
        self.arguments = (str(self.path), str(self.gate))

    def lines(self) -> list[tuple[str, int]]:
        if not self.path.exists():
            return []
        return [(word, int(pid)) for word, pid in (line.split() for line in self.path.read_text().splitlines())]

    def starts(self) -> list[int]:
        return [pid for word, pid in self.lines() if word == "start"]

    def ends(self) -> list[int]:
        return [pid for word, pid in self.lines() if word == "end"]

    def open(self) -> None:
        self.gate.touch()


@pytest.fixture
def trace(tmp_path) -> Trace:
    return Trace(tmp_path)


def state(app: App, task_id) -> str:
    return app.broker.get_task(task_id).state.value


def consumers(server, app) -> int:
    from celers.db.url import parse_url

    return server.rows("SELECT COUNT(*) FROM celers_consumers", database=parse_url(app.resolve_url()).database)[0][0]


@pytest.mark.spec("WORK-01", "WORK-02", "RES-01")
def test_it_runs_tasks_and_leaves_nothing_behind(app, group, server):
    ids = jobs.add.enqueue_many([(number, 1) for number in range(300)])
    ids += jobs.async_add.enqueue_many([(number, 1) for number in range(300)])
    worker = group.start()
    until(lambda: app.broker.get_statistics().completed == 600)
    assert [app.result(one).result for one in ids] == [number + 1 for number in range(300)] * 2
    (seen,) = app.broker.get_all_worker_heartbeats(60)
    assert str(worker.pid) in seen.worker_id
    children = worker.children()
    assert len(children) == 2
    assert worker.stop() == 0
    assert not any(alive(pid) for pid in children)
    assert consumers(server, app) == 0
    assert app.broker.get_all_worker_heartbeats(60) == []
    assert app.broker.get_statistics().completed == 600


@pytest.mark.spec("CORE-15")
def test_a_task_whose_process_is_killed_runs_once_more(app, group, trace):
    """SIGKILL in the middle of a task: it runs again at once, elsewhere, and only once."""
    group.start(threads=1)
    task_id = jobs.hold.enqueue(*trace.arguments)
    until(lambda: len(trace.starts()) == 1)
    os.kill(trace.starts()[0], signal.SIGKILL)
    until(lambda: len(trace.starts()) == 2, 15)
    assert app.broker.get_task(task_id).retry_count == 1
    trace.open()
    until(lambda: state(app, task_id) == "completed")
    assert len(trace.starts()) == 2
    assert len(trace.ends()) == 1
    assert trace.starts()[0] != trace.starts()[1]
    assert app.result(task_id).result == trace.starts()[1]


@pytest.mark.spec("CORE-15")
def test_bystanders_of_a_killed_process_do_not_pay(app, group, trace):
    """What the dead process had claimed and not begun is given back without counting an attempt."""
    jobs.noop.enqueue_many([(number,) for number in range(500)])
    worker = group.start(processes=1, threads=1)
    until(lambda: app.broker.get_statistics().completed == 500)
    task_id = jobs.hold.enqueue(*trace.arguments)
    others = jobs.noop.enqueue_many([(number,) for number in range(50)])
    until(lambda: len(trace.starts()) == 1)
    os.kill(trace.starts()[0], signal.SIGKILL)
    trace.open()
    until(lambda: app.broker.get_statistics().completed == 551)
    assert app.broker.get_task(task_id).retry_count == 1
    assert {app.broker.get_task(one).retry_count for one in others} == {0}
    assert worker.stop() == 0


@pytest.mark.spec("CORE-15")
def test_a_worker_whose_parent_is_killed_is_found_by_its_lease(app, group, trace):
    """The children end with their parent; another worker takes the task when the lease is over."""
    first = group.start(lease=2)
    task_id = jobs.hold.enqueue(*trace.arguments)
    until(lambda: len(trace.starts()) == 1)
    second = group.start(lease=2)
    until(lambda: len(second.children()) == 2)
    first.kill()
    assert not alive(trace.starts()[0])
    until(lambda: len(trace.starts()) == 2, 30)
    trace.open()
    until(lambda: state(app, task_id) == "completed")
    assert len(trace.starts()) == 2
    assert trace.starts()[1] in second.children()
    assert app.broker.get_task(task_id).retry_count == 1


@pytest.mark.spec("CORE-15")
def test_a_task_that_holds_the_interpreter_is_not_taken_for_dead(app, group, trace):
    group.start(lease=1, processes=1)
    group.start(lease=1, processes=1)
    task_id = jobs.hold_interpreter.enqueue(str(trace.path), 4)
    until(lambda: state(app, task_id) == "completed")
    assert len(trace.starts()) == 1
    info = app.broker.get_task(task_id)
    assert (info.retry_count, app.result(task_id).status) == (0, TaskResultStatus.SUCCESS)


def test_a_task_over_its_time_costs_its_process(app, group, trace):
    """The attempts count; a task that runs beside it is given back, uncounted, and runs again."""
    group.start(processes=1, threads=2)
    late = jobs.too_long.enqueue(str(trace.path))
    beside = Trace(trace.path.parent / "beside")
    beside.path.parent.mkdir()
    beside_id = jobs.hold.enqueue(*beside.arguments)
    until(lambda: app.broker.list_dlq(10, 0))
    (letter,) = app.broker.list_dlq(10, 0)
    assert (letter.task_id, letter.retry_count) == (late, 1)
    assert letter.error_message == "timed out: the task ran longer than 1 s"
    assert app.result(late).status is TaskResultStatus.FAILURE
    assert len(set(trace.starts())) == 2
    beside.open()
    until(lambda: state(app, beside_id) == "completed")
    assert app.broker.get_task(beside_id).retry_count == 0


def test_a_coroutine_that_cannot_be_cancelled_costs_its_process(app, group, trace):
    group.start(processes=1)
    task_id = jobs.stubborn.enqueue(str(trace.path))
    until(lambda: app.broker.list_dlq(10, 0))
    assert app.result(task_id).error == "timed out: the task ran longer than 1 s"


def test_sigterm_lets_running_tasks_finish(app, group, trace):
    worker = group.start(processes=1, threads=2)
    ids = [jobs.hold.enqueue(*trace.arguments) for _ in range(5)]
    until(lambda: len(trace.starts()) == 2)
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "waiting for 2 running tasks" in worker.log())
    assert worker.process.poll() is None
    trace.open()
    assert worker.wait() == 0
    states = sorted(state(app, one) for one in ids)
    assert states == ["completed"] * 2 + ["pending"] * 3
    assert {app.broker.get_task(one).retry_count for one in ids} == {0}


def test_what_outlives_the_grace_period_is_given_back(app, group, trace):
    worker = group.start(processes=1, threads=2, grace=0.3)
    task_id = jobs.hold.enqueue(*trace.arguments)
    until(trace.starts)
    assert worker.stop(20) == 0
    info = app.broker.get_task(task_id)
    assert (info.state, info.retry_count) == (DbTaskState.PENDING, 0)
    assert not alive(trace.starts()[0])


@pytest.mark.parametrize("processes", [0, 1])
def test_the_second_signal_ends_at_once(app, group, trace, processes):
    worker = group.start(processes=processes, grace=60)
    task_id = jobs.hold.enqueue(*trace.arguments)
    until(trace.starts)
    worker.process.send_signal(signal.SIGINT)
    until(lambda: "waiting for 1 running tasks" in worker.log())
    started = time.monotonic()
    worker.process.send_signal(signal.SIGINT)
    assert worker.wait(20) == 1
    assert time.monotonic() - started < 15
    info = app.broker.get_task(task_id)
    assert (info.state, info.retry_count) == (DbTaskState.PENDING, 0)
    assert not alive(trace.starts()[0])


def test_names_that_it_does_not_know_are_left_alone(app, group):
    strangers = app.broker.enqueue_batch(
        [SerializedTask.new("somebody.elses", b"[[],{}]", priority=1) for _ in range(20)]
    )
    worker = group.start(processes=1)
    known = jobs.add.enqueue(1, 1)
    until(lambda: state(app, known) == "completed")
    until(lambda: app.broker.count_scheduled_tasks() == 20)
    assert worker.log().count("somebody.elses") == 1
    assert {app.broker.get_task(one).retry_count for one in strangers} == {0}
    assert worker.stop() == 0


def test_children_that_cannot_start_are_not_started_in_a_hurry(app, group, trace):
    worker = group.start(processes=1)
    until(worker.children)
    for _ in range(3):
        (pid,) = worker.children()
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: worker.children() not in ([], [pid]), 20)
    assert worker.log().count("started process") == 4
    assert worker.log().count("is replaced") == 3


def test_wrong_arguments_are_told_in_one_line(database_url, group, empty_database_url):
    worker = group.start(queues=" ")
    assert worker.wait() == 2
    assert "queues" in worker.log()
    group.url = empty_database_url
    worker = group.start()
    assert worker.wait() in (1, 3)
    assert "celers migrate" in worker.log()
    assert "Traceback" not in worker.log()
