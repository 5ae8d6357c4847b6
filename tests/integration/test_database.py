"""What the broker tells about its database (spec 08)."""

from __future__ import annotations

import contextlib
import logging
import time
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings

from celers import BrokerError, IndexStats, MysqlBroker, QueryPlan, SerializedTask, ValidationError
from celers.components.catalogue import plan_line, project_tables, usage_warnings, whole
from celers.errors import CelersError
from tests.fixtures.server import database_at, lay_out, running
from tests.unit.test_query import HOSTILE

DIGESTS = "performance_schema.events_statements_summary_by_digest"


# Tables and indexes


@pytest.mark.spec("DBMON-02", "TYPE-32", "DEF-103", "CONF-03")
def test_sizes_of_our_tables_and_of_no_others(broker, tables):
    tables.rows("CREATE TABLE celersXtasks (a INT PRIMARY KEY)")
    tables.rows("CREATE TABLE celers_mine (a INT PRIMARY KEY)")
    broker.enqueue_batch([SerializedTask.new("job", bytes(5000)) for _ in range(200)])
    tables.rows("ANALYZE TABLE celers_tasks")
    found = broker.get_table_sizes()
    assert found == broker.database.table_sizes()
    assert {size.table_name for size in found} == project_tables("celers_")
    assert found[0].table_name == "celers_tasks"
    assert [size.data_size_bytes for size in found] == sorted((size.data_size_bytes for size in found), reverse=True)
    assert 20 < found[0].row_count < 1000
    assert found[0].data_size_bytes > 500_000
    assert found[0].index_size_bytes > 0
    assert found[0].free_bytes >= 0


@pytest.mark.spec("DBMON-02", "DBMON-09", "DBMON-03")
def test_a_database_without_tables(make_broker, empty_database_url):
    broker = make_broker(url=empty_database_url)
    assert broker.get_table_sizes() == []
    assert broker.get_index_stats() == []
    assert broker.optimize_tables() is None
    assert broker.analyze_tables() is None


@pytest.mark.spec("DBMON-02", "DBMON-03", "CONF-03")
def test_another_prefix_has_tables_of_its_own(make_broker, empty_database_url):
    make_broker(url=empty_database_url).migrate()
    other = make_broker(url=empty_database_url, table_prefix="celers_b_")
    assert other.get_table_sizes() == []
    other.migrate()
    assert {size.table_name for size in other.get_table_sizes()} == project_tables("celers_b_")
    assert {stats.table_name for stats in other.get_index_stats()} == project_tables("celers_b_")
    other.optimize_tables()
    assert other.check_index_usage() == []


@pytest.mark.spec("DBMON-09", "TYPE-36", "DEF-103")
def test_an_entry_for_each_index(broker, tables):
    broker.enqueue_batch([SerializedTask.new("job", priority=index % 4) for index in range(100)])
    tables.rows("ANALYZE TABLE celers_ready, celers_tasks")
    found = broker.get_index_stats()
    assert [(stats.table_name, stats.index_name) for stats in found] == sorted(
        {(stats.table_name, stats.index_name) for stats in found}
    )
    by_name = {(stats.table_name, stats.index_name): stats for stats in found}
    ready = by_name["celers_ready", "PRIMARY"]
    assert ready == IndexStats("celers_ready", "PRIMARY", ("queue_id", "sort_rank", "seq"), ready.cardinality, True)
    assert 90 <= ready.cardinality <= 110, "of the whole key, not of its first column"
    assert by_name["celers_scheduled", "idx_scheduled_queue"].columns == ("queue_id", "due_at", "seq")
    assert by_name["celers_scheduled", "idx_scheduled_queue"].unique_values is False


