"""The guides for partitions and UUIDs: their examples run against a scratch database."""

from __future__ import annotations

import re

import pytest

from celers.sql.migration_files import packaged
from celers.sql.splitter import split
from tests.fixtures.migrations import Fresh, opened


@pytest.fixture
def fresh(server, empty_database_url) -> Fresh:
    return Fresh(server, empty_database_url)


def examples(version: str, server) -> dict[str, list[str]]:
    """The blocks of a guide that fit the server: statements by name."""
    (file,) = [file for file in packaged() if file.version == version]
    found: dict[str, list[str]] = {}
    for match in re.finditer(r"^-- example: begin (.*)\n((?:--.*\n)*?)-- example: end$", file.text, re.MULTILINE):
        name, _, condition = match[1].partition(" on ")
        kind, _, oldest = condition.partition(" ")
        if kind and (kind == "mariadb") != server.is_mariadb:
            continue
        if oldest and [int(part) for part in server.version.split("-")[0].split(".")] < [
            int(part) for part in oldest.split(".")
        ]:
            continue
        found.setdefault(name, []).extend(
            statement.text for statement in split(re.sub("^--", "", match[2], flags=re.MULTILINE))
        )
    return found


@pytest.mark.spec("MIG-08")
def test_the_partitioning_guide_works(fresh) -> None:
    with opened(fresh.url) as schema:
        schema.migrate()
        fresh.rows(
            "INSERT INTO celers_tasks (id, queue_id, task_name, payload, state, created_at, scheduled_at)"
            " VALUES"
            " (UNHEX(REPEAT('01', 16)), 1, 't', '', 'completed', '2026-01-05', '2026-01-05'),"
            " (UNHEX(REPEAT('02', 16)), 1, 't', '', 'failed', '2026-01-31 23:59:59.999999', '2026-01-31'),"
            " (UNHEX(REPEAT('03', 16)), 1, 't', '', 'pending', '2026-02-01', '2026-02-01')"
        )
        fresh.rows(
            "INSERT INTO celers_task_history (queue_name, task_id, task_name, state, timestamp) VALUES"
            " ('q', UNHEX(REPEAT('01', 16)), 't', 'pending', '2026-01-05'),"
            " ('q', UNHEX(REPEAT('03', 16)), 't', 'pending', '2026-02-01'),"
            " ('q', UNHEX(REPEAT('03', 16)), 't', 'pending', '2026-09-01')"
        )
        blocks = examples("004", fresh.server)
        assert list(blocks) == ["history", "add", "drop", "look", "plan", "tasks", "drop tasks", "undo"]
        answers = {}
        for name, statements in blocks.items():
            if name == "undo":
                assert schema.verify().is_complete  # longer keys are fine
            for text in statements:
                answers[name, text.split()[0]] = fresh.rows(text)
        assert [row[0] for row in answers["look", "SELECT"]] == ["p202602", "p202603", "p202604", "pmax"]
        assert "p202602" in answers["plan", "EXPLAIN"][0]
        assert answers["drop tasks", "SELECT"] == [(0,)]
        assert fresh.rows("SELECT queue_id, completed, failed, cancelled FROM celers_queue_totals") == [(1, -1, -1, 0)]
        assert fresh.rows("SELECT HEX(id) FROM celers_tasks") == [("03" * 16,)]
        assert fresh.rows("SELECT COUNT(*) FROM celers_task_history") == [(2,)]
        assert schema.verify().is_complete
        assert schema.migrate() == []


@pytest.mark.spec("MIG-09")
def test_the_uuid_guide_works(fresh) -> None:
    blocks = examples("005", fresh.server)
    assert {"text", "convert", "order"} <= set(blocks)
    answers = [fresh.rows(text) for statements in blocks.values() for text in statements]
    version7 = "018f2b1c-5a7e-7000-8000-0123456789ab"
    version1 = "6ccd780c-baba-1026-9564-5b8c656024db"
    values = [rows[0][0] for rows in answers if rows]
    expected = {
        bytes.fromhex(version7.replace("-", "")),
        version7,
        bytes.fromhex("1026baba6ccd780c95645b8c656024db"),
        version1,
    }
    assert expected <= set(values)
    assert set(values) - expected <= {0, 1}
    assert fresh.rows("SELECT order_id, HEX(task_id) FROM orders ORDER BY 1") == [
        (1, "018F2B1C5A7E700080000123456789AB"),
        (2, "018F2B1C5A7F700080000123456789AB"),
    ]
