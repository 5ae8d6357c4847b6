"""What the figures are held against: pure functions from samples to rows of the report.

Samples are kept by contender and measurement: ``samples["celers@mariadb"]["drain_1"]`` is a list with one dictionary
for each round. A contender on a MariaDB or MySQL server has the server's name behind an @; the others have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.stats import Summary, percentile, ratio, summarise

__all__ = ["LIMITS", "RATIOS", "Row", "cpu_per_10000", "find", "rates", "rows"]

Samples = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True)
class Ratio:
    """Our rate divided by theirs is to be at least so much."""

    operation: str
    ours: str
    against: str
    theirs: str
    at_least: float


@dataclass(frozen=True)
class Limit:
    """One of our own values is to be at most so much."""

    operation: str
    measure: str
    value: Callable[[Mapping[str, Any]], float | None]
    unit: str
    at_most: float


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    server: str
    operation: str
    against: str
    ours: Summary | None
    theirs: Summary | None
    result: Summary | None
    target: float
    at_least: bool
    unit: str
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Is the target reached? None when it was not measured."""
        if self.result is None:
            return None
        return self.result.median >= self.target if self.at_least else self.result.median <= self.target

    def to_dict(self) -> dict[str, Any]:
        """Return the row ready for JSON."""
        return asdict(self) | {"met": self.met}


RATIOS = [
    Ratio("enqueue, single, one producer", "enqueue_broker", "floor", "enqueue", 0.85),
    Ratio("enqueue, single, one producer", "enqueue", "celery-sql", "enqueue", 6),
    Ratio("enqueue, batches of 1000 x 100 bytes", "batch_broker", "floor", "batch", 0.9),
    Ratio("enqueue, batches of 1000 x 100 bytes", "batch_broker", "executemany", "executemany", 2.2),
    Ratio("enqueue, batches of 1000 x 100 bytes", "batch", "pgqueuer", "batch", 1.3),
    Ratio("dequeue_batch(100) + ack_batch", "claim_ack", "floor", "claim_ack", 0.85),
    Ratio("worker drain, 1 process", "drain_1", "floor", "drain_1", 0.6),
    Ratio("worker drain, 1 process", "drain_1", "pgqueuer", "drain_1", 1.5),
    Ratio("worker drain, 1 process", "drain_1", "pgqueuer-500", "drain_1", 1),
    Ratio("worker drain, 1 process", "drain_1", "celery-sql", "drain_1", 30),
    Ratio("worker drain, 1 process", "drain_1", "celery-redis", "drain_1", 10),
    Ratio("worker drain, 4 processes", "drain_4", "floor", "drain_4", 0.6),
    Ratio("worker drain, 4 processes", "drain_4", "pgqueuer", "drain_4", 1.5),
    Ratio("worker drain, 4 processes", "drain_4", "pgqueuer-500", "drain_4", 1),
    Ratio("worker drain, 4 processes", "drain_4", "dramatiq", "drain_4", 3),
    Ratio("worker drain, 1 process, results stored", "drain_1_results", "floor", "drain_1_results", 0.55),
    Ratio("worker drain, 4 processes, results stored", "drain_4_results", "floor", "drain_4_results", 0.55),
    Ratio("single dequeue + ack in the worker", "drain_single", "floor", "drain_single", 0.8),
    Ratio("1 ms network, worker at batch 100", "network", "classic", "network_classic", 3),
    Ratio("asyncio producer, 100 coroutines", "async", "8 threads", "threads", 0.75),
    Ratio("asyncio producer through the buffer", "buffer", "without it", "async", 3),
]

_SELF = {"8 threads": "celers", "without it": "celers", "executemany": "floor", "classic": "floor"}
"""Contenders behind the words of the report that are no contender's name."""


def _delay(p: float) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda sample: percentile(sample["delays"], p) * 1000


def _key(*names: str) -> Callable[[Mapping[str, Any]], float | None]:
    def value(sample: Mapping[str, Any]) -> float | None:
        found: Any = sample
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return None if found is None else float(found)

    return value


LIMITS = [
    Limit("pickup on an idle queue, p50", "pickup", _delay(50), "ms", 1),
    Limit("pickup on an idle queue, p99", "pickup", _delay(99), "ms", 5),
    Limit("statements of an idle worker process", "idle", _key("statements_per_minute"), "a minute", 30),
    Limit("enqueue's price for the wake-up", "ring_cost", lambda s: s["with"] / s["without"], "times", 1.15),
    Limit("round trips of an enqueue", "round_trips", _key("enqueue", "round_trips"), "", 1),
    Limit("round trips of an enqueue of 1000", "round_trips", _key("enqueue_batch", "round_trips"), "", 1),
    Limit("round trips of dequeue_batch(100)", "round_trips", _key("dequeue_batch", "round_trips"), "", 1),
    Limit("round trips of ack_batch(100)", "round_trips", _key("ack_batch", "round_trips"), "", 1),
    Limit("round trips of a busy worker's cycle", "busy_worker", _key("round_trips"), "", 1.1),
    Limit("memory of an idle worker process", "idle", _key("child_mb"), "MB", 60),
]