@pytest.mark.spec("DBMON-03", "DBMON-04", "DEF-105")
def test_all_tables_are_rebuilt_and_analysed(broker, tables, caplog):
    broker.enqueue(SerializedTask.new("job"))
    for call, verb in ((broker.optimize_tables, "OPTIMIZE"), (broker.analyze_tables, "ANALYZE")):
        caplog.clear()
        with caplog.at_level(logging.INFO, "celers.database"):
            assert call() is None
        done = {record.getMessage().split()[2].rstrip(":") for record in caplog.records if verb in record.getMessage()}
        assert done == project_tables("celers_")
    assert broker.queue_size() == 1


@pytest.mark.spec("DBMON-03", "DEF-105")
def test_a_failure_that_the_server_reports_as_a_row_is_raised(make_broker, empty_database_url, server):
    broker = make_broker(url=empty_database_url)
    broker.migrate()
    account = limited_account(server, empty_database_url, "SELECT")
    with MysqlBroker(account, heartbeat=False) as low, pytest.raises(BrokerError):
        low.optimize_tables()
    from celers.components.catalogue import maintain_table
    from celers.operation import Packet

    class Answer:
        def __init__(self, *rows):
            self.rows = rows

    for rows in (
        [(b"d.t", b"optimize", b"Error", b"Table is full"), (b"d.t", b"optimize", b"status", b"Operation failed")],
        [(b"d.t", b"optimize", b"status", b"Operation failed")],
    ):
        steps = maintain_table(None, "OPTIMIZE", "celers_`x")
        packet = next(steps)
        assert isinstance(packet, Packet)
        assert packet.statements == (b"OPTIMIZE TABLE `celers_``x`",)
        with pytest.raises(BrokerError, match="celers_`x failed"):
            steps.send([Answer(*rows)])
    steps = maintain_table(None, "OPTIMIZE", "t")
    next(steps)
    good = [(b"d.t", b"optimize", b"note", b"doing recreate + analyze"), (b"d.t", b"optimize", b"status", b"OK")]
    with pytest.raises(StopIteration):
        steps.send([Answer(*good)])


def limited_account(server, url, privileges):
    """The URL of the same database for an account with these privileges on it."""
    database = urlsplit(url).path[1:]
    name = f"low_{database}"[:32]
    server.rows(f"DROP USER IF EXISTS `{name}`@localhost")
    server.rows(f"CREATE USER `{name}`@localhost")
    server.rows(f"GRANT {privileges} ON `{database}`.* TO `{name}`@localhost")
    return url.replace("//root@", f"//{quote(name)}@")


# Plans


@pytest.mark.spec("DBMON-10", "TYPE-37", "DEF-48")
def test_the_plan_of_a_claim(broker, tables):
    broker.enqueue_batch([SerializedTask.new("job") for _ in range(300)])
    tables.rows("ANALYZE TABLE celers_ready")
    plan = broker.explain_dequeue()
    assert plan == broker.database.explain_dequeue()
    (line,) = [line for line in plan if line.table == "celers_ready"]
    assert line.key_used == "PRIMARY"
    assert line.query_type in ("ref", "range")
    assert "filesort" not in (line.extra or "")
    assert line.rows_examined is not None
    assert len(broker.dequeue_batch(300)) == 300, "nothing was claimed or locked"


@pytest.mark.spec("DBMON-10")
def test_the_plan_of_a_claim_does_not_depend_on_a_pause(broker):
    broker.enqueue_batch([SerializedTask.new("job") for _ in range(10)])
    broker.pause()
    assert broker.dequeue() is None
    assert [line.table for line in broker.explain_dequeue() if line.table == "celers_ready"] == ["celers_ready"]


@pytest.mark.spec("DBMON-11", "TYPE-37")
def test_the_plan_of_a_query(broker, server):
    broker.enqueue(SerializedTask.new("job"))
    (line,) = broker.explain_query("SELECT * FROM celers_tasks; -- all")
    assert (line.id, line.select_type, line.table, line.query_type) == (1, "SIMPLE", "celers_tasks", "ALL")
    assert line.key_used is None
    assert line.rows_examined is not None
    assert (line.filtered is None) is server.is_mariadb
    union = broker.explain_query("WITH a AS (SELECT 1) SELECT seq FROM celers_tasks UNION SELECT * FROM a")
    assert union[-1].id is None or union[-1].select_type == "UNION RESULT"
    assert broker.explain_query("SELECT ';', '/*! x */', 'into' FROM celers_queues")


