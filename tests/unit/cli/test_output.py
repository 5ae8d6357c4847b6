"""What commands print."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers.cli.output import Progress, bar, print_table, table


def test_table_aligns_numbers_to_the_right():
    text = table(("queue", "pending"), [("a", 5), ("longer", 12345)])
    assert text.splitlines() == [
        "queue   pending",
        "a             5",
        "longer   12,345",
    ]


def test_table_without_rows():
    assert table(("a", "b"), []) == "a  b"


def test_table_of_other_values():
    assert table(("x", "y"), [(None, True)]).splitlines() == ["x  y", "-  yes"]


def test_print_table_is_plain_when_not_on_a_terminal(capsys):
    print_table(("a",), [("b",)])
    assert capsys.readouterr().out == "a\nb\n"


@given(st.floats(-1, 2), st.integers(1, 60))
def test_bar_never_leaves_its_width(share, width):
    utf8 = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    for stream in (utf8, ascii_only):
        drawn = bar(share, width, stream)
        assert len(drawn) <= width
        assert bool(drawn) == (share > 0)
        drawn.encode(stream.encoding)


def test_progress_is_silent_when_not_on_a_terminal(capsys):
    with Progress("work", 10) as progress:
        for done in range(11):
            progress.update(done)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("enabled", [True, False])
def test_progress_on_a_terminal(monkeypatch, enabled):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("work", 10, enabled=enabled) as progress:
        progress.update(10)
    assert ("10/10 (100%)" in terminal.getvalue()) == enabled
