"""How statements reach their rows, with 100,000 ready, 100,000 future and 100,000 finished tasks in the tables.

The claim must read the ready table in the order of its key and touch as many rows as it returns, whatever the depth.
The plans of all statements are asked for on the server at hand; the counters of the storage engine and the locks of a
second and third session show that the plans are true.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from celers import DbTaskState, MysqlBroker, PoolConfig, SerializedTask
from celers.components.claims import claim
from celers.components.consumer import Completion
from celers.components.metadata import condition
from celers.components.parts import keys_of
from celers.sql import Raw, Statements
from celers_fast.rows import parse_receipt
from tests.fixtures.crowd import MANY, READY, Crowd, raw_connection

SQL = Statements("celers_")
TOPICS = [
    *("analytics", "consumer", "dlq", "health", "history", "inspection", "limits", "loads", "maintenance", "producer"),
    *("queues", "results", "settle", "tasks", "throughput", "transfer", "wakeup", "workers"),
]
# Its index is made on request, not in the crowded database: see test_analytics.py.
ELSEWHERE = ("analytics", "names_indexed")
STATEMENTS = [(topic, name) for topic in TOPICS for name in SQL.names(topic) if (topic, name) != ELSEWHERE]

SEQS = [READY + 1, READY + 2, READY + 3]
IDS = [UUID(int=seq) for seq in SEQS]
READY_KEYS = json.dumps([[0, seq] for seq in SEQS])
DUE_KEYS = json.dumps([["2030-01-01 00:00:00.000000", seq] for seq in SEQS])
# Statements that take keys of these forms; the others of that name take ids.
KEYS = {
    **dict.fromkeys([("settle", "lock_ready"), ("settle", "delete_ready")], READY_KEYS),
    **dict.fromkeys([("settle", "lock_scheduled"), ("settle", "delete_scheduled")], DUE_KEYS),
    **dict.fromkeys([("settle", "delete_tasks"), ("settle", "delete_blocked")], json.dumps(SEQS)),
    **dict.fromkeys([("maintenance", "purge_dedup"), ("history", "delete_picked")], json.dumps(SEQS)),
}
VALUES = {
    "acked": 0,
    "after": 0,
    "age": 1000,
    "any_age": False,
    "any_name": False,
    "any_state": False,
    "capabilities": None,
    "cancelled": 1,
    "completed": 1,
    "completions": 1,
    "condition": Raw(condition(("customer", "id"), 7)),
    "consumer_no": 1,
    "count": 10,
    "delay": 1_000_000,
    "deliveries": 1,
    "dlq_id": uuid4(),
    "due_at": "2030-01-01 00:00:00.000000",
    "error": None,
    "failed": 1,
    "failures": 1,
    "failed_at": datetime(2030, 1, 1, tzinfo=UTC),
    "from_state": "processing",
    "from_time": datetime(2026, 1, 1, tzinfo=UTC),
    "granted": 1,
    "held": Raw(b"1,2"),
    "id": IDS[0],
    "ids": IDS,
    "isolated": False,
    "last": 10**9,
    "last_id": IDS[0],
    "lease_secs": 300,
    "least": 0,
    "lock": "celers:leader",
    "met": 1,
    "message": None,
    "metadata": '{"key":1}',
    "most": 10,
    "name": "default",
    "numbers": [1, 2],
    "on": False,
    "origin": "{}",
    "part": "job",
    "places": "[0,0,0,0,0,0,0,0,0,0]",
    "priority": 1,
    "progress": "{}",
    "queue_id": 1,
    "queue_name": "default",
    "rank": -1,
    "retried": 1,
    "seq": SEQS[0],
    "since": 1_000_000,
    "so_far": 0,
    "seqs": SEQS,
    "skip": 0,
    "sort_rank": 0,
    "state": "completed",
    "states": ["completed", "failed"],
    "status": "idle",
    "task_count": 1,
    "task_id": IDS[0],
    "task_name": "job1",
    "threshold": 1_000_000,
    "to_time": datetime(2026, 1, 2, tzinfo=UTC),
    "unmet": 0,
    "with_error": True,
    "values": json.dumps([[SEQS[0], 1, 1, "SUCCESS", None, "1", None, None, 1]]),
    "worker_id": "worker1",
    "worker_ids": ["worker1"],
    "worker_no": 1,
    "chord_id": None,
    "encoding": "raw",
    "group_id": None,
    "max_retries": 3,
    "parent_task_id": None,
    "payload": b"[]",
    "timeout_secs": None,
}
VARIABLES = (
    f"SET @celers_keys = '{READY_KEYS}', @celers_seqs = '{json.dumps(SEQS)}',"
    f" @celers_due = '{json.dumps([['2030-01-01 00:00:00.000000', 0, seq, 1] for seq in SEQS])}',"
    f" @celers_rank = 0, @celers_seq = {SEQS[0]}, @celers_now = UTC_TIMESTAMP(6), @celers_paused = 0"
)

# Tables that are small by nature: consumers, queues and workers that exist, a row or 800 for each queue.
SMALL = {"consumers", "queues", "workers", "queue_totals", "throughput"}
# What may read as many rows as the queue has, and why.
SCANS = {
    ("workers", "all_statistics"): "the same of all workers",
    ("workers", "statistics"): "counts the tasks of a worker, without an index for it (design, section 2)",
    ("analytics", "names"): "counts all tasks; the reporting indexes help",
    ("analytics", "retries"): "the same",
    ("dlq", "statistics"): "counts all dead letters of the queue",
    ("inspection", "created_between"): "a listing by time; the reporting indexes help",
    ("inspection", "of_worker"): "a listing by worker; the reporting indexes help",
    ("inspection", "with_metadata"): "looks into every metadata object",
}
# Reads the primary key in order and stops at its limit.
WALKS = {
    ("tasks", "page"),
    ("tasks", "page_of_state"),
    ("maintenance", "walk_end"),
    ("maintenance", "walk_finished"),
    ("maintenance", "walk_pick"),
    ("maintenance", "due_keys"),
    ("transfer", "export_tasks"),
    ("loads", "pick"),
}
# Sorts rows that it has found by key already: a page, the contents of leases.
SORTS = {
    ("analytics", "ages"),
    ("analytics", "names"),
    ("analytics", "retries"),
    ("dlq", "statistics"),
    ("inspection", "created_between"),
    ("inspection", "letter_times"),
    ("inspection", "of_worker"),
    ("inspection", "processing_page"),
    ("inspection", "with_metadata"),
    ("tasks", "page"),
    ("tasks", "page_of_state"),
    ("tasks", "scheduled_page"),
    ("results", "page"),
    ("transfer", "tasks_page"),
    ("transfer", "letters_page"),
    ("maintenance", "leased"),
    ("maintenance", "dead_consumers"),
    ("maintenance", "rows_of"),
    ("producer", "lock_parents"),
    ("producer", "read_placed"),
    ("queues", "names"),
    ("throughput", "read"),
    ("workers", "active"),
    ("workers", "all_statistics"),
    ("workers", "heartbeats"),
    ("workers", "statistics"),
}
# Statements of busy queues: the index of each big table that they must use.
HOT = {
    ("analytics", "ages"): {"tasks": "PRIMARY"},
    ("analytics", "count_processing"): {"tasks": "PRIMARY"},
    ("analytics", "health"): {"tasks": "PRIMARY", "ready": "PRIMARY", "scheduled": "idx_scheduled_queue"},
    ("analytics", "oldest_due"): {"tasks": "PRIMARY", "ready": "PRIMARY"},
    ("consumer", "pick_many"): {"ready": "PRIMARY"},
    ("consumer", "pick_one"): {"ready": "PRIMARY"},
    ("consumer", "take_many"): {"ready": "PRIMARY"},
    ("consumer", "take_one"): {"ready": "PRIMARY"},
    ("consumer", "start_many"): {"tasks": "PRIMARY"},
    ("consumer", "start_one"): {"tasks": "PRIMARY"},
    ("consumer", "read_many"): {"tasks": "PRIMARY"},
    ("consumer", "read_one"): {"tasks": "PRIMARY"},
    ("consumer", "read_lease"): {"tasks": "PRIMARY", "consumers": "PRIMARY"},
    ("consumer", "lock_lease"): {"consumers": "PRIMARY"},
    ("consumer", "guard_alive"): {"consumers": "PRIMARY"},
    ("consumer", "ack_many"): {"tasks": "PRIMARY"},
    ("consumer", "due_keys"): {"scheduled": "idx_scheduled_queue"},
    ("consumer", "due_delete"): {"scheduled": "PRIMARY"},
    ("limits", "count_reserved"): {"rate_limit_hits": "idx_rate_limit_hits"},
    ("limits", "count_started"): {"task_history": "idx_history_timestamp"},
    ("limits", "forget_hits"): {"rate_limit_hits": "idx_rate_limit_hits"},
    ("limits", "next_rank"): {"ready": "PRIMARY"},
    ("limits", "place_ready"): {"tasks": "PRIMARY"},
    ("limits", "raise_priority"): {"tasks": "PRIMARY"},
    ("limits", "waiting"): {"ready": "PRIMARY", "tasks": "PRIMARY"},
    ("maintenance", "due_keys"): {"scheduled": "PRIMARY"},
    ("maintenance", "due_delete"): {"scheduled": "PRIMARY"},
    ("maintenance", "leased"): {"tasks": "PRIMARY", "consumers": "PRIMARY"},
    ("maintenance", "stuck"): {"tasks": "PRIMARY"},
    ("maintenance", "timed_out"): {"tasks": "PRIMARY"},
    ("maintenance", "walk_end"): {"tasks": "PRIMARY"},
    ("maintenance", "walk_pick"): {"tasks": "PRIMARY"},
    ("producer", "guard_drain"): {"queues": "PRIMARY"},
    ("producer", "ready_one"): {"queues": "PRIMARY"},
    ("producer", "ready_range"): {"tasks": "PRIMARY"},
    ("producer", "ready_range_due"): {"tasks": "PRIMARY"},
    ("producer", "scheduled_range"): {"tasks": "PRIMARY"},
    ("producer", "place_ready"): {"tasks": "uq_tasks_id"},
    ("producer", "count_stored"): {"tasks": "uq_tasks_id"},
    ("producer", "dead_parents"): {"dead_letter_queue": "idx_dlq_task_id"},
    ("producer", "archived_parents"): {"task_history": "idx_history_task_id"},
    ("queues", "statistics"): {"ready": "PRIMARY", "scheduled": "idx_scheduled_queue", "tasks": "PRIMARY"},
    ("queues", "count_pending"): {"ready": "PRIMARY", "scheduled": "idx_scheduled_queue"},
    ("results", "store_acked"): {"tasks": "PRIMARY"},
    ("results", "find"): {"task_results": "PRIMARY"},
    ("results", "pick_old"): {"task_results": "idx_results_completed_at"},
    ("settle", "look_ids"): {"tasks": "uq_tasks_id"},
    ("settle", "look_seqs"): {"tasks": "PRIMARY"},
    ("settle", "lock_ready"): {"ready": "PRIMARY"},
    ("settle", "lock_scheduled"): {"scheduled": "PRIMARY"},
    ("settle", "lock_blocked"): {"blocked": "PRIMARY"},
    ("settle", "lock_tasks"): {"tasks": "PRIMARY"},
    ("settle", "delete_ready"): {"ready": "PRIMARY"},
    ("settle", "delete_scheduled"): {"scheduled": "PRIMARY"},
    ("settle", "finish"): {"tasks": "PRIMARY"},
    ("settle", "requeue"): {"tasks": "PRIMARY"},
    ("settle", "place_ready"): {"tasks": "PRIMARY"},
    ("settle", "place_scheduled"): {"tasks": "PRIMARY"},
    ("settle", "dead_letter"): {"tasks": "PRIMARY"},
    ("settle", "delete_tasks"): {"tasks": "PRIMARY"},
    ("settle", "delete_blocked"): {"blocked": "PRIMARY"},
    ("settle", "dependants"): {"task_dependencies": "idx_dependencies_parent", "tasks": "uq_tasks_id"},
    ("tasks", "get"): {"tasks": "uq_tasks_id"},
    ("tasks", "page"): {"tasks": "PRIMARY"},
    ("tasks", "page_of_state"): {"tasks": "PRIMARY"},
    ("tasks", "scheduled_page"): {"scheduled": "idx_scheduled_queue", "tasks": "PRIMARY"},
    ("workers", "processing_of"): {"tasks": "PRIMARY"},
    ("dlq", "replace"): {"tasks": "uq_tasks_id"},
    ("dlq", "whole"): {"dead_letter_queue": "PRIMARY"},
    ("dlq", "page"): {"dead_letter_queue": "idx_dlq_failed_at"},
    ("dlq", "lock_some"): {"dead_letter_queue": "idx_dlq_failed_at"},
    ("dlq", "pick_some"): {"dead_letter_queue": "idx_dlq_failed_at"},
    ("dlq", "pick_old"): {"dead_letter_queue": "idx_dlq_failed_at"},
    ("history", "pick_old"): {"task_history": "idx_history_timestamp"},
    ("history", "record"): {"tasks": "PRIMARY"},
    ("history", "started_one"): {"tasks": "PRIMARY"},
    ("history", "started_many"): {"tasks": "PRIMARY"},
    ("inspection", "find_seq"): {"tasks": "uq_tasks_id"},
    ("inspection", "history"): {"task_history": "idx_history_task_id"},
    ("inspection", "letter_times"): {"dead_letter_queue": "idx_dlq_task_id"},
    ("inspection", "lock_metadata"): {"tasks": "PRIMARY"},
    ("inspection", "processing_page"): {"tasks": "PRIMARY"},
    ("inspection", "progress"): {"tasks": "uq_tasks_id"},
    ("inspection", "set_metadata"): {"tasks": "PRIMARY"},
    ("inspection", "set_progress"): {"tasks": "PRIMARY"},
    ("transfer", "export_tasks"): {"tasks": "PRIMARY", "task_dependencies": "uq_dependencies_task_parent"},
    ("transfer", "tasks_page"): {"tasks": "PRIMARY", "task_dependencies": "uq_dependencies_task_parent"},
    ("transfer", "set_unmet"): {"tasks": "uq_tasks_id"},
}


def sample(topic: str, name: str) -> str:
    """One statement with values."""
    keys = KEYS.get((topic, name), keys_of(IDS))
    return SQL(topic, name, **VALUES, keys=keys).decode()


def table_of(text: str) -> Callable[[str | None], str | None]:
    """Return a function that finds the name of a table, without the prefix, by the name in a plan."""
    words = "FORCE|SET|WHERE|ON|VALUES|STRAIGHT_JOIN|FROM|ORDER|JOIN|LEFT|SELECT|LOCK|FOR"
    aliases = {alias: table for table, alias in re.findall(rf"celers_(\w+) (?!(?:{words})\b)([a-z]+)\b", text)}

    def find(shown: str | None) -> str | None:
        if shown is None:
            return None
        return shown.removeprefix("celers_") if shown.startswith("celers_") else aliases.get(shown)

    return find


@pytest.mark.spec("ARCH-07", "CORE-08", "BENCH-05", "TEST-02")
@pytest.mark.parametrize(("topic", "name"), STATEMENTS, ids=lambda value: value)
def test_the_plan_of_a_statement(crowd, topic, name):
    text = sample(topic, name)
    if "celers_" not in text.replace("@celers_", "") or text.startswith("SET"):
        return
    crowd.rows(VARIABLES)
    plan = crowd.explain(text)
    assert plan
    find = table_of(text)
    used: dict[str, set[str | None]] = {}
    for row in plan:
        table = find(row["table"])
        extra = row["extra"] or ""
        if table is not None:
            used.setdefault(table, set()).add(row["key"])
        if "filesort" in extra:
            assert (topic, name) in SORTS, plan
        if row["select_type"] == "INSERT":
            continue
        if row["type"] == "ALL":
            # A derived table, a list of keys, or a table that is small.
            assert table is None or table in SMALL or (topic, name) in SCANS, plan
        if row["type"] == "index" and table is not None and table not in SMALL:
            assert (topic, name) in WALKS | SCANS.keys(), plan
    for table, key in HOT.get((topic, name), {}).items():
        assert key in used.get(table, {key} if _empty(plan) else set()), plan


@pytest.fixture(scope="module")
def empty(server) -> Iterator[Crowd]:
    """A database without a row, as the statistics of a queue's first minute show it."""
    with server.fresh_database("celers_empty_plans") as url:
        with MysqlBroker(url) as broker:
            broker.migrate()
        made = Crowd(server, url)
        yield made
        made.connection.close()


