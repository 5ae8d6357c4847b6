"""What `celers_fast.params` writes is what the server stores, in all forms and SQL modes."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celers_fast.params import Raw, build_values, literal, literals

pytestmark = pytest.mark.spec("ARCH-08", "DATA-08")

STRICT = "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"
MODES = {
    "plain": STRICT,
    "no-backslash": f"{STRICT},NO_BACKSLASH_ESCAPES",
    "ansi": f"{STRICT},ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES",
}
EVERY_BYTE = bytes(range(256))
AWKWARD = "'\"\\`%_;-#/*\x00\n\r\x1a\t\x7f éßЖ漢字😀\u2028\U0010ffff"
fuzzed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.one_of(st.text(st.characters(codec="utf-8"), max_size=120), st.text(alphabet="'\\\x00é", max_size=90))


class Session:
    """A connection with one SQL mode, and the builder's option that goes with it."""

    def __init__(self, server, database: str, mode: str, charset: str = "utf8mb4") -> None:
        self.connection = server.connect(database, charset=charset, sql_mode=MODES[mode])
        self.options = {"max_bytes": 1 << 22, "no_backslash_escapes": "NO_BACKSLASH" in MODES[mode]}

    def run(self, statement: bytes) -> list[tuple]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def form(self, value: object, *, escaped: bool) -> bytes:
        """The literal of a value as it stands in a statement."""
        [(statement, _)] = build_values(b"", [(value,)], escaped=escaped, **self.options)
        return statement[1:-1]

    def store(self, rows: list[tuple], *, escaped: bool, **options: int) -> list[tuple]:
        """Insert (binary, text) rows and return what the table has then."""
        self.run(b"DELETE FROM t")
        for statement, count in build_values(
            b"INSERT INTO t (b, x) VALUES ", rows, escaped=escaped, **{**self.options, **options}
        ):
            with self.connection.cursor() as cursor:
                assert cursor.execute(statement) == count
                assert cursor.execute(b"SHOW WARNINGS") == 0
        return self.run(b"SELECT b, x FROM t ORDER BY n")


@pytest.fixture(scope="module")
def database(server) -> Iterator[str]:
    name = "celers_params_roundtrip"
    with server.fresh_database(name):
        server.rows(
            "CREATE TABLE t (n BIGINT AUTO_INCREMENT PRIMARY KEY, b LONGBLOB,"
            " x LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin)",
            database=name,
        )
        server.rows(
            "CREATE TABLE typed (i BIGINT, u BIGINT UNSIGNED, d DOUBLE, id BINARY(16), at DATETIME(6),"
            " j JSON, flag BOOLEAN, fixed VARBINARY(10))",
            database=name,
        )
        yield name


@pytest.fixture(scope="module", params=list(MODES))
def session(request, server, database) -> Iterator[Session]:
    made = Session(server, database, request.param)
    with contextlib.closing(made.connection):
        yield made


@pytest.fixture(params=[False, True], ids=["hex", "escaped"])
def escaped(request) -> bool:
    return request.param


def test_every_byte_value(session, escaped):
    rows = [(bytes([byte]) * length, None) for byte in EVERY_BYTE for length in (1, 64)]
    rows += [(EVERY_BYTE, None), (EVERY_BYTE * 300, AWKWARD * 50), (b"", ""), (None, None)]
    rows += [(b"\\" * 65, "\\" * 65), (b"'" * 65, "'" * 65), (b"x" * 64 + b"\\", "x" * 64 + "'\\")]
    assert session.store(rows, escaped=escaped) == rows


def test_every_pair_of_awkward_bytes(session, escaped):
    awkward = b"'\\\"\x00\n\r\x1a%_\xbf\xe0\x81\xff`;"
    rows = [(bytes([a, b]) * 40, None) for a in awkward for b in awkward]
    assert session.store(rows, escaped=escaped) == rows


@fuzzed
@given(st.lists(st.tuples(st.binary(max_size=300), texts), min_size=1, max_size=20))
def test_values_survive(session, rows):
    for escaped in (False, True):
        assert session.store(rows, escaped=escaped) == rows
        assert session.store(rows, escaped=escaped, max_bytes=2600) == rows


