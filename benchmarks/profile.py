"""Where the time of one drained task goes, stage by stage: ``python -m benchmarks.profile``.

A worker without child processes drains a queue of tasks that do nothing, once as it is, and once with its stages
wrapped in clocks. A stage's time is its own: what it calls is counted there. Wall time is what passes, waiting for
the server and for other threads included; CPU time is what this process computes.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import pstats
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks import celers_app, machine, servers
from benchmarks.report import table
from benchmarks.tally import Tally, payload_of
from celers import Worker, __version__
from celers_fast import IMPL

__all__ = ["STAGES", "Clocks", "main", "packet_kind"]


def packet_kind(text: bytes) -> str:
    """Say what a packet is for, by its statements."""
    claims = b"sort_rank, seq FROM celers_ready" in text
    acks = b"state = 'completed'" in text
    if claims and acks:
        return "packet: ack and claim in one"
    if claims:
        return "packet: claim"
    return "packet: ack" if acks else "packet: other"


STAGES: list[tuple[str, str, str]] = [
    # (module, name in it, stage)
    ("celers.db.driver", "Connection.run", "packet"),
    ("celers.components.claims", "decode_claims", "decode rows"),
    ("celers.worker.loop", "ClaimLoop._claim", "claim: build the packet, drive it, keep the lease"),
    ("celers.worker.loop", "ClaimLoop._take", "dispatch: choose what runs"),
    ("celers.worker.loop", "ClaimLoop._deliveries", "dispatch: make the delivery"),
    ("celers.worker.loop", "ClaimLoop._dispatch", "dispatch: hand over to the threads"),
    ("celers.worker.runners", "_start", "start: note the running task"),
    ("celers.worker.runners", "run_sync", "run: around the function"),
    ("celers.payload", "decode", "decode arguments"),
    ("celers.worker.delivery", "result_text", "encode the result"),
    ("celers.worker.loop", "ClaimLoop._report", "report the outcome"),
    ("celers.worker.loop", "ClaimLoop._settle", "ack: collect, build the packet, drive it"),
    ("celers.worker.loop", "ClaimLoop._step", "loop: decide what is next"),
    ("celers.worker.loop", "ClaimLoop._wait", "loop: wait for the threads"),
]
"""What is clocked. A name that has gone is reported, and its time is found in the stage around it."""


class Clocks:
    """Own time of nested stages, in all threads."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self._all: list[dict[str, list[float]]] = []
        self.absent: list[str] = []

    def _state(self) -> Any:
        local = self._local
        if not hasattr(local, "stack"):
            local.stack = []
            local.found = {}
            with self._lock:
                self._all.append(local.found)
        return local

    def wrap(self, function: Callable[..., Any], stage: Callable[[tuple[Any, ...]], str]) -> Callable[..., Any]:
        """Return the function with a clock around it; `stage` names the stage from its arguments."""
        clock, cpu_clock, state_of = time.perf_counter, time.thread_time, self._state

        def clocked(*args: Any, **kwargs: Any) -> Any:
            state = state_of()
            stack = state.stack
            below = [0.0, 0.0]
            stack.append(below)
            cpu, wall = cpu_clock(), clock()
            try:
                return function(*args, **kwargs)
            finally:
                wall, cpu = clock() - wall, cpu_clock() - cpu
                stack.pop()
                if stack:
                    stack[-1][0] += wall
                    stack[-1][1] += cpu
                entry = state.found.setdefault(stage(args), [0, 0.0, 0.0])
                entry[0] += 1
                entry[1] += wall - below[0]
                entry[2] += cpu - below[1]

        return clocked

    @contextmanager
    def running(self) -> Iterator[None]:
        """Clock the stages of the worker for the time of a `with` statement."""
        undo: list[tuple[Any, str, Any]] = []
        try:
            for module_name, path, label in STAGES:
                owner: Any = importlib.import_module(module_name)
                *parents, name = path.split(".")
                for parent in parents:
                    owner = getattr(owner, parent, None)
                original = getattr(owner, name, None)
                if original is None:
                    self.absent.append(f"{module_name}.{path}")
                    continue
                undo.append((owner, name, original))
                setattr(owner, name, self.wrap(original, _stage(label)))
            yield
        finally:
            for owner, name, original in reversed(undo):
                setattr(owner, name, original)

    def totals(self) -> dict[str, tuple[int, float, float]]:
        """Return calls, wall and CPU seconds of each stage."""
        sums: dict[str, list[float]] = {}
        with self._lock:
            for found in self._all:
                for stage, (calls, wall, cpu) in list(found.items()):
                    entry = sums.setdefault(stage, [0, 0.0, 0.0])
                    entry[0] += calls
                    entry[1] += wall
                    entry[2] += cpu
        return {stage: (int(calls), wall, cpu) for stage, (calls, wall, cpu) in sums.items()}