@pytest.mark.spec("ARCH-07", "TEST-02")
@pytest.mark.parametrize(
    ("topic", "name"), [at for at in STATEMENTS if sample(*at).startswith("DELETE")], ids=lambda value: value
)
def test_a_deletion_does_not_scan_a_table_that_looks_empty(empty, topic, name):
    """A scan would wait for the rows that others have locked."""
    empty.rows(VARIABLES)
    text = sample(topic, name)
    find = table_of(text)
    scanned = {find(row["table"]) for row in empty.explain(text) if row["type"] in ("ALL", "index")}
    assert not scanned - SMALL - {None}


@pytest.mark.spec("DBMON-01", "DBMON-02", "DBMON-09")
@pytest.mark.parametrize("name", SQL.names("database"))
def test_what_the_server_says_about_itself_reads_no_task(crowd, name):
    """Sizes, indexes and statements come from the catalogue and the server's own tables, never from ours."""
    text = SQL("database", name, prefix="celers_", names=["version"], least=0, order_by=Raw(b"1"), count=10).decode()
    if not text.startswith("SELECT"):
        assert text.startswith(("SHOW ", "SET ", "TRUNCATE TABLE performance_schema."))
        return
    tables = {row["table"] for row in crowd.explain(text)}
    assert not {table for table in tables if table and table.startswith("celers_")}, tables


