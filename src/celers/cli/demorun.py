"""What `celers demo` does: a producer, worker processes, and the check of every result."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID, uuid4

from celers.cli.output import Progress
from celers.cli.target import is_embedded
from celers.db.url import parse_url
from celers.embedded import EmbeddedServer
from celers.errors import BrokerError
from celers_fast.percentiles import percentiles

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.model.result import TaskResult

_STILL_SECS = 60.0
_LOOK_SECS = 0.05
_STOP_SECS = 40.0
_LEAVE_SECS = 2.0


@dataclass(slots=True)
class Report:
    """What came of one demonstration. Times in s or, where the name says so, in ms."""

    queue: str
    tree: str
    server: str
    processes: int
    tasks: int
    megabytes: float = 0.0
    enqueue_secs: float = 0.0
    total_secs: float = 0.0
    wait_ms: list[float] = field(default_factory=list)
    run_ms: list[float] = field(default_factory=list)
    verified: int = 0
    changed: int = 0
    problems: list[str] = field(default_factory=list)
    kept: bool = False

    @property
    def wait_quantiles(self) -> tuple[float, ...]:
        """p50, p95 and p99 from enqueue to start, in ms."""
        return percentiles(self.wait_ms, (50, 95, 99))

    @property
    def run_quantiles(self) -> tuple[float, ...]:
        """p50, p95 and p99 of the run time, in ms."""
        return percentiles(self.run_ms, (50, 95, 99))

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON, without the single times."""
        names = ("p50", "p95", "p99")
        return {
            "tree": self.tree,
            "server": self.server,
            "queue": self.queue,
            "processes": self.processes,
            "tasks": self.tasks,
            "megabytes": round(self.megabytes, 3),
            "enqueue_secs": round(self.enqueue_secs, 6),
            "total_secs": round(self.total_secs, 6),
            "tasks_per_sec": round(self.tasks / self.total_secs, 1),
            "enqueue_to_start_ms": dict(zip(names, self.wait_quantiles, strict=True)),
            "run_ms": dict(zip(names, self.run_quantiles, strict=True)),
            "verified": self.verified,
            "changed": self.changed,
            "problems": self.problems,
        }


class Demo:
    """One demonstration, on a queue of its own.

    Parameters
    ----------
    url : str
        The database; an embedded one is started, and stopped afterwards when it did not run before and nobody
        else uses it.
    tree : Path
        For the report.
    files : list of Path
        One task for each.
    processes, batch : int
        Worker processes, and tasks in one enqueue.
    keep : bool
        Leave tasks and results in the database.
    quiet : bool
        Say nothing on the way.
    """

    def __init__(
        self,
        url: str,
        tree: Path,
        files: list[Path],
        *,
        processes: int,
        batch: int,
        keep: bool = False,
        quiet: bool = False,
    ) -> None:
        self._url = url
        self._tree = tree
        self._files = files
        self._processes = processes
        self._batch = batch
        self._keep = keep
        self._quiet = quiet
        self._queue = f"demo-{uuid4().hex[:8]}"

    def run(self) -> Report:
        """Carry it out.

        Raises
        ------
        BrokerError
            The workers ended, or did nothing for a minute.
        """
        # Workers and tasks find the database here; on a command line others could read its password.
        os.environ["CELERS_URL"] = self._url
        with ExitStack() as stack:
            if is_embedded(self._url):
                server = self._server()
                if not server.status().running:
                    self._say("starting the private database server")
                    stack.callback(_end, server)
            return self._on_server(stack)

    def _on_server(self, stack: ExitStack) -> Report:
        from celers.broker import MysqlBroker
        from celers.demo import app

        stack.callback(app.close)
        broker = stack.enter_context(MysqlBroker(self._url, self._queue, heartbeat=False))
        broker.migrate()
        if not self._keep:
            stack.callback(_remove, broker)
        report = Report(
            queue=self._queue,
            tree=str(self._tree),
            server=_label(broker),
            processes=self._processes,
            tasks=len(self._files),
            kept=self._keep,
        )
        self._say(f"one task for each of {report.tasks:,} files below {self._tree}")
        before = [path.stat() for path in self._files]
        report.megabytes = sum(status.st_size for status in before) / 1e6
        with tempfile.TemporaryFile("w+b") as log, _workers(self._queue, self._processes, log) as workers:
            # One task more than files: it tells that the workers are up, so that their start is not measured.
            self._enqueue(self._files[:1])
            self._wait(broker, workers, log, 1)
            begin = time.time()
            enqueued = self._enqueue(self._files)
            report.enqueue_secs = time.time() - begin
            self._wait(broker, workers, log, report.tasks)
        results = {result.task_id: result for result in broker.get_result_batch(enqueued)}
        self._check(report, enqueued, results, before)
        finished = [_times(result) for result in results.values() if isinstance(result.result, dict)]
        report.total_secs = max((start + secs for start, secs in finished), default=time.time()) - begin
        return report

    def _enqueue(self, files: list[Path]) -> dict[UUID, float]:
        """Enqueue a task for each file, and return when each was handed in, in the order of the files."""
        from celers.demo import index_file

        enqueued: dict[UUID, float] = {}
        with Progress("enqueue", len(files), enabled=not self._quiet) as progress:
            task = index_file.using(queue=self._queue)
            for start in range(0, len(files), self._batch):
                part = files[start : start + self._batch]
                now = time.time()
                ids = task.enqueue_many((str(path),) for path in part)
                enqueued.update(dict.fromkeys(ids, now))
                progress.update(len(enqueued))
        return enqueued

    def _wait(self, broker: MysqlBroker, workers: subprocess.Popen[bytes], log: IO[bytes], total: int) -> None:
        """Wait until all tasks have ended."""
        moved_at, last = time.monotonic(), -1
        with Progress("run", total, enabled=not self._quiet) as progress:
            while True:
                counts = broker.get_statistics()
                left = counts.pending + counts.processing
                progress.update(total - left)
                if left == 0:
                    return
                if left != last:
                    moved_at, last = time.monotonic(), left
                if workers.poll() is not None:
                    raise BrokerError(f"the workers ended with status {workers.returncode}:\n{_tail(log)}")
                if time.monotonic() - moved_at > _STILL_SECS:
                    raise BrokerError(f"nothing has moved for {_STILL_SECS:g} s:\n{_tail(log)}")
                time.sleep(_LOOK_SECS)

    def _check(
        self,
        report: Report,
        enqueued: dict[UUID, float],
        results: dict[UUID, TaskResult],
        before: list[os.stat_result],
    ) -> None:
        """Compare every result with a direct computation."""
        with Progress("verify", report.tasks, enabled=not self._quiet) as progress:
            for path, (task_id, handed_in), status in zip(self._files, enqueued.items(), before, strict=True):
                result = results.get(task_id)
                problem = _compare(path, result)
                if problem is None:
                    report.verified += 1
                elif _changed(path, status):
                    report.changed += 1
                else:
                    report.problems.append(f"{path}: {problem}")
                if result is not None and isinstance(result.result, dict):
                    started, runtime = _times(result)
                    report.wait_ms.append(max(started - handed_in, 0.0) * 1e3)
                    report.run_ms.append(runtime * 1e3)
                progress.update(report.verified + report.changed + len(report.problems))

    def _server(self) -> EmbeddedServer:
        return EmbeddedServer(parse_url(self._url).embedded_dir)

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr)


