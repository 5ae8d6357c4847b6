"""Queries of callers that are explained: what is let through (spec 08, DBMON-11)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers.errors import ValidationError
from celers.sql.query import ACTING_FUNCTIONS, select_text

GOOD = [
    ("SELECT 1", b"SELECT 1"),
    ("  select 1 ;  ", b"select 1"),
    ("SELECT 1; -- the end", b"SELECT 1"),
    ("/* why */ SELECT /* one */ 1 # end", b"SELECT   1"),
    ("SELECT 1 -- one\n + 1", b"SELECT 1  \n + 1"),
    ("SELECT ';', \"INTO\", `into` FROM `for update`", None),
    ("SELECT 'a''b\\'; DROP TABLE t -- ' FROM t", None),
    ("SELECT '/*! x */', '#', '-- x'", None),
    ("SELECT/**/a FROM t", b"SELECT a FROM t"),
    ("(SELECT 1) UNION (SELECT 2)", None),
    ("WITH a AS (SELECT 1) SELECT * FROM a", None),
    (
        "with recursive a (n) as (select 1 union select n + 1 from a where n < 3), b as (select 1) select * from a, b",
        None,
    ),
    ("SELECT sleep FROM t", None),
    ("SELECT t.lock_name, intox FROM t WHERE updated = 1 FORCE", None),
    ("SELECT SUBSTRING(a FROM 1 FOR 2) FROM t USE INDEX FOR JOIN (x)", None),
    ("SELECT REPLACE(a, 'x', 'y'), INSERT(a, 1, 1, '') FROM t", None),
    ("SELECT 1e5, 1.5, .5, 0x41, 1e-5, 5a FROM t", None),
]
BAD = [
    *("SELECT --;", "SELECT 1 --/**/1", "SELECT 1 --/* */"),
    *("", ";", "  ", "-- SELECT 1", "/* SELECT 1 */", "(", "("),
    *("SELECT 1; SELECT 2", "SELECT 1;;", "SELECT 1; DROP TABLE t", "SELECT 1;\nDELETE FROM t", ";SELECT 1"),
    *(
        "INSERT INTO t SELECT 1",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "REPLACE INTO t SELECT 1",
        "TABLE t",
        "VALUES (1)",
    ),
    *(
        "ANALYZE SELECT 1",
        "EXPLAIN SELECT 1",
        "FORMAT=JSON SELECT 1",
        "EXTENDED SELECT 1",
        "FOR CONNECTION 5",
        "CALL p()",
    ),
    *("SET @a = 1", "DO SLEEP(1)", "SHOW TABLES", "HANDLER t OPEN", "LOAD DATA INFILE 'x' INTO TABLE t", "'SELECT 1'"),
    *("WITH a AS (SELECT 1) DELETE FROM t", "WITH a AS (SELECT 1) UPDATE t SET a = 1", "WITH a AS (SELECT 1)", "WITH"),
    *(
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "SELECT 1 INTO DUMPFILE 'x'",
        "SELECT 1 INTO @a",
        "SELECT 1 in/**/to @a, INTO @b",
    ),
    *("SELECT 1e1INTO OUTFILE 'x'", "SELECT .5INTO @a", "SELECT 1.5into @a", "SELECT 1.INTO @a", "SELECT \\NINTO @a"),
    *(
        "SELECT 1e+1INTO @a",
        "SELECT 'a'INTO @a",
        "SELECT `a`INTO @a FROM t",
        "SELECT 0x41 INTO @a",
        "SELECT @aINTO, 1 INTO @a",
    ),
    *("SELECT 1 FROM t FOR UPDATE", "SELECT 1 FROM t FOR/**/SHARE", "SELECT 1 FROM t LOCK IN SHARE MODE"),
    *("SELECT 1 FROM t for\n update skip locked", "SELECT * FROM (SELECT 1 FROM t FOR UPDATE) x"),
    *("SELECT 1 /*! INTO @a */", "SELECT 1 /*!50000 INTO @a */", "SELECT 1 /*M! INTO @a */", "/*!SELECT*/ 1"),
    *("SELECT 1 /*M!100100 ; DROP TABLE t */", "SELECT 1 PROCEDURE ANALYSE()", "SELECT NEXT VALUE FOR s"),
    *(
        "SELECT 'a",
        'SELECT "a',
        "SELECT `a",
        "SELECT 1 /* a",
        "SELECT 'a\\'",
        "SELECT 1\0",
        "SELECT '\0'",
        "SELECT '\ud800'",
    ),
    *("SELECT `sleep`(5)", "SELECT 1e1sleep(5)", "SELECT \\g", "SELECT 1 \\G"),
    *(f"SELECT * FROM (SELECT {name.lower()} (5)) x" for name in ACTING_FUNCTIONS),
]


@pytest.mark.spec("DBMON-11", "DEF-48")
@pytest.mark.parametrize(("query", "text"), GOOD, ids=lambda value: repr(value)[:40])
def test_a_single_select_is_let_through(query, text):
    found = select_text(query)
    assert found == (query.encode() if text is None else text)


@pytest.mark.spec("DBMON-11", "DEF-48", "DATA-10")
@pytest.mark.parametrize("query", BAD, ids=lambda value: ascii(value)[:40])
def test_anything_else_is_refused(query):
    with pytest.raises(ValidationError) as caught:
        select_text(query)
    assert caught.value.parameter == "query"


@pytest.mark.spec("DBMON-11")
@pytest.mark.parametrize("query", [None, 1, b"SELECT 1", ["SELECT 1"]])
def test_a_query_is_text(query):
    with pytest.raises(ValidationError, match="query must be text"):
        select_text(query)


PIECES = st.sampled_from(
    [
        *("SELECT", "select", "WITH", "a", "AS", "(", ")", "1", ",", "FROM", "t", "*", " ", "\n", ";", "INTO", "into"),
        *(
            "'",
            '"',
            "`",
            "\\",
            "''",
            "\\'",
            "/*",
            "*/",
            "/*!",
            "/*M!",
            "/*!50000",
            "/**/",
            "--",
            "-- ",
            "#",
            "\0",
            "@a",
        ),
        *(
            "OUTFILE",
            "FOR",
            "UPDATE",
            "SHARE",
            "LOCK",
            "DELETE",
            "SLEEP",
            "1e1",
            ".5",
            "\\N",
            "UNION",
            "=",
            "é",
            "\u00a0",
        ),
    ]
)
HOSTILE = st.one_of(st.lists(PIECES, max_size=25).map("".join), st.lists(PIECES, max_size=15).map(" ".join), st.text())


@pytest.mark.spec("DBMON-11", "ARCH-08", "DEF-43")
@given(start=st.sampled_from(["", "SELECT ", "SELECT 1 ", "WITH a AS (SELECT 1) "]), rest=HOSTILE)
def test_hostile_text_is_refused_or_stays_one_select(start, rest):
    """What is let through has no comment, no separator and no INTO outside of quotes, and is let through again."""
    try:
        text = select_text(start + rest)
    except ValidationError:
        return
    assert select_text(text.decode()) == text
    assert b"\0" not in text
    outside = unquoted(text.decode())
    for bad in (";", "/*", "#", "\\"):
        assert bad not in outside
    assert not {"INTO", "LOCK", "PROCEDURE"} & set(outside.upper().replace("(", " ").replace(",", " ").split())


def unquoted(text: str) -> str:
    """The text without what stands in quotes, by another way than the one under test."""
    found, quote, at = [], "", 0
    while at < len(text):
        character = text[at]
        if quote:
            if character == "\\" and quote != "`":
                at += 1
            elif character == quote:
                quote = ""
        elif character in "'\"`":
            quote = character
        else:
            found.append(character)
        at += 1
    assert not quote
    return "".join(found)