def _empty(plan: list[dict]) -> bool:
    """Did the server find out, without reading a table, that there is no such row?"""
    return any("Impossible" in (row["extra"] or "") or "no matching row" in (row["extra"] or "") for row in plan)


@pytest.mark.spec("CORE-08", "BENCH-05")
@pytest.mark.parametrize("name", ["pick_one", "pick_many"])
def test_the_claim_reads_the_ready_index_in_order(crowd, name):
    crowd.rows(VARIABLES)
    plan = crowd.explain(sample("consumer", name))
    (row,) = [row for row in plan if row["table"] == "celers_ready"]
    assert row["key"] == "PRIMARY"
    assert row["type"] in ("ref", "range")
    assert not any("filesort" in (row["extra"] or "") or "temporary" in (row["extra"] or "") for row in plan)


# What is really touched


@pytest.fixture
def deep(crowd) -> Iterator[MysqlBroker]:
    """A broker with one connection on the crowded queue."""
    with MysqlBroker(crowd.url, pool_config=PoolConfig(min_connections=1, max_connections=1)) as broker:
        yield broker


@pytest.fixture
def shallow(crowd) -> Iterator[MysqlBroker]:
    """The same on a queue of its own with a few tasks."""
    config = PoolConfig(min_connections=1, max_connections=1)
    with MysqlBroker(crowd.url, f"shallow-{uuid4()}", pool_config=config) as broker:
        broker.enqueue_batch([SerializedTask.new("job") for _ in range(300)])
        broker.producer.submit([SerializedTask.new("later") for _ in range(100)], delay_secs=86_400)
        yield broker
        broker.purge_all()


