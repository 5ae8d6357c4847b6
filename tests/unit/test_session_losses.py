"""What becomes of an operation whose connection is lost: repeated, in doubt, settled."""

# ruff: noqa: PT012, PT017 - an operation is driven to its error, and looks at what it catches

from __future__ import annotations

import time

import pytest

from celers.db import session as session_module
from celers.db.outcome import DriverError, Result
from celers.db.requests import Acquire, Send
from celers.db.session import RECONNECTS
from celers.errors import BrokerConnectionError, BrokerError, PoolTimeoutError
from celers.operation import Packet, Restart
from tests.fixtures.driven import COUNTS_ALIVE, Driven, connection, one, row, threads, two, uptime

pytestmark = pytest.mark.spec("ARCH-04", "ARCH-05", "ARCH-12")


# Lost before it was sent


@pytest.mark.parametrize("kind", ["transaction", "read", "plain"])
def test_a_packet_that_never_left_is_sent_on_another_connection(kind):
    driven = Driven(one(b"A", commit=True), kind)
    dead = connection()
    driven.connect(dead)
    first = driven.request.text
    driven.lose(2006, -1)
    assert driven.request.connection is dead
    driven.discarded()
    driven.connect(connection(11))
    driven.expect(first)
    driven.returns()


def test_a_later_packet_that_never_left_starts_anew():
    driven = Driven(two())
    driven.connect()
    driven.results()
    driven.lose(2006, -1)
    driven.discarded()
    driven.connect(connection(11))
    driven.expect(b"START TRANSACTION;SELECT 1").results()
    driven.expect(b"UPDATE t;COMMIT")
    assert driven.returns() == "done"


def test_losses_without_end_reach_the_operation():
    driven = Driven(one(b"A", commit=True))
    losses = 0
    with pytest.raises(BrokerConnectionError) as raised:
        while True:
            if isinstance(driven.request, Acquire):
                driven.connect()
            elif isinstance(driven.request, Send):
                losses += 1
                driven.lose(2006, -1)
            else:
                driven.answer()
    assert losses == RECONNECTS + 1
    assert raised.value.retryable
    assert not raised.value.outcome_unknown
    assert driven.session.connection is None


def test_no_connection_is_told_to_the_operation_which_may_keep_what_it_has():
    def steps():
        kept = (yield Packet(b"CLAIM", commit=True))[0]
        try:
            yield Packet(b"MORE", commit=True)
        except PoolTimeoutError:
            return kept

    driven = Driven(steps)
    driven.connect()
    driven.results(Result((), 0, 0), row(b"mine"))
    driven.lose(2006, -1)
    driven.discarded()
    with pytest.raises(StopIteration) as stop:
        driven.fail(PoolTimeoutError())
    assert stop.value.value == row(b"mine")


def test_no_connection_for_the_first_packet_is_the_callers_error():
    driven = Driven(one(b"A"))
    with pytest.raises(BrokerConnectionError, match="away"):
        driven.fail(BrokerConnectionError("away", errno=2002))


# Lost before anything could be committed


def test_a_lost_look_is_repeated_after_its_locks_are_gone():
    driven = Driven(two())
    driven.connect(connection(10))
    driven.lose()
    driven.discarded()
    driven.connect(connection(12))
    # The old session is asked for, killed, and waited for.
    driven.expect(COUNTS_ALIVE).answer(uptime(1000))
    driven.expect(b"SHOW PROCESSLIST").answer(threads(10, 12))
    driven.expect(b"KILL 10").results()
    driven.slept()
    driven.expect(COUNTS_ALIVE).answer(uptime(1000))
    driven.expect(b"SHOW PROCESSLIST").answer(threads(12))
    driven.expect(b"START TRANSACTION;SELECT 1").results()
    driven.expect(b"UPDATE t;COMMIT")
    assert driven.returns() == "done"


@pytest.mark.parametrize("errno", [1053, 1927, 3169, 4031])
def test_a_server_that_says_so_has_not_run_the_statement(errno):
    driven = Driven(one(b"A", commit=True))
    driven.connect()
    driven.lose(errno, 1)
    driven.discarded()
    driven.connect()
    driven.expect(b"START TRANSACTION;A;COMMIT")
    driven.returns()


