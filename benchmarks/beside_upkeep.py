"""Measure how long a worker waits beside retention on a big queue: ``python -m benchmarks.beside_upkeep``.

One process claims and acknowledges batches while another deletes old finished tasks, step after step without the pauses
that a worker's upkeep makes. What the first one waits is compared with the same without retention. The server's own
count of row locks that somebody waited for tells waiting for retention from sharing a processor and a disk with it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from multiprocessing.synchronize import Event
from typing import Any

from benchmarks import big_queue, machine
from celers import MysqlBroker, SerializedTask

LATE_MS = 50.0
"""Longer than this retention shall keep nobody waiting."""


def retain(url: str, ended: Event, answers: Any) -> None:
    """Delete until told to end; answer with the time of each step in ms."""
    times: list[float] = []
    deleted = 0
    with MysqlBroker(url) as broker:
        after: int | None = 0
        while not ended.is_set():
            started = time.perf_counter()
            count, after = broker.maintenance.archive_step(1, after or 0)
            times.append((time.perf_counter() - started) * 1000)
            deleted += count
    answers.put((times, deleted))


def work(url: str, secs: float, batch: int) -> list[float]:
    """Claim, acknowledge and enqueue for a while; return the time of each call in ms."""
    times: list[float] = []
    with MysqlBroker(url) as broker:
        ends = time.monotonic() + secs
        while time.monotonic() < ends:
            started = time.perf_counter()
            messages = broker.dequeue_batch(batch)
            claimed = time.perf_counter()
            broker.ack_batch([(message.task_id, message.receipt_handle) for message in messages])
            acked = time.perf_counter()
            broker.enqueue_batch([SerializedTask.new("job", b"x") for _ in range(batch)])
            ended = time.perf_counter()
            times += [(claimed - started) * 1000, (acked - claimed) * 1000, (ended - acked) * 1000]
    return times


def lock_waits(connection: Any) -> int:
    """How often anybody has waited for a row's lock since the server started."""
    connection.query("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_waits'")
    return int(connection.store_result().fetch_row(0)[0][1])


def describe(times: list[float]) -> str:
    """Give the median, the 99th percentile and the maximum."""
    ordered = sorted(times)
    return f"{statistics.median(ordered):.1f} / {ordered[int(len(ordered) * 0.99)]:.1f} / {ordered[-1]:.1f}"


def late(times: list[float]) -> str:
    """Give the share of times above 50 ms."""
    return f"{sum(1 for value in times if value > LATE_MS) / len(times):.1%}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", choices=("mariadb", "mysql"), default="mariadb")
    parser.add_argument("--url", help="a database of a running server instead: filled when it is empty")
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--secs", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--directory", help="where the server keeps its data")
    options = parser.parse_args()
    with big_queue.place(options.url, options.server, options.directory) as url:
        connection = big_queue.prepare(url, options.finished, options.pending)
        alone = work(url, options.secs, options.batch)
        ended = multiprocessing.Event()
        answers: Any = multiprocessing.Queue()
        process = multiprocessing.Process(target=retain, args=(url, ended, answers))
        waits = lock_waits(connection)
        process.start()
        beside = work(url, options.secs, options.batch)
        ended.set()
        steps, deleted = answers.get()
        process.join()
        waits = lock_waits(connection) - waits
    facts = machine.describe(options.directory)
    print(f"{time.strftime('%Y-%m-%d')}, {facts['processor']}, {facts['cores']} cores, load {facts['load']}")
    print(f"calls of {options.batch} tasks, median / p99 / longest in ms")
    print(f"alone             {describe(alone)}  ({len(alone)} calls)")
    print(f"beside retention  {describe(beside)}  ({len(beside)} calls)")
    print(f"retention step    {describe(steps)}  ({len(steps)} steps, {deleted} tasks deleted)")
    print(f"row locks that anybody waited for beside retention: {waits}")
    print(f"calls above 50 ms: {late(alone)} alone, {late(beside)} beside retention, {late(steps)} of the steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
