"""What commands ask and how they show single things."""

from __future__ import annotations

import argparse
import io

import pytest

from celers.cli.ask import confirm, describe, one_line
from celers.errors import ValidationError


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("answer", "meant"), [("y\n", True), ("YES\n", True), ("\n", False), ("no\n", False), ("", False)]
)
def test_a_person_is_asked(monkeypatch, capsys, answer, meant):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert confirm(argparse.Namespace(yes=False), "Delete it?") is meant
    said = capsys.readouterr().err
    assert "Delete it? [y/N]" in said
    assert ("nothing was done" in said) is not meant


def test_without_a_person_it_has_to_be_said(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(ValidationError, match="--yes"):
        confirm(argparse.Namespace(yes=False), "Delete it?")
    assert confirm(argparse.Namespace(yes=True), "Delete it?") is True


def test_single_things():
    assert describe({"task_id": 1, "error": None, "x": "y"}) == "task id: 1\nx:       y"
    assert one_line(None) is None
    assert one_line("a\n  b") == "a b"
    assert one_line("x" * 100) == "x" * 59 + "…"
