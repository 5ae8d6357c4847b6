"""Migrations against a real server: apply, repeat, interrupt, verify."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from celers.components import migrations
from celers.components.migrations import Migrations
from celers.db.driver import connect
from celers.db.outcome import DriverError, map_error
from celers.db.url import parse_url
from celers.errors import MigrationError
from celers.sql.ddl import describe
from celers.sql.migration_files import Role, packaged
from celers.sql.splitter import split
from tests.fixtures.migrations import REQUIRED, Fresh, core, opened


@pytest.fixture
def fresh(server, empty_database_url) -> Fresh:
    return Fresh(server, empty_database_url)


@pytest.mark.spec("MIG-02", "MIG-06", "OPS-03")
def test_an_empty_database_becomes_complete(fresh) -> None:
    with opened(fresh.url) as schema:
        before = schema.verify()
        assert schema.applied() == []
        assert schema.migrate() == REQUIRED
        assert schema.migrate() == []
        applied, after = schema.applied(), schema.verify()
    assert (before.is_complete, before.applied_count, before.schema_valid) == (False, 0, False)
    assert (before.missing_count, list(before.missing_migrations)) == (6, REQUIRED)
    assert "table celers_tasks is missing" in before.problems
    assert [info.version for info in applied] == REQUIRED
    assert applied[0].name == "init"
    assert {info.version: info.checksum for info in applied}.items() <= {
        file.version: file.checksum for file in packaged()
    }.items()
    (now,) = fresh.rows("SELECT UTC_TIMESTAMP(6)")[0]
    assert abs((now - applied[0].applied_at.replace(tzinfo=None)).total_seconds()) < 600
    assert after.is_complete
    assert after.schema_valid
    assert after.problems == after.missing_migrations == ()
    assert list(after.applied_migrations) == REQUIRED


@pytest.mark.spec("CONF-03")
def test_prefixes_live_side_by_side(fresh) -> None:
    with opened(fresh.url, "Q7_") as other:
        assert other.migrate() == REQUIRED
        assert other.verify().is_complete
        tables, routines = fresh.names("table"), fresh.names("routine")
        assert {name[:3].lower() for name in tables} == {"q7_"}
        assert routines == {"Q7_move_to_dlq", "Q7_enqueue"}
        with opened(fresh.url) as schema:
            assert not schema.verify().is_complete
            assert schema.migrate() == REQUIRED
        assert other.migrate() == []
    assert len(fresh.names("table")) == 2 * len(tables)
    assert fresh.names("routine") - routines == {"move_to_dlq", "celers_enqueue"}


class InterruptedRunError(Exception):
    pass


def migrate_one_step_further(url: str, seen: set[bytes]) -> list[str]:
    """Run `migrate` by hand and drop the connection after the first statement that is new."""
    connection = connect(parse_url(url))
    steps = Migrations.migrate.steps(Migrations(core(), None), reporting_indexes=True)
    try:
        packet = next(steps)
        while True:
            try:
                reply = connection.run(b";".join(packet.statements), len(packet.statements))
            except DriverError as error:
                packet = steps.throw(map_error(error))
            else:
                if b"IS_USED_LOCK" in packet.statements[0] and packet.statements[1] not in seen:
                    seen.add(packet.statements[1])
                    raise InterruptedRunError
                packet = steps.send(reply)
    except StopIteration as stop:
        return stop.value
    finally:
        connection.close()


@pytest.mark.spec("MIG-02", "TEST-04")
def test_a_run_interrupted_after_any_statement_is_completed_by_the_next(fresh) -> None:
    # So every partial state is met, and left by a run that begins at the first statement: it has no records.
    seen: set[bytes] = set()
    last: list[str] = []
    while not last:
        if len(seen) > 1:
            fresh.rows("DELETE FROM celers_migrations")
        with contextlib.suppress(InterruptedRunError):
            last = migrate_one_step_further(fresh.url, seen)
        with opened(fresh.url) as schema:
            # Nothing is recorded before its last statement.
            recorded = {info.version for info in schema.applied()}
            problems = schema.verify().problems
        for file in packaged():
            if file.version in recorded:
                made = [describe(statement.text) for statement in file.statements("celers_")]
                starts = tuple(f"{type(item).__name__.lower()} {item.name} " for item in made if item)
                assert not [problem for problem in problems if problem.startswith(starts)]
    assert len(seen) == sum(len(split(file.text)) for file in packaged()) + len(last)
    assert last == sorted([*REQUIRED, "003"])
    with opened(fresh.url) as schema:
        assert schema.verify().is_complete
        assert schema.migrate() == []
        assert [info.version for info in schema.applied()] == sorted([*REQUIRED, "003"])


@pytest.mark.spec("MIG-02", "TEST-04")
def test_statements_applied_by_hand_are_completed(fresh) -> None:
    for file in packaged():
        statements = file.statements("celers_") if file.role is not Role.GUIDE else []
        for statement in statements[: len(statements) // 2 + 1]:
            with contextlib.suppress(Exception):
                fresh.rows(statement.text)
    with opened(fresh.url) as schema:
        assert not schema.verify().is_complete
        assert schema.migrate() == REQUIRED
        assert schema.verify().is_complete


@pytest.mark.spec("MIG-02")
def test_a_run_that_has_lost_its_lock_stops(fresh) -> None:
    steps = Migrations.migrate.steps(Migrations(core(), None))
    connection = connect(parse_url(fresh.url))
    try:
        packet = next(steps)
        while b"IS_USED_LOCK" not in packet.statements[0]:
            packet = steps.send(connection.run(b";".join(packet.statements), len(packet.statements)))
    finally:
        connection.close()
    another = connect(parse_url(fresh.url))
    try:
        with pytest.raises(DriverError) as caught:
            another.run(b";".join(packet.statements), len(packet.statements))
    finally:
        another.close()
    assert packet.errors is not None
    steps.throw(packet.errors[caught.value.index, caught.value.errno]())  # wants to release the lock
    with pytest.raises(MigrationError, match="connection was lost"):
        steps.send([])
    assert fresh.names("table") == set()


PROCESS = """
import json, sys
sys.path[:0] = json.loads(sys.argv[2])
from tests.fixtures.migrations import opened
with opened(sys.argv[1]) as schema:
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(schema.migrate()))
"""


@pytest.mark.spec("MIG-02", "TEST-04")
def test_of_several_processes_at_once_one_migrates(fresh) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, fresh.url, json.dumps([os.getcwd(), *sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(results) == [[], [], REQUIRED]


@pytest.mark.spec("MIG-02")
def test_a_lock_that_stays_taken_is_an_error(fresh, monkeypatch) -> None:
    monkeypatch.setattr(migrations, "LOCK_WAIT_SECS", 0.1)
    with opened(fresh.url) as schema, opened(fresh.url) as other:
        lock = schema.runner.run(schema._lock, "plain", False)
        with pytest.raises(MigrationError, match="another process"):
            other.migrate()
        # Another prefix has a lock of its own.
        with opened(fresh.url, "x_") as third:
            assert third.migrate() == REQUIRED
        assert lock.startswith("celers_migrate_")


@pytest.mark.spec("MIG-04", "OPS-03")
def test_a_changed_file_is_reported_and_not_applied_again(fresh, caplog) -> None:
    with opened(fresh.url) as schema:
        schema.migrate()
        fresh.rows("UPDATE celers_migrations SET checksum=REPEAT('0', 64) WHERE version='002'")
        found = schema.verify()
        with caplog.at_level(logging.WARNING, "celers.migrations"):
            assert schema.migrate() == []
    assert not found.is_complete
    assert not found.schema_valid
    assert found.missing_migrations == ()
    (problem,) = found.problems
    assert "002_results was changed after it had been applied" in problem
    assert problem in caplog.text


@pytest.mark.spec("SCHEMA-01", "OPS-03")
def test_reporting_indexes_come_and_go(fresh) -> None:
    with opened(fresh.url) as schema:
        schema.migrate()
        assert fresh.indexes_of_tasks() == {"PRIMARY", "uq_tasks_id"}
        assert schema.migrate(reporting_indexes=True) == ["003"]
        assert schema.migrate(reporting_indexes=True) == []
        assert schema.migrate() == []
        assert len(fresh.indexes_of_tasks()) == 11
        assert schema.verify().is_complete
        assert "003" in schema.verify().applied_migrations

        fresh.rows("DROP INDEX idx_tasks_worker ON celers_tasks")
        assert schema.verify().problems == ("index idx_tasks_worker of celers_tasks is missing",)

        assert schema.migrate(reporting_indexes=False) == []
        assert fresh.indexes_of_tasks() == {"PRIMARY", "uq_tasks_id"}
        assert schema.verify().is_complete
        assert [info.version for info in schema.applied()] == REQUIRED

        # Left over from an interruption: there, but not recorded.
        fresh.rows("CREATE INDEX idx_tasks_worker ON celers_tasks (queue_id, worker_no, state)")
        assert schema.migrate(reporting_indexes=False) == []
        assert fresh.indexes_of_tasks() == {"PRIMARY", "uq_tasks_id"}


@pytest.mark.spec("SCHEMA-01")
def test_reporting_indexes_on_an_empty_database(fresh) -> None:
    with opened(fresh.url) as schema:
        assert schema.migrate(reporting_indexes=True) == sorted([*REQUIRED, "003"])
        assert schema.verify().is_complete


@pytest.mark.spec("OPS-03")
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("ALTER TABLE celers_tasks DROP COLUMN isolated", "column celers_tasks.isolated is missing"),
        ("DROP TABLE celers_task_dedup", "table celers_task_dedup is missing"),
        ("DROP VIEW celers_dlq_view", "view celers_dlq_view is missing"),
        (
            "DROP PROCEDURE move_to_dlq",
            "procedure move_to_dlq is missing, or this account has no right to see it",
        ),
        ("DROP INDEX uq_tasks_id ON celers_tasks", "index uq_tasks_id of celers_tasks is missing"),
        (
            "ALTER TABLE celers_scheduled DROP PRIMARY KEY, ADD PRIMARY KEY (seq, due_at)",
            "index PRIMARY of celers_scheduled is on (seq, due_at) instead of (due_at, seq)",
        ),
        (
            "DROP INDEX idx_worker_heartbeat_last ON celers_workers",
            "index idx_worker_heartbeat_last of celers_workers is missing",
        ),
    ],
)
def test_damage_is_found(fresh, damage: str, problem: str) -> None:
    with opened(fresh.url) as schema:
        schema.migrate()
        fresh.rows(damage)
        found = schema.verify()
    assert found.problems == (problem,)
    assert not found.schema_valid
    assert not found.is_complete
    assert found.missing_count == 0


@pytest.mark.spec("OPS-03")
def test_a_missing_record_is_found_and_repaired(fresh) -> None:
    with opened(fresh.url) as schema:
        schema.migrate()
        fresh.rows("DELETE FROM celers_migrations WHERE version IN ('001', '008')")
        found = schema.verify()
        assert (found.is_complete, found.schema_valid) == (False, True)
        assert found.missing_migrations == ("001", "008")
        assert schema.migrate() == ["001", "008"]
        assert schema.verify().is_complete


@pytest.mark.spec("ERR-08", "MIG-02")
def test_a_failing_statement_is_named_and_can_be_repeated(fresh) -> None:
    fresh.rows("CREATE TABLE celers_dlq_view (a INT PRIMARY KEY)")
    with opened(fresh.url) as schema:
        with pytest.raises(MigrationError, match=r"001_init, statement 13 \(line \d+\)") as caught:
            schema.migrate()
        assert (caught.value.version, caught.value.statement, caught.value.errno) == ("001", 13, 1347)
        fresh.rows("DROP TABLE celers_dlq_view")
        # Also from another connection: the lock was released.
        with opened(fresh.url) as other:
            assert other.migrate() == REQUIRED


@pytest.mark.spec("MIG-07")
def test_the_missing_privilege_is_named(fresh) -> None:
    parts = urlsplit(fresh.url)
    url = parts._replace(netloc=f"celers_clerk:x@{parts.netloc.rpartition('@')[2]}").geturl()
    fresh.rows("DROP USER IF EXISTS celers_clerk@`%`")
    fresh.rows("CREATE USER celers_clerk@`%` IDENTIFIED BY 'x'")
    try:
        given = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, INDEX, CREATE VIEW"
        fresh.rows(f"GRANT {given} ON `{fresh.name}`.* TO celers_clerk@`%`")
        with opened(url) as schema:
            with pytest.raises(MigrationError, match="CREATE ROUTINE") as caught:
                schema.migrate()
            assert caught.value.version == "001"
            fresh.rows(f"GRANT CREATE ROUTINE ON `{fresh.name}`.* TO celers_clerk@`%`")
        with opened(url) as schema:
            assert schema.migrate() == REQUIRED
            assert schema.verify().is_complete
    finally:
        fresh.rows("DROP USER celers_clerk@`%`")