def test_a_lost_read_is_repeated():
    driven = Driven(one(b"SELECT 1"), "read")
    driven.connect()
    driven.lose()
    driven.discarded()
    driven.connect()
    driven.expect(b"SELECT 1")
    driven.returns()


def test_a_lost_end_of_a_transaction_that_only_read_is_no_loss():
    def steps():
        return (yield Packet(b"SELECT 1"))

    driven = Driven(steps)
    driven.connect()
    driven.results(Result((), 0, 0), row(b"1"))
    driven.expect(b"COMMIT").lose()
    with pytest.raises(StopIteration) as stop:
        driven.discarded()
    assert stop.value.value == [row(b"1")]


# Lost while a commit was under way


def settle(driven, *, old=10, new=12):
    """The old session is gone already."""
    driven.discarded()
    driven.connect(connection(new))
    driven.expect(COUNTS_ALIVE).answer(uptime(1000))
    assert driven.request.text == b"SHOW PROCESSLIST"
    return driven.answer(threads(new))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_commit_in_doubt_is_thrown_into_the_operation_once_the_session_is_dead(index):
    def steps():
        try:
            yield Packet(b"INSERT", commit=True)
        except BrokerConnectionError as error:
            assert error.outcome_unknown
            found = yield Packet(b"SELECT stored")
            return found[0].rows[0][0]

    driven = Driven(steps)
    driven.connect(connection(10))
    driven.lose(2013, index)
    settle(driven)
    driven.expect(b"START TRANSACTION;SELECT stored").results(Result((), 0, 0), row(b"yes"))
    driven.expect(b"COMMIT")
    assert driven.returns() == b"yes"


def test_an_interrupted_commit_is_in_doubt_too():
    driven = Driven(one(b"A", commit=True))
    driven.connect(connection(10))
    driven.fail(DriverError(1317, "interrupted", 2))
    with pytest.raises(BrokerConnectionError) as raised:
        settle(driven)
    assert raised.value.outcome_unknown


def test_an_interrupted_statement_is_not():
    driven = Driven(one(b"A", commit=True))
    driven.connect(connection(10))
    driven.fail(DriverError(1317, "interrupted", 1))
    driven.expect(b"ROLLBACK")
    with pytest.raises(BrokerError) as raised:
        driven.results()
    assert raised.value.errno == 1317
    assert not raised.value.outcome_unknown


def test_an_operation_that_cannot_look_passes_the_doubt_on():
    driven = Driven(one(b"A", commit=True))
    driven.connect(connection(10))
    driven.lose(2013, 2)
    with pytest.raises(BrokerConnectionError) as raised:
        settle(driven)
    assert raised.value.outcome_unknown
    assert raised.value.retryable


def test_an_operation_that_may_be_repeated_is():
    driven = Driven(one(b"A", commit=True), repeat_unknown=True)
    driven.connect(connection(10))
    driven.lose(2013, 2)
    settle(driven)
    driven.expect(b"START TRANSACTION;A;COMMIT")
    driven.returns()


def test_a_packet_that_may_be_repeated_is_sent_again_without_a_word():
    driven = Driven(one(b"A", commit=True, repeat=True))
    driven.connect(connection(10))
    driven.lose(2013, 2)
    driven.discarded()
    driven.connect(connection(12))
    if driven.request.text == COUNTS_ALIVE:
        driven.answer(uptime(1000))
        driven.answer(threads(12))
    driven.expect(b"START TRANSACTION;A;COMMIT")
    driven.returns()


@pytest.mark.parametrize(("errno", "index"), [(2013, 0), (1927, 1)])
def test_a_plain_packet_may_have_changed_something(errno, index):
    driven = Driven(one(b"A", b"B"), "plain")
    driven.connect(connection(10))
    driven.lose(errno, index)
    with pytest.raises(BrokerConnectionError) as raised:
        settle(driven)
    assert raised.value.outcome_unknown


