"""The report of `benchmarks.compare` as text: pure functions from a result to tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import targets
from benchmarks.stats import Summary, percentile, summarise
from benchmarks.svg import shown
from benchmarks.targets import Row, cpu_per_10000, rates, through

__all__ = ["contender_table", "head", "rounded", "rows_of", "spread", "table", "target_table", "whole"]

Result = Mapping[str, Any]
"""What `benchmarks.compare` measured, as it is kept in JSON."""

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
    text = shown(summary.median)
    if summary.count > 1:
        text += f" ({shown(summary.low)}-{shown(summary.high)})"
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
                used = shown(summarise(cpu).median) if cpu else "-"
                lines.append([contender, text, spread(summarise(found)), used])
        delays = [delay * 1000 for sample in measured.get("pickup", ()) for delay in sample["delays"]]
        if delays:
            text = f"{shown(percentile(delays, 50))} / {shown(percentile(delays, 99))} ms"
            lines.append([contender, "pickup on an idle queue, p50 / p99", text, "-"])
        used = through(measured)
        if used:
            lines.append([contender, "CPU for 10,000 tasks, stored and drained", "-", shown(summarise(used).median)])
    return table(["contender", "operation", "tasks/s", "CPU s per 10,000"], lines)


def rows_of(result: Result) -> list[Row]:
    """Return the rows of a result: each target on each server, and those of the compiled functions."""
    missing = {(name, key): text for name, found in result["missing"].items() for key, text in found.items()}
    for name, text in result["left_out"].items():
        for target in targets.RATIOS:
            missing[name, target.theirs] = text.split(":")[0]
    names = [name for name in result["servers"] if name.partition("+")[0] in ("mariadb", "mysql")]
    rows = [row for name in names for row in targets.rows(result["samples"], name, missing)]
    return rows + targets.kernels(result["kernels"])


def head(result: Result) -> str:
    """Return when, on what and with what it was measured."""
    facts, settings = result["machine"], result["settings"]
    return (
        f"{result['date']}; {facts['processor']}, {facts['cores']} cores, {facts['memory_gb']} GB, {facts['system']},"
        f" Python {facts['python']}; a forced write of 512 bytes takes {facts['fsync_us']:.0f} us; load"
        f" {facts['load']} before, {facts['load_after']} after; {settings['rounds']} rounds in"
        f" {settings['seconds'] / 60:.0f} minutes"
    )


def whole(result: Result) -> str:
    """Return the report that is printed."""
    parts = [
        f"celers benchmarks, {head(result)}",
        "servers: " + ", ".join(f"{name} {version}" for name, version in result["servers"].items()),
        *(
            f"{name}: " + ", ".join(f"{key} {value}" for key, value in versions.items())
            for name, versions in result["versions"].items()
        ),
        "median (lowest-highest)\n",
        contender_table(result["samples"]) + "\n",
        target_table(rows_of(result)),
    ]
    for title, lines in (
        (
            "not measured",
            [f"{n}: {key}: {text}" for n, found in result["missing"].items() for key, text in found.items()],
        ),
        ("left out", [f"{name}: {text}" for name, text in result["left_out"].items()]),
    ):
        if lines:
            parts.append(f"\n{title}:\n" + "\n".join(f"- {line}" for line in lines))
    return "\n".join(parts)


def rounded(value: Any) -> Any:
    """Return a value for JSON whose numbers have six digits: more than any measurement has."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return value
