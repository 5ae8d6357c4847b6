"""The statements: how they are read, which tables they name, how values are written in."""

from __future__ import annotations

import re
from importlib.resources import files
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers.sql import Raw, Statements, _topic, apply_prefix

TOPICS = sorted(
    path.name.removesuffix(".sql")
    for path in files("celers.sql").iterdir()
    if path.name.endswith(".sql") and "-- name:" in path.read_text("utf-8")
)
KEY = UUID(int=5)


@pytest.mark.spec("ARCH-08")
def test_values_are_literals():
    sql = Statements("celers_")
    assert sql("queues", "find", name="mail") == b"SELECT queue_id FROM celers_queues WHERE name = 'mail'"
    hostile = sql("queues", "find", name="x' OR 1=1 -- ")
    assert b"OR" not in hostile.split(b"=", 1)[1]


@pytest.mark.spec("ARCH-08")
@given(name=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_no_text_leaves_its_literal(name):
    text = Statements("celers_")("queues", "find", name=name)
    value = text.removeprefix(b"SELECT queue_id FROM celers_queues WHERE name = ")
    if value.startswith(b"_utf8mb4 X'"):
        assert bytes.fromhex(value[11:-1].decode()).decode() == name
    else:
        assert value == b"'" + name.encode() + b"'"
        assert b"'" not in value[1:-1]
        assert b"\\" not in value


def test_lists_give_their_members():
    text = Statements("celers_")("settle", "look_ids", ids=[KEY, KEY], queue_id=3)
    assert text.count(b"X'00000000000000000000000000000005'") >= 2


def test_raw_text_goes_in_as_it_is():
    text = Statements("celers_")("queues", "find", name=Raw(b"@x"))
    assert text.endswith(b"name = @x")


def test_a_missing_value_is_a_mistake():
    with pytest.raises(KeyError):
        Statements("celers_")("queues", "find")


@pytest.mark.spec("CONF-03")
@pytest.mark.parametrize("topic", TOPICS)
def test_another_prefix_reaches_every_table(topic):
    ours, theirs = Statements("celers_"), Statements("shop_")
    assert ours.names(topic) == theirs.names(topic)
    assert len(set(ours.names(topic))) == len(ours.names(topic))
    for name in ours.names(topic):
        pieces, values = ours_of(topic, name, "celers_")
        other, other_values = ours_of(topic, name, "shop_")
        assert values == other_values
        text = b"?".join(other)
        assert b"celers_" not in text.replace(b"@celers_", b"")
        assert text.replace(b"shop_", b"celers_") == b"?".join(pieces)


def ours_of(topic, name, prefix):
    from celers.sql import _topic

    return _topic(topic, prefix)[name]


@pytest.mark.parametrize("topic", TOPICS)
def test_a_statement_is_one_statement_without_comments(topic):
    for name in Statements("celers_").names(topic):
        text = b"?".join(ours_of(topic, name, "celers_")[0])
        assert b";" not in text, name
        assert b"--" not in text, name
        assert text == text.strip(), name
        assert b"\n" not in text, name


@pytest.mark.spec("ARCH-10")
@pytest.mark.parametrize("topic", TOPICS)
def test_no_statement_asks_for_local_time(topic):
    for name in Statements("celers_").names(topic):
        text = b"?".join(ours_of(topic, name, "celers_")[0]).upper()
        for word in (b" NOW(", b"CURRENT_TIMESTAMP", b"CURDATE", b"CURTIME", b"SYSDATE", b"LOCALTIME"):
            assert word not in text, name
        assert b"UNIX_TIMESTAMP()" not in text, name


@pytest.mark.spec("ARCH-07")
@pytest.mark.parametrize("topic", TOPICS)
def test_no_statement_uses_what_one_of_the_servers_lacks(topic):
    for name in Statements("celers_").names(topic):
        text = b"?".join(ours_of(topic, name, "celers_")[0]).upper()
        for word in (b"FOR SHARE", b" RETURNING", b"UUID_TO_BIN", b"AS JSON)", b"IF NOT EXISTS"):
            assert word not in text, name


def test_only_tables_take_the_prefix():
    assert (
        apply_prefix("SELECT @celers_now FROM celers_tasks, xcelers_y", "a_")
        == "SELECT @celers_now FROM a_tasks, xcelers_y"
    )


SINGLE_TABLE = re.compile(rb"DELETE FROM|UPDATE \w+( (?!SET)\w+)?( FORCE INDEX \(\w+\))? SET ")

# Single-table forms that may change nothing without an error, and who notices it.
NOTICED = {
    ("consumer", "take_one"): "start_one starts nothing then",
    ("consumer", "start_one"): "lease_one stops the packet",
    ("consumer", "ack_many"): "the caller compares the number and looks closer; what it changed is counted behind it",
    ("limits", "forget_hits"): "the next call deletes them",
    ("migrations", "forget"): "the next run of the migration writes over it",
}


@pytest.mark.spec("CORE-08", "CORE-09")
def test_an_interrupted_change_cannot_pass_unseen():
    """MariaDB answers a single-table UPDATE or DELETE that KILL QUERY met early with OK and no rows."""
    found = set()
    for topic in TOPICS:
        for name, (pieces, _) in _topic(topic, "celers_").items():
            if SINGLE_TABLE.match(pieces[0]):
                found.add((topic, name))
    assert found == NOTICED.keys()
