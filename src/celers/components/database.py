"""The database behind the queue: sizes, indexes, plans, what the server has measured, upkeep of tables."""

from __future__ import annotations

import logging
import re
from typing import Final

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.components.catalogue import (
    IndexRow,
    maintain_table,
    plan_line,
    project_tables,
    quoted,
    table_size,
    usage_warnings,
    whole,
)
from celers.components.digests import digests, forget_digests, profile_of, slow_query_of, stats_of
from celers.components.migrations import Migrations
from celers.db.outcome import DriverError
from celers.db.server import parse_version
from celers.errors import BrokerError, CelersError, ConfigurationError
from celers.model.database import (
    IndexStats,
    QueryPerformanceProfile,
    QueryPlan,
    QueryStats,
    SlowQueryInfo,
    TableSizeInfo,
)
from celers.operation import Packet, Steps, operation
from celers.sql.query import select_text

__all__ = ["Database"]

logger = logging.getLogger("celers.database")

MOST_QUERIES = 50
MAX_QUERIES = 1000
EXPLAIN_SECS: Final = 5
"""Longest time that a plan of a caller's query may take: to make one, a server evaluates parts of the query."""

VARIABLES: Final = (
    *("max_connections", "innodb_buffer_pool_size", "innodb_log_file_size", "innodb_redo_log_capacity"),
    *("query_cache_size", "query_cache_type", "innodb_flush_log_at_trx_commit", "innodb_flush_method"),
    *("binlog_format", "expire_logs_days", "binlog_expire_logs_seconds", "max_allowed_packet", "wait_timeout"),
    *("sql_mode", "time_zone", "performance_schema", "version", "transaction_isolation"),
)
_OLD_ISOLATION = "tx_isolation"  # its name on MariaDB before 11.1

_EXPLAIN = b"EXPLAIN FORMAT=TRADITIONAL "
_INTO = re.compile(rb" INTO (?:@\w+(?:, )?)+")
_NO_KEY = 1176
_TOO_LONG = (1969, 3024)


class _NoKey(CelersError):
    """The claim names an index that is missing."""


