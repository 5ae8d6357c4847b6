"""Measure how long a worker waits beside retention on a big queue: ``python -m benchmarks.beside_upkeep``.

One process claims and acknowledges batches while another deletes old finished tasks: with the pauses that a worker's
upkeep makes, then step after step without them. What the first one waits is compared with the same without retention.
The server's own count of row locks that somebody waited for tells waiting for retention from sharing a processor and a
disk with it.
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
from celers.worker.upkeep import SHORTEST_PAUSE_SECS

LATE_MS = 50.0
"""Longer than this retention shall keep nobody waiting."""


def retain(url: str, ended: Event, answers: Any, *, pauses: bool) -> None:
    """Delete until told to end; answer with the time of each step in ms and the number of tasks deleted."""
    times: list[float] = []
    deleted = 0
    with MysqlBroker(url) as broker:
        after: int | None = 0
        while not ended.is_set():
            started = time.perf_counter()
            count, after = broker.maintenance.archive_step(1, after or 0)
            took = time.perf_counter() - started
            times.append(took * 1000)
            deleted += count
            if pauses:
                ended.wait(max(took, SHORTEST_PAUSE_SECS))
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
    """Give the median, the 99th percentile, the maximum, the share that is late, and the number."""
    ordered = sorted(times)
    late = sum(1 for value in times if value > LATE_MS) / len(times)
    return (
        f"{statistics.median(ordered):.1f} / {ordered[int(len(ordered) * 0.99)]:.1f} / {ordered[-1]:.1f}; {late:.1%}"
        f" of {len(times)}"
    )


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
        print(f"calls of {options.batch} tasks: median / p99 / longest in ms; share of those above {LATE_MS:.0f} ms")
        print(f"alone: {describe(alone)}", flush=True)
        for pauses in (True, False):
            waits = lock_waits(connection)
            ended = multiprocessing.Event()
            answers: Any = multiprocessing.Queue()
            process = multiprocessing.Process(target=retain, args=(url, ended, answers), kwargs={"pauses": pauses})
            process.start()
            beside = work(url, options.secs, options.batch)
            ended.set()
            steps, deleted = answers.get()
            process.join()
            waits = lock_waits(connection) - waits
            print(f"beside retention {'as a worker does it' if pauses else 'without its pauses'}: {describe(beside)}")
            print(f"  its steps: {describe(steps)}, {deleted} tasks deleted")
            print(f"  row locks that anybody waited for: {waits}", flush=True)
    facts = machine.describe(options.directory)
    print(f"{time.strftime('%Y-%m-%d')}, {facts['processor']}, {facts['cores']} cores, load {facts['load']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