@pytest.mark.spec("DBMON-11", "ERR-05")
def test_a_wrong_query_is_the_callers_mistake(broker):
    for query in ("SELECT * FROM nowhere", "SELECT nothing FROM celers_tasks", "SELECT 1 FROM", "SELECT nothing(1)"):
        with pytest.raises(BrokerError) as caught:
            broker.explain_query(query)
        assert caught.value.errno in (1146, 1054, 1064, 1305)
        assert "migrate" not in str(caught.value)
    for query in ("DELETE FROM celers_tasks", "SELECT 1; SELECT 2", "SELECT 1 INTO @a", "SELECT SLEEP(1)", None):
        with pytest.raises(ValidationError, match="query"):
            broker.explain_query(query)
    assert broker.enqueue(SerializedTask.new("job"))


@pytest.mark.spec("DBMON-11", "DEF-48")
def test_what_a_server_evaluates_for_a_plan_ends_in_time(make_sync, tables, monkeypatch):
    """A function of the user sleeps or writes: the time limit and the read-only transaction are what is left."""
    monkeypatch.setattr("celers.components.database.EXPLAIN_SECS", 1)
    broker = make_sync()
    tables.rows("DROP FUNCTION IF EXISTS celers_test_wait")
    tables.rows("DROP FUNCTION IF EXISTS celers_test_write")
    tables.rows("CREATE FUNCTION celers_test_wait() RETURNS INT NOT DETERMINISTIC NO SQL RETURN SLEEP(9)")
    tables.rows(
        "CREATE FUNCTION celers_test_write() RETURNS INT DETERMINISTIC MODIFIES SQL DATA"
        " BEGIN INSERT INTO celers_queues (name, created_at, updated_at)"
        " VALUES ('written', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)); RETURN 1; END"
    )
    started = time.monotonic()
    try:
        broker.explain_query("SELECT * FROM (SELECT celers_test_wait()) x")
    except BrokerError as error:
        assert "needed more than" in str(error)  # noqa: PT017 - MySQL may plan it without calling the function
    assert time.monotonic() - started < 6
    for query in (
        "SELECT * FROM (SELECT celers_test_write()) x",
        "SELECT * FROM celers_queues WHERE queue_id = (SELECT celers_test_write())",
        "SELECT * FROM celers_queues WHERE queue_id = celers_test_write()",
    ):
        try:
            broker.explain_query(query)
        except BrokerError as error:
            assert error.errno == 1792  # noqa: PT017 - or it is planned without calling the function
    assert tables.value("SELECT COUNT(*) FROM celers_queues WHERE name = 'written'") == 0
    tables.rows("DROP FUNCTION celers_test_wait")
    tables.rows("DROP FUNCTION celers_test_write")


