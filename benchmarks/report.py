"""The report of `benchmarks.compare`: tables as text, and charts. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import svg
from benchmarks.stats import Summary, percentile, summarise
from benchmarks.targets import Row, cpu_per_10000, rates, through

__all__ = ["charts", "contender_table", "table", "target_table"]

RATES = {
    "enqueue": "enqueue, single",
    "enqueue_broker": "the same, prepared, by the broker",
    "batch": "enqueue, batches of 1000",
    "batch_broker": "the same, prepared, by the broker",
    "executemany": "executemany, batches of 1000",
    "claim_ack": "dequeue_batch(100) + ack_batch",
    "drain_1": "drain, 1 worker process",
    "drain_4": "drain, 4 worker processes",
    "drain_1_results": "drain, 1, results stored",
    "drain_4_results": "drain, 4, results stored",
    "drain_single": "drain, one task at a time",
    "network": "drain, 1 ms network",
    "network_classic": "drain, 1 ms network, classic client",
    "threads": "8 producer threads",
    "async": "100 producer coroutines",
    "buffer": "100 coroutines through the buffer",
}


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown whose columns are aligned; numbers to the right."""
    cells = [list(head), *(list(line) for line in lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    right = [
        bool(lines) and all(not line[column] or line[column][0].isdigit() or line[column] == "-" for line in lines)
        for column in range(len(head))
    ]

    def draw(line: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        return "| " + " | ".join(parts) + " |"

    rule = [
        "-" * (width + 1) + ":" if to_right else "-" * (width + 2)
        for width, to_right in zip(widths, right, strict=True)
    ]
    return "\n".join([draw(cells[0]), "|" + "|".join(rule) + "|", *(draw(line) for line in cells[1:])])


def spread(summary: Summary | None, digits: str = "") -> str:
    """Return a median and, where there are several samples, the lowest and highest."""
    if summary is None:
        return "-"
    text = svg.shown(summary.median)
    if summary.count > 1:
        text += f" ({svg.shown(summary.low)}-{svg.shown(summary.high)})"
    return text + digits


def target_table(rows: Sequence[Row]) -> str:
    """Return the table of targets."""
    lines = []
    for row in rows:
        wanted = f"{'>=' if row.at_least else '<='} {row.target:g}"
        verdict = {True: "yes", False: "NO", None: row.note or "not measured"}[row.met]
        result = spread(row.result, "x") if row.against else spread(row.result)
        unit = row.unit if row.unit.startswith("/") or not row.unit else f" {row.unit}"
        lines.append(
            [
                row.server,
                row.operation,
                spread(row.ours) + (unit if row.ours else ""),
                row.against or "-",
                spread(row.theirs),
                result,
                wanted,
                verdict,
            ]
        )
    return table(["server", "operation", "celers", "against", "theirs", "result", "target", "met"], lines)


def contender_table(samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    """Return tasks a second and CPU seconds of every contender."""
    lines = []
    for contender, measured in samples.items():
        for measure, text in RATES.items():
            found = rates(measured.get(measure, ()))
            if found:
                cpu = cpu_per_10000(measured[measure])
                used = svg.shown(summarise(cpu).median) if cpu else "-"
                lines.append([contender, text, spread(summarise(found)), used])
        delays = [delay * 1000 for sample in measured.get("pickup", ()) for delay in sample["delays"]]
        if delays:
            text = f"{svg.shown(percentile(delays, 50))} / {svg.shown(percentile(delays, 99))} ms"
            lines.append([contender, "pickup on an idle queue, p50 / p99", text, "-"])
        used = through(measured)
        if used:
            lines.append(
                [contender, "CPU for 10,000 tasks, stored and drained", "-", svg.shown(summarise(used).median)]
            )
    return table(["contender", "operation", "tasks/s", "CPU s per 10,000"], lines)


_CHARTS = {
    "drain_1": ("Drain by one worker process", "tasks a second, task that does nothing, 100 bytes"),
    "drain_4": ("Drain by four worker processes", "tasks a second, task that does nothing, 100 bytes"),
    "enqueue": ("Enqueue one at a time", "tasks a second, one producer, 100 bytes"),
    "batch": ("Enqueue in batches of 1000", "tasks a second, one producer, 100 bytes"),
}


def charts(samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> dict[str, str]:
    """Return the charts as SVG text by file name."""
    made: dict[str, str] = {}
    for measure, (title, note) in _CHARTS.items():
        values = []
        for contender, measured in samples.items():
            found = rates(measured.get(measure, ()))
            if found:
                summary = summarise(found)
                values.append(svg.Bar(contender, summary.median, summary.low, summary.high, _kind(contender)))
        if values:
            values.sort(key=lambda bar: -bar.value)
            made[f"{measure}.svg"] = svg.bars(title, note, values, "/s")
    values = []
    for contender, measured in samples.items():
        delays = [delay * 1000 for sample in measured.get("pickup", ()) for delay in sample["delays"]]
        if delays:
            middle, low, high = (percentile(delays, p) for p in (50, 1, 99))
            values.append(svg.Bar(contender, max(0.0, middle), max(0.0, low), max(0.0, high), _kind(contender)))
    if values:
        values.sort(key=lambda bar: bar.value)
        made["pickup.svg"] = svg.bars(
            "Pickup on an idle queue", "milliseconds from the enqueue's return to the function, median; line to p99",
            values, "ms",
        )  # fmt: skip
    return made


def _kind(contender: str) -> str:
    name = contender.partition("@")[0]
    return name if name in ("celers", "floor") else "peer"
