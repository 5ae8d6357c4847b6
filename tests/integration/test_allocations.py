"""Bounds on what one task costs in memory on its way: at the peak of an operation, and for good."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from celers import App, SerializedTask, Worker
from celers.components.consumer import Completion

pytestmark = [pytest.mark.spec("BENCH-06"), pytest.mark.timeout(120)]

COUNT = 500
PAYLOAD = b"x" * 100


def measured(call):
    """Return the bytes at the peak of a call and the blocks that are left after it, each by task."""
    gc.collect()
    tracemalloc.start()
    try:
        blocks = tracemalloc.take_snapshot()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        peak = tracemalloc.get_traced_memory()[1] - size
        gc.collect()
        left = sum(line.count_diff for line in tracemalloc.take_snapshot().compare_to(blocks, "filename"))
    finally:
        tracemalloc.stop()
    return peak / COUNT, left / COUNT


def new_tasks():
    return [SerializedTask.new("m.f", PAYLOAD) for _ in range(COUNT)]


def test_a_batch(sync_broker):
    sync_broker.enqueue_batch(new_tasks())
    tasks = new_tasks()
    peak, left = measured(lambda: sync_broker.enqueue_batch(tasks))
    assert peak < 1500, "its row, its part of the packet, once"
    assert left < 0.5


def test_claim_and_acknowledge(sync_broker):
    def turn():
        messages = sync_broker.dequeue_batch(COUNT)
        assert len(messages) == COUNT
        assert all(sync_broker.consumer.complete([Completion(message) for message in messages]))

    for _ in range(3):
        sync_broker.enqueue_batch(new_tasks())
    turn()
    peak, left = measured(turn)
    assert peak < 3500
    assert left < 0.5


def test_a_worker_keeps_nothing_of_its_tasks(database_url, sync_broker):
    app = App(database_url)
    ran = 0

    @app.task
    def one(number):
        nonlocal ran
        ran += 1
        if ran % COUNT == 0:
            worker.stop()

    worker = Worker(app, threads=2)

    def turn():
        nonlocal worker
        one.enqueue_many([(number,) for number in range(COUNT)])
        worker = Worker(app, threads=2)
        worker.run()

    turn()
    peak, left = measured(turn)
    assert ran == 2 * COUNT
    assert peak < 3500
    assert left < 1.5
    app.close()
