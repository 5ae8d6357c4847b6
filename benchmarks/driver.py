"""The measuring process of one contender: celers, the floor or a peer.

`benchmarks.compare` starts one such process for each contender, in the contender's own environment, and asks it for
one measurement at a time over a pipe: a line of JSON in, a line of JSON out. So every contender runs alone, keeps its
state between rounds, and all are measured by the same code. Standard library only.

A contender subclasses `Driver`, says how tasks are stored and how a worker runs, and ends its module with `main`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.tally import VARIABLE, Tally, payload_of

__all__ = ["Driver", "NotMeasured", "main", "process_cpu", "tree_of"]

START_SECS = 60.0
STALL_SECS = 30.0
GOODBYE_SECS = 10.0
CONFIG_VARIABLE = "CELERS_BENCHMARK_CONFIG"


class NotMeasured(Exception):
    """The contender has no such operation (yet); the text says why."""


class Wrong(Exception):
    """A count does not agree: a task was lost or ran twice."""


def tree_of(pids: Sequence[int]) -> list[int]:
    """Return these processes and all their descendants (Linux; elsewhere only the processes themselves)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(entry.read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found: list[int] = []
    left = list(pids)
    while left:
        pid = left.pop()
        if pid not in found:
            found.append(pid)
            left += children.get(pid, [])
    return found


def process_cpu(pids: Sequence[int]) -> float | None:
    """Return the CPU seconds that these processes have used; None where the system does not tell (not Linux)."""
    total = 0.0
    known = False
    tick = os.sysconf("SC_CLK_TCK")
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            # schedstat counts nanoseconds, but for living threads only; stat counts all threads in ticks of 10 ms.
            text = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks = (int(text[11]) + int(text[12])) / tick
            exact = 0.0
            for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    exact += int(thread.read_text().split()[0]) / 1e9
            total += exact or ticks
            known = True
    return total if known else None


class Clock:
    """Wall time and CPU time of this process between `with` and its end."""

    def __enter__(self) -> Self:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu = usage.ru_utime + usage.ru_stime
        self._wall = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.secs = time.perf_counter() - self._wall
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.cpu = usage.ru_utime + usage.ru_stime - self._cpu


class Driver:
    """One contender.

    Parameters
    ----------
    config : dict
        Where its server is, and whatever the contender needs in its workers.
    """

    module = ""
    """Module that is run with ``worker`` as its argument to start a worker process."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self._tallies = 0

    @functools.cached_property
    def _directory(self) -> tempfile.TemporaryDirectory[str]:
        # Made by the measuring process only: a worker is ended by a signal and could not remove it.
        return tempfile.TemporaryDirectory(prefix="celers-bench-", dir=_memory())

    # What a contender provides

    def versions(self) -> dict[str, str]:
        """Return the versions of what takes part."""
        return {}

    def clear(self) -> None:
        """Empty the queue."""
        raise NotImplementedError

    def left(self) -> int:
        """Return how many tasks are stored and have not been completed."""
        raise NotImplementedError

    def enqueue(self, payload: str) -> None:
        """Store one task."""
        raise NotImplementedError

    def enqueue_many(self, payloads: Sequence[str]) -> None:
        """Store many tasks with the contender's own batch operation."""
        raise NotMeasured("no batch enqueue")

    def enqueue_each(self, payloads: Sequence[str]) -> None:
        """Store tasks one at a time; overridden where one event loop should see all of them."""
        for payload in payloads:
            self.enqueue(payload)

    def enqueue_batches(self, batches: Sequence[Sequence[str]]) -> None:
        """Store batches one after the other."""
        for batch in batches:
            self.enqueue_many(batch)

    def fill(self, payloads: Sequence[str]) -> None:
        """Store many tasks as quickly as possible, unmeasured."""
        try:
            for at in range(0, len(payloads), 1000):
                self.enqueue_many(payloads[at : at + 1000])
        except NotMeasured:
            self.enqueue_each(payloads)

    def work(self, tally: Tally) -> None:
        """Be a worker process: connect, `tally.wait_at_gate()`, then run tasks until killed."""
        raise NotImplementedError

    def worker_commands(self, workers: int, options: dict[str, Any]) -> list[list[str]]:
        """Return the commands of the worker processes."""
        return [[sys.executable, "-m", self.module, "worker"]] * workers

    def worker_processes(self, workers: int) -> int:
        """How many processes report that they are ready."""
        return workers

    # Measurements; each returns a dictionary of numbers

    def measure_enqueue_single(self, count: int) -> dict[str, Any]:
        """One producer stores tasks one at a time."""
        self.clear()
        payloads = [payload_of(number) for number in range(count)]
        for payload in payloads[:5]:
            self.enqueue(payload)
        with Clock() as clock:
            self.enqueue_each(payloads[5:])
        self.expect(count)
        return {"tasks": count - 5, "secs": clock.secs, "cpu": clock.cpu}

    def measure_enqueue_batch(self, count: int, size: int = 1000) -> dict[str, Any]:
        """One producer stores tasks in batches."""
        self.clear()
        batches = [[payload_of(at + n) for n in range(size)] for at in range(0, count, size)]
        with Clock() as clock:
            self.enqueue_batches(batches)
        self.expect(size * len(batches))
        return {"tasks": size * len(batches), "secs": clock.secs, "cpu": clock.cpu}

    def measure_drain(self, count: int, workers: int, **options: Any) -> dict[str, Any]:
        """Workers run tasks that do nothing until none is left; timed from 1 % to the end."""
        self.clear()
        self.fill([payload_of(number) for number in range(count)])
        with self.tally(count) as tally, self.running(tally, workers, options) as processes:
            pids = tree_of([process.pid for process in processes])
            cpu = process_cpu(pids)
            tally.open_gate()
            secs, counted = self._watch(tally, processes)
            used = process_cpu(pids)
            self.wait_for_empty(5.0)
            self._verify(tally)
        result: dict[str, Any] = {"tasks": counted, "secs": secs}
        if cpu is not None and used is not None:
            result |= {"cpu": used - cpu, "cpu_tasks": count}
        return result

    def measure_pickup(
        self, count: int, workers: int = 1, pause: Sequence[float] = (0.1, 0.3), **options: Any
    ) -> dict[str, Any]:
        """Time from the enqueue's return to the start of the function, on an idle queue; seconds."""
        self.clear()
        rng = random.Random(count)
        delays: list[float] = []
        with self.tally(count, times=True) as tally, self.running(tally, workers, options) as processes:
            tally.open_gate()
            time.sleep(1.0)
            for number in range(count):
                time.sleep(rng.uniform(*pause))
                self.enqueue(payload_of(number))
                returned = time.monotonic()
                deadline = returned + STALL_SECS
                while not tally.ran(number):
                    if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                        raise Wrong(f"task {number} was not picked up")
                    time.sleep(0.001)
                delays.append(tally.time_of(number) - returned)
            self.wait_for_empty(5.0)
            self._verify(tally)
        return {"tasks": count, "delays": delays}

    # Tools

    def expect(self, count: int) -> None:
        """Raise unless exactly `count` tasks are stored."""
        found = self.left()
        if found != count:
            raise Wrong(f"{count} tasks were stored, but the queue holds {found}")

    def wait_for_empty(self, secs: float) -> None:
        """Wait until the last acknowledgements have arrived."""
        deadline = time.monotonic() + secs
        while (found := self.left()) and time.monotonic() < deadline:
            time.sleep(0.02)
        if found:
            raise Wrong(f"all tasks have run, but {found} are not acknowledged")

    def wait_for_done(self, tally: Tally, count: int, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        """Wait until so many tasks have run."""
        deadline = time.monotonic() + STALL_SECS
        while tally.done() < count:
            if time.monotonic() > deadline or all(process.poll() is not None for process in processes):
                raise Wrong(f"{tally.done()} of {count} tasks have run")
            time.sleep(0.001)

    def _verify(self, tally: Tally) -> None:
        if tally.done() != tally.count or tally.duplicates():
            raise Wrong(f"{tally.done()} of {tally.count} tasks ran, {tally.duplicates()} of them more than once")

    def tally(self, count: int, *, times: bool = False) -> contextlib.AbstractContextManager[Tally]:
        """Make the shared file of one measurement, removed at the end."""
        self._tallies += 1
        return contextlib.closing(
            Tally.create(Path(self._directory.name) / f"tally{self._tallies}", count, times=times)
        )

    @contextlib.contextmanager
    def running(self, tally: Tally, workers: int, options: dict[str, Any]) -> Any:
        """Start workers and wait until all stand at the gate; end them afterwards."""
        environment = os.environ | {
            VARIABLE: str(tally.path),
            CONFIG_VARIABLE: json.dumps(self.config | {"options": options, "workers": workers}),
        }
        log = Path(self._directory.name) / "workers.log"
        processes: list[subprocess.Popen[bytes]] = []
        with log.open("wb") as output:
            try:
                for command in self.worker_commands(workers, options):
                    processes.append(
                        subprocess.Popen(
                            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                        )
                    )
                deadline = time.monotonic() + START_SECS
                while len(tally.pids()) < self.worker_processes(workers):
                    if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                        raise RuntimeError("a worker did not start: " + log.read_text(errors="replace")[-2000:])
                    time.sleep(0.01)
                try:
                    yield processes
                except Exception as error:
                    raise type(error)(f"{error}; log: {log.read_text(errors='replace')[-2000:]}") from error
            finally:
                _end(processes)

    def _watch(self, tally: Tally, processes: Sequence[subprocess.Popen[bytes]]) -> tuple[float, int]:
        """Watch a drain; return the seconds from about 1 % to the end, and the tasks in them."""
        begin = max(1, tally.count // 100)
        started: float | None = None
        first = 0
        last, moved = 0, time.monotonic()
        while True:
            done = tally.done()
            now = time.monotonic()
            if started is None and done >= begin:
                started, first = now, done
            if done == tally.count:
                if started is None or done == first:
                    raise Wrong("the drain was over before it could be timed: use more tasks")
                return now - started, done - first
            if done != last:
                last, moved = done, now
            elif now - moved > STALL_SECS:
                raise Wrong(f"the drain stands still at {done} of {tally.count} tasks")
            if all(process.poll() is not None for process in processes):
                raise Wrong(f"the workers ended at {done} of {tally.count} tasks")
            time.sleep(0.001)

    def close(self) -> None:
        """Disconnect, and remove the shared files."""
        if "_directory" in self.__dict__:
            self._directory.cleanup()


def _memory() -> str | None:
    """A directory in memory for the shared files, so that the disk has no part in them."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GOODBYE_SECS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            for pid in reversed(tree_of([process.pid])):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def main(make: Callable[[dict[str, Any]], Driver]) -> None:
    """Run a contender's module: as a worker, or as the measuring process that answers on standard output."""
    if sys.argv[1:] == ["worker"]:
        driver = make(json.loads(os.environ[CONFIG_VARIABLE]))
        driver.work(Tally.attach(os.environ[VARIABLE]))
        return
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    driver = make(json.loads(sys.argv[1]))
    try:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                found = getattr(driver, request["call"])(**request.get("args", {}))
                answer = {"result": found}
            except NotMeasured as error:
                answer = {"not_measured": str(error)}
            except Exception as error:  # noqa: BLE001 - the reason goes to the report, the other measurements go on
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    finally:
        with contextlib.suppress(Exception):
            driver.clear()
        driver.close()