@fuzzed
@given(st.binary(max_size=200), texts)
def test_the_driver_says_the_same(session, data, text):
    """Its own literals, which know the session's mode, are equal to ours on the server."""
    driver = session.connection
    for escaped in (False, True):
        pairs = [
            (session.form(data, escaped=escaped), driver.literal(data)),
            (session.form(data, escaped=escaped), b"_binary'" + driver.escape_string(data) + b"'"),
            (session.form(text, escaped=escaped), driver.literal(text)),
            (session.form(text, escaped=escaped), b"_utf8mb4'" + driver.escape_string(text.encode()) + b"'"),
        ]
        query = b"SELECT " + b", ".join(b"HEX(%s) = HEX(%s)" % pair for pair in pairs)
        assert session.run(query) == [(1, 1, 1, 1)]


def test_other_types(session):
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=-5, minutes=-30)))
    identity = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    document = {"it's": ["\\", 'a"b', "é😀", None, True, 1.5], "n": {}}
    session.run(b"DELETE FROM typed")
    rows = [
        (-(2**63), 2**64 - 1, 1e-300, identity, at, json.dumps(document), True, b""),
        (2**63 - 1, 0, 0.1, identity.bytes, at, json.dumps(document, ensure_ascii=False), False, bytearray(b"a'")),
        (None, None, math.pi, None, None, '{"a": 1}', None, memoryview(b"\\")),
    ]
    [(statement, _)] = build_values(b"INSERT INTO typed VALUES ", rows, **session.options)
    session.run(statement)
    assert session.run(b"SHOW WARNINGS") == []
    first, second, third = session.run(b"SELECT i, u, d, id, at, j, flag, fixed FROM typed")
    utc = at.astimezone(UTC).replace(tzinfo=None)
    assert first[:5] == (-(2**63), 2**64 - 1, 1e-300, identity.bytes, utc)
    assert second[:5] == (2**63 - 1, 0, 0.1, identity.bytes, utc)
    assert third[:5] == (None, None, math.pi, None, None)
    assert [json.loads(row[5]) for row in (first, second, third)] == [document, document, {"a": 1}]
    assert [row[6:] for row in (first, second, third)] == [(1, b""), (0, b"a'"), (None, b"\\")]


@fuzzed
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_doubles_are_exact(session, values):
    session.run(b"DELETE FROM typed")
    session.run(build_values(b"INSERT INTO typed (d) VALUES ", [(v,) for v in values], **session.options)[0][0])
    stored = [row[0] for row in session.run(b"SELECT d FROM typed")]
    assert stored == values


def test_lists_and_raw_sql(session):
    found = session.run(b"SELECT 3 IN (" + literals([1, 2, 3]) + b"), 'b' IN (" + literals(["a", "é"]) + b")")
    assert found == [(1, 0)]
    now = build_values(b"INSERT INTO typed (at) VALUES ", [(Raw(b"UTC_TIMESTAMP(6)"),)], **session.options)
    session.run(b"DELETE FROM typed")
    session.run(now[0][0])
    assert session.run(b"SELECT at > UTC_TIMESTAMP() - INTERVAL 1 MINUTE FROM typed") == [(1,)]


@pytest.mark.parametrize("charset", ["latin1", "gbk", "sjis", "utf8mb3"])
def test_literals_do_not_depend_on_the_connection(server, database, charset):
    """A connection of the caller may have any character set; only the escaped form needs utf8mb4."""
    made = Session(server, database, "plain", "utf8mb4")
    with contextlib.closing(made.connection):
        made.run(b"SET NAMES " + charset.encode())
        for text in (AWKWARD, "plain", "\u8868\\'", ""):
            row = made.run(b"SELECT HEX(" + literal(text) + b"), HEX(" + literal(text.encode()) + b")")
            assert {str(cell).lower() for cell in row[0]} == {text.encode().hex()}