def counters(broker: MysqlBroker) -> dict[str, int]:
    with broker.with_transaction() as tx:
        rows = tx.fetch_all("SHOW SESSION STATUS LIKE 'Handler_%'")
    return {name: int(value) for name, value in rows}


def reads(broker: MysqlBroker, call: Callable[[], object]) -> int:
    """How many rows the storage engine is asked for by a call."""
    names = ("key", "first", "last", "next", "prev", "rnd", "rnd_next", "rnd_deleted")

    def total(after: dict[str, int], before: dict[str, int]) -> int:
        return sum(after.get(f"Handler_read_{name}", 0) - before.get(f"Handler_read_{name}", 0) for name in names)

    first = counters(broker)
    second = counters(broker)
    call()
    third = counters(broker)
    return total(third, second) - total(second, first)


def pairs(messages) -> list[tuple]:
    return [(message.task_id, message.receipt_handle) for message in messages]


def cycle(broker: MysqlBroker, count: int) -> dict[str, int]:
    """Rows read by each step of the life of `count` tasks."""
    held: list = []
    found: dict[str, int] = {}

    def step(name: str, call: Callable[[], object]) -> None:
        found[name] = reads(broker, call)

    step("claim", lambda: held.extend(broker.dequeue_batch(count)))
    assert len(held) == count
    step("give back", lambda: broker.consumer.give_back(held))
    held.clear()
    step("claim again", lambda: held.extend(broker.dequeue_batch(count)))
    step("ack", lambda: broker.ack_batch(pairs(held)))
    held.clear()
    step("claim to complete", lambda: held.extend(broker.dequeue_batch(count)))
    step("complete", lambda: broker.consumer.complete([Completion(message, "1") for message in held]))
    held.clear()
    step("claim to reject", lambda: held.extend(broker.dequeue_batch(count)))
    step("reject", lambda: broker.reject_batch([(*pair, True) for pair in pairs(held)]))
    ids = [message.task_id for message in held]
    step("cancel", lambda: broker.cancel_batch(ids))
    step("get", lambda: broker.get_task(ids[0]))
    step("list", lambda: broker.list_tasks(None, count, 0))
    step("scheduled", lambda: broker.list_scheduled_tasks(count, 0))
    step("enqueue", lambda: broker.enqueue_batch([SerializedTask.new("job") for _ in range(count)]))
    step("enqueue later", lambda: broker.producer.submit([SerializedTask.new("job")] * 1, delay_secs=86_400))
    step("promote", broker.maintenance.promote_due)
    return found


