"""The splitter of SQL files (spec MIG-03)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers.errors import ValidationError
from celers.sql.splitter import Kind, split, tokens, with_prefix

pytestmark = pytest.mark.spec("MIG-03")


def texts(sql: str) -> list[str]:
    return [statement.text for statement in split(sql)]


def test_statements_end_at_semicolons() -> None:
    assert texts("SELECT 1; SELECT 2;\nSELECT 3") == ["SELECT 1", "SELECT 2", "SELECT 3"]


def test_empty_statements_are_left_out() -> None:
    assert texts("") == texts(" ;; -- nothing\n ; /* nothing */") == []


@pytest.mark.parametrize("comment", ["-- a; 'b\n", "# a; `b\n", "/* a; 'b\n */", "--\n", "--\t;\n"])
def test_a_comment_before_a_statement_leaves_the_statement(comment: str) -> None:
    assert texts(f"{comment}SELECT 1;{comment}SELECT 2{comment}") == ["SELECT 1", "SELECT 2"]


def test_a_comment_inside_a_statement_stays() -> None:
    sql = "CREATE TABLE t (\n  a INT, -- it's; odd\n  b INT # \"; `\n) /* ; */ ENGINE=InnoDB"
    assert texts(sql + ";") == [sql]


def test_two_minus_signs_without_space_are_no_comment() -> None:
    assert texts("SELECT 5--1; SELECT 2") == ["SELECT 5--1", "SELECT 2"]
    assert texts("SELECT 1 --") == ["SELECT 1"]


@pytest.mark.parametrize(
    "quoted",
    ["'a;b'", "'it''s;'", r"'it\'s;'", r"'\\'", '"a;b"', '"say ""x"";"', r'"\";"', "`a;b`", "`a``;`", r"`\`"],
)
def test_quoted_text_and_names_hide_delimiters(quoted: str) -> None:
    assert texts(f"SELECT {quoted};SELECT 2") == [f"SELECT {quoted}", "SELECT 2"]


@pytest.mark.parametrize(
    "sql", ["/*!40101 SET NAMES utf8 */", "/*M!100601 SELECT 1; */", "SELECT /*! STRAIGHT_JOIN ';*/' */ 1"]
)
def test_executable_comments_are_kept(sql: str) -> None:
    assert texts(f"-- first\n{sql};SELECT 2") == [sql, "SELECT 2"]


def test_delimiter_is_for_the_client_only() -> None:
    sql = """
DELIMITER $$
CREATE PROCEDURE p()
BEGIN
    -- one; two $
    SELECT 'a;b';
    SELECT 2;
END$$
delimiter ;
SELECT 3;
DELIMITER // the rest of the line is ignored
SELECT 4; SELECT 5 //
"""
    body = sql[sql.index("CREATE") : sql.index("END$$") + 3]
    assert texts(sql) == [body, "SELECT 3", "SELECT 4; SELECT 5"]


def test_delimiter_inside_a_statement_is_a_word() -> None:
    assert texts("SELECT\nDELIMITER $$;") == ["SELECT\nDELIMITER $$"]


def test_statements_know_their_number_and_line() -> None:
    found = split("\ufeff-- head\n\nSELECT 1;\r\n/* two\nlines */ SELECT\n2; SELECT 3;")
    assert [(s.text, s.number, s.line) for s in found] == [
        ("SELECT 1", 1, 3),
        ("SELECT\n2", 2, 5),
        ("SELECT 3", 3, 6),
    ]


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("SELECT 1;\nSELECT 'a", "line 2: quoted text"),
        ('SELECT "a', "quoted text"),
        (r"SELECT 'a\'", "quoted text"),
        ("SELECT `a", "quoted identifier"),
        ("SELECT /* a", "comment"),
        ("/*! SELECT 1", "comment"),
        ("\nDELIMITER\nSELECT 1", "line 2: DELIMITER"),
    ],
)
def test_unfinished_text_is_refused(sql: str, what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        split(sql)


PIECES = st.sampled_from(
    [
        "SELECT", "1", " ", "\n", "a", "celers_x", "'a;b'", "'it''s'", r"'\''", '"x;"', "`n;`", "-- c;'\n",
        "# d;`\n", "/* e; */", "/*! f; */", "(", ")", ",", "+", "-", "/", "*", "@v", "$", "ä", "\u00a0",
    ]
)  # fmt: skip


def plain(pieces: list[str]) -> str:
    """Join with spaces, so that no two pieces make a new token."""
    return " ".join(pieces)


@given(st.lists(PIECES))
def test_tokens_are_the_text(pieces: list[str]) -> None:
    text = plain(pieces)
    found = list(tokens(text))
    assert "".join(token.text for token in found) == text
    assert all(text.startswith(token.text, token.start) for token in found)


@given(st.text())
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        found = split(text)
    except ValidationError:
        return
    for statement in found:
        assert statement.text in text
        assert statement.text


@given(st.lists(st.lists(PIECES, min_size=1)))
def test_joined_statements_split_again(statements: list[list[str]]) -> None:
    expected = []
    for pieces in statements:
        kept = [token for token in tokens(plain(pieces)) if token.kind not in (Kind.SPACE, Kind.COMMENT)]
        if kept:
            last = kept[-1]
            expected.append(plain(pieces)[kept[0].start : last.start + len(last.text)])
    assert texts(";".join(plain(pieces) + "\n" for pieces in statements)) == expected


@given(st.lists(st.lists(PIECES, min_size=1)), st.sampled_from(["$$", "//", "go!", ";;"]))
def test_another_delimiter_gives_the_same_statements(statements: list[list[str]], delimiter: str) -> None:
    parts = [plain(pieces) + "\n" for pieces in statements]
    changed = "".join(f"{part} {delimiter} " for part in parts)
    assert texts(f"DELIMITER {delimiter}\n{changed}") == texts(";".join(parts))


@pytest.mark.spec("CONF-03")
def test_prefix_replaces_names_only() -> None:
    sql = "SELECT 'celers_tasks', @celers_v -- celers_tasks\nFROM `celers_x`.celers_y my_celers_z"
    changed = "SELECT 'celers_tasks', @celers_v -- celers_tasks\nFROM `q7_x`.q7_y my_celers_z"
    assert with_prefix(sql, "q7_") == changed
    assert with_prefix(sql, "celers_") == sql


@pytest.mark.spec("CONF-03", "DLQ-01")
def test_prefix_of_the_procedure_without_one() -> None:
    assert with_prefix("CALL move_to_dlq('x')", "q7_") == "CALL q7_move_to_dlq('x')"
    assert with_prefix("CALL `move_to_dlq`('x')", "q7_") == "CALL `q7_move_to_dlq`('x')"
    assert with_prefix("CALL move_to_dlq('x')", "celers_") == "CALL move_to_dlq('x')"
