"""Measures celers: the broker alone, the application, and `celers worker`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import celers_app, proxy
from benchmarks.driver import Clock, Driver, NotMeasured, Wrong, main
from benchmarks.tally import number_of, payload_of
from celers import AsyncMysqlBroker, MysqlBroker, __version__
from celers.db.driver import Connection, connect
from celers.db.url import parse_url
from celers.model.task import SerializedTask
from celers_fast import IMPL

__all__ = ["CelersDriver"]

TABLES = ("tasks", "ready", "scheduled", "blocked", "task_results", "queue_totals")
WAKE_OPTIONS = ("wake", "wakeup", "wake_up", "ring", "notify")
"""Names under which the broker may be told not to ring for parked consumers."""


def tasks_of(payloads: Sequence[str], name: str = "noop", **options: Any) -> list[SerializedTask]:
    """Make tasks with these payloads, as the floor stores them."""
    return [SerializedTask.new(name, payload.encode(), **options) for payload in payloads]


class CelersDriver(Driver):
    """Measures celers."""

    module = "benchmarks.celers_driver"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.url = f"mysql://root@localhost/{config['database']}?unix_socket={config['socket']}"
        self.broker = MysqlBroker(self.url, celers_app.QUEUE)
        self.broker.migrate()
        celers_app.app.connect_to(self.url)
        self.task = celers_app.noop
        self._admin: Connection = connect(parse_url(self.url))

    def versions(self) -> dict[str, str]:
        """Return the versions of celers and its server."""
        return {"celers": f"{__version__} ({IMPL})", "server": self.broker.server_version}

    def query(self, text: str) -> Any:
        """Run one statement of the benchmark's own."""
        return self._admin.run(text.encode(), 1)[0].rows

    def clear(self) -> None:
        """Empty the tables."""
        for table in TABLES:
            self.query(f"TRUNCATE celers_{table}")

    def left(self) -> int:
        """Count unfinished tasks."""
        rows = self.query("SELECT COUNT(*) FROM celers_tasks WHERE state IN ('pending', 'processing')")
        return int(rows[0][0])

    def enqueue(self, payload: str) -> None:
        """Store one task by the application."""
        self.task.enqueue(payload)

    def enqueue_many(self, payloads: Sequence[str]) -> None:
        """Store a batch by the application."""
        self.task.enqueue_many([(payload,) for payload in payloads])

    def enqueue_batches(self, batches: Sequence[Sequence[str]]) -> None:
        """Store batches by one call, a commit for each of them."""
        calls = ((payload,) for batch in batches for payload in batch)
        self.task.enqueue_many(calls, batch=len(batches[0]))

    def worker_commands(self, workers: int, options: dict[str, Any]) -> list[list[str]]:
        """One `celers worker`, which starts the processes."""
        url = self.url
        if options.get("port"):
            url = f"mysql://root@127.0.0.1:{options['port']}/{self.config['database']}?ssl_mode=DISABLED"
        command = [sys.executable, "-m", "celers", "worker", "-A", "benchmarks.celers_app:app", "--url", url]
        command += ["--processes", str(workers), "--queues", celers_app.QUEUE, "--log-level", "warning"]
        for name in ("batch", "threads"):
            if name in options:
                command += [f"--{name}", str(options[name])]
        return [command]

    # Measurements

    def measure_broker_single(self, count: int) -> dict[str, Any]:
        """Store prepared tasks one at a time by the broker."""
        self.clear()
        tasks = tasks_of([payload_of(number) for number in range(count)])
        for task in tasks[:5]:
            self.broker.enqueue(task)
        with Clock() as clock:
            for task in tasks[5:]:
                self.broker.enqueue(task)
        self.expect(count)
        return {"tasks": count - 5, "secs": clock.secs, "cpu": clock.cpu}

    def measure_broker_batch(self, count: int, size: int = 1000) -> dict[str, Any]:
        """Store prepared batches by the broker."""
        self.clear()
        batches = [tasks_of([payload_of(at + n) for n in range(size)]) for at in range(0, count, size)]
        with Clock() as clock:
            for batch in batches:
                self.broker.enqueue_batch(batch)
        self.expect(size * len(batches))
        return {"tasks": size * len(batches), "secs": clock.secs, "cpu": clock.cpu}

    def measure_claim_ack(self, count: int, size: int = 100) -> dict[str, Any]:
        """Claim and acknowledge batches, without a worker."""
        self.clear()
        for at in range(0, count, 1000):
            self.broker.enqueue_batch(tasks_of([payload_of(n) for n in range(at, min(at + 1000, count))]))
        broker = self.broker
        seen: set[int] = set()
        with Clock() as clock:
            while messages := broker.dequeue_batch(size):
                seen.update([number_of(message.task.payload) for message in messages])
                broker.ack_batch([(message.task_id, message.receipt_handle) for message in messages])
        if len(seen) != count:
            raise Wrong(f"{len(seen)} of {count} tasks were claimed")
        self.expect(0)
        return {"tasks": count, "secs": clock.secs, "cpu": clock.cpu}

    def measure_drain(self, count: int, workers: int, **options: Any) -> dict[str, Any]:
        """Drain by `celers worker`, with or without results."""
        with_results = options.get("results", False)
        self.task = celers_app.noop_result if with_results else celers_app.noop
        try:
            found = super().measure_drain(count, workers, **options)
        finally:
            self.task = celers_app.noop
        stored = int(self.query("SELECT COUNT(*) FROM celers_task_results WHERE status = 'SUCCESS'")[0][0])
        if stored != (count if with_results else 0):
            raise Wrong(f"{stored} results are stored")
        return found

    def measure_network(self, count: int, delay_secs: float = 0.0005, **options: Any) -> dict[str, Any]:
        """Drain through a delay in each direction."""
        with proxy.running(self.config["socket"], delay_secs) as network:
            return self.measure_drain(count, 1, port=network.port, **options)

    def measure_round_trips(self, count: int = 100) -> dict[str, Any]:
        """Round trips, commits and statements of one operation each, counted by a proxy and by the server."""
        found: dict[str, Any] = {}
        with proxy.running(self.config["socket"]) as network:
            url = f"mysql://root@127.0.0.1:{network.port}/{self.config['database']}?ssl_mode=DISABLED"
            with MysqlBroker(url, celers_app.QUEUE, heartbeat=False) as broker:
                self.clear()
                one = tasks_of([payload_of(number) for number in range(count)])
                batches = [tasks_of([payload_of(number)] * 1000) for number in range(5)]
                held: list[Any] = []

                def ack() -> None:
                    broker.ack_batch([(message.task_id, message.receipt_handle) for message in held])

                def take(size: int) -> None:
                    held[:] = broker.dequeue_batch(size)

                broker.enqueue(tasks_of([payload_of(0)])[0])
                take(1)
                ack()
                steps: list[tuple[str, list[Any]]] = [
                    ("enqueue", [lambda task=task: broker.enqueue(task) for task in one]),
                    ("enqueue_batch", [lambda batch=batch: broker.enqueue_batch(batch) for batch in batches]),
                    ("dequeue_batch", [lambda: take(100)]),
                    ("ack_batch", [ack]),
                    ("dequeue", [lambda: take(1)]),
                    ("ack", [lambda: broker.ack(held[0].task_id, held[0].receipt_handle)]),
                ]
                for name, calls in steps:
                    with self._counted(network) as counts:
                        for call in calls:
                            call()
                    found[name] = {key: value / len(calls) for key, value in counts.items()}
        return found

    def measure_busy_worker(self, count: int, **options: Any) -> dict[str, Any]:
        """Round trips of a busy worker process for each claim that brought tasks, after its start."""
        self.clear()
        self.fill([payload_of(number) for number in range(count)])
        with (
            proxy.running(self.config["socket"]) as network,
            self.tally(count) as tally,
            self.running(tally, 1, options | {"port": network.port}) as processes,
        ):
            tally.open_gate()
            # Connecting and the first small claims are not what is asked for.
            self.wait_for_done(tally, count // 10, processes)
            with self._counted(network) as counts:
                self.wait_for_done(tally, count, processes)
            self.wait_for_empty(5.0)
            self._verify(tally)
        claims = counts["claims"]
        if not claims:
            raise NotMeasured("the server counted no claims")
        return {"round_trips": counts["round_trips"] / claims, "tasks": count * 0.9 / claims, "claims": claims}

    @contextlib.contextmanager
    def _counted(self, network: proxy.Running) -> Iterator[dict[str, float]]:
        before, packets = self._status(), network.commands()
        counts: dict[str, float] = {}
        yield counts
        after = self._status()
        counts["round_trips"] = network.commands() - packets
        counts["commits"] = after["com_commit"] - before["com_commit"]
        # The two looks themselves are one statement each.
        counts["statements"] = after["questions"] - before["questions"] - 1
        counts["claims"] = after["com_delete_multi"] - before["com_delete_multi"]

    def _status(self) -> dict[str, int]:
        rows = self.query("SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_commit', 'Questions', 'Com_delete_multi')")
        return {row[0].decode().lower(): int(row[1]) for row in rows}

    def measure_idle(self, secs: float = 10.0, workers: int = 1) -> dict[str, Any]:
        """Statements in a minute, and memory, of an idle worker process."""
        self.clear()
        with self.tally(1) as tally, self.running(tally, workers, {}) as processes:
            tally.open_gate()
            time.sleep(3.0)
            before, started = self._status()["questions"], time.monotonic()
            time.sleep(secs)
            statements = self._status()["questions"] - before - 1
            minutes = (time.monotonic() - started) / 60
            memory = [_resident(pid) for pid in tally.pids()]
            memory.append(_resident(processes[0].pid))
        found: dict[str, Any] = {"statements_per_minute": statements / minutes / workers}
        if all(size is not None for size in memory):
            found["child_mb"] = max(memory[:-1]) / 1e6  # type: ignore[type-var, operator]
            found["parent_mb"] = memory[-1] / 1e6  # type: ignore[operator]
        return found

    def measure_ring_cost(self, count: int) -> dict[str, Any]:
        """Time of an enqueue that rings for parked consumers, against one that does not; nobody is parked."""
        parameters = inspect.signature(MysqlBroker.__init__).parameters
        name = next((name for name in WAKE_OPTIONS if name in parameters), None)
        if name is None:
            raise NotMeasured("not yet: the broker has no wake-up to switch off")
        self.clear()
        payloads = [payload_of(number) for number in range(count)]
        times: dict[bool, list[float]] = {True: [], False: []}
        off = "off" if isinstance(parameters[name].default, str) else False
        with (
            MysqlBroker(self.url, celers_app.QUEUE) as ringing,
            MysqlBroker(self.url, celers_app.QUEUE, **{name: off}) as quiet,
        ):
            for number, task in enumerate(tasks_of(payloads)):
                broker = (quiet, ringing)[number % 2]
                started = time.perf_counter()
                broker.enqueue(task)
                times[broker is ringing].append(time.perf_counter() - started)
        return {"with": statistics.median(times[True]), "without": statistics.median(times[False])}

    def measure_depth(self, case: str, count: int, claims: int = 300) -> dict[str, Any]:
        """Median time of a single claim with much in the tables, and of one with nothing else there, in seconds.

        The empty queue is measured before and after, because filling the tables changes what the machine does.
        """
        self.clear()
        empty = self._claims(claims)
        self.clear()
        self._fill(case, count)
        times = self._claims(claims, store=case != "ready")
        self.clear()
        empty += self._claims(claims)
        self.clear()
        return {"rows": count, "median": statistics.median(times), "empty": statistics.median(empty)}

    def _fill(self, case: str, count: int, step: int = 1000) -> None:
        """Store much: ready tasks, future ones of higher priority, those of another queue, or finished ones."""
        broker = self.broker.for_queue("bench-other") if case == "other" else self.broker
        for at in range(0, count, step):
            priority = 10 if case == "future" else 0
            tasks = tasks_of([payload_of(at + n) for n in range(step)], priority=priority)
            broker.producer.submit(tasks, delay_secs=86_400 if case == "future" else 0.0)
        if case == "finished":
            self.query("UPDATE celers_tasks SET state = 'completed', completed_at = UTC_TIMESTAMP(6)")
            self.query("TRUNCATE celers_ready")

    def _claims(self, claims: int, *, store: bool = True) -> list[float]:
        """Take tasks one at a time and acknowledge each; return the seconds of the claims."""
        broker, first = self.broker, 10
        if store:
            broker.enqueue_batch(tasks_of([payload_of(number) for number in range(claims + first)]))
        times: list[float] = []
        for number in range(claims + first):
            started = time.perf_counter()
            message = broker.dequeue()
            taken = time.perf_counter() - started
            if message is None:
                raise Wrong("a claim found nothing while tasks were due")
            if number >= first:
                times.append(taken)
            broker.ack(message.task_id, message.receipt_handle)
        return times

    def measure_producer_threads(self, count: int, threads: int = 8) -> dict[str, Any]:
        """Threads store tasks one at a time by one broker."""
        self.clear()
        each = count // threads
        parts = [tasks_of([payload_of(part * each + n) for n in range(each)]) for part in range(threads)]

        def produce(tasks: list[SerializedTask]) -> None:
            for task in tasks:
                self.broker.enqueue(task)

        running = [threading.Thread(target=produce, args=(part,)) for part in parts]
        with Clock() as clock:
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
        self.expect(each * threads)
        return {"tasks": each * threads, "secs": clock.secs, "cpu": clock.cpu}

    def measure_producer_async(self, count: int, coroutines: int = 100, buffered: bool = False) -> dict[str, Any]:
        """Coroutines store tasks one at a time by one asyncio broker, or by its buffer."""
        if buffered and not hasattr(AsyncMysqlBroker, "buffer"):
            raise NotMeasured("not yet: there is no broker.buffer")
        self.clear()
        each = count // coroutines
        parts = [tasks_of([payload_of(part * each + n) for n in range(each)]) for part in range(coroutines)]
        clock = asyncio.run(self._produce(parts, buffered))
        self.expect(each * coroutines)
        return {"tasks": each * coroutines, "secs": clock.secs, "cpu": clock.cpu}

    async def _produce(self, parts: list[list[SerializedTask]], buffered: bool) -> Clock:
        async with AsyncMysqlBroker(self.url, celers_app.QUEUE, heartbeat=False) as broker:
            await broker.queue_size()

            async def produce(target: Any, tasks: list[SerializedTask]) -> None:
                for task in tasks:
                    await target.enqueue(task)

            async with contextlib.AsyncExitStack() as stack:
                target: Any = broker
                if buffered:
                    target = await stack.enter_async_context(broker.buffer())  # type: ignore[attr-defined]
                with Clock() as clock:
                    await asyncio.gather(*(produce(target, part) for part in parts))
        return clock

    def close(self) -> None:
        """Disconnect."""
        celers_app.app.close()
        self.broker.close()
        self._admin.close()
        super().close()


def _resident(pid: int) -> int | None:
    """Memory that a process holds for itself and its share of what it has in common with others, in bytes (Linux)."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    main(CelersDriver)
