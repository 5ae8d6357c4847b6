"""Rows of the report, its tables and its charts."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report, svg, targets
from benchmarks.charts import charts
from benchmarks.plan import plan_of


def rate(*rates, cpu=0.1):
    return [{"tasks": one, "secs": 1.0, "cpu": cpu, "cpu_tasks": 10_000} for one in rates]


SAMPLES = {
    "celers@mariadb": {
        "enqueue_broker": rate(900, 800),
        "enqueue": rate(850, 750),
        "batch": rate(9000),
        "drain_1": rate(3000, 3100),
        "pickup": [{"tasks": 3, "delays": [0.0005, 0.0006, 0.02]}],
        "round_trips": [{"enqueue": {"round_trips": 1.0}, "enqueue_batch": {"round_trips": 2.0}}],
        "depth_ready": [{"median": 0.0003, "empty": 0.0002, "rows": 1000}],
    },
    "floor@mariadb": {"enqueue": rate(1000, 1000), "drain_1": rate(4000, 6200)},
    "celery-sql@mariadb": {"enqueue": rate(100, 100)},
    "pgqueuer": {"drain_1": rate(1000, 1000)},
}
MISSING = {("celers@mariadb", "buffer"): "not yet: there is no broker.buffer"}


def row(operation, against=""):
    found = [one for one in targets.rows(SAMPLES, "mariadb", MISSING) if one.operation.startswith(operation)]
    return next(one for one in found if one.against == against)


def test_ratio_against_the_floor():
    found = row("enqueue, single", "floor")
    assert found.result.median == pytest.approx(0.85)
    assert found.met is True
    found = row("worker drain, 1 process", "floor")
    assert found.result.low == pytest.approx(0.5)
    assert found.met is True


def test_peers_on_a_server_of_their_own():
    assert row("worker drain, 1 process", "pgqueuer").result.median == pytest.approx(3.05)
    assert row("enqueue, single", "celery-sql").result.median == pytest.approx(8)


def test_what_was_not_measured_says_why():
    found = row("asyncio producer through the buffer", "without it")
    assert (found.met, found.note) == (None, "not yet: there is no broker.buffer")
    assert row("worker drain, 1 process", "celery-redis").met is None


def test_limits():
    assert row("pickup on an idle queue, p50").met is True
    assert row("pickup on an idle queue, p99").met is False
    assert row("round trips of an enqueue of 1000").met is False
    assert row("client CPU").ours.median == pytest.approx(0.2)


def test_depth_is_held_against_an_empty_queue():
    found = row("claim with many ready", "an empty queue")
    assert found.result.median == pytest.approx(1.5)
    assert found.met is False


def test_every_target_of_the_plan_is_measured():
    plan = plan_of(quick=True)
    keys = {step.key for step in plan.steps}
    wanted = {target.ours for target in targets.RATIOS} | {target.theirs for target in targets.RATIOS}
    wanted |= {limit.measure for limit in targets.LIMITS} | set(targets.DEPTHS)
    assert wanted <= keys


def test_rows_are_ready_for_json():
    text = json.dumps([one.to_dict() for one in targets.rows(SAMPLES, "mariadb", MISSING)])
    assert '"met": true' in text


def test_tables():
    text = report.target_table(targets.rows(SAMPLES, "mariadb", MISSING))
    assert len({len(line) for line in text.splitlines()}) == 1
    assert "not yet" in text
    text = report.contender_table(SAMPLES)
    assert "| celers@mariadb" in text
    assert "0.6 / 20 ms" in text


@given(st.lists(st.lists(st.text("abc0 -", max_size=5), min_size=2, max_size=2), max_size=4))
def test_tables_are_aligned(lines):
    assert len({len(line) for line in report.table(["first", "second"], lines).splitlines()}) == 1


def test_kernels():
    found = targets.kernels({"percentiles": {"ours": [1.0, 1.0], "theirs": [4.0, 4.0], "what": "percentiles"}})
    assert [(one.operation, one.result.median, one.met) for one in found] == [("percentiles", 4.0, True)]


def test_charts_are_svg():
    made = charts(SAMPLES | {"celers@mariadb+binlog": {"batch": rate(1)}})
    assert set(made) == {"drain_1.svg", "enqueue.svg", "batch.svg", "pickup.svg", "overview.svg"}
    for text in made.values():
        assert ET.fromstring(text).tag == f"{SVG}svg"
    assert "binlog" not in made["batch.svg"], "the binary log has tables only"


def test_charts_can_be_heard():
    root = ET.fromstring(charts(SAMPLES)["drain_1.svg"])
    assert root.get("role") == "img"
    said = [root.find(f"{SVG}*[@id='{name}']").text for name in root.get("aria-labelledby").split()]
    assert said[0] == "Run tasks, one worker process"
    assert "floor (by hand), MariaDB 5,100 /s" in said[1]
    assert "PgQueuer, PostgreSQL 1,000 /s" in said[1]


@pytest.mark.parametrize("colour", svg.COLOURS.values())
@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"])
def test_bars_are_seen_on_light_and_dark_pages(colour, page):
    def luminance(text):
        parts = [int(text[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
        return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(map(luminance, (colour, page)))
    assert (high + 0.05) / (low + 0.05) >= 3


SVG = "{http://www.w3.org/2000/svg}"
LABELS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2000, exclude_categories=["Cc", "Cn"]))


@given(st.lists(st.builds(svg.Bar, LABELS, st.floats(0, 1e9)), min_size=1, max_size=5))
def test_any_bars_are_well_formed(bars):
    panel = svg.Panel('a < b & "c"', "note", bars, "/s")
    root = ET.fromstring(svg.chart([panel, panel]))
    assert len(root.findall(f"{SVG}rect")) == 2 * len(bars)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (3.14159, "3.14"), (99.96, "100"), (12345.6, "12,346")]
)
def test_numbers(value, text):
    assert svg.shown(value) == text


def test_no_bars():
    with pytest.raises(ValueError, match="needs a bar"):
        svg.chart([svg.Panel("", "", [], "")])
    with pytest.raises(ValueError, match="negative"):
        svg.chart([svg.Panel("", "", [svg.Bar("a", -1.0)], "")])
