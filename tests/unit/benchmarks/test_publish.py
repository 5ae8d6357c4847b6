"""The page of a result that is kept, the summary in the README, and the order of a run."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import publish, report
from benchmarks.compare import parse, turns
from benchmarks.contenders import Contender
from benchmarks.plan import Plan, Step, plan_of
from tests.unit.benchmarks.test_report import SAMPLES, rate

pytestmark = pytest.mark.spec("BENCH-03")

KERNELS = {
    "percentiles": {"ours": [1.0], "theirs": [4.0], "what": "percentiles"},
    "compression": {"ours": [1.0], "theirs": [1.1], "what": "compression"},
}
RESULT = {
    "date": "2026-01-02T03:04:05+00:00",
    "machine": {
        "processor": "a fast one", "cores": 2, "memory_gb": 8.0, "system": "Linux 6", "python": "3.11.7",
        "fsync_us": 117.5, "load": 0.1, "load_after": 2.0,
    },
    "settings": {"quick": True, "scale": 1.0, "rounds": 2, "binlog": True, "seconds": 480.0},
    "servers": {"mariadb": "10.11.19", "mariadb+binlog": "10.11.19", "redis": "7.0.15"},
    "versions": {"celers@mariadb": {"celers": "0.1.0", "server": "10.11.19"}, "pgqueuer": {"pgqueuer": "1.6"}},
    "samples": SAMPLES | {"celers@mariadb+binlog": {"drain_1": rate(2000)}},
    "kernels": KERNELS,
    "missing": {"celery-sql@mariadb": {"batch": "no batch enqueue"}},
    "left_out": {"dramatiq": "no redis: install it"},
}  # fmt: skip
README = f"# celers\n\n{publish.BEGIN}\nold\n{publish.END}\n\n## Licence\n"


def test_the_page_says_what_was_measured_where():
    text = publish.documents(RESULT, README)["README.md"]
    for wanted in ("a fast one, 2 cores", "118 us", "2026-01-02", "MariaDB 10.11.19", "A quick run", "pgqueuer 1.6"):
        assert wanted in text
    assert "| operation " in text
    assert "MariaDB, binlog" in text
    assert re.search(
        r"enqueue, single, one producer +\| floor \(by hand\) +\| at least 0.85x +\| 0.85 .*: reached", text
    )
    assert "no batch enqueue" in text
    assert "left out: no redis" in text


def test_every_target_says_whether_it_is_reached():
    rows = report.rows_of(RESULT)
    lines = publish.targets(RESULT).splitlines()[2:]
    assert len(lines) == len({(row.operation, row.against, row.target) for row in rows})
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")[4:-1]]
        assert cells[0]
        assert all(re.search(r"reached|not |no |-$|^$", cell) for cell in cells), line


def test_tables_are_aligned():
    text = publish.documents(RESULT, README)["README.md"]
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(line) for line in block.splitlines()}) == 1


def test_the_readme_keeps_the_rest():
    text = publish.documents(RESULT, README)["README"]
    assert text.startswith(f"# celers\n\n{publish.BEGIN}\n\nTasks of 100 bytes")
    assert text.endswith(f"{publish.END}\n\n## Licence\n")
    assert "old" not in text.partition(publish.END)[0].split()
    assert "| celers, MariaDB" in text
    assert "binlog" not in publish.summary(RESULT)
    assert publish.documents(RESULT, text)["README"] == text


def test_a_readme_without_marks_is_refused():
    with pytest.raises(ValueError, match="no lines"):
        publish.documents(RESULT, "# celers\n")


def test_written_and_checked(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    (tmp_path / "readme").write_text(README)
    call = [str(tmp_path / "result.json"), "--readme", str(tmp_path / "readme")]
    assert publish.main([*call, "--check"]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", "readme"}
    assert publish.main(call) == 0
    assert (tmp_path / "overview.svg").exists()
    assert publish.main([*call, "--check"]) == 0
    (tmp_path / "drain_1.svg").write_text("older")
    assert publish.main([*call, "--check"]) == 1


def test_what_is_committed_is_up_to_date():
    if not publish.RESULT.exists():
        pytest.skip("no result is kept yet")
    assert publish.main(["--check"]) == 0, "run: python -m benchmarks.publish"


def test_numbers_keep_six_digits():
    assert report.rounded({"a": [1.23456789, 2], "b": ("x", None)}) == {"a": [1.23457, 2], "b": ["x", None]}


def contender(name, kind, place, share=1.0):
    return Contender(name, kind, place, [], share, None)


MADE = [
    contender("celers@mariadb", "celers", "mariadb"),
    contender("floor@mariadb", "floor", "mariadb"),
    contender("celers@mysql", "celers", "mysql"),
    contender("rq", "peers", "redis", 0.1),
]


def test_a_server_takes_a_block_before_the_next_one():
    plan = Plan(
        [
            [Step("a", "m", {}, ("celers",)), Step("b", "m", {}, ("celers", "floor", "peers"))],
            [Step("c", "m", {}, ("celers",), rounds=1)],
        ],
        2,
    )
    first = [(step.key, one.name) for step, one in turns(plan, MADE, 0)]
    assert first == [
        ("a", "celers@mariadb"), ("b", "celers@mariadb"), ("b", "floor@mariadb"), ("a", "celers@mysql"),
        ("b", "celers@mysql"), ("b", "rq"), ("c", "celers@mariadb"), ("c", "celers@mysql"),
    ]  # fmt: skip
    second = [(step.key, one.name) for step, one in turns(plan, MADE, 1)]
    assert second[:3] == [("b", "rq"), ("a", "celers@mysql"), ("b", "celers@mysql")]
    assert "c" not in [key for key, _ in second]


def test_servers_with_a_binary_log_are_left_out_of_what_writes_nothing():
    made = [contender("celers@mysql+binlog", "celers", "mysql+binlog"), contender("huey", "peers", "mysql+binlog")]
    plan = Plan([[Step("a", "m", {}, ("celers", "peers"))], [Step("b", "m", {}, ("celers",), logged=False)]], 2)
    first = [(step.key, one.kind) for step, one in turns(plan, made, 0)]
    assert first == [("a", "celers"), ("a", "peers")]
    assert [(step.key, one.kind) for step, one in turns(plan, made, 1)] == [("a", "celers")]


def test_slow_contenders_take_fewer_tasks():
    steps = {step.key: step for step in plan_of(quick=True).steps}
    assert MADE[3].arguments(steps["batch"]) == {"count": 2000}
    assert MADE[0].arguments(steps["batch"]) == {"count": 20_000}
    assert MADE[3].arguments(steps["drain_4"]) == {"count": 2000, "workers": 4}
    assert MADE[0].arguments(steps["depth_ready"])["count"] == 100_000
    assert MADE[1].arguments(steps["drain_single"]) == {"count": 1000, "workers": 1, "batch": 1}


def test_quick_runs_end_in_time():
    assert parse(["--quick"]).minutes <= 9
    assert parse([]).minutes is None
    assert parse(["--quick", "--minutes", "3"]).minutes == 3
    assert parse(["--peers", "none"]).names == []
