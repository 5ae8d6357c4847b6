"""`enqueue_many` in batches: one commit each, in order, the next made ready while one is stored."""

from __future__ import annotations

import asyncio
import threading

import pytest

from celers import App, QueueDrainingError, ValidationError
from celers.db.url import parse_url


@pytest.fixture
def app(database_url):
    made = App(database_url)
    yield made
    made.close()


@pytest.fixture
def job(app):
    @app.task(name="job")
    def job(number):
        return number

    return job


@pytest.fixture(params=["sync", "async"])
def many(request, job):
    """Call `enqueue_many` or its twin."""
    if request.param == "sync":
        return job.enqueue_many

    def call(calls, **options):
        async def main():
            try:
                return await job.aenqueue_many(calls, **options)
            finally:
                await job.app.aclose()

        return asyncio.run(main())

    return call


def delivered(app, count):
    return [(message.task_id, message.task.payload) for message in app.broker.dequeue_batch(count)]


@pytest.mark.spec("BATCH-01")
@pytest.mark.parametrize("count", [0, 1, 10, 25])
def test_batches_keep_the_order(app, many, count):
    stored = []
    ids = many(((number,) for number in range(count)), batch=10, on_stored=stored.append)
    assert [len(part) for part in stored] == [10] * (count // 10) + [count % 10] * (count % 10 > 0)
    assert [task_id for part in stored for task_id in part] == ids
    assert delivered(app, 100) == [(task_id, b"[[%d],{}]" % number) for number, task_id in enumerate(ids)]


@pytest.mark.spec("BATCH-01")
def test_one_transaction_without_batch(many):
    stored = []
    ids = many([(number,) for number in range(25)], on_stored=stored.append)
    assert stored == [ids]


@pytest.mark.spec("BATCH-01")
def test_no_more_than_two_batches_are_taken_from_the_calls(app, job):
    taken, most = 0, []

    def calls():
        nonlocal taken
        for number in range(100):
            taken += 1
            yield (number,)

    job.enqueue_many(calls(), batch=10, on_stored=lambda ids: most.append(taken))
    assert all(after <= 10 * (number + 2) for number, after in enumerate(most))
    assert app.broker.queue_size() == 100


@pytest.mark.spec("BATCH-01", "CTRL-04")
def test_a_batch_that_fails_says_what_is_stored(app, many):
    def drain_after(ids):
        if not app.broker.is_drain_mode():
            app.broker.enable_drain_mode()

    with pytest.raises(QueueDrainingError) as caught:
        many(((number,) for number in range(50)), batch=10, on_stored=drain_after)
    assert caught.value.__notes__ == [f"{app.broker.queue_size()} of the calls are stored"]
    # The one that was being made ready when the queue began to drain is refused at the latest.
    assert app.broker.queue_size() in (10, 20)


@pytest.mark.spec("BATCH-01")
def test_calls_that_fail_leave_whole_batches(app, many):
    def calls():
        for number in range(25):
            yield (number,)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more") as caught:
        many(calls(), batch=10)
    assert caught.value.__notes__ == ["20 of the calls are stored"]
    assert app.broker.queue_size() == 20


@pytest.mark.spec("BATCH-01")
def test_what_batch_takes(many):
    for wrong in (0, -1, 100_001, 1.5, "10"):
        with pytest.raises(ValidationError):
            many([(1,)], batch=wrong)


@pytest.mark.spec("BATCH-01", "CORE-07")
def test_batches_on_a_connection_of_the_caller(app, job, server, database_url):
    connection = server.connect(parse_url(database_url).database)
    connection.autocommit(False)
    ids = job.using(connection=connection).enqueue_many([(number,) for number in range(5)], batch=2)
    assert app.broker.queue_size() == 0
    connection.commit()
    connection.close()
    assert [task_id for task_id, _ in delivered(app, 10)] == ids


def test_the_thread_is_gone_afterwards(app, job):
    job.enqueue_many([(1,), (2,)], batch=1)
    assert not any(thread.name.startswith("celers-enqueue") for thread in threading.enumerate())
