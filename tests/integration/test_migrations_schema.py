"""The schema as people meet it: tables, views and procedures."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import MySQLdb
import pytest

from tests.fixtures.migrations import Fresh, opened


@pytest.fixture
def fresh(server, empty_database_url) -> Fresh:
    return Fresh(server, empty_database_url)


TABLES = {
    "TABLE-01": {"celers_migrations": "version name checksum applied_at"},
    "TABLE-02": {
        "celers_tasks": "id seq queue_id task_name payload payload_encoding state priority retry_count"
        " max_retries timeout_secs created_at scheduled_at started_at completed_at consumer_no worker_no"
        " deliveries"
        " error_message metadata retry_policy dedup_key group_id parent_task_id unmet_dependencies"
    },
    "TABLE-03": {
        "celers_dead_letter_queue": "id task_id queue_name task_name payload payload_encoding priority"
        " retry_count max_retries error_message failed_at created_at metadata retry_policy group_id"
        " parent_task_id"
    },
    "TABLE-04": {"celers_task_history": "id queue_name task_id task_name from_state state timestamp worker_id message"},
    "TABLE-05": {
        "celers_task_results": "task_id queue_name task_name status result error traceback created_at"
        " completed_at runtime_ms"
    },
    "TABLE-06": {
        "celers_task_idempotency": "id queue_name idempotency_key task_name task_id created_at expires_at metadata"
    },
    "TABLE-07": {
        "celers_workflows": "id workflow_name state config created_at started_at completed_at "
        " error_message queue_name",
        "celers_workflow_stages": "id workflow_id stage_number stage_name state task_count completed_count"
        " failed_count started_at completed_at queue_name",
        "celers_task_dependencies": "id task_id parent_task_id workflow_id stage_id satisfied created_at"
        " satisfied_at queue_name",
    },
    "TABLE-08": {"celers_queues": "queue_id name paused draining updated_at"},
    "TABLE-09": {
        "celers_workers": "worker_no worker_id queue_id last_heartbeat status task_count capabilities updated_at"
    },
    "TABLE-10": {"celers_task_groups": "group_id queue_name task_count created_at metadata"},
    "TABLE-11": {
        "celers_recurring_tasks": "id queue_name task_name schedule payload priority max_retries enabled"
        " timezone last_run next_run created_at updated_at"
    },
    "TABLE-12": {"celers_task_dedup": "queue_name dedup_key task_id created_at"},
    "TABLE-13": {
        "celers_rate_limits": "queue_name task_name max_per_second max_per_minute max_per_hour",
        "celers_rate_limit_hits": "id queue_name task_name hit_at",
    },
}


@pytest.mark.spec(*TABLES, "MIG-05", "DATA-05")
def test_tables_have_the_columns_and_types_of_the_specification(fresh) -> None:
    with opened(fresh.url) as schema:
        schema.migrate(reporting_indexes=True)
    columns: dict[str, dict[str, str]] = {}
    for table, column, kind, collation in fresh.rows(
        "SELECT table_name, column_name, column_type, collation_name FROM information_schema.columns"
        " WHERE table_schema=%s AND table_name NOT LIKE '%%\\_view'",
        (fresh.name,),
    ):
        kind = kind.decode() if isinstance(kind, bytes) else kind
        columns.setdefault(table, {})[column] = kind
        assert collation in (None, "utf8mb4_bin", "ascii_bin"), f"{table}.{column}"
        if kind.startswith(("datetime", "timestamp")):
            assert kind == "datetime(6)", f"{table}.{column}"
        if column == "id" or column.endswith(("task_id", "chord_id", "workflow_id", "stage_id")):
            assert kind in ("binary(16)", "bigint(20) unsigned", "bigint unsigned"), f"{table}.{column}"
        if column == "payload":
            assert kind == "mediumblob"
    for tables in TABLES.values():
        for table, names in tables.items():
            assert set(names.split()) <= set(columns[table]), table
    assert {
        "celers_ready",
        "celers_scheduled",
        "celers_blocked",
        "celers_consumers",
        "celers_queue_totals",
    } <= set(columns)
    assert {
        row[0]
        for row in fresh.rows(
            "SELECT table_name FROM information_schema.statistics WHERE table_schema=%s AND index_name='PRIMARY'",
            (fresh.name,),
        )
    } == set(columns)
    for what in ("triggers WHERE trigger_schema", "referential_constraints WHERE constraint_schema"):
        assert fresh.rows(f"SELECT COUNT(*) FROM information_schema.{what}=%s", (fresh.name,)) == [(0,)]


# Views and procedures.


class Prompt:
    """Somebody at the SQL prompt, in another time zone than the server."""

    def __init__(self, fresh: Fresh) -> None:
        self.connection = fresh.server.connect(fresh.name)
        self.run("SET time_zone='+05:00'")

    def run(self, text: str, *arguments: object) -> list[tuple]:
        with self.connection.cursor() as cursor:
            cursor.execute(text, arguments or None)
            rows = list(cursor.fetchall())
            while cursor.nextset():
                pass
            return rows

    def one(self, text: str, *arguments: object):
        ((value,),) = self.run(text, *arguments)
        return value

    def enqueue(self, queue: str = "mail", name: str = "send", payload="", priority=0, delay=0) -> str:
        return self.one("CALL celers_enqueue(%s, %s, %s, %s, %s)", queue, name, payload, priority, delay)

    def refused(self, text: str, *arguments: object) -> str:
        with pytest.raises(MySQLdb.Error) as caught:
            self.run(text, *arguments)
        assert caught.value.args[0] == 1644
        return caught.value.args[1]

    def depends(self, child: str, parent: str, *, satisfied: bool = False) -> None:
        self.run(
            "INSERT INTO celers_task_dependencies (id, queue_name, task_id, parent_task_id, satisfied,"
            " created_at)"
            " VALUES (%s, 'mail', %s, %s, %s, UTC_TIMESTAMP(6))",
            uuid4().bytes,
            UUID(child).bytes,
            UUID(parent).bytes,
            satisfied,
        )

    def states(self) -> dict[str, str]:
        return dict(self.run("SELECT id, state FROM celers_tasks_view"))

    def waiting(self) -> dict[str, int]:
        return {name: self.one(f"SELECT COUNT(*) FROM celers_{name}") for name in ("ready", "scheduled", "blocked")}


@pytest.fixture
def prompt(fresh) -> Iterator[Prompt]:
    with opened(fresh.url) as schema:
        schema.migrate()
    prompt = Prompt(fresh)
    yield prompt
    prompt.connection.close()


@pytest.mark.spec("CORE-07", "ARCH-10")
def test_enqueue_by_procedure(prompt) -> None:
    ids = [prompt.enqueue(payload='[["ä"], {}]', priority=7), prompt.enqueue(priority=None, delay=3600.5)]
    ids += [prompt.enqueue("other queue", priority=-(2**31)) for _ in range(20)]
    assert [UUID(text).version for text in ids] == [7] * 22
    assert sorted(ids) == ids
    assert len(set(ids)) == 22
    rows = prompt.run(
        "SELECT id, queue_name, task_name, state, priority, max_retries, payload_bytes,"
        " ABS(TIMESTAMPDIFF(SECOND, created_at, UTC_TIMESTAMP(6))) < 60"
        " FROM celers_tasks_view ORDER BY seq LIMIT 3"
    )
    assert rows[0][:7] == (ids[0], "mail", "send", "pending", 7, 3, 12)
    assert rows[1][:7] == (ids[1], "mail", "send", "pending", 0, 3, 0)
    assert rows[2][:5] == (ids[2], "other queue", "send", "pending", -(2**31))
    assert [row[7] for row in rows] == [1, 1, 1]
    assert prompt.one("SELECT payload FROM celers_tasks ORDER BY seq LIMIT 1") == '[["ä"], {}]'.encode()
    assert prompt.run(
        "SELECT sort_rank, TIMESTAMPDIFF(MICROSECOND, created_at, due_at) FROM celers_scheduled JOIN"
        " celers_tasks USING (seq)"
    ) == [(0, 3_600_500_000)]
    assert prompt.run("SELECT DISTINCT sort_rank FROM celers_ready ORDER BY 1") == [(-7,), (2**31,)]
    assert prompt.run("SELECT queue_name, ready, scheduled, blocked FROM celers_queues_view ORDER BY queue_id") == [
        ("mail", 1, 1, 0),
        ("other queue", 20, 0, 0),
    ]
    assert prompt.one("SELECT @@autocommit") == 1


@pytest.mark.spec("CORE-04", "DATA-05")
def test_enqueue_by_procedure_refuses_bad_values(prompt) -> None:
    for queue in ("", " a", "a ", "a\tb", None):
        assert "queue name" in prompt.refused("CALL celers_enqueue(%s, 'n', '', 0, 0)", queue)
        assert "task name" in prompt.refused("CALL celers_enqueue('q', %s, '', 0, 0)", queue)
    for delay in (-1, 1e300, 251600000000 + 10**9):
        assert "delay" in prompt.refused("CALL celers_enqueue('q', 'n', '', 0, %s)", delay)
    assert "payload" in prompt.refused("CALL celers_enqueue('q', 'n', NULL, 0, 0)")
    assert prompt.run("SELECT * FROM celers_queues") == []
    prompt.enqueue()
    prompt.run("UPDATE celers_queues SET draining = TRUE")
    assert "queue mail is draining" in prompt.refused("CALL celers_enqueue('mail', 'n', '', 0, 0)")
    assert len(prompt.states()) == 1
    assert prompt.one("SELECT @@autocommit") == 1


@pytest.mark.spec("DLQ-01", "ARCH-04")
def test_procedures_leave_the_transaction_of_the_caller_open(prompt) -> None:
    first = prompt.enqueue()
    prompt.run("START TRANSACTION")
    prompt.enqueue()
    prompt.run("CALL move_to_dlq(%s)", first)
    assert "does not exist" in prompt.refused("CALL move_to_dlq(%s)", first)
    assert "payload" in prompt.refused("CALL celers_enqueue('fresh', 'n', NULL, 0, 0)")
    # Refusals undo themselves only.
    assert prompt.one("SELECT task_id FROM celers_dlq_view") == first
    prompt.run("ROLLBACK")
    assert prompt.states() == {first: "pending"}
    assert prompt.run("SELECT * FROM celers_dlq_view") == []
    prompt.run("SET autocommit = 0")
    prompt.enqueue("another")
    prompt.run("ROLLBACK")
    assert prompt.states() == {first: "pending"}
    assert prompt.one("SELECT @@autocommit") == 0


@pytest.mark.spec("DLQ-01")
def test_a_procedure_that_fails_half_way_changes_nothing(prompt) -> None:
    task = prompt.enqueue()
    prompt.run("UPDATE celers_tasks SET state='failed'")
    prompt.run("RENAME TABLE celers_queue_totals TO aside")
    with pytest.raises(MySQLdb.Error, match="celers_queue_totals"):
        prompt.run("CALL move_to_dlq(%s)", task)
    prompt.run("RENAME TABLE aside TO celers_queue_totals, celers_ready TO aside")
    with pytest.raises(MySQLdb.Error, match="celers_ready"):
        prompt.enqueue("new")
    prompt.run("RENAME TABLE aside TO celers_ready")
    assert prompt.states() == {task: "failed"}
    assert prompt.run("SELECT * FROM celers_dlq_view") == []
    assert prompt.run("SELECT name FROM celers_queues") == [("mail",)]
    assert prompt.waiting() == {"ready": 1, "scheduled": 0, "blocked": 0}
    assert prompt.one("SELECT @@autocommit") == 1


@pytest.mark.spec("DLQ-01", "TABLE-03", "CHAIN-04")
def test_move_to_dlq_keeps_every_field(prompt) -> None:
    task = prompt.enqueue(payload="body", priority=5)
    prompt.run(
        "UPDATE celers_tasks SET state='processing', payload_encoding='deflate', retry_count=2,"
        " max_retries=2,"
        " timeout_secs=9, error_message='boom', metadata='{\"a\": 1}', retry_policy='{\"b\": 2}',"
        " dedup_key='k',"
        " group_id='g', chord_id=UNHEX(REPEAT('0a', 16)), parent_task_id=UNHEX(REPEAT('0b', 16))"
    )
    fields = (
        "task_name, payload, payload_encoding, priority, retry_count, max_retries, timeout_secs,"
        " error_message,"
        " created_at, metadata, retry_policy, dedup_key, group_id, chord_id, parent_task_id"
    )
    before = prompt.run(f"SELECT {fields} FROM celers_tasks")
    prompt.run("CALL move_to_dlq(%s)", task.upper())
    assert prompt.run(f"SELECT {fields} FROM celers_dead_letter_queue") == before
    assert prompt.run("SELECT task_id, queue_name, chord_id, parent_task_id FROM celers_dlq_view") == [
        (task, "mail", "0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a", "0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b")
    ]
    assert UUID(prompt.one("SELECT id FROM celers_dlq_view")).version == 7
    assert prompt.one("SELECT ABS(TIMESTAMPDIFF(SECOND, failed_at, UTC_TIMESTAMP(6))) < 60 FROM celers_dlq_view") == 1
    assert prompt.states() == {}
    assert prompt.run("SELECT * FROM celers_task_history") == []
    assert prompt.run("SELECT completed, failed, cancelled, failures FROM celers_queue_totals") == [(0, 0, 0, 1)]


@pytest.mark.spec("DLQ-01", "CHAIN-04", "SCHEMA-02")
def test_move_to_dlq_cancels_what_waits_for_the_task(prompt) -> None:
    task, child, grandchild, late, other, done = (prompt.enqueue(name=name, priority=3) for name in "tcglod")
    prompt.depends(child, task)
    prompt.depends(grandchild, child)
    prompt.depends(task, grandchild)  # a cycle does no harm
    prompt.depends(late, task)
    prompt.depends(done, task)
    prompt.depends(other, task, satisfied=True)
    prompt.run("INSERT INTO celers_blocked SELECT queue_id, seq FROM celers_tasks WHERE task_name IN ('c', 'g')")
    prompt.run("DELETE r FROM celers_ready r JOIN celers_blocked b USING (queue_id, seq)")
    prompt.run("UPDATE celers_tasks SET scheduled_at='2099-01-01' WHERE task_name='l'")
    prompt.run(
        "INSERT INTO celers_scheduled SELECT scheduled_at, seq, queue_id, -priority FROM celers_tasks"
        " WHERE task_name='l'"
    )
    prompt.run("DELETE r FROM celers_ready r JOIN celers_scheduled s USING (queue_id, seq)")
    prompt.run("UPDATE celers_tasks SET state='completed' WHERE task_name='d'")
    prompt.run("UPDATE celers_tasks SET state='failed', error_message='x' WHERE task_name='t'")
    prompt.run(
        "INSERT INTO celers_task_history (queue_name, task_id, task_name, state, timestamp)"
        " SELECT 'mail', id, task_name, 'failed', UTC_TIMESTAMP(6) FROM celers_tasks WHERE task_name='t'"
    )
    prompt.run("CALL move_to_dlq(%s)", task)
    assert prompt.states() == {
        child: "cancelled",
        grandchild: "cancelled",
        late: "cancelled",
        other: "pending",
        done: "completed",
    }
    # Left are the ready rows of `other` and of `done`, which this test completed by hand.
    assert prompt.waiting() == {"ready": 2, "scheduled": 0, "blocked": 0}
    assert prompt.run(
        "SELECT COUNT(*), MIN(INSTR(error_message, %s)) > 0, COUNT(NULLIF(completed_at, '1970-01-01'))"
        " FROM celers_tasks WHERE state='cancelled'",
        task,
    ) == [(3, 1, 3)]
    assert prompt.run("SELECT completed, failed, cancelled, failures FROM celers_queue_totals") == [(0, -1, 3, 0)]
    assert prompt.run("SELECT from_state, state FROM celers_task_history ORDER BY id") == [
        (None, "failed"),
        ("failed", "dead_letter"),
        *[("pending", "cancelled")] * 3,
    ]


@pytest.mark.spec("DLQ-01", "SCHEMA-03")
def test_move_to_dlq_refuses_what_it_cannot_move(prompt) -> None:
    for bad in ("", "x", None, str(uuid4()).replace("-", ""), f" {uuid4()}"):
        assert "task id must be text" in prompt.refused("CALL move_to_dlq(%s)", bad)
    assert "does not exist" in prompt.refused("CALL move_to_dlq(%s)", str(uuid4()))
    task = prompt.enqueue(delay=60)
    for state in ("completed", "cancelled"):
        prompt.run("UPDATE celers_tasks SET state=%s", state)
        assert f"is {state}" in prompt.refused("CALL move_to_dlq(%s)", task)
        assert prompt.waiting()["scheduled"] == 1
    prompt.run("UPDATE celers_tasks SET state='pending'")
    prompt.run("CALL move_to_dlq(%s)", task)
    assert prompt.waiting() == {"ready": 0, "scheduled": 0, "blocked": 0}


@pytest.mark.spec("CONF-03", "DLQ-01")
def test_procedures_of_another_prefix_use_their_own_tables(fresh) -> None:
    with opened(fresh.url, "x_") as schema:
        schema.migrate()
    prompt = Prompt(fresh)
    task = prompt.one("CALL x_enqueue('q', 'n', '', 0, 0)")
    prompt.run("CALL x_move_to_dlq(%s)", task)
    assert prompt.one("SELECT task_id FROM x_dlq_view") == task
    prompt.connection.close()


@pytest.mark.spec("MIG-01")
def test_views_show_names_and_text(prompt) -> None:
    task = prompt.enqueue()
    prompt.run(
        "INSERT INTO celers_workers (worker_id, queue_id, last_heartbeat, status, created_at, updated_at)"
        " SELECT 'w1', queue_id, UTC_TIMESTAMP(6) - INTERVAL 5 SECOND, 'busy', UTC_TIMESTAMP(6),"
        " UTC_TIMESTAMP(6)"
        " FROM celers_queues"
    )
    prompt.run(
        "UPDATE celers_tasks SET state='processing', consumer_no=3, worker_no=(SELECT worker_no FROM celers_workers)"
    )
    prompt.run(
        "INSERT INTO celers_consumers (consumer_no, queue_id, lease, lease_secs, heartbeat_at, started_at,"
        " failed)"
        " SELECT 3, queue_id, CONCAT('[[', seq, '],[', seq, ',99]]'), 15, UTC_TIMESTAMP(6),"
        " UTC_TIMESTAMP(6), 4 FROM celers_tasks"
    )
    prompt.run("INSERT INTO celers_queue_totals (queue_id, failed) SELECT queue_id, -1 FROM celers_queues")
    prompt.run(
        "INSERT INTO celers_task_results (task_id, queue_name, task_name, status, result, created_at)"
        " SELECT id, 'mail', 'send', 'SUCCESS', '[1]', UTC_TIMESTAMP(6) FROM celers_tasks"
    )
    assert prompt.run("SELECT id, queue_name, worker_id, chord_id FROM celers_tasks_view") == [
        (task, "mail", "w1", None)
    ]
    ((worker, queue, silent),) = prompt.run("SELECT worker_id, queue_name, silent_secs FROM celers_workers_view")
    assert (worker, queue) == ("w1", "mail")
    assert 5 <= silent < 60
    assert prompt.run("SELECT task_id, status, result FROM celers_results_view") == [(task, "SUCCESS", "[1]")]
    assert prompt.run("SELECT processing, consumers, failed, dead_letters FROM celers_queues_view") == [(1, 1, 3, 0)]
