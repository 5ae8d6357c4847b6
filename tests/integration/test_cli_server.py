"""`celers server` from its arguments to its output."""

from __future__ import annotations

import argparse
import json

import pytest

from celers.cli import server as command


@pytest.fixture
def celers(capsys):
    """Run a command line; gives the exit status, the output and the error output."""
    parser = argparse.ArgumentParser(prog="celers")
    command.add_parser(parser.add_subparsers())

    def run(*arguments: object) -> tuple[int, str, str]:
        args = parser.parse_args(["server", *map(str, arguments)])
        status = args.run(args)
        return status, *capsys.readouterr()

    return run


def test_start_status_stop(place, celers):
    where = ("--directory", place / "server")
    status, out, _ = celers("status", *where)
    assert (status, out) == (3, f"no server runs in {place}/server\n")
    status, out, _ = celers("start", *where, "--idle", "60")
    assert status == 0
    assert f"URL: mysql+embedded://{place}/server?idle=60" in out
    status, out, _ = celers("status", *where)
    assert status == 0
    assert "ends after 60 s without connections" in out
    status, out, _ = celers("start", *where, "--json")
    assert status == 0
    assert json.loads(out)["running"] is True
    status, out, _ = celers("status", *where, "--json")
    assert (json.loads(out)["running"], json.loads(out)["idle_secs"]) == (True, 60)
    assert celers("stop", *where)[:2] == (0, "the server has ended\n")
    assert celers("stop", *where, "--json")[:2] == (
        0,
        json.dumps({"directory": f"{place}/server", "stopped": False}) + "\n",
    )
    status, out, _ = celers("status", *where, "--json")
    assert (status, json.loads(out)["running"]) == (3, False)


def test_url_starts_nothing(place, celers, monkeypatch):
    status, out, _ = celers("url", "--directory", place / "a b", "--database", "x")
    assert (status, out) == (0, f"mysql+embedded://{place}/a%20b?database=x\n")
    monkeypatch.setenv("CELERS_URL", f"mysql+embedded://{place}/c?idle=5")
    assert celers("url", "--json")[1] == json.dumps({"url": f"mysql+embedded://{place}/c?idle=5"}) + "\n"
    assert list(place.iterdir()) == []


def test_failures_have_status_1(place, celers, monkeypatch):
    (place / "server").mkdir()
    (place / "server" / "photo.jpg").touch()
    status, out, error = celers("start", "--directory", place / "server")
    assert (status, out) == (1, "")
    assert error.startswith("celers: ")
    status, out, _ = celers("start", "--directory", place / "server", "--json")
    assert status == 1
    assert "other things" in json.loads(out)["error"]
    monkeypatch.setenv("CELERS_URL", "mysql://ada:secret@db.example/celers")
    status, _, error = celers("stop")
    assert status == 1
    assert "db.example" in error
    assert "secret" not in error


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon"])
def test_bad_seconds_are_refused(celers, value):
    with pytest.raises(SystemExit):
        celers("start", "--idle", value)