def _stage(label: str) -> Callable[[tuple[Any, ...]], str]:
    if label == "packet":
        return lambda args: packet_kind(args[1])
    return lambda args: label


def drain(
    task: Any,
    count: int,
    path: Path,
    options: dict[str, Any],
    *,
    clocks: Clocks | None = None,
    profiler: cProfile.Profile | None = None,
) -> tuple[float, float]:
    """Drain `count` tasks in this process; return wall and CPU seconds."""
    for at in range(0, count, 1000):
        task.enqueue_many([(payload_of(n),) for n in range(at, min(count, at + 1000))])
    tally = Tally.create(path, count)
    original, celers_app._tally = task.fn, tally
    if clocks is not None:
        task.fn = clocks.wrap(original, lambda args: "the function itself")
    worker = Worker(celers_app.app, queues=[celers_app.QUEUE], **options)
    times: list[float] = []

    def watch() -> None:
        while not tally.done():
            time.sleep(0.001)
        times.extend((time.perf_counter(), time.process_time()))
        while tally.done() < count:
            time.sleep(0.001)
        times.extend((time.perf_counter(), time.process_time()))
        worker.stop()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with clocks.running() if clocks is not None else nullcontext():
            if profiler is None:
                worker.run()
            else:
                profiler.runcall(worker.run)
        watcher.join(10)
        if tally.done() != count or tally.duplicates():
            raise RuntimeError(f"{tally.done()} of {count} tasks ran, {tally.duplicates()} twice")
    finally:
        task.fn, celers_app._tally = original, None
        tally.close()
    return times[2] - times[0], times[3] - times[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--server", choices=("mariadb", "mysql"), default="mariadb")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=100, help="most tasks in a claim")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--results", action="store_true", help="store results")
    parser.add_argument(
        "--cprofile", type=Path, metavar="FILE", help="also profile the claim loop's thread by function"
    )
    options = parser.parse_args(arguments)
    task = celers_app.noop_result if options.results else celers_app.noop
    settings = {"batch": options.batch, "threads": options.threads}
    clocks = Clocks()
    facts = machine.describe()
    with servers.started(options.server) as server:
        config = servers.make_database(server, "profile")
        celers_app.app.connect_to(f"mysql://root@localhost/profile?unix_socket={config['socket']}")
        celers_app.app.broker.migrate()
        tally = Path(config["socket"]).parent / "tally"
        plain = drain(task, options.tasks, tally, settings)
        if options.cprofile:
            profiler = cProfile.Profile()
            drain(task, options.tasks, tally, settings, profiler=profiler)
            profiler.dump_stats(options.cprofile)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(20)
        clocked = drain(task, options.tasks, tally, settings, clocks=clocks)
        celers_app.app.close()
        version = server.version
    count = options.tasks
    print(f"celers {__version__} ({IMPL}) on {options.server} {version}; {facts['processor']}, {facts['cores']} cores")
    for text, (wall, cpu) in (("as it is", plain), ("with clocks", clocked)):
        print(
            f"{text:<12} {count / wall:>9,.0f} tasks/s, {wall / count * 1e6:7.1f} us and"
            f" {cpu / count * 1e6:6.1f} us of CPU a task"
        )
    lines = [
        [stage, f"{calls:,}", f"{wall / count * 1e6:.2f}", f"{cpu / count * 1e6:.2f}"]
        for stage, (calls, wall, cpu) in sorted(clocks.totals().items(), key=lambda item: -item[1][1])
    ]
    print("\n" + table(["stage", "calls", "wall us a task", "CPU us a task"], lines))
    if clocks.absent:
        print(f"\nnot found, so counted around them: {', '.join(clocks.absent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