@pytest.mark.spec("CORE-08", "BENCH-05", "BATCH-02", "INSP-01", "INSP-02")
@pytest.mark.parametrize("count", [1, 50])
def test_the_rows_touched_depend_on_the_rows_returned_and_not_on_the_depth(crowd, deep, shallow, count):
    cycle(shallow, count)  # the first use of statements opens the consumer and fills caches
    little = cycle(shallow, count)
    cycle(deep, count)
    much = cycle(deep, count)
    for step, touched in much.items():
        assert touched <= little[step] + 10, (step, much, little)
        assert touched <= 30 * count + 60, (step, much)


@pytest.mark.spec("INSP-02")
def test_a_page_of_one_state_reads_as_far_as_it_must(crowd, deep):
    assert reads(deep, lambda: deep.list_tasks(DbTaskState.PENDING, 50, 0)) < 400
    assert len(deep.list_tasks(DbTaskState.COMPLETED, 50, 0)) == 50


@pytest.mark.spec("INSP-03")
def test_statistics_do_not_read_finished_tasks(crowd, deep):
    touched = reads(deep, deep.get_statistics)
    waiting = crowd.value("SELECT (SELECT COUNT(*) FROM celers_ready) + (SELECT COUNT(*) FROM celers_scheduled)")
    assert touched < waiting + 25_000  # and the dead letters and blocked ones, 10,000 each
    assert crowd.value("SELECT COUNT(*) FROM celers_tasks WHERE state = 'completed'") >= MANY


