"""The migration files, and the migration operations stepped through by hand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import pytest

from celers.components import migrations
from celers.components.migrations import Migrations
from celers.core import Core
from celers.db.outcome import Result
from celers.errors import BrokerError, MigrationError, ValidationError
from celers.operation import Packet, Steps
from celers.sql import migration_files
from celers.sql.ddl import DropProcedure, Index, Procedure, Table, View, describe
from celers.sql.migration_files import MigrationFile, Role, packaged
from celers.sql.splitter import Kind, split, tokens

EXECUTED = [file for file in packaged() if file.role is not Role.GUIDE]
SEED_INDEXES = re.findall(
    r"\w+",
    """
    idx_tasks_state_priority idx_tasks_scheduled idx_tasks_worker idx_dlq_failed_at idx_history_task_id
    idx_results_task_name idx_results_completed_at idx_results_status
    idx_tasks_task_name idx_tasks_task_name_state idx_tasks_worker_started idx_tasks_created_at
    idx_tasks_completed_at idx_dlq_task_id idx_history_timestamp
    idx_queue_config_updated idx_worker_heartbeat_last idx_worker_heartbeat_status idx_worker_heartbeat_queue
    idx_task_groups_created idx_task_groups_queue idx_tasks_metadata_group
    """,
)


def words(sql: str) -> list[str]:
    """Names and keywords, without comments and text."""
    return [token.text.strip("`") for token in tokens(sql) if token.kind in (Kind.WORD, Kind.QUOTED)]


def indexes(file: MigrationFile) -> dict[str, str]:
    """Names of the file's indexes, with their tables."""
    found = {}
    for statement in file.statements("celers_"):
        match describe(statement.text):
            case Table(name, _, keys):
                found.update(dict.fromkeys(keys, name))
            case Index(name, table, _):
                found[name] = table
    return found


@pytest.mark.spec("MIG-01")
def test_packaged_versions_and_their_roles() -> None:
    assert [f"{file.version}_{file.name}" for file in packaged()] == [
        "000_migrations",
        "001_init",
        "002_results",
        "003_performance_indexes",
        "004_partitioning_guide",
        "005_uuid_optimization",
        "006_idempotency",
        "007_workflow",
        "008_production_features",
        "009_celers_extras",
    ]
    assert {file.version: file.role for file in packaged() if file.role is not Role.REQUIRED} == {
        "000": Role.BOOTSTRAP,
        "003": Role.OPTIONAL,
        "004": Role.GUIDE,
        "005": Role.GUIDE,
    }


@pytest.mark.spec("MIG-01")
@pytest.mark.parametrize("file", [f for f in packaged() if f.role is Role.GUIDE], ids=lambda f: f.version)
def test_guides_hold_no_statement(file: MigrationFile) -> None:
    assert split(file.text) == []


@pytest.mark.spec("MIG-02")
@pytest.mark.parametrize("file", EXECUTED, ids=lambda f: f.version)
def test_every_statement_is_repeatable(file: MigrationFile) -> None:
    statements = [statement.text for statement in file.statements("celers_")]
    assert statements
    for before, text in zip(["", *statements], statements, strict=False):
        match describe(text):
            case Table():
                assert text.startswith("CREATE TABLE IF NOT EXISTS ")
            case View():
                assert text.startswith("CREATE OR REPLACE SQL SECURITY INVOKER VIEW ")
            case Procedure(name):
                assert describe(before) == DropProcedure(name)
                assert "SQL SECURITY INVOKER" in text
            case Index() | DropProcedure():
                pass
            case None:
                pytest.fail(f"not known to be repeatable: {text[:60]}")