@pytest.mark.parametrize("repeat", [False, True])
def test_the_last_commit_of_a_change_is_in_doubt(repeat):
    def steps():
        yield Packet(b"UPDATE t")

    driven = Driven(steps, repeat_unknown=repeat)
    driven.connect(connection(10))
    driven.results()
    driven.expect(b"COMMIT").lose()
    if repeat:
        settle(driven)
        driven.expect(b"START TRANSACTION;UPDATE t").results()
        driven.expect(b"COMMIT")
        driven.returns()
    else:
        with pytest.raises(BrokerConnectionError) as raised:
            settle(driven)
        assert raised.value.outcome_unknown


def test_the_operation_may_begin_again_from_a_doubt():
    rounds = []

    def steps():
        rounds.append(1)
        try:
            yield Packet(b"A", commit=True)
        except BrokerConnectionError:
            yield Packet(b"SELECT stored")
            raise Restart from None

    driven = Driven(steps)
    driven.connect(connection(10))
    driven.lose(2013, 2)
    settle(driven)
    driven.expect(b"START TRANSACTION;SELECT stored").results()
    driven.expect(b"ROLLBACK").results()
    driven.slept()
    driven.expect(b"START TRANSACTION;A;COMMIT")
    driven.returns()
    assert len(rounds) == 2


# How a lost session is settled


def lost_commit(made=None):
    driven = Driven(one(b"A", commit=True), repeat_unknown=True)
    driven.connect(made or connection(10))
    driven.lose(2013, 2)
    driven.discarded()
    return driven


def test_a_younger_connection_with_a_lower_number_means_a_new_server():
    driven = lost_commit(connection(500, age=5))
    driven.connect(connection(7))
    driven.expect(b"START TRANSACTION;A;COMMIT")


def test_a_server_that_is_younger_than_the_lost_connection_has_forgotten_it():
    driven = lost_commit(connection(10, age=100))
    driven.connect(connection(12))
    driven.expect(COUNTS_ALIVE).answer(uptime(5))
    driven.expect(b"START TRANSACTION;A;COMMIT")


def test_another_server_under_the_same_address_cannot_be_asked():
    driven = lost_commit()
    with pytest.raises(BrokerConnectionError) as raised:
        driven.connect(connection(12, identity=("other", "3306", "2", "")))
    assert raised.value.outcome_unknown


def test_settling_goes_on_over_further_losses():
    driven = lost_commit()
    driven.fail(BrokerConnectionError("away", errno=2002))
    driven.slept()
    driven.connect(connection(12))
    driven.lose(2013, 0)
    driven.discarded()
    driven.slept()
    driven.connect(connection(13))
    driven.expect(COUNTS_ALIVE).answer(uptime(1000))
    driven.answer(threads(10, 13))
    driven.expect(b"KILL 10").fail(DriverError(1094, "no such thread", 0))
    driven.slept()
    driven.expect(COUNTS_ALIVE).answer(uptime(1000))
    driven.answer(threads(13))
    driven.expect(b"START TRANSACTION;A;COMMIT")


def test_a_server_that_stays_away_leaves_the_outcome_unknown(monkeypatch):
    monkeypatch.setattr(session_module, "SETTLE_SECS", 0.05)
    seen = []

    def steps():
        kept = (yield Packet(b"CLAIM", commit=True))[0]
        try:
            yield Packet(b"MORE", commit=True)
        except BrokerConnectionError as error:
            seen.append((kept, error.outcome_unknown))
            raise

    driven = Driven(steps)
    driven.connect()
    driven.results(Result((), 0, 0), row(b"mine"))
    driven.lose(2013, 2)
    driven.discarded()
    with pytest.raises(BrokerConnectionError) as raised:
        while True:
            if isinstance(driven.request, Acquire):
                driven.fail(BrokerConnectionError("away", errno=2002))
            else:
                time.sleep(driven.request.secs)
                driven.answer()
    assert raised.value.outcome_unknown
    # The operation is not asked to look at a server that is away.
    assert seen == [(row(b"mine"), False)]


def test_a_full_pool_while_settling_leaves_the_outcome_unknown():
    driven = lost_commit()
    with pytest.raises(BrokerConnectionError) as raised:
        driven.fail(PoolTimeoutError())
    assert raised.value.outcome_unknown
