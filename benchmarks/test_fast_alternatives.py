"""What one would take instead of a compiled function, in the groups and with the inputs of the twins.

Every case first asserts that the alternative does the same work. MySQLdb's side is the client's part only: the text of
the statement is made and not sent, but a connection is needed for it.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from benchmarks import servers
from benchmarks.fast_cases import CASES, Case

MySQLdb = pytest.importorskip("MySQLdb")


def case_of(topic: str, function: str, about: str) -> Case:
    """Return a case of the twins."""
    return next(case for case in CASES if (case.topic, case.function, case.about) == (topic, function, about))


def take(benchmark: Any, topic: str, case: Case, call: Callable[[], object]) -> None:
    benchmark.group = f"{topic}: {case.name}"
    benchmark(call)


@pytest.mark.parametrize("about", ["20 values", "10,000 doubles"])
def test_percentile_of_numpy(benchmark, about):
    case = case_of("percentiles", "percentile", about)
    values, p = case.args
    found = np.percentile(values, p, method="closest_observation")
    assert min(values) < found <= max(values)
    take(benchmark, "percentiles", case, lambda: np.percentile(values, p))


def test_percentiles_of_numpy(benchmark):
    case = case_of("percentiles", "percentiles", "3 of 10,000 doubles")
    values, points = case.args
    assert len(np.percentile(values, points)) == len(points)
    take(benchmark, "percentiles", case, lambda: np.percentile(values, points))


def test_compress_payload_by_zlib(benchmark):
    case = next(case for case in CASES if case.function == "compress_payload" and "JSON" in case.about)
    text = case.args[0]
    assert zlib.decompress(zlib.compress(text, 1)) == text
    take(benchmark, "compression", case, lambda: zlib.compress(text, 1))


def test_compress_payloads_by_zlib(benchmark):
    case = next(case for case in CASES if case.function == "compress_payloads")
    texts = case.args[0]
    take(benchmark, "compression", case, lambda: [zlib.compress(text, 1) for text in texts])


def test_decompress_payload_by_zlib(benchmark):
    case = next(case for case in CASES if case.function == "decompress_payload")
    text = next(case for case in CASES if case.function == "compress_payload" and "JSON" in case.about).args[0]
    packed = zlib.compress(text, 1)
    take(benchmark, "compression", case, lambda: zlib.decompress(packed))


GENERATORS = [name for name in ("uuid1", "uuid4", "uuid7") if hasattr(uuid, name)]


@pytest.mark.parametrize("generator", GENERATORS)
def test_one_id_of_the_standard_library(benchmark, generator):
    take(benchmark, "ids", case_of("ids", "uuid7", ""), getattr(uuid, generator))


@pytest.mark.parametrize("generator", GENERATORS)
def test_many_ids_of_the_standard_library(benchmark, generator):
    make = getattr(uuid, generator)
    assert len({make() for _ in range(1000)}) == 1000
    take(benchmark, "ids", case_of("ids", "uuid7_many", "1000"), lambda: [make() for _ in range(1000)])


def test_time_by_fromisoformat(benchmark):
    case = case_of("rows", "parse_datetime", "")
    text = case.args[0]

    def parse() -> datetime:
        return datetime.fromisoformat(text.decode()).replace(tzinfo=UTC)

    assert parse().microsecond == 123456
    take(benchmark, "rows", case, parse)


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:
    """A connection of MySQLdb to a private server, whichever is on this machine."""
    with ExitStack() as stack:
        for kind in ("mariadb", "mysql"):
            if servers.find(kind):
                server = stack.enter_context(servers.started(kind))
                yield stack.enter_context(MySQLdb.connect(unix_socket=server.config["socket"], user="root"))
                return
        pytest.skip("no MariaDB or MySQL on this machine")


def sqlable(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return values as MySQLdb takes them: ids as bytes, times without zone."""
    changed = []
    for value in values:
        if isinstance(value, uuid.UUID):
            value = value.bytes
        elif isinstance(value, datetime):
            value = value.replace(tzinfo=None)
        changed.append(value)
    return tuple(changed)


@pytest.mark.parametrize("about", ["1000 tasks of 100 bytes", "5 payloads of 100 kB"])
def test_values_by_executemany(benchmark, connection, about):
    case = case_of("params", "build_values", about)
    rows = [sqlable(row) for row in case.args[1]]
    insert = f"INSERT INTO t (a) VALUES ({', '.join(['%s'] * len(rows[0]))})"
    sent: list[bytes] = []

    class Silent(MySQLdb.cursors.Cursor):
        """Makes statements and sends none."""

        max_stmt_length = 1 << 24

        def _query(self, q: bytes) -> int:
            sent.append(q)
            return len(rows)

        def nextset(self) -> None:
            """There is no further result."""

    cursor = Silent(connection)
    cursor.executemany(insert, rows)
    assert len(sent) == 1
    assert len(sent[0]) > sum(len(value) for row in rows for value in row if isinstance(value, bytes))
    take(benchmark, "params", case, lambda: cursor.executemany(insert, rows))
    sent.clear()


def test_a_literal_by_the_driver(benchmark, connection):
    case = case_of("params", "literal", "100 bytes")
    value = case.args[0]
    assert connection.literal(value).endswith(b"'")
    take(benchmark, "params", case, lambda: connection.literal(value))