@pytest.mark.spec("DBMON-11", "ARCH-08", "DEF-43", "DEF-48")
def test_hostile_queries_have_no_effect(sync_broker, tables):
    sync_broker.enqueue(SerializedTask.new("job"))
    before = checksum(tables)
    target = f"/tmp/celers-hostile-{tables.name}"
    hostile = [
        f"SELECT 1 INTO OUTFILE '{target}'",
        f"SELECT 1e1INTO OUTFILE '{target}'",
        f"SELECT '\\' INTO OUTFILE '{target}' -- '",
        "SELECT 1; DELETE FROM celers_tasks",
        "SELECT 1 /*! ; DELETE FROM celers_tasks */",
        "SELECT 'x'; DELETE FROM celers_tasks; -- '",
        'SELECT "a\\"; DELETE FROM celers_tasks; -- "',
        "SELECT `a``; DELETE FROM celers_tasks; -- `",
        "SELECT 1 #\n; DELETE FROM celers_tasks",
        "SELECT 1\0; DELETE FROM celers_tasks",
        "SELECT '\u00bf\u005c' ; DELETE FROM celers_tasks; -- '",
        "SELECT * FROM celers_tasks FOR UPDATE",
        "SELECT GET_LOCK('a', 0)",
        "SELECT LOAD_FILE('/etc/passwd')",
    ]
    for query in hostile:
        # Some are one long text to the server, and so a query like any other.
        with contextlib.suppress(CelersError):
            sync_broker.explain_query(query)
    for comment in ("-- \r; DELETE FROM celers_tasks", "--\x01; DELETE FROM celers_tasks", "/* ; */ # ; x"):
        assert sync_broker.explain_query("SELECT 1 " + comment)
    assert checksum(tables) == before


@pytest.mark.spec("DBMON-11", "ARCH-08", "DEF-43", "TEST-04")
@given(rest=HOSTILE)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_text_reaches_the_server_as_one_query_or_not_at_all(sync_broker, tables, rest):
    before = checksum(tables)
    try:
        plan = sync_broker.explain_query("SELECT 1 " + rest)
    except ValidationError:
        pass
    except BrokerError as error:
        assert error.errno not in (1792, None), "it tried to write"  # noqa: PT017 - depends on the text
    else:
        assert all(isinstance(line, QueryPlan) for line in plan)
    assert checksum(tables) == before


def checksum(tables):
    return tables.rows("CHECKSUM TABLE celers_tasks, celers_ready, celers_queues")


@pytest.mark.spec("DBMON-10", "DBMON-11")
def test_both_forms_of_a_plan_are_read():
    mariadb = (b"1", b"SIMPLE", b"t", b"ref", b"PRIMARY", b"PRIMARY", b"4", b"const", b"18446744073709551615", b"x")
    mysql = (b"1", b"SIMPLE", b"t", None, b"ref", b"PRIMARY", b"PRIMARY", b"4", b"const", b"7", b"33.33", None)
    assert plan_line(mariadb) == QueryPlan(1, "SIMPLE", "t", "ref", "PRIMARY", "PRIMARY", "4", 2**64 - 1, None, "x")
    assert plan_line(mysql) == QueryPlan(1, "SIMPLE", "t", "ref", "PRIMARY", "PRIMARY", "4", 7, 33.33, None)
    assert plan_line((None,) * 10) == QueryPlan(None, None, None, None, None, None, None, None, None, None)


# Findings about indexes


@pytest.mark.spec("DBMON-12", "DEF-104")
def test_a_good_database_has_no_findings(broker, tables):
    assert broker.check_index_usage() == []
    broker.enqueue_batch([SerializedTask.new("job") for _ in range(50)])
    assert broker.check_index_usage() == broker.database.check_indexes() == []


@pytest.mark.spec("DBMON-12")
def test_findings(make_broker, empty_database_url, server):
    broker = make_broker(url=empty_database_url)
    broker.migrate()
    database = urlsplit(empty_database_url).path[1:]

    def change(text):
        server.rows(text, database=database)

    broker.enqueue_batch([SerializedTask.new("job", priority=index % 3) for index in range(300)])
    change("ALTER TABLE celers_scheduled DROP KEY idx_scheduled_queue")
    (finding,) = broker.check_index_usage()
    assert "idx_scheduled_queue of celers_scheduled is missing" in finding
    change("ALTER TABLE celers_scheduled ADD KEY idx_scheduled_queue (queue_id, due_at, seq)")
    change(
        "ALTER TABLE celers_ready DROP PRIMARY KEY, ADD PRIMARY KEY (queue_id, seq), ADD KEY k (queue_id, sort_rank)"
    )
    found = broker.check_index_usage()
    assert any("claims sort celers_ready" in line for line in found), found
    change("ALTER TABLE celers_ready DROP PRIMARY KEY, ADD PRIMARY KEY (seq)")
    found = broker.check_index_usage()
    assert any("claims read celers_ready without an index" in line for line in found), found
    change("DELETE FROM celers_ready")
    assert all("claims" not in line for line in broker.check_index_usage()), "nothing to say about an empty table"
    change("ALTER TABLE celers_ready DROP PRIMARY KEY")
    found = broker.check_index_usage()
    assert any("claims fail" in line for line in found), found


