"""How long each operation of the broker takes: ``python -m benchmarks.broker_benchmark [NAME ...]``.

Setup is not measured, each benchmark has a queue of its own on a private server (or on the one of ``--url``), and
what it stored is removed. ``--json`` keeps the samples, and ``--baseline`` compares with samples kept before.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: the directory itself has modules named like the standard library's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import machine, servers, stats
from benchmarks.report import table
from benchmarks.svg import shown
from celers import MysqlBroker, __version__
from celers.model.task import SerializedTask
from celers_fast import IMPL

__all__ = ["BENCHMARKS", "Benchmark", "Options", "compare_with", "main", "names"]

PAYLOAD = b"x" * 100
SCALING_BATCH = 10


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    samples: int = 100
    warm_up_secs: float = 3.0
    secs: float = 10.0


@dataclass(frozen=True)
class Benchmark:
    """One operation: `setup` makes what a call needs, `call` is measured, and is about `tasks` tasks.

    `after` gets what the call returned, and puts back what would change the next call.
    """

    name: str
    tasks: int
    setup: Callable[[MysqlBroker], Any]
    call: Callable[[MysqlBroker, Any], object]
    after: Callable[[MysqlBroker, Any], object] = lambda _broker, _result: None


def made(count: int) -> list[SerializedTask]:
    """Make tasks."""
    return [SerializedTask.new("benchmark", PAYLOAD) for _ in range(count)]


def _stored(count: int) -> Callable[[MysqlBroker], Any]:
    return lambda broker: broker.enqueue_batch(made(count))


def _claimed(count: int) -> Callable[[MysqlBroker], Any]:
    def setup(broker: MysqlBroker) -> Any:
        broker.enqueue_batch(made(count))
        return broker.dequeue_batch(count)

    return setup


def _pairs(messages: Sequence[Any]) -> list[tuple[Any, str]]:
    return [(message.task_id, message.receipt_handle) for message in messages]


def _take_one(broker: MysqlBroker, _: Any) -> None:
    message = broker.dequeue()
    assert message is not None
    broker.ack(message.task_id, message.receipt_handle)


def _take_many(count: int) -> Callable[[MysqlBroker, Any], object]:
    def call(broker: MysqlBroker, _: Any) -> object:
        messages = broker.dequeue_batch(count)
        assert len(messages) == count
        return messages

    return call


def _ack_one(broker: MysqlBroker, messages: Any) -> None:
    broker.ack(messages[0].task_id, messages[0].receipt_handle)


def _ack_many(broker: MysqlBroker, messages: Any) -> None:
    broker.ack_batch(_pairs(messages))


def _reject(broker: MysqlBroker, messages: Any) -> None:
    broker.reject(messages[0].task_id, messages[0].receipt_handle, requeue=True)


def _all() -> Iterator[Benchmark]:
    yield Benchmark("enqueue_single", 1, lambda _: made(1)[0], lambda broker, task: broker.enqueue(task))
    for count in (10, 50, 100, 500, 1000):
        yield Benchmark(
            f"enqueue_batch_{count}",
            count,
            lambda _, count=count: made(count),  # type: ignore[misc]
            lambda broker, tasks: broker.enqueue_batch(tasks),
        )
    yield Benchmark("dequeue_single", 1, _stored(1), _take_one)
    for count in (10, 50, 100):
        yield Benchmark(f"dequeue_batch_{count}", count, _stored(count), _take_many(count), _ack_many)
    yield Benchmark("ack", 1, _claimed(1), _ack_one)
    for count in (10, 50, 100):
        yield Benchmark(f"ack_batch_{count}", count, _claimed(count), _ack_many)
    yield Benchmark("queue_size", 0, lambda _: None, lambda broker, _: broker.queue_size())
    yield Benchmark("statistics", 0, lambda _: None, lambda broker, _: broker.get_statistics())
    yield Benchmark("reject_requeue", 1, _claimed(1), _reject)
    yield Benchmark("enqueue_scheduled", 1, lambda _: made(1)[0], lambda broker, task: broker.enqueue_after(task, 3600))


BENCHMARKS = {benchmark.name: benchmark for benchmark in _all()}
LONG = ("scaling", "finished_rows")
"""Measured by other means than a sample of calls."""


def measure(benchmark: Benchmark, broker: MysqlBroker, options: Options) -> list[float]:
    """Return the seconds of each call; at most `samples` calls and at most `secs` seconds of them and their setup."""

    def once() -> float:
        prepared = benchmark.setup(broker)
        started = time.perf_counter()
        result = benchmark.call(broker, prepared)
        taken = time.perf_counter() - started
        benchmark.after(broker, result)
        return taken

    until = time.monotonic() + options.warm_up_secs
    once()
    while time.monotonic() < until:
        once()
    times: list[float] = []
    until = time.monotonic() + options.secs
    while len(times) < options.samples and (not times or time.monotonic() < until):
        times.append(once())
    return times


def _drain(url: str, queue: str, others: int, ready: Any, go: Any, answers: Any) -> None:
    """One process of the scaling benchmark: claims and acknowledges until the queue is empty.

    A claim that finds nothing is counted when more tasks were there than the others can have had in their hands.
    """
    with MysqlBroker(url, queue, heartbeat=False) as broker:
        broker.queue_size()
        ready.release()
        go.wait()
        taken = empty = 0
        while True:
            messages = broker.dequeue_batch(SCALING_BATCH)
            if messages:
                taken += broker.ack_batch(_pairs(messages))
            elif (left := broker.queue_size()) == 0:
                break
            else:
                empty += left > SCALING_BATCH * others
        answers.put((taken, empty))


def scaling(url: str, tasks: int) -> list[dict[str, Any]]:
    """Dequeue with 1, 2, 4 and 8 processes: tasks a second, and claims that found nothing while tasks were due."""
    context = multiprocessing.get_context("spawn")
    found: list[dict[str, Any]] = []
    for workers in (1, 2, 4, 8):
        queue = f"benchmark-scaling-{workers}"
        with MysqlBroker(url, queue) as broker:
            for at in range(0, tasks, 1000):
                broker.enqueue_batch(made(min(1000, tasks - at)))
            ready, go, answers = context.Semaphore(0), context.Event(), context.Queue()
            running = [
                context.Process(target=_drain, args=(url, queue, workers - 1, ready, go, answers), daemon=True)
                for _ in range(workers)
            ]
            for process in running:
                process.start()
            for _ in running:
                if not ready.acquire(timeout=60):
                    raise RuntimeError("a process did not start")
            started = time.perf_counter()
            go.set()
            taken = [answers.get(timeout=600) for _ in running]
            secs = time.perf_counter() - started
            for process in running:
                process.join(30)
            if sum(one for one, _ in taken) != tasks:
                raise RuntimeError(f"{sum(one for one, _ in taken)} of {tasks} tasks were taken")
            broker.purge_all()
        found.append({"workers": workers, "tasks_per_sec": tasks / secs, "empty_claims": sum(n for _, n in taken)})
    return found


def finished_rows(url: str, rows: int, options: Options) -> dict[str, list[float]]:
    """Dequeue one task with no finished rows, and with many."""
    benchmark = BENCHMARKS["dequeue_single"]
    found: dict[str, list[float]] = {}
    with MysqlBroker(url, "benchmark-finished") as broker:
        found["without"] = measure(benchmark, broker, options)
        for at in range(0, rows, 1000):
            broker.enqueue_batch(made(min(1000, rows - at)))
            # Finished by the broker itself, in the largest claims.
            while messages := broker.dequeue_batch(1000):
                broker.ack_batch(_pairs(messages))
        found["with"] = measure(benchmark, broker, options)
        broker.purge_all()
    return found


def names(chosen: Sequence[str]) -> list[str]:
    """Return the benchmarks that the words choose: whole names, or their beginnings; all for none."""
    known = [*BENCHMARKS, *LONG]
    if not chosen:
        return known
    found = [name for name in known if any(name.startswith(word) for word in chosen)]
    for word in chosen:
        if not any(name.startswith(word) for name in known):
            raise ValueError(f"no benchmark begins with {word!r}; there are {', '.join(known)}")
    return found


def compare_with(before: dict[str, Any], after: dict[str, Any]) -> list[list[str]]:
    """Return lines that say how the median of each benchmark has changed, with a confidence interval of 95 %."""
    lines: list[list[str]] = []
    for name, samples in after.items():
        old = before.get(name)
        if not old:
            lines.append([name, "-", "-", "new"])
            continue
        middle, low, high = stats.change(old, samples)
        word = "no clear change" if low <= 0 <= high else "slower" if middle > 0 else "faster"
        lines.append([name, f"{middle:+.1%}", f"{low:+.1%} to {high:+.1%}", word])
    return lines


def _lines(samples: dict[str, list[float]]) -> list[list[str]]:
    lines = []
    for name, times in samples.items():
        found = stats.summarise(times)
        tasks = BENCHMARKS[name].tasks
        lines.append(
            [
                name,
                *(shown(value * 1e6) for value in (found.median, found.mean, found.deviation, found.p95)),
                shown(1 / found.median),
                shown(tasks / found.median) if tasks else "-",
                str(found.count),
            ]
        )
    return lines


@contextlib.contextmanager
def _server(options: argparse.Namespace) -> Iterator[str]:
    if options.url:
        yield options.url
        return
    with servers.started(options.server) as server:
        config = servers.make_database(server, "benchmark")
        yield f"mysql://root@localhost/benchmark?unix_socket={config['socket']}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.broker_benchmark", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks, or how their names begin (default: all)")
    parser.add_argument("--list", action="store_true", help="show the names")
    parser.add_argument("--server", choices=("mariadb", "mysql"), default="mariadb", help="private server to start")
    parser.add_argument("--url", help="an existing database with celers' tables, in place of a private server")
    parser.add_argument("--samples", type=int, default=Options.samples)
    parser.add_argument("--warm-up", type=float, default=Options.warm_up_secs, metavar="SECONDS")
    parser.add_argument("--time", type=float, default=Options.secs, metavar="SECONDS", help="of each benchmark")
    parser.add_argument("--tasks", type=int, default=10_000, help="of the scaling benchmark")
    parser.add_argument("--rows", type=int, default=1_000_000, help="finished rows")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="what --json wrote before")
    options = parser.parse_args(arguments)
    try:
        chosen = names(options.names)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(chosen))
        return 0
    limits = Options(options.samples, options.warm_up, options.time)
    samples: dict[str, list[float]] = {}
    result: dict[str, Any] = {}
    facts = machine.describe()
    with _server(options) as url:
        with MysqlBroker(url, "benchmark") as broker:
            if not options.url:
                broker.migrate()
            version = broker.server_version
        for name in chosen:
            if name in BENCHMARKS:
                print(f"{name} ...", file=sys.stderr)
                with MysqlBroker(url, f"benchmark-{name}") as broker:
                    try:
                        samples[name] = measure(BENCHMARKS[name], broker, limits)
                    finally:
                        broker.purge_all()
        if "scaling" in chosen:
            print("scaling ...", file=sys.stderr)
            result["scaling"] = scaling(url, options.tasks)
        if "finished_rows" in chosen:
            print("finished_rows ...", file=sys.stderr)
            result["finished_rows"] = finished_rows(url, options.rows, limits)
    print(f"celers {__version__} ({IMPL}) on {version}")
    print(f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}, fsync {facts['fsync_us']} us\n")
    if samples:
        print(
            table(
                ["benchmark", "median us", "mean us", "deviation", "p95 us", "operations/s", "tasks/s", "samples"],
                _lines(samples),
            )
        )
    if "scaling" in result:
        rows = [
            [str(row["workers"]), shown(row["tasks_per_sec"]), str(row["empty_claims"])] for row in result["scaling"]
        ]
        print("\n" + table(["processes", "tasks/s", "empty claims while tasks were due"], rows))
    if "finished_rows" in result:
        without, present = (stats.summarise(result["finished_rows"][key]).median for key in ("without", "with"))
        print(
            f"\ndequeue_single with {options.rows:,} finished rows: {shown(present * 1e6)} us,"
            f" without {shown(without * 1e6)} us"
        )
    if options.baseline:
        before = json.loads(options.baseline.read_text())["samples"]
        print("\n" + table(["benchmark", "change", "95 % interval", ""], compare_with(before, samples)))
    if options.json:
        kept = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": facts,
            "celers": __version__,
            "implementation": IMPL,
            "server": version,
            "samples": samples,
            "summary": {name: stats.summarise(times).to_dict() for name, times in samples.items()},
            **result,
        }
        options.json.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