@pytest.mark.spec("SCHEMA-01", "ARCH-10")
@pytest.mark.parametrize("file", EXECUTED, ids=lambda f: f.version)
def test_statements_keep_the_rules_of_the_schema(file: MigrationFile) -> None:
    for statement in file.statements("celers_"):
        used = {word.upper() for word in words(statement.text)}
        assert not used & {"FOREIGN", "TRIGGER", "NOW", "CURRENT_TIMESTAMP", "SYSDATE", "RETURNING", "COMMIT"}
        made = describe(statement.text)
        if isinstance(made, Table):
            assert "PRIMARY" in made.indexes
            assert statement.text.endswith(
                "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            )


@pytest.mark.spec("SCHEMA-01")
def test_indexes_have_the_names_of_the_specification() -> None:
    found = {name: (file.version, table) for file in packaged() for name, table in indexes(file).items()}
    assert set(SEED_INDEXES) <= set(found)
    on_tasks = {name for name, (_, table) in found.items() if table == "celers_tasks"}
    assert {name for name in on_tasks if name.startswith("idx_")} == set(indexes(packaged()[3]))


@pytest.mark.spec("CONF-03")
def test_another_prefix_reaches_every_name() -> None:
    prefix = "p" * 32
    names = set()
    for file in EXECUTED:
        for statement in file.statements(prefix):
            used = words(statement.text)
            assert not [word for word in used if word.startswith("celers_") or word == "move_to_dlq"]
            names |= {word for word in used if word.startswith(prefix)}
    assert f"{prefix}move_to_dlq" in names
    assert max(map(len, names)) <= 64


@pytest.mark.spec("MIG-04")
def test_checksum_is_that_of_the_text_with_plain_newlines(tmp_path, monkeypatch) -> None:
    text = "-- one\nSELECT 1;\n"
    (tmp_path / "001_init.sql").write_bytes(text.replace("\n", "\r\n").encode())
    (tmp_path / "README").write_text("no migration")
    monkeypatch.setattr(migration_files, "_directory", lambda: tmp_path)
    (file,) = packaged.__wrapped__()
    assert (file.version, file.name, file.text) == ("001", "init", text)
    assert file.checksum == hashlib.sha256(text.encode()).hexdigest()
    assert re.fullmatch("[0-9a-f]{64}", file.checksum)


@pytest.mark.spec("OPS-03")
def test_describe_reads_tables_and_indexes() -> None:
    table = describe("""-- head
        CREATE TABLE IF NOT EXISTS `t` ( -- a, b
            `a` VARCHAR(10) DEFAULT 'x, (y', # c
            b DECIMAL(10, 2), PRIMARY KEY (a, b), UNIQUE KEY `u` (`b`), KEY k (a(5), b), CHECK (a <> ')')
        ) ENGINE=InnoDB""")
    assert table == Table("t", ("a", "b"), {"PRIMARY": ("a", "b"), "u": ("b",), "k": ("a", "b")})
    assert describe("CREATE TABLE u (a INT)") == Table("u", ("a",))
    assert describe("CREATE UNIQUE INDEX i ON t (a, b)") == Index("i", "t", ("a", "b"))
    assert describe("SELECT 1") is None
    assert describe("") is None
    with pytest.raises(ValidationError, match="unknown form"):
        describe("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1")


# Operations without a server: every packet is answered by hand.


def component() -> Migrations:
    return Migrations(Core("q", "celers_", max_payload_bytes=1, compress=False, lease_secs=1), None)


def answer(packet: Packet, value: bytes) -> list[Result]:
    return [Result(((value,),), 1, 0) for _ in packet.statements]


def sent(steps: Steps[object], replies: Iterator[bytes]) -> list[str]:
    """Answer all packets; a failing operation is left to raise."""
    packet = next(steps)
    texts = []
    while True:
        texts.append(packet.statements[-1].decode())
        packet = steps.send(answer(packet, next(replies)))


@pytest.mark.spec("MIG-02")
def test_migrate_gives_up_waiting_for_the_lock(monkeypatch) -> None:
    monkeypatch.setattr(migrations, "LOCK_WAIT_SECS", 0.0)
    steps = Migrations.migrate.steps(component())
    with pytest.raises(MigrationError, match="another process") as caught:
        sent(steps, iter([b"db", b"0"]))
    assert caught.value.retryable


@pytest.mark.spec("MIG-02")
def test_the_lock_is_named_after_database_and_prefix() -> None:
    def lock(database: bytes, prefix: str) -> bytes:
        core = Core("q", prefix, max_payload_bytes=1, compress=False, lease_secs=1)
        steps = Migrations.migrate.steps(Migrations(core, None))
        packet = steps.send(answer(next(steps), database))
        found = re.fullmatch(rb"SELECT GET_LOCK\('(\w+)', 1\)", packet.statements[0])
        assert found
        return found[1]

    assert lock(b"a", "celers_") == lock(b"a", "celers_")
    assert len({lock(b"a", "celers_"), lock(b"b", "celers_"), lock(b"a", "x_")}) == 3
    assert len(lock(b"x" * 64, "p" * 32)) <= 64


@pytest.mark.spec("ERR-08")
def test_a_failing_statement_is_named_and_the_lock_released() -> None:
    steps = Migrations.migrate.steps(component())
    packet = next(steps)
    for value in (b"db", b"1"):
        packet = steps.send(answer(packet, value))
    assert b"CREATE TABLE" in packet.statements[-1]
    packet = steps.throw(BrokerError("disk full", errno=1021))
    assert packet.statements[0].startswith(b"DO RELEASE_LOCK(")
    with pytest.raises(MigrationError, match=r"000_migrations, statement 1 .*disk full") as caught:
        steps.send(answer(packet, b"1"))
    assert (caught.value.version, caught.value.statement, caught.value.errno) == ("000", 1, 1021)


@pytest.mark.spec("MIG-07")
def test_the_missing_privilege_is_named() -> None:
    file = packaged()[1]
    (statement,) = [s for s in file.statements("celers_") if describe(s.text) == Procedure("celers_enqueue")]
    error = migrations._failed(file, statement, describe(statement.text), BrokerError("denied", errno=1044))
    assert "CREATE ROUTINE" in str(error)
    assert (error.version, error.statement) == ("001", statement.number)