@pytest.mark.spec("DBMON-12", "DEF-104")
def test_an_index_without_cardinality_matters_only_with_rows():
    def stats(table, cardinality):
        return IndexStats(table, "idx", ("a",), cardinality or 0, False), cardinality

    indexes = [stats("full", 0), stats("empty", 0), stats("good", 5), stats("unknown", None)]
    (finding,) = usage_warnings("ready", [], indexes, {"full", "good", "unknown"}, [])
    assert "idx of full has no cardinality" in finding


# What the server has measured


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A server with its performance schema switched on, and the URL of a database on it with all tables."""
    from tests.fixtures.server import need_server, private_directory

    need_server()
    with private_directory() as directory:
        lay_out(directory / "server")
        with running(directory / "server", options=["--performance-schema=ON"]) as started:
            server = database_at(started.ensure_started())
            with server.fresh_database("measured") as url, MysqlBroker(url, heartbeat=False) as broker:
                broker.migrate()
                yield server, url


@pytest.fixture
def busy(measured, make_broker):
    """A broker on that server, of which the server has seen a few statements."""
    server, url = measured
    server.rows(f"TRUNCATE TABLE {DIGESTS}")
    broker = make_broker(url=url)
    broker.enqueue_batch([SerializedTask.new("job") for _ in range(20)])
    broker.purge_all()
    server.rows(
        "SELECT COUNT(*) FROM celers_tasks t JOIN celers_ready r ON t.priority = r.sort_rank", database="measured"
    )
    server.rows("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'celers_x'", database="mysql")
    server.rows("SELECT 'no table of ours'", database="measured")
    return broker


@pytest.mark.spec("DBMON-01", "DBMON-05", "TYPE-33", "DEF-45")
def test_statements_by_their_total_time(busy, measured):
    found = busy.get_query_stats()
    assert found == sorted(found, key=lambda stats: -stats.total_time_ms)
    assert 5 < len(found) <= 50
    assert all("celers_" in stats.query_name for stats in found)
    assert not any("information_schema" in stats.query_name for stats in found)
    for stats in found:
        assert 0 < stats.min_time_ms <= stats.avg_time_ms <= stats.max_time_ms <= stats.total_time_ms
        assert stats.execution_count >= 1
        assert stats.avg_time_ms * stats.execution_count == pytest.approx(stats.total_time_ms, rel=0.01)
    ((picoseconds,),) = measured[0].rows(f"SELECT MAX(max_timer_wait) FROM {DIGESTS}")
    assert max(stats.max_time_ms for stats in found) <= int(picoseconds) / 1e9


@pytest.mark.spec("DBMON-07", "TYPE-34", "DEF-45")
def test_the_slowest_statements(busy):
    found = busy.get_slow_queries(1000)
    assert found == sorted(found, key=lambda query: -query.avg_time_ms)
    assert len(found) > 5
    assert busy.get_slow_queries(2) == busy.database.slow_queries(2)
    assert len(busy.get_slow_queries(2)) == 2
    assert all(query.avg_time_ms <= query.max_time_ms <= query.total_time_ms for query in found)
    for bad in (0, -1, 1001, 1.5, None, True):
        with pytest.raises(ValidationError, match="limit"):
            busy.get_slow_queries(bad)


@pytest.mark.spec("DBMON-08", "TYPE-35", "DEF-47")
def test_statements_that_read_too_much(busy):
    found = busy.profile_query_performance(0, 1000)
    assert found == sorted(found, key=lambda profile: -profile.avg_execution_time_ms)
    (join,) = [profile for profile in found if "priority" in profile.query_digest and "JOIN" in profile.query_digest]
    assert join.no_index_used_count >= 1
    assert join.needs_optimization is True
    assert join.total_rows_sent == 1
    assert not all(profile.needs_optimization for profile in found)
    middle = found[len(found) // 2].avg_execution_time_ms
    above = busy.profile_query_performance(middle, 1000)
    assert above
    assert all(profile.avg_execution_time_ms >= middle for profile in above)
    assert len(above) < len(found)
    assert busy.profile_query_performance(1e300, 10) == []
    assert busy.profile_query_performance(3_600_000, 10) == [], "an hour, in milliseconds"
    for bad in (-1, float("nan"), None, "1", True):
        with pytest.raises(ValidationError, match="min_execution_time_ms"):
            busy.profile_query_performance(bad, 1)
    for bad in (0, 1001):
        with pytest.raises(ValidationError, match="limit"):
            busy.profile_query_performance(0, bad)


@pytest.mark.spec("DBMON-06", "DEF-46")
def test_only_the_digests_are_forgotten(busy, measured):
    server, _ = measured
    others = "SELECT SUM(count_star) FROM performance_schema.events_statements_summary_global_by_event_name"
    ((before,),) = server.rows(others)
    assert busy.get_query_stats()
    assert busy.reset_query_stats() is None
    forms = {stats.query_name for stats in busy.get_query_stats()}
    assert not any("JOIN" in form for form in forms)
    assert server.rows(others)[0][0] >= before


@pytest.mark.spec("DBMON-01", "DBMON-06")
def test_an_account_without_privileges(measured, caplog):
    server, url = measured
    account = limited_account(server, url, "ALL")
    with MysqlBroker(account, heartbeat=False) as low:
        for call in (low.get_query_stats, lambda: low.get_slow_queries(5), lambda: low.profile_query_performance(0, 5)):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                assert call() == []
            assert len(caplog.records) == 1
        with pytest.raises(BrokerError) as caught:
            low.reset_query_stats()
        assert caught.value.errno in (1142, 1044, 1227)
        assert low.check_index_usage() == []
        assert low.get_server_variables()["version"]


@pytest.mark.spec("DBMON-01")
def test_a_performance_schema_that_is_off(broker, server, caplog):
    """As it is on the embedded MariaDB; MySQL has it on."""
    broker.enqueue(SerializedTask.new("job"))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        found = broker.get_query_stats()
    if server.is_mariadb:
        assert found == []
        assert [record.getMessage() for record in caplog.records] == [
            "the server's performance schema is switched off: no statistics of statements"
        ]
        assert broker.get_slow_queries(1) == broker.profile_query_performance(0, 1) == []
    else:
        assert found
        assert not caplog.records
    assert broker.reset_query_stats() is None


@pytest.mark.spec("DBMON-01", "DEF-45")
def test_numbers_of_any_column_type():
    values = [b"7", b"7.0000", b"18446744073709551615", b"123456789012345678901234567890", None]
    assert [whole(value) for value in values] == [7, 7, 2**64 - 1, 123456789012345678901234567890, 0]


@pytest.mark.spec("DBMON-16")
def test_settings_of_the_server(broker, server):
    found = broker.get_server_variables()
    assert found == broker.database.variables()
    assert found["transaction_isolation"] in ("REPEATABLE-READ", "READ-COMMITTED")
    assert found["version"] == server.version
    assert int(found["max_connections"]) == 500
    assert found["performance_schema"] == ("OFF" if server.is_mariadb else "ON")
    assert ("query_cache_size" in found) is server.is_mariadb
    assert ("innodb_redo_log_capacity" in found) is not server.is_mariadb
    assert "tx_isolation" not in found
    assert all(isinstance(value, str) for value in found.values())