@contextmanager
def _workers(queue: str, processes: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Worker processes, started as a user starts them, stopped in peace afterwards."""
    command = [sys.executable, "-m", "celers", "worker", "-A", "celers.demo:app"]
    command += ["--queues", queue, "--processes", str(processes)]
    workers = subprocess.Popen(  # noqa: S603 - our own command
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
        yield workers
    finally:
        workers.send_signal(signal.SIGTERM)
        try:
            workers.wait(_STOP_SECS)
        except subprocess.TimeoutExpired:
            workers.kill()
            workers.wait()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return b"\n".join(log.read().splitlines()[-15:]).decode(errors="replace")


def _times(result: TaskResult) -> tuple[float, float]:
    value: Any = result.result
    return float(value["started"]), float(value["runtime"])


def _compare(path: Path, result: TaskResult | None) -> str | None:
    """What is wrong with a result; None when it is right."""
    from celers.demo import measure

    if result is None:
        return "no result"
    if not isinstance(result.result, dict):
        return f"{result.status}: {result.error}"
    try:
        expected = measure(path)
    except OSError as error:
        return f"cannot be read any more: {error.strerror}"
    found = {key: result.result.get(key) for key in expected}
    return None if found == expected else f"expected {expected}, the task found {found}"


def _changed(path: Path, before: os.stat_result) -> bool:
    try:
        now = path.stat()
    except OSError:
        return True
    return (now.st_size, now.st_mtime_ns, now.st_ino) != (before.st_size, before.st_mtime_ns, before.st_ino)


def _label(broker: MysqlBroker) -> str:
    version = broker.server_version
    return f"{'MariaDB' if 'mariadb' in version.lower() else 'MySQL'} {version.split('-')[0]}"


def _end(server: EmbeddedServer) -> None:
    """Stop the server that was started for the demonstration, unless somebody else has come to use it."""
    deadline = time.monotonic() + _LEAVE_SECS
    # The server sees the end of our own connections a moment later.
    while (running := server.status()).connections:
        if time.monotonic() > deadline:
            return
        time.sleep(_LOOK_SECS)
    if running.running:
        server.stop()


def _remove(broker: MysqlBroker) -> None:
    """Take the demonstration's tasks and results out of the database."""
    # The warning is for those who did not mean it.
    logging.getLogger("celers.maintenance").setLevel(logging.ERROR)
    broker.purge_all()
    broker.archive_results(0)