# What is locked


@contextmanager
def open_claim(crowd, broker: MysqlBroker, count: int) -> Iterator[tuple[list, object]]:
    """A claim of `count` tasks whose transaction is still open: its messages and its connection."""
    broker.consumer.give_back(broker.dequeue_batch(1))
    steps = claim(broker.consumer, count, None)
    packet = next(steps)
    connection = raw_connection(crowd)
    try:
        statements = [b"START TRANSACTION", *packet.statements]
        results = connection.run(b";".join(statements), len(statements))[1:]
        try:
            steps.send(results)
        except StopIteration as stop:
            yield stop.value, connection
        else:
            raise AssertionError("the claim wanted a second packet")
    finally:
        connection.run(b"ROLLBACK", 1)
        connection.close()


def claim_order(crowd, count: int, skip: int = 0) -> list[int]:
    return [
        seq
        for (seq,) in crowd.rows(
            f"SELECT seq FROM celers_ready WHERE queue_id = 1 ORDER BY sort_rank, seq LIMIT {count} OFFSET {skip}"
        )
    ]


def seqs(messages) -> list[int]:
    return [parse_receipt(message.receipt_handle)[0] for message in messages]


@pytest.fixture
def two(crowd) -> Iterator[tuple[MysqlBroker, MysqlBroker]]:
    with MysqlBroker(crowd.url, heartbeat=False) as one, MysqlBroker(crowd.url, heartbeat=False) as other:
        yield one, other