class Database(Component[M]):
    """The database behind the queue."""

    attribute = "database"

    # Tables and indexes

    @operation("read", needs_queue=False, slow=True)
    def table_sizes(self) -> Steps[list[TableSizeInfo]]:
        """Return the size of each table of celers, the one with most data first.

        Rows are the server's estimate, which ``analyze`` renews. Asks the catalogue, on a connection of its own:
        about 10 ms, whatever is stored.
        """
        return [table_size(row) for row in (yield from self._tables())]

    @operation("read", needs_queue=False, slow=True)
    def index_stats(self) -> Steps[list[IndexStats]]:
        """Return each index of the tables of celers, by table and name.

        The cardinality is that of the whole key, as the server estimates it. Asks the catalogue, on a connection of
        its own: about 10 ms.
        """
        return [stats for stats, _ in (yield from self._indexes())]

    @operation("plain", repeat_unknown=True, needs_queue=False, slow=True)
    def optimize(self) -> Steps[None]:
        """Rebuild all tables of celers, which gives freed space back.

        One table after the other. Tables stay usable meanwhile, but each is locked for a moment at the beginning and
        at the end of its turn. Takes as long as copying the tables, and as much space.

        Raises
        ------
        BrokerError
            The server reports a failure for a table; the tables before it are done.
        """
        yield from self._maintain("OPTIMIZE")

    @operation("plain", repeat_unknown=True, needs_queue=False, slow=True)
    def analyze(self) -> Steps[None]:
        """Renew the statistics from which the server makes its plans, for all tables of celers.

        Reads a few pages of each index. Raises as `optimize`.
        """
        yield from self._maintain("ANALYZE")

    @operation("plain", repeat_unknown=True, needs_queue=False, slow=True)
    def vacuum(self) -> Steps[int]:
        """Rebuild every table of celers (OPTIMIZE), then renew its statistics (ANALYZE).

        Returns
        -------
        int
            Tables for which both succeeded.

        Raises
        ------
        BrokerError
            A table for which one failed; it is named.

        Notes
        -----
        Copies the tables, so it takes minutes for millions of tasks and needs as much free space; queues go on
        working, slower. Two round trips for each table.
        """
        tables = [read.text(row[0]) for row in (yield from self._tables())]
        for table in tables:
            yield from maintain_table(self, "OPTIMIZE", table)
            yield from maintain_table(self, "ANALYZE", table)
        return len(tables)

    # Plans

    @operation(repeat_unknown=True)
    def explain_dequeue(self) -> Steps[list[QueryPlan]]:
        """Return the plan of the statement with which `dequeue` finds the next task of this queue.

        It is planned, not run: nothing is claimed. One round trip.
        """
        (_, plan) = yield self._claim_plan()
        return [plan_line(row) for row in plan.rows]

    @operation("plain", repeat_unknown=True, needs_queue=False, single=True)
    def explain_query(self, query: str) -> Steps[list[QueryPlan]]:
        """Return the plan of a query of the caller; the query is never run.

        Parameters
        ----------
        query : str
            One SELECT, or WITH ... SELECT; a semicolon may stand at its end. Comments are taken out, optimiser hints
            with them.

        Returns
        -------
        list of QueryPlan
            As ``EXPLAIN FORMAT=TRADITIONAL`` gives it.

        Raises
        ------
        ValidationError
            Another statement, several, INTO, a locking clause, an executable comment, or a function that waits, locks
            or reads files.
        BrokerError
            The server refuses the query, or needs more than 5 s for its plan.

        Notes
        -----
        Servers evaluate parts of a query while they plan it (a derived table of one row, a subquery without a table).
        Therefore it stands in a read-only transaction that is rolled back, under a time limit, on a connection of its
        own that is closed afterwards and takes one statement at a time.
        """
        text = select_text(query)
        if (yield from self._is_mariadb()):
            yield Packet(b"SET SESSION max_statement_time = %d" % EXPLAIN_SECS)
        else:
            yield Packet(b"SET SESSION max_execution_time = %d" % (EXPLAIN_SECS * 1000))
        yield Packet(b"START TRANSACTION READ ONLY")
        errors = dict.fromkeys(((0, errno) for errno in _TOO_LONG), _too_long)
        try:
            results = yield Packet(_EXPLAIN + text, errors=errors)
        except ConfigurationError as error:
            # A mistake in the caller's own query says nothing about the schema of celers.
            cause = error.__cause__
            if not isinstance(cause, DriverError):
                raise
            raise BrokerError(f"[{cause.errno}] {cause.message}", errno=cause.errno) from error
        yield Packet(b"ROLLBACK")
        return [plan_line(row) for row in results[0].rows]

    @operation("read", slow=True)
    def check_indexes(self) -> Steps[list[str]]:
        """Look for what makes claims and listings slow; return one line for each finding.

        Found are: a claim that uses no index or sorts, an index without cardinality on a table that has rows, and
        indexes that this version expects and the database lacks. Empty tables give no findings of the first two
        kinds. Asks the catalogue and makes one plan: about 30 ms.
        """
        core = self.core
        queue_id = core.queue_id
        migrations: Migrations[M] = Migrations(core, self.runner)
        verified = yield from Migrations.verify.steps(migrations)
        missing = [problem for problem in verified.problems if problem.startswith("index ")]
        indexes = yield from self._indexes()
        names = sorted({stats.table_name for stats, _ in indexes})
        filled = yield Packet(*(f"SELECT EXISTS(SELECT 1 FROM {quoted(name)})".encode() for name in names))
        with_rows = {name for name, found in zip(names, filled, strict=True) if read.flag(found.rows[0][0])}
        plan: list[QueryPlan] | None = None
        try:
            (_, found) = yield self._claim_plan(queue_id)
            plan = [plan_line(row) for row in found.rows]
        except _NoKey:
            plan = None
        return usage_warnings(core.sql.table("ready"), plan, indexes, with_rows, missing)

    # What the server has measured

    @operation("read", needs_queue=False)
    def query_stats(self) -> Steps[list[QueryStats]]:
        """Return the statements on tables of celers that took most time in total, at most 50.

        Empty, with a warning in the log, when the server's performance schema is switched off (as it is on MariaDB by
        default, and on the embedded one) or not readable for this account. Counts since the server's start or
        `reset_query_stats`, by all clients of this database.
        """
        return [stats_of(row) for row in (yield from digests(self.core, "sum_timer_wait", 0.0, MOST_QUERIES))]

    @operation("plain", repeat_unknown=True, needs_queue=False)
    def reset_query_stats(self) -> Steps[None]:
        """Forget the counts of `query_stats`, those of all databases of the server; other statistics stay.

        Raises
        ------
        BrokerError
            The account lacks the privilege DROP on that table of the performance schema.
        """
        yield from forget_digests(self.core)

    @operation("read", needs_queue=False)
    def slow_queries(self, limit: int) -> Steps[list[SlowQueryInfo]]:
        """Return the statements on tables of celers that are slowest on average.

        Parameters
        ----------
        limit : int
            1 to 1000.

        Notes
        -----
        Empty without a performance schema, as `query_stats`.
        """
        most = validate.integer(limit, "limit", 1, MAX_QUERIES)
        return [slow_query_of(row) for row in (yield from digests(self.core, "avg_timer_wait", 0.0, most))]

    @operation("read", needs_queue=False)
    def profile(self, min_execution_time_ms: float, limit: int) -> Steps[list[QueryPerformanceProfile]]:
        """Return what the slowest statements on tables of celers read, and whether they found an index.

        Parameters
        ----------
        min_execution_time_ms : float
            Average time from which on a statement is shown, at least 0.
        limit : int
            1 to 1000.

        Notes
        -----
        Empty without a performance schema, as `query_stats`.
        """
        least = validate.number(min_execution_time_ms, "min_execution_time_ms", 0)
        most = validate.integer(limit, "limit", 1, MAX_QUERIES)
        return [profile_of(row) for row in (yield from digests(self.core, "avg_timer_wait", least, most))]

    @operation("read", needs_queue=False)
    def variables(self) -> Steps[dict[str, str]]:
        """Return settings of the server that matter to a queue, as far as the server has them.

        The values are the global ones; the broker sets some of them for its own connections. The isolation level is
        under ``transaction_isolation`` whatever the server calls it.
        """
        results = yield Packet(self.core.sql("database", "variables", names=[*VARIABLES, _OLD_ISOLATION]))
        found = {read.text(name).lower(): read.text(value) for name, value in results[0].rows}
        if _OLD_ISOLATION in found:
            found.setdefault("transaction_isolation", found.pop(_OLD_ISOLATION))
        return {name: found[name] for name in VARIABLES if name in found}

    # How it is done

    def _is_mariadb(self) -> Steps[bool]:
        server = self.core.server
        if server is not None:
            return server.is_mariadb
        return parse_version(read.text((yield Packet(b"SELECT VERSION()"))[0].rows[0][0]))[1]

    def _catalogue(self, statement: str) -> Steps[list[tuple[bytes | None, ...]]]:
        """Ask the catalogue for rows whose first column is a table of ours."""
        sql = self.core.sql
        texts = [sql("database", statement, prefix=self.core.prefix)]
        if not (yield from self._is_mariadb()):
            texts.insert(0, sql("database", "fresh_statistics"))
        results = yield Packet(*texts)
        ours = {name.lower() for name in project_tables(self.core.prefix)}
        return [row for row in results[-1].rows if read.text(row[0]).lower() in ours]

    def _tables(self) -> Steps[list[tuple[bytes | None, ...]]]:
        rows = yield from self._catalogue("tables")
        return sorted(rows, key=lambda row: (-int(row[2] or 0), row[0] or b""))

    def _indexes(self) -> Steps[list[IndexRow]]:
        found: dict[tuple[str, str], tuple[list[str], int | None, bool]] = {}
        for table, name, column, cardinality, non_unique in (yield from self._catalogue("indexes")):
            columns = found.get((read.text(table), read.text(name)), ([], None, False))[0]
            columns.append(read.text_or_none(column) or "(expression)")
            value = None if cardinality is None else whole(cardinality)
            found[read.text(table), read.text(name)] = (columns, value, not read.flag(non_unique))
        return [
            (IndexStats(table, name, tuple(columns), cardinality or 0, unique), cardinality)
            for (table, name), (columns, cardinality, unique) in sorted(found.items())
        ]

    def _maintain(self, verb: str) -> Steps[None]:
        for row in (yield from self._tables()):
            yield from maintain_table(self, verb, read.text(row[0]))

    def _claim_plan(self, queue_id: int | None = None) -> Packet:
        """Ask for the plan of the claim. A transaction of its own: MariaDB may lock what it looks at."""
        pick = self.core.sql("consumer", "pick_one", queue_id=self.core.queue_id if queue_id is None else queue_id)
        return Packet(
            b"SELECT 0 INTO @celers_paused",
            _EXPLAIN + _INTO.sub(b"", pick, count=1),
            commit=True,
            errors={(1, _NO_KEY): _NoKey},
        )


def _too_long() -> BrokerError:
    return BrokerError(
        f"the server needed more than {EXPLAIN_SECS} s for the plan, because it evaluates parts of the query for it",
        retryable=False,
    )