DEPTHS = {
    "depth_ready": "claim with many ready",
    "depth_future": "claim with many future tasks of higher priority",
    "depth_other": "claim with another queue's tasks in front",
    "depth_finished": "claim with many finished tasks",
}


def find(samples: Samples, contender: str, server: str) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return the samples of a contender on a server, or of one that has a server of its own."""
    return samples.get(f"{contender}@{server}") or samples.get(contender) or {}


def rates(samples: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return tasks a second of each round."""
    return [sample["tasks"] / sample["secs"] for sample in samples if sample.get("secs")]


def cpu_per_10000(samples: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the client's CPU seconds for 10,000 tasks of each round."""
    return [
        sample["cpu"] / sample.get("cpu_tasks", sample["tasks"]) * 10_000
        for sample in samples
        if sample.get("cpu") is not None
    ]


def through(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[float]:
    """Return the CPU seconds for 10,000 tasks that are enqueued, in batches where there are any, and drained."""
    stored = cpu_per_10000(samples.get("batch", ())) or cpu_per_10000(samples.get("enqueue", ()))
    drained = cpu_per_10000(samples.get("drain_1", ()))
    return [one + other for one, other in zip(stored, drained, strict=False)]


def rows(samples: Samples, server: str, missing: Mapping[tuple[str, str], str]) -> list[Row]:
    """Return the report's rows for one server.

    Parameters
    ----------
    missing
        Why a measurement of a contender is not there.
    """
    found = [_ratio_row(samples, server, target, missing) for target in RATIOS]
    ours = find(samples, "celers", server)
    for limit in LIMITS:
        values = [value for one in ours.get(limit.measure, ()) if (value := limit.value(one)) is not None]
        summary = summarise(values) if values else None
        note = missing.get((f"celers@{server}", limit.measure), "") if summary is None else ""
        found.append(Row(server, limit.operation, "", summary, None, summary, limit.at_most, False, limit.unit, note))
    for measure, operation in DEPTHS.items():
        found.append(
            _depth_row(ours.get(measure, ()), server, operation, missing.get((f"celers@{server}", measure), ""))
        )
    used = through(ours)
    summary = summarise(used) if used else None
    found.append(
        Row(server, "client CPU for 10,000 tasks, enqueued in batches and drained", "", summary, None, summary, 0.35,
            False, "s")
    )  # fmt: skip
    return found


def _ratio_row(samples: Samples, server: str, target: Ratio, missing: Mapping[tuple[str, str], str]) -> Row:
    mine = rates(find(samples, "celers", server).get(target.ours, ()))
    other = _SELF.get(target.against, target.against)
    theirs = rates(find(samples, other, server).get(target.theirs, ()))
    note = ""
    if not mine:
        note = missing.get((f"celers@{server}", target.ours), "")
    elif not theirs:
        note = missing.get((f"{other}@{server}", target.theirs)) or missing.get((other, target.theirs), "not measured")
    return Row(
        server,
        target.operation,
        target.against,
        summarise(mine) if mine else None,
        summarise(theirs) if theirs else None,
        ratio(mine, theirs),
        target.at_least,
        True,
        "/s",
        note,
    )


def _depth_row(samples: Sequence[Mapping[str, Any]], server: str, operation: str, note: str) -> Row:
    mine, base = ([one[key] * 1e6 for one in samples] for key in ("median", "empty"))
    if samples:
        operation += f" ({samples[0]['rows']:,})"
    return Row(
        server,
        operation,
        "an empty queue",
        summarise(mine) if mine else None,
        summarise(base) if base else None,
        ratio(mine, base),
        1.3,
        False,
        "us",
        note,
    )


def kernels(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Row]:
    """Return the rows of the compiled functions: times of ours and of the alternative, in seconds."""
    limits = {"percentiles": ("numpy.percentile", 3.0), "compression": ("a loop over zlib.compress", 2.0)}
    made: list[Row] = []
    for name, (against, target) in limits.items():
        times = found.get(name)
        if times is None:
            continue
        mine, theirs = list(times["ours"]), list(times["theirs"])
        made.append(
            Row("any", str(times.get("what", name)), against, summarise([t * 1000 for t in mine]),
                summarise([t * 1000 for t in theirs]), ratio(theirs, mine), target, True, "ms")
        )  # fmt: skip
    return made