@pytest.mark.spec("CORE-08", "BATCH-02", "BENCH-05", "CORE-15")
@pytest.mark.parametrize("count", [1, 10, 100])
def test_a_second_session_gets_exactly_the_next_rows_while_the_first_has_not_committed(crowd, two, count):
    one, other = two
    expected = claim_order(crowd, count), claim_order(crowd, count, count), claim_order(crowd, 5, 2 * count)
    with open_claim(crowd, one, count) as (messages, _):
        assert seqs(messages) == expected[0]
        second = other.dequeue_batch(count)
        assert seqs(second) == expected[1]
        with open_claim(crowd, other, 5) as (third, _):
            assert seqs(third) == expected[2]
        # Nothing else waits for the open transaction: not producers, not readers, not maintenance.
        task = SerializedTask.new("new")
        other.enqueue(task)
        assert other.cancel(task.metadata.id)
        assert other.consumer.give_back(second) == count
        assert other.maintenance.promote_due() == 0
    assert claim_order(crowd, count) == expected[0]


@pytest.mark.spec("CORE-08", "BATCH-02", "DATA-07")
def test_urgent_tasks_come_first_and_the_next_session_goes_on_behind_them(crowd, two):
    one, other = two
    behind = claim_order(crowd, 17)
    urgent = other.enqueue_batch([SerializedTask.new("urgent", priority=5) for _ in range(15)])
    try:
        with open_claim(crowd, one, 12) as (messages, _):
            assert [message.task_id for message in messages] == urgent[:12]
            second = other.dequeue_batch(8)
            assert [message.task_id for message in second[:3]] == urgent[12:]
            assert [message.priority for message in second] == [5] * 3 + [0] * 5
            assert seqs(second)[3:] == behind[:5]
            assert other.consumer.give_back(second) == 8
            with open_claim(crowd, other, 20) as (third, _):
                assert [message.task_id for message in third[:3]] == urgent[12:]
                assert seqs(third)[3:] == behind
    finally:
        assert other.cancel_batch(urgent) == 15


