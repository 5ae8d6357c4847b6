"""An application and a worker in this process, on a real database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from celers import (
    App,
    ConfigurationError,
    DbTaskState,
    DuplicateTaskError,
    Fixed,
    Reject,
    Retry,
    RetryPolicy,
    SerializedTask,
    TaskResultStatus,
    Worker,
)
from celers.db.url import parse_url
from tests.fixtures.waiting import until


@pytest.fixture
def app(database_url) -> Iterator[App]:
    app = App(database_url)
    yield app
    app.close()


@contextlib.contextmanager
def working(app: App, **options) -> Iterator[Worker]:
    """A worker on a thread, stopped afterwards."""
    worker = Worker(app, **{"threads": 2, "grace": 10, **options})
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(worker.run()))
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(30)
        assert not thread.is_alive()
    assert codes == [0]


def result_of(app: App, task_id, timeout: float = 20.0):
    """The final result of a task."""
    found = []

    def final() -> bool:
        found[:] = [app.result(task_id)]
        return found[0] is not None and found[0].status.is_final

    until(final, timeout)
    return found[0]


def state_of(app: App, task_id):
    return app.broker.get_task(task_id).state


class TestEnqueue:
    @pytest.mark.spec("CORE-07", "CORE-01")
    def test_one(self, app):
        @app.task(name="t", priority=3, max_retries=5, timeout=9)
        def task(a, b=2):
            return a + b

        task_id = task.enqueue(1, b=3)
        (message,) = app.broker.dequeue_batch(1)
        assert message.task_id == task_id
        assert message.task_name == "t"
        assert message.priority == 3
        assert message.task.payload == b'[[1],{"b":3}]'
        metadata = message.task.metadata
        assert (metadata.max_retries, metadata.timeout_secs) == (5, 9)

    @pytest.mark.spec("SCHED-01", "SCHED-02")
    def test_later(self, app):
        task = app.task(name="t")(lambda: None)
        soon = datetime.now(UTC) + timedelta(hours=1)
        ids = [
            task.enqueue_at(soon),
            task.enqueue_after(timedelta(hours=1)),
            task.using(delay=3600).enqueue(),
            *task.using(delay=3600).enqueue_many([(), ()]),
        ]
        assert app.broker.dequeue() is None
        infos = [app.broker.get_task(one) for one in ids]
        assert all(abs((info.scheduled_at - soon).total_seconds()) < 60 for info in infos)
        past = task.enqueue_at(1)
        assert app.broker.dequeue().task_id == past

    @pytest.mark.spec("RETRY-03")
    def test_with_a_retry_policy(self, app):
        task = app.task(name="t", retry=RetryPolicy(7, Fixed(0)))(lambda: None)
        ids = [task.enqueue(), task.enqueue_after(0), task.enqueue_at(1), *task.enqueue_many([()])]
        later = task.enqueue_after(3600)
        assert {message.task_id for message in app.broker.dequeue_batch(10)} == set(ids)
        assert all(app.broker.get_task(one).max_retries == 7 for one in [*ids, later])

    @pytest.mark.spec("BATCH-01", "CORE-08")
    def test_many_keep_their_order(self, app):
        task = app.task(name="t")(lambda number: None)
        ids = task.enqueue_many((number,) for number in range(2500))
        assert len(set(ids)) == 2500
        assert [message.task_id for message in app.broker.dequeue_batch(100)] == ids[:100]
        assert task.enqueue_many([]) == []

    @pytest.mark.spec("CORE-02", "CONF-06")
    def test_options_of_a_call(self, app):
        task = app.task(name="t")(lambda: None)
        own = uuid4()
        assert task.using(queue="other", priority=9, id=own).enqueue() == own
        assert app.broker.queue_size() == 0
        message = app.broker_for("other").dequeue()
        assert (message.task_id, message.priority) == (own, 9)
        with pytest.raises(DuplicateTaskError):
            task.using(queue="other", id=own).enqueue()

    @pytest.mark.spec("CORE-13")
    def test_in_a_transaction_of_the_caller(self, app, server):
        task = app.task(name="t")(lambda: None)
        connection = server.connect(parse_url(app.resolve_url()).database, autocommit=False)
        try:
            task.using(connection=connection).enqueue()
            task.using(connection=connection).enqueue_many([(), ()])
            assert app.broker.queue_size() == 0
            connection.rollback()
            assert app.broker.queue_size() == 0
            task.using(connection=connection).enqueue_after(0)
            connection.commit()
            assert app.broker.queue_size() == 1
        finally:
            connection.close()

    @pytest.mark.spec("ARCH-01")
    def test_for_asyncio(self, app):
        task = app.task(name="t")(lambda number: None)

        async def main():
            try:
                elsewhere = (task.using(queue=f"q{number % 3}") for number in range(9))
                ids = [
                    await task.aenqueue(1),
                    await task.aenqueue_at(1, 2),
                    await task.aenqueue_after(0, 3),
                    *await task.aenqueue_many([(4,), (5,)]),
                    *await asyncio.gather(*(one.aenqueue(6) for one in elsewhere)),
                ]
                assert await app.aresult(ids[0]) is None
                return ids
            finally:
                await app.aclose()

        ids = asyncio.run(main())
        assert len(set(ids)) == 14
        assert {message.task_id for message in app.broker.dequeue_batch(10)} == set(ids[:5])
        assert [app.broker_for(f"q{number}").queue_size() for number in range(3)] == [3, 3, 3]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.spec("ARCH-02")
    def test_after_a_fork(self, app):
        task = app.task(name="t")(lambda: None)
        task.enqueue()
        process = multiprocessing.get_context("fork").Process(target=task.enqueue)
        process.start()
        process.join(20)
        assert process.exitcode == 0
        task.enqueue()
        assert app.broker.queue_size() == 3

    def test_after_close_it_opens_again(self, app):
        task = app.task(name="t")(lambda: None)
        task.enqueue()
        app.close()
        task.enqueue()
        assert app.broker.queue_size() == 2

    def test_without_tables_the_error_says_what_to_do(self, empty_database_url):
        app = App(empty_database_url)
        with pytest.raises(ConfigurationError, match="celers migrate"):
            app.task(name="t")(lambda: None).enqueue()
        with pytest.raises(ConfigurationError, match="celers migrate"):
            Worker(app).run()
        app.close()


class TestWorker:
    @pytest.mark.spec("RES-01", "RES-02", "RES-04")
    def test_results(self, app):
        @app.task
        def add(a, b):
            return {"sum": a + b}

        @app.task
        async def wait(seconds):
            await asyncio.sleep(seconds)
            return ["ä", None, 2**70]

        @app.task
        def nothing():
            return None

        @app.task(ignore_result=True)
        def silent():
            return object()

        ids = [add.enqueue(1, b=2), wait.enqueue(0.01), nothing.enqueue(), silent.enqueue()]
        with working(app):
            assert [result_of(app, one).result for one in ids[:3]] == [{"sum": 3}, ["ä", None, 2**70], None]
            until(lambda: state_of(app, ids[3]) == "completed")
        assert app.result(ids[3]) is None
        assert all(app.result(one).status is TaskResultStatus.SUCCESS for one in ids[:3])
        assert app.broker.get_statistics().completed == 4

    @pytest.mark.spec("CORE-10", "RETRY-05", "DLQ-01")
    def test_failures_are_retried_and_then_dead_letters(self, app):
        tries: list[int] = []

        @app.task(retry=RetryPolicy(2, Fixed(0.05)))
        def boom():
            tries.append(1)
            raise ValueError("a reason")

        task_id = boom.enqueue()
        with working(app):
            result = result_of(app, task_id)
        assert len(tries) == 3
        assert result.status is TaskResultStatus.FAILURE
        assert result.error == "ValueError: a reason"
        assert "boom" in result.traceback
        assert "celers/worker" not in result.traceback
        (letter,) = app.broker.list_dlq(100, 0)
        assert (letter.task_id, letter.error_message) == (task_id, "ValueError: a reason")

    @pytest.mark.spec("CORE-10")
    def test_a_success_after_failures(self, app):
        tries: list[int] = []

        @app.task(max_retries=5)
        async def flaky():
            tries.append(1)
            if len(tries) < 3:
                raise Retry(delay=0.01)
            return len(tries)

        task_id = flaky.enqueue()
        with working(app):
            assert result_of(app, task_id).result == 3
        assert app.broker.get_task(task_id).retry_count == 2

    @pytest.mark.spec("CORE-10")
    def test_rejected_for_good(self, app):
        @app.task
        def picky():
            raise Reject("not this one")

        task_id = picky.enqueue()
        with working(app):
            result = result_of(app, task_id)
        assert result.error == "not this one"
        info = app.broker.get_task(task_id)
        assert (info.state, info.retry_count, info.error_message) == (DbTaskState.FAILED, 0, "not this one")

    @pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
    def test_no_exception_ends_the_worker(self, app, exception):
        @app.task(max_retries=0)
        def sync():
            raise exception

        @app.task(max_retries=0)
        async def coroutine():
            raise exception

        @app.task
        def fine():
            return 1

        ids = [sync.enqueue(), coroutine.enqueue()]
        with working(app, threads=1):
            assert exception.__name__ in result_of(app, ids[0]).error
            assert exception.__name__ in result_of(app, ids[1]).error
            assert result_of(app, fine.enqueue()).result == 1

    @pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), "\ud800", b"x"])
    @pytest.mark.spec("RES-03")
    def test_a_result_that_cannot_be_stored_is_a_failure(self, app, value):
        @app.task(max_retries=0)
        def odd():
            return value

        @app.task(max_retries=0)
        async def odd_coroutine():
            return value

        ids = [odd.enqueue(), odd_coroutine.enqueue()]
        with working(app):
            for one in ids:
                assert result_of(app, one).error.startswith("celers.errors.SerializationError")

    def test_arguments_that_cannot_be_read_become_dead_letters_at_once(self, app):
        @app.task(name="t")
        def task():
            return 1

        bad = [b"", b"no json", b"[[]]", b"[[],{},{}]", b'{"a":1}']
        ids = app.broker.enqueue_batch([SerializedTask.new("t", payload, max_retries=9) for payload in bad])
        with working(app):
            until(lambda: len(app.broker.list_dlq(100, 0)) == len(bad))
            assert result_of(app, task.enqueue()).result == 1
        letters = app.broker.list_dlq(100, 0)
        assert {letter.task_id for letter in letters} == set(ids)
        assert all("payload" in letter.error_message and letter.retry_count == 0 for letter in letters)

    def test_tasks_of_others_are_left_to_them(self, app, caplog):
        @app.task(name="known")
        def known():
            return 1

        strangers = app.broker.enqueue_batch(
            [SerializedTask.new("stranger", b"[[],{}]", priority=9)]
            + [SerializedTask.new("stranger", b"[[],{}]", priority=9) for _ in range(4)]
        )
        foreign = app.broker.enqueue(SerializedTask.new("known", pickle.dumps([[], {}])))
        with caplog.at_level(logging.WARNING, "celers.worker"), working(app):
            assert result_of(app, known.enqueue()).result == 1
            until(lambda: app.broker.count_scheduled_tasks() == 6)
        for one in [*strangers, foreign]:
            info = app.broker.get_task(one)
            assert (info.state, info.retry_count) == (DbTaskState.PENDING, 0)
            assert 2 < (info.scheduled_at - datetime.now(UTC)).total_seconds() <= 5.5
        messages = [record.getMessage() for record in caplog.records]
        assert len([text for text in messages if "'stranger'" in text]) == 1
        assert len([text for text in messages if "pickle" in text]) == 1

    @pytest.mark.parametrize("serializer", ["msgpack", "pickle"])
    def test_other_formats_by_choice(self, database_url, serializer):
        app = App(database_url, serializer=serializer)

        @app.task(name="t")
        def size(data):
            return len(data)

        task_id = size.enqueue(b"\x00\xff")
        try:
            with working(app, accept=["json", "msgpack", "pickle"]):
                assert result_of(app, task_id).result == 2
        finally:
            app.close()

    def test_timeouts(self, app):
        never = threading.Event()

        @app.task(timeout=1, max_retries=0)
        def sync():
            never.wait(60)

        @app.task(timeout=1, max_retries=0)
        async def coroutine():
            await asyncio.sleep(60)

        @app.task(max_retries=0)
        async def own_timeout():
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)

        @app.task
        def fine():
            return 1

        ids = [sync.enqueue(), coroutine.enqueue(), own_timeout.enqueue()]
        with working(app, threads=1):
            assert result_of(app, ids[0]).error == "timed out: the task ran longer than 1 s"
            assert result_of(app, ids[1]).error == "timed out: the task ran longer than 1 s"
            assert result_of(app, ids[2]).error == "TimeoutError"
            assert result_of(app, fine.enqueue()).result == 1
        never.set()

    @pytest.mark.spec("CORE-08")
    def test_queues_in_strict_order(self, app):
        order: list[str] = []

        @app.task
        def note(name):
            order.append(name)

        note.using(queue="low").enqueue_many([("low",)] * 3)
        note.using(queue="high").enqueue_many([("high",)] * 3)
        with working(app, queues=["high", "low"], threads=1, batch=1):
            until(lambda: len(order) == 6)
        assert order == ["high"] * 3 + ["low"] * 3

    @pytest.mark.spec("SCHED-01")
    def test_scheduled_tasks_run_in_time(self, app):
        @app.task
        def now():
            return time.time()

        with working(app):
            due = time.time() + 0.7
            task_id = now.enqueue_after(0.7)
            late = result_of(app, task_id).result - due
        assert -0.1 < late < 1.5

    def test_an_isolated_task_runs_alone(self, app, server):
        together: list[int] = []
        running: set[int] = set()

        @app.task
        def work(number):
            running.add(number)
            time.sleep(0.02)
            if 7 in running and len(running) > 1:
                together.append(number)
            running.discard(number)

        ids = work.enqueue_many([(number,) for number in range(20)])
        database = parse_url(app.resolve_url()).database
        server.rows("UPDATE celers_tasks SET isolated = 1 WHERE id = %s", (ids[7].bytes,), database=database)
        with working(app, threads=4, batch=20):
            until(lambda: app.broker.get_statistics().completed == 20)
        assert together == []
        info = app.broker.get_task(ids[7])
        assert info.retry_count == 0

    @pytest.mark.spec("CORE-15")
    def test_stopping_waits_for_what_runs_and_returns_the_rest(self, app):
        started = threading.Semaphore(0)
        go_on = threading.Event()

        @app.task
        def work(number):
            started.release()
            go_on.wait(30)
            return number

        ids = work.enqueue_many([(number,) for number in range(10)])
        worker = Worker(app, threads=2, grace=20)
        thread = threading.Thread(target=worker.run)
        thread.start()
        # Claimed is not running: what has not begun is returned as well.
        assert all(started.acquire(timeout=20) for _ in range(2))
        assert app.broker.get_statistics().processing == 2
        worker.stop()
        threading.Timer(0.2, go_on.set).start()
        thread.join(30)
        statistics = app.broker.get_statistics()
        assert (statistics.completed, statistics.processing, statistics.pending) == (2, 0, 8)
        assert [app.result(one).result for one in ids[:2]] == [0, 1]

    def test_after_the_grace_period_running_tasks_are_given_back(self, app):
        started = threading.Event()
        go_on = threading.Event()

        @app.task
        def work():
            started.set()
            go_on.wait(30)

        task_id = work.enqueue()
        worker = Worker(app, threads=2, grace=0.1)
        thread = threading.Thread(target=worker.run)
        thread.start()
        assert started.wait(20)
        worker.stop()
        thread.join(30)
        info = app.broker.get_task(task_id)
        assert (info.state, info.retry_count) == (DbTaskState.PENDING, 0)
        go_on.set()

    def test_what_waits_behind_a_slow_task_goes_to_others(self, app):
        go_on = threading.Event()
        done: list[int] = []

        @app.task
        def work(number):
            if number < 0:
                go_on.wait(30)
            done.append(number)

        work.enqueue_many([(number,) for number in range(200)])
        with working(app, threads=1):
            until(lambda: len(done) == 200)
            work.enqueue_many([(-1,), *((number,) for number in range(20))])
            with working(app, threads=1):
                until(lambda: len(done) == 220)
                go_on.set()

    @pytest.mark.spec("CORE-12", "CORE-15")
    def test_a_lost_delivery_is_not_settled_twice(self, app, caplog):
        go_on = threading.Event()
        started = threading.Event()

        @app.task
        def work():
            started.set()
            go_on.wait(30)
            return 1

        task_id = work.enqueue()
        with caplog.at_level(logging.WARNING, "celers.worker"), working(app):
            assert started.wait(20)
            assert app.broker.cancel(task_id)
            go_on.set()
            until(lambda: any("taken back" in record.getMessage() for record in caplog.records))
        assert state_of(app, task_id) is DbTaskState.CANCELLED
        assert app.result(task_id) is None

    def test_a_task_may_enqueue_tasks(self, app):
        @app.task
        def child(number):
            return number

        @app.task
        async def parent():
            return [str(await child.aenqueue(1)), str(child.enqueue(2))]

        task_id = parent.enqueue()
        with working(app):
            ids = result_of(app, task_id).result
            assert [result_of(app, one).result for one in ids] == [1, 2]

    @pytest.mark.spec("ARCH-09")
    def test_nothing_of_the_arguments_is_logged(self, app, caplog):
        @app.task(max_retries=0)
        def secretive(word):
            raise ValueError(f"bad {word}")

        task_id = secretive.enqueue("S3CRET-WORD")
        with caplog.at_level(logging.INFO, "celers"), working(app):
            result_of(app, task_id)
        assert "S3CRET-WORD" not in caplog.text
