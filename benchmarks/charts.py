"""The charts of a result, as SVG: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import svg
from benchmarks.stats import percentile, summarise
from benchmarks.targets import rates

__all__ = ["charts", "title_of"]

Samples = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]

NAMES = {
    "celers": "celers",
    "floor": "floor (by hand)",
    "celery-sql": "Celery",
    "celery-redis": "Celery, Redis",
    "huey": "huey",
    "dramatiq": "dramatiq, Redis",
    "rq": "RQ, Redis",
    "procrastinate": "Procrastinate, PostgreSQL",
    "pgqueuer": "PgQueuer, PostgreSQL",
    "pgqueuer-500": "PgQueuer (500), PostgreSQL",
    "mariadb": "MariaDB",
    "mysql": "MySQL",
}

RATES = {
    "enqueue": ("Store tasks one at a time", "tasks a second, one producer, 100 bytes, a commit for each"),
    "batch": ("Store tasks in batches of 1000", "tasks a second, one producer, 100 bytes"),
    "drain_1": ("Run tasks, one worker process", "tasks a second; a task does nothing and takes 100 bytes"),
    "drain_4": ("Run tasks, four worker processes", "tasks a second; a task does nothing and takes 100 bytes"),
}
OVERVIEW = ("batch", "drain_4")


def title_of(contender: str) -> str:
    """Return a contender's name as people write it, with its server."""
    name, _, server = contender.partition("@")
    text = NAMES.get(name, name)
    if server:
        kind, plus, _ = server.partition("+")
        text += f", {NAMES.get(kind, kind)}" + (", binlog" if plus else "")
    return text


def charts(samples: Samples) -> dict[str, str]:
    """Return the charts as SVG text by file name."""
    panels = {key: svg.Panel(*RATES[key], _rates(samples, key), "/s") for key in RATES}
    made = {f"{key}.svg": svg.chart([panel]) for key, panel in panels.items() if panel.bars}
    parts = [panels[key] for key in OVERVIEW if panels[key].bars]
    if parts:
        made["overview.svg"] = svg.chart(parts)
    delays = _bars(samples, "pickup", _delays)[::-1]
    if delays:
        note = "milliseconds from the enqueue's return to the function, median; line from p1 to p99"
        made["pickup.svg"] = svg.chart([svg.Panel("Pickup on an idle queue", note, delays, "ms")])
    return made


def _rates(samples: Samples, key: str) -> list[svg.Bar]:
    def middle(found: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
        summary = summarise(rates(found))
        return summary.median, summary.low, summary.high

    return _bars(samples, key, middle)


def _delays(found: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    delays = [max(0.0, delay * 1000) for sample in found for delay in sample["delays"]]
    return percentile(delays, 50), percentile(delays, 1), percentile(delays, 99)


Summarise = Callable[[Sequence[Mapping[str, Any]]], tuple[float, float, float]]


def _bars(samples: Samples, key: str, summarised: Summarise) -> list[svg.Bar]:
    """Return a bar for each contender that has been measured, the largest first; the binary log has tables only."""
    made = []
    for contender, measured in samples.items():
        found = measured.get(key, ())
        if found and "+" not in contender:
            made.append(svg.Bar(title_of(contender), *summarised(found), _kind(contender)))
    return sorted(made, key=lambda bar: -bar.value)


def _kind(contender: str) -> str:
    name = contender.partition("@")[0]
    return name if name in ("celers", "floor") else "peer"
