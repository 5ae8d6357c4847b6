"""The parts of the demonstration that need no database."""

from __future__ import annotations

import hashlib
import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers import demo
from celers.cli.demo import histogram, text
from celers.cli.demorun import Report, _changed, _compare
from celers.cli.main import main
from celers.model.enums import TaskResultStatus
from celers.model.result import TaskResult
from celers_fast.ids import uuid7


def test_measure(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_CHUNK", 7)
    content = b"line\n" * 20 + b"no end"
    path = tmp_path / "file"
    path.write_bytes(content)
    assert demo.measure(path) == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": 106,
        "lines": 20,
        "zlib_ratio": round(len(zlib.compress(content)) / 106, 6),
    }


def test_measure_an_empty_file(tmp_path):
    (tmp_path / "empty").touch()
    assert demo.measure(tmp_path / "empty")["zlib_ratio"] == 1.0


def test_find_files(tmp_path):
    for name in ("b", "a", "below/c", "__pycache__/x.pyc"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    with open(os.fsencode(tmp_path) + b"/\xff", "wb"):
        pass
    found = [str(path.relative_to(tmp_path)) for path in demo.find_files(tmp_path)]
    assert found == ["a", "b", "below/c"]


def test_the_standard_library_is_full_of_files():
    found = list(demo.find_files(demo.default_tree()))
    assert len(found) > 500
    assert not any("site-packages" in path.parts for path in found)


@given(st.lists(st.floats(1e-6, 1e7), max_size=50))
def test_histogram_counts_every_value(values):
    lines = histogram(values)
    assert sum(int(line.split(" ms")[1].removeprefix(" and more").split()[0]) for line in lines) == len(values)


def result(value, status=TaskResultStatus.SUCCESS, error=None) -> TaskResult:
    from datetime import UTC, datetime

    return TaskResult(uuid7(), "t", status, value, error, None, datetime.now(UTC))


def test_compare(tmp_path):
    path = tmp_path / "file"
    path.write_text("x\n")
    good = {**demo.measure(path), "started": 1.0, "runtime": 0.1}
    assert _compare(path, result(good)) is None
    assert _compare(path, None) == "no result"
    assert "2" in (_compare(path, result({**good, "lines": 2})) or "")
    assert "boom" in (_compare(path, result(None, TaskResultStatus.FAILURE, "boom")) or "")
    status = path.stat()
    assert not _changed(path, status)
    path.write_text("something else\n")
    assert _changed(path, status)
    path.unlink()
    assert _changed(path, status)
    assert "cannot be read" in (_compare(path, result(good)) or "")


def report(**values) -> Report:
    settings = {"wait_ms": [1.0, 2.0], "run_ms": [0.5, 0.7], "enqueue_secs": 0.1, "total_secs": 0.5, "verified": 2}
    return Report("demo-1", "/tree", "MariaDB 10.11", 2, 2, **{**settings, **values})


def test_report_for_people():
    shown = text(report())
    assert "all 2 results verified" in shown
    assert "p99" in shown
    assert "tasks/s" in shown


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"verified": 1, "problems": ["a: no result"]}, "1 of 2 results are right, 1 are wrong"),
        ({"verified": 1, "changed": 1}, "1 files changed meanwhile"),
    ],
)
def test_report_of_something_wrong(values, expected):
    shown = text(report(**values))
    assert expected in shown
    assert "all 2 results verified" not in shown


def test_report_as_json():
    found = report().to_dict()
    assert found["tasks_per_sec"] == 4.0
    assert found["run_ms"]["p99"] == 0.7


@pytest.mark.parametrize(
    ("values", "status"),
    [({}, 0), ({"verified": 1, "changed": 1}, 0), ({"verified": 1, "problems": ["a: no result"]}, 1)],
)
def test_exit_status(monkeypatch, tmp_path, values, status):
    (tmp_path / "file").touch()
    monkeypatch.setattr("celers.cli.demorun.Demo.run", lambda _self: report(**values))
    assert main(["demo", str(tmp_path), "--url", "mysql://localhost/x"]) == status
