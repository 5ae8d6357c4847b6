"""`celers doctor`: what it says about a database, checked against databases that are set that way."""

from __future__ import annotations

import json

import pytest

from celers import MysqlBroker
from celers.cli.main import main
from celers.db.url import parse_url
from celers.doctor import Level, examine
from tests.fixtures.server import running

pytestmark = pytest.mark.spec("CORE-16")


def found(url: str) -> dict[str, tuple[Level, str]]:
    return {finding.name: (finding.level, finding.text) for finding in examine(parse_url(url))}


def test_a_database_that_suits(database_url, capsys):
    looks = found(database_url)
    for name in ("server", "tables", "wake-up", "durability", "packets", "connections", "round trip", "clock"):
        assert looks[name][0] is Level.OK, looks[name]
    assert "woken" in looks["wake-up"][1]
    assert "accounts" not in looks
    assert main(["doctor", "--url", database_url]) == 0
    assert "idle workers are woken" in capsys.readouterr().out
    assert main(["doctor", "--json", "--url", database_url]) == 0
    levels = {one["name"]: one["level"] for one in json.loads(capsys.readouterr().out)["findings"]}
    assert levels == {name: level.value for name, (level, _) in looks.items()}


def test_a_database_without_tables(empty_database_url, capsys):
    assert found(empty_database_url)["tables"][0] is Level.PROBLEM
    assert main(["doctor", "--url", empty_database_url]) == 3
    assert "celers migrate" in capsys.readouterr().out


def test_accounts_that_may_not_wake_each_other(server, database_url):
    name = parse_url(database_url).database
    assert "every account" in found(database_url)["rights"][1]
    server.rows("CREATE USER celers_doctor@localhost IDENTIFIED BY 'secret'")
    try:
        server.rows(f"GRANT SELECT, INSERT, UPDATE, DELETE ON `{name}`.* TO celers_doctor@localhost")
        looks = found(database_url.replace("root@", "celers_doctor:secret@"))
        assert "the same account" in looks["rights"][1]
        assert looks["wake-up"][0] is Level.OK
    finally:
        server.rows("DROP USER celers_doctor@localhost")
    with MysqlBroker(database_url, "mail") as broker:
        assert broker.queue_size() == 0
    server.rows("UPDATE celers_queues SET unheard_at = UTC_TIMESTAMP(6)", database=name)
    level, text = found(database_url)["accounts"]
    assert (level, "mail" in text, "CONNECTION_ADMIN" in text) == (Level.WARNING, True, True)


def test_a_server_that_is_set_otherwise(place):
    options = ["--innodb-flush-log-at-trx-commit=2", "--max-allowed-packet=4M", "--wait-timeout=60"]
    with running(place / "server", options=options) as server:
        looks = found(server.url)
    assert looks["durability"][0] is Level.WARNING
    assert "can be lost" in looks["durability"][1]
    assert looks["packets"][0] is Level.NOTE
    assert looks["timeouts"][0] is Level.WARNING
