"""Write the pages of a result that is kept: ``python -m benchmarks.publish``.

Reads ``docs/benchmarks/result.json`` (made by ``python -m benchmarks.compare --json``) and writes the page and the
charts beside it and the summary in the README. Nothing is measured, so it can be repeated when texts or targets have
changed; ``--check`` only tells whether everything is up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.charts import charts, title_of
from benchmarks.report import rows_of, table
from benchmarks.stats import summarise
from benchmarks.svg import shown
from benchmarks.targets import Row, find, rates

__all__ = ["documents", "main", "page", "summary"]

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "benchmarks" / "result.json"
README = ROOT / "README.md"
BEGIN = "<!-- benchmarks: written by python -m benchmarks.publish -->"
END = "<!-- /benchmarks -->"

SUMMARY = {
    "enqueue": "enqueue, one at a time",
    "batch": "enqueue, batches of 1000",
    "drain_1": "run, 1 worker process",
    "drain_4": "run, 4 worker processes",
}
CHARTS = {
    "enqueue.svg": "Tasks stored one at a time",
    "batch.svg": "Tasks stored in batches",
    "drain_1.svg": "Tasks run by one worker process",
    "drain_4.svg": "Tasks run by four worker processes",
    "pickup.svg": "Time until an idle worker starts a task",
}

INTRODUCTION = """\
Written by `python -m benchmarks.publish` from [result.json](result.json), which has every sample.
[How it is measured](method.md), how to repeat it, and what bounds the targets that are not reached."""
EXPLANATION = """\
Celers divided by the other, within a round: median (lowest-highest). "Floor" is the same protocol written by hand,
without the library. In the columns with the binary log it is on and `sync_binlog=1`."""
MORE = """\
[All figures](docs/benchmarks/README.md), with targets reached and not reached, spread, versions and the binary log;
[how it is measured](docs/benchmarks/method.md). Repeat it: `python -m benchmarks.compare --quick`."""

Result = Mapping[str, Any]


def summary(result: Result) -> str:
    """Return the table of tasks a second, a line for each contender without binary log."""
    lines = []
    for contender, measured in result["samples"].items():
        if "+" in contender:
            continue
        cells = []
        for key in SUMMARY:
            found = rates(measured.get(key, ()))
            cells.append(shown(summarise(found).median) if found else "-")
        lines.append([title_of(contender), *cells])
    return table(["tasks a second", *SUMMARY.values()], lines)


def targets(result: Result) -> str:
    """Return the table of targets: a line for each, a column for each server."""
    columns = [name for name in result["servers"] if name.partition("+")[0] in ("mariadb", "mysql")]
    lines: dict[tuple[str, str, float], dict[str, Row]] = {}
    for row in rows_of(result):
        lines.setdefault((row.operation, row.against, row.target), {})[row.server] = row
    drawn = []
    for (operation, against, target), found in lines.items():
        one = next(iter(found.values()))
        unit = "x" if against else f" {one.unit}".rstrip()
        wanted = f"{'at least' if one.at_least else 'at most'} {target:g}{unit}"
        if "any" in found:
            cells = [_cell(found["any"]), *[""] * (len(columns) - 1)]
        else:
            cells = [_cell(found[name]) if name in found else "-" for name in columns]
        drawn.append([operation, title_of(against) if against else "", wanted, *cells])
    return table(["operation", "against", "target", *(title_of(f"@{name}")[2:] for name in columns)], drawn)


def _cell(row: Row) -> str:
    if row.result is None:
        return row.note or "not measured"
    verdict = "reached" if row.met else "**not reached**"
    return f"{report.spread(row.result)}: {verdict}"


def page(result: Result, files: Sequence[str]) -> str:
    """Return the page of a result; `files` are its charts."""
    facts, settings = result["machine"], result["settings"]
    kind = "A quick run: sizes are small, ratios are rough." if settings["quick"] else "A full run."
    versions: dict[str, str] = {}
    for contender, found in result["versions"].items():
        name = title_of(contender.partition("@")[0])
        versions[name] = ", ".join(f"{key} {value}" for key, value in found.items() if key != "server")
    missing = [
        f"- {title_of(name)}: {report.RATES.get(key, key)}: {text}"
        for name, found in result["missing"].items()
        for key, text in found.items()
    ]
    missing += [f"- {title_of(name)}: left out: {text}" for name, text in result["left_out"].items()]
    pictures = [f"![{text}]({name})" for name, text in CHARTS.items() if name in files]
    parts = [
        "# Benchmarks",
        INTRODUCTION,
        table(
            ["", ""],
            [
                ["date", result["date"]],
                ["machine", f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gb']} GB"],
                ["a forced write of 512 bytes", f"{facts['fsync_us']:.0f} us"],
                ["system", f"{facts['system']}, Python {facts['python']}"],
                ["load of the machine", f"{facts['load']} before, {facts['load_after']} after"],
                ["run", f"{kind} {settings['rounds']} rounds in {settings['seconds'] / 60:.0f} minutes"],
                ["servers", ", ".join(f"{title_of('@' + name)[2:]} {text}" for name, text in _servers(result))],
                *([name, text] for name, text in versions.items()),
            ],
        ),
        "## Targets",
        EXPLANATION,
        targets(result),
        "## Charts",
        *pictures,
        "## Everything that was measured",
        "Tasks a second: median (lowest-highest). CPU seconds are the client's: producer or worker, not the server.",
        report.contender_table(result["samples"]),
    ]
    if missing:
        parts += ["## What is not there", "\n".join(missing)]
    return "\n\n".join(parts) + "\n"


def _servers(result: Result) -> list[tuple[str, str]]:
    return [(name, text) for name, text in result["servers"].items() if "+" not in name]


def short(result: Result) -> str:
    """Return the part of the README, without its marks."""
    facts = result["machine"]
    server = next((name for name in ("mariadb", "mysql") if f"celers@{name}" in result["samples"]), "")
    alt = "Bar charts of tasks a second: stored in batches of 1000, and run by four worker processes"
    lines = [
        f"Tasks of 100 bytes that do nothing, on {facts['cores']} cores ({facts['processor']}), {result['date'][:10]}.",
        f"Every commit is forced to the disk, {facts['fsync_us']:.0f} us for a small write; not so with Redis.",
    ]
    ours, floor = (rates(find(result["samples"], name, server).get("drain_4", ())) for name in ("celers", "floor"))
    if ours and floor:
        share = summarise(ours).median / summarise(floor).median
        lines.append(f'"Floor" is the same protocol written by hand; four worker processes reach {share:.0%} of it.')
    picture = f"![{alt}](docs/benchmarks/overview.svg)"
    return "\n\n".join(["\n".join(lines), summary(result), picture, MORE])


def documents(result: Result, readme: str) -> dict[str, str]:
    """Return the text of every file by its name beside the result; that of the README by ``README``."""
    made = charts(result["samples"])
    found = made | {"README.md": page(result, list(made))}
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README has no lines {BEGIN} and {END}")
    return found | {"README": f"{before}{begin}\n\n{short(result)}\n\n{end}{after}"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; return 1 when a check finds something out of date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("result", nargs="?", type=Path, default=RESULT, help="default: docs/benchmarks/result.json")
    parser.add_argument("--readme", type=Path, default=README, help="default: README.md")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when something is out of date")
    options = parser.parse_args(arguments)
    result = json.loads(options.result.read_text(encoding="utf-8"))
    texts = documents(result, options.readme.read_text(encoding="utf-8"))
    paths = {options.readme if name == "README" else options.result.parent / name: text for name, text in texts.items()}
    stale = [path for path, text in paths.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if not options.check:
            path.write_text(paths[path], encoding="utf-8")
        print(f"{'out of date' if options.check else 'written'}: {path}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