@pytest.mark.spec("CORE-08", "CORE-15")
@pytest.mark.parametrize("count", [1, 20])
def test_an_open_claim_locks_only_what_it_returns(crowd, two, count):
    """A third session locks all rows that are free: all but those of the claim, and its consumer's own."""
    one, _ = two
    totals = {
        table: crowd.value(f"SELECT COUNT(*) FROM celers_{table}")
        for table in ("ready", "scheduled", "tasks", "consumers", "queues", "blocked")
    }
    with open_claim(crowd, one, count) as (messages, connection):
        assert len(messages) == count
        third = crowd.connect(read_timeout=120)
        try:
            with third.cursor() as cursor:
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                taken = {"ready": count, "tasks": count, "consumers": 1}
                for table, total in totals.items():
                    cursor.execute("START TRANSACTION")
                    cursor.execute(
                        f"SELECT COUNT(*) FROM (SELECT 1 FROM celers_{table} FORCE INDEX (PRIMARY)"
                        " FOR UPDATE SKIP LOCKED) free_rows"
                    )
                    free = cursor.fetchone()[0]
                    cursor.execute("ROLLBACK")
                    # The consumer row of the claim was opened after the totals were counted.
                    assert free - (total + (table == "consumers")) == -taken.get(table, 0), table
        finally:
            third.close()
        if not crowd.is_mariadb:
            found = crowd.rows(
                "SELECT object_name, index_name, lock_mode, COUNT(DISTINCT lock_data)"
                " FROM performance_schema.data_locks d JOIN performance_schema.threads t ON t.thread_id = d.thread_id"
                " WHERE t.processlist_id = %s"
                " AND lock_type = 'RECORD' AND object_schema = DATABASE() GROUP BY 1, 2, 3",
                (connection.thread_id,),
            )
            assert {(table, index): rows for table, index, _, rows in found} == {
                ("celers_ready", "PRIMARY"): count,
                ("celers_tasks", "PRIMARY"): count,
                ("celers_consumers", "PRIMARY"): 1,
            }
            assert {mode for _, _, mode, _ in found} == {"X,REC_NOT_GAP"}
        else:
            (locked,) = crowd.rows(
                "SELECT trx_rows_locked FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = %s",
                (connection.thread_id,),
            )[0]
            # MariaDB counts a row once for each kind of lock on it: picked, then deleted.
            assert 2 * count + 1 <= locked <= 4 * count + 2


@pytest.mark.spec("CORE-08", "SCHED-01")
def test_a_claim_that_promotes_locks_only_what_is_due(crowd, two):
    one, other = two
    due = SerializedTask.new("due", priority=7)
    one.enqueue_after(due, 3600)
    try:
        crowd.rows(
            "UPDATE celers_scheduled s JOIN celers_tasks t ON t.seq = s.seq SET s.due_at = UTC_TIMESTAMP(6),"
            " t.scheduled_at = UTC_TIMESTAMP(6) WHERE t.id = %s",
            (due.metadata.id.bytes,),
        )
        one.core.due_unknown()
        one.core.was_idle = False  # it rings nobody
        steps = claim(one.consumer, 1, None)
        opened = next(steps)
        connection = raw_connection(crowd)
        try:
            results = connection.run(b";".join(opened.statements), len(opened.statements))
            packet = steps.send(results)
            statements = [b"START TRANSACTION", *packet.statements]
            results = connection.run(b";".join(statements), len(statements))[1:]
            with pytest.raises(StopIteration) as stop:
                steps.send(results)
            (message,) = stop.value.value
            assert message.task_id == due.metadata.id
            later = SerializedTask.new("later")
            other.enqueue_after(later, 0.001)
            assert other.cancel(later.metadata.id)
            free = other.dequeue()
            assert free is not None
            assert other.consumer.give_back([free]) == 1
        finally:
            connection.run(b"ROLLBACK", 1)
            connection.close()
    finally:
        assert other.cancel(due.metadata.id)
