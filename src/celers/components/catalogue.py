"""What the database component reads from the catalogue and from plans, and how it judges that."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any

from celers import rows as read
from celers.components.base import Component
from celers.db.outcome import Result
from celers.errors import BrokerError
from celers.model.database import IndexStats, QueryPlan, TableSizeInfo
from celers.operation import Packet, Steps
from celers.sql.ddl import Table, describe
from celers.sql.migration_files import Role, packaged

__all__ = [
    "IndexRow",
    "maintain_table",
    "plan_line",
    "project_tables",
    "quoted",
    "table_size",
    "usage_warnings",
    "whole",
]

logger = logging.getLogger("celers.database")

IndexRow = tuple[IndexStats, int | None]
"""An index, and its cardinality as the server has it: None when it does not know."""


@functools.cache
def project_tables(prefix: str) -> frozenset[str]:
    """Return the names of all tables that the migrations of this version make."""
    statements = [
        describe(statement.text)
        for file in packaged()
        if file.role in (Role.BOOTSTRAP, Role.REQUIRED)
        for statement in file.statements(prefix)
    ]
    return frozenset(made.name for made in statements if isinstance(made, Table))


def maintain_table(component: Component[Any], verb: str, table: str) -> Steps[None]:
    """Run OPTIMIZE or ANALYZE on one table and look at what it reports.

    Raises
    ------
    BrokerError
        It reports a failure: such statements answer with rows even when they fail.
    """
    results: list[Result] = yield Packet(f"{verb} TABLE {quoted(table)}".encode())
    failure = _failure(results[0].rows)
    if failure is not None:
        raise BrokerError(f"{verb} TABLE {table} failed: {failure}")
    logger.info("%s TABLE %s: done", verb, table)


def _failure(rows: Iterable[tuple[bytes | None, ...]]) -> str | None:
    for row in rows:
        kind, text = read.text(row[2]).lower(), read.text_or_none(row[3]) or ""
        if kind == "error" or (kind == "status" and text.lower() == "operation failed"):
            return text
    return None


def usage_warnings(
    ready: str,
    plan: Sequence[QueryPlan] | None,
    indexes: Iterable[IndexRow],
    with_rows: Collection[str],
    missing: Sequence[str],
) -> list[str]:
    """Judge what `check_indexes` has found.

    Parameters
    ----------
    ready : str
        Name of the table that claims look at.
    plan : sequence of QueryPlan, optional
        Of the claim; None when the index that it names is missing.
    indexes : iterable of (IndexStats, cardinality)
    with_rows : collection of str
        Tables that have rows.
    missing : sequence of str
        What is said about expected indexes.
    """
    found: list[str] = []
    if plan is None:
        found.append(f"claims fail: the index of {ready} that they name is missing")
    elif ready in with_rows:
        for line in plan:
            if line.table == ready and (line.key_used is None or line.query_type == "ALL"):
                found.append(f"claims read {ready} without an index")
            if "filesort" in (line.extra or ""):
                found.append(f"claims sort {line.table} instead of reading it in the order of an index")
    for stats, cardinality in indexes:
        if cardinality == 0 and stats.table_name in with_rows:
            found.append(
                f"index {stats.index_name} of {stats.table_name} has no cardinality: analyze renews statistics"
            )
    return [*found, *missing]


def quoted(name: str) -> str:
    """Write an identifier."""
    return f"`{name.replace('`', '``')}`"


def whole(value: bytes | None) -> int:
    """Read a number of whatever column type, without loss; 0 for NULL."""
    return int(Decimal(value.decode())) if value is not None else 0


def table_size(row: tuple[bytes | None, ...]) -> TableSizeInfo:
    """Read a row of the statement `tables`."""
    return TableSizeInfo(read.text(row[0]), *(whole(value) for value in row[1:5]))


def plan_line(row: tuple[bytes | None, ...]) -> QueryPlan:
    """Read a line of a plan: 10 columns on MariaDB, 12 on MySQL, which has partitions and filtered."""
    filtered: bytes | None = None
    if len(row) == 12:
        filtered = row[10]
        row = (*row[:3], *row[4:10], row[11])
    number, select_type, table, kind, possible, key, length, _, estimate, extra = row
    return QueryPlan(
        id=read.integer_or_none(number),
        select_type=read.text_or_none(select_type),
        table=read.text_or_none(table),
        query_type=read.text_or_none(kind),
        possible_keys=read.text_or_none(possible),
        key_used=read.text_or_none(key),
        key_length=read.text_or_none(length),
        rows_examined=None if estimate is None else whole(estimate),
        filtered=None if filtered is None else float(filtered),
        extra=read.text_or_none(extra),
    )
