"""How one operation is carried out: `drive` stepped by hand, with scripted answers instead of a server."""

# ruff: noqa: PT012, PT017 - an operation is driven to its error, and looks at what it catches

from __future__ import annotations

import gc
import time
from types import SimpleNamespace

import pytest

from celers.components.parts import one_part
from celers.db import session as session_module
from celers.db.outcome import DriverError, Result
from celers.db.requests import Acquire, Discard, Send, Session, Sleep
from celers.db.session import ATTEMPTS, RECONNECTS, RESTARTS, backoff, drive
from celers.errors import (
    BrokerConnectionError,
    BrokerError,
    ConfigurationError,
    DuplicateTaskError,
    PoolTimeoutError,
)
from celers.operation import Packet, Restart

pytestmark = pytest.mark.spec("ARCH-04", "ARCH-05", "ARCH-12")

HOME = ("host", "3306", "1", "/socket")
DEADLOCK = (1213, "deadlock")
COUNTS_ALIVE = b"SHOW GLOBAL STATUS LIKE 'Uptime'"


def row(*values):
    return Result((values,), 1, 0)


def uptime(secs):
    return [row(b"Uptime", b"%d" % secs)]


def threads(*numbers):
    return [Result(tuple((b"%d" % number,) for number in numbers), len(numbers), 0)]


def connection(thread_id=10, *, age=0.0, identity=HOME):
    return SimpleNamespace(
        thread_id=thread_id, created_at=time.monotonic() - age, server=SimpleNamespace(identity=identity)
    )


class Driven:
    """One operation under way: shows each request, and takes the answer to it."""

    def __init__(self, make, kind="transaction", **options):
        self.session = Session()
        self.run = drive(make, kind, self.session, **options)
        self.request = next(self.run)

    def answer(self, value=None):
        self.request = self.run.send(value)
        return self.request

    def fail(self, error):
        self.request = self.run.throw(error)
        return self.request

    def lose(self, errno=2013, index=0):
        return self.fail(DriverError(errno, "lost", index))

    def connect(self, made=None):
        assert isinstance(self.request, Acquire)
        return self.answer(made or connection())

    def expect(self, text):
        assert isinstance(self.request, Send), self.request
        assert self.request.text == text
        assert self.request.count == text.count(b";") + 1
        return self

    def results(self, *results):
        """Answer the packet: one result for each of its statements."""
        found = list(results) + [Result((), 0, 0)] * (self.request.count - len(results))
        return self.answer(found)

    def slept(self):
        assert isinstance(self.request, Sleep)
        return self.answer()

    def discarded(self):
        assert isinstance(self.request, Discard)
        return self.answer()

    def returns(self, *results):
        """Answer the last packet and return what the operation returns."""
        with pytest.raises(StopIteration) as stop:
            self.results(*results)
        return stop.value.value


def one(*statements, **options):
    """An operation of one packet."""

    def steps():
        return (yield Packet(*statements, **options))

    return steps


def two(seen=None):
    """An operation of a look and a change that commits."""

    def steps():
        found = yield Packet(b"SELECT 1")
        if seen is not None:
            seen.append(found)
        yield Packet(b"UPDATE t", commit=True)
        return "done"

    return steps


# Frames


def test_a_packet_that_commits_travels_with_its_transaction():
    driven = Driven(one(b"A", b"B", commit=True))
    driven.connect()
    driven.expect(b"START TRANSACTION;A;B;COMMIT")
    assert driven.returns(Result((), 0, 0), row(b"a"), row(b"b")) == [row(b"a"), row(b"b")]
    assert not driven.session.in_transaction


def test_later_packets_join_the_transaction_and_a_bare_end_commits():
    def steps():
        first = yield Packet(b"A")
        second = yield Packet(b"B")
        return first, second

    driven = Driven(steps)
    driven.connect()
    driven.expect(b"START TRANSACTION;A").results(Result((), 0, 0), row(b"1"))
    driven.expect(b"B").results(row(b"2"))
    assert driven.session.in_transaction
    driven.expect(b"COMMIT")
    assert driven.returns() == ([row(b"1")], [row(b"2")])


@pytest.mark.parametrize("kind", ["read", "plain"])
def test_reads_and_plain_packets_go_without_a_frame(kind):
    driven = Driven(one(b"A", b"B", commit=True), kind)
    driven.connect()
    driven.expect(b"A;B")
    assert driven.returns(row(b"a"), row(b"b")) == [row(b"a"), row(b"b")]


def test_an_operation_without_a_packet_needs_no_connection():
    def steps():
        return 7
        yield

    with pytest.raises(StopIteration) as stop:
        Driven(steps)
    assert stop.value.value == 7


# Deadlocks and lock waits


@pytest.mark.spec("ARCH-05")
@pytest.mark.parametrize("errno", [1020, 1205, 1213, 3101])
def test_a_deadlock_of_a_self_contained_packet_sends_it_again(errno):
    driven = Driven(one(b"A", commit=True))
    driven.connect()
    driven.fail(DriverError(errno, "busy", 1))
    driven.expect(b"ROLLBACK").results()
    driven.slept()
    driven.expect(b"START TRANSACTION;A;COMMIT")
    driven.returns()


def test_a_deadlock_in_an_opened_transaction_starts_the_operation_anew():
    seen = []
    driven = Driven(two(seen))
    driven.connect()
    driven.results(Result((), 0, 0), row(b"old"))
    driven.expect(b"UPDATE t;COMMIT").fail(DriverError(*DEADLOCK, 0))
    driven.expect(b"ROLLBACK").results()
    driven.slept()
    driven.expect(b"START TRANSACTION;SELECT 1").results(Result((), 0, 0), row(b"new"))
    driven.expect(b"UPDATE t;COMMIT")
    assert driven.returns() == "done"
    assert seen == [[row(b"old")], [row(b"new")]]


def test_an_operation_that_holds_something_may_catch_the_restart():
    def steps():
        kept = (yield Packet(b"CLAIM", commit=True))[0]
        try:
            yield Packet(b"LOOK")
            yield Packet(b"BURY", commit=True)
        except Restart:
            pass
        return kept

    driven = Driven(steps)
    driven.connect()
    driven.results(Result((), 0, 0), row(b"mine"))
    driven.results()
    driven.expect(b"BURY;COMMIT").fail(DriverError(*DEADLOCK, 0))
    driven.results()
    with pytest.raises(StopIteration) as stop:
        driven.slept()
    assert stop.value.value == row(b"mine")


def test_five_deadlocks_reach_the_operation_as_a_retryable_error():
    caught = []

    def steps():
        try:
            yield Packet(b"A", commit=True)
        except BrokerError as error:
            caught.append(error)
            raise

    driven = Driven(steps)
    driven.connect()
    pauses = []
    with pytest.raises(BrokerError) as raised:
        for _ in range(ATTEMPTS):
            driven.expect(b"START TRANSACTION;A;COMMIT").fail(DriverError(*DEADLOCK, 1))
            driven.expect(b"ROLLBACK").results()
            pauses.append(driven.request.secs)
            driven.slept()
    assert raised.value is caught[0]
    assert raised.value.retryable
    assert raised.value.errno == 1213
    assert isinstance(raised.value.__cause__, DriverError)
    assert len(pauses) == ATTEMPTS - 1
    assert driven.session.connection is not None


def test_the_pauses_double_with_full_jitter():
    for attempt in range(5):
        found = [backoff(attempt) for _ in range(200)]
        assert min(found) >= 0
        assert max(found) <= 0.010 * 2**attempt
        assert max(found) > 0.010 * 2**attempt * 0.5


def test_a_deadlock_of_the_last_commit_starts_anew():
    def steps():
        return (yield Packet(b"UPDATE t"))

    driven = Driven(steps)
    driven.connect()
    driven.results()
    driven.expect(b"COMMIT").fail(DriverError(*DEADLOCK, 0))
    driven.expect(b"ROLLBACK").results()
    driven.slept()
    driven.expect(b"START TRANSACTION;UPDATE t").results()
    driven.expect(b"COMMIT")
    driven.returns()


# Restarts that the operation wants


def test_rows_that_moved_begin_the_operation_again():
    rounds = []

    def steps():
        yield Packet(b"LOOK")
        rounds.append(1)
        if len(rounds) < 3:
            raise Restart
        return len(rounds)

    driven = Driven(steps)
    driven.connect()
    for _ in range(2):
        driven.expect(b"START TRANSACTION;LOOK").results()
        driven.expect(b"ROLLBACK").results()
        driven.slept()
    driven.results()
    driven.expect(b"COMMIT")
    assert driven.returns() == 3


def test_rows_that_never_rest_end_in_a_retryable_error():
    def steps():
        yield Packet(b"LOOK")
        raise Restart

    driven = Driven(steps)
    driven.connect()
    with pytest.raises(BrokerError, match="kept changing") as raised:
        while True:
            driven.answer([Result((), 0, 0)] * getattr(driven.request, "count", 0))
    assert raised.value.retryable


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


# Errors with a meaning


def test_an_error_is_mapped_by_its_statement_and_number():
    driven = Driven(one(b"GUARD", b"INSERT", commit=True, errors={(1, 1062): DuplicateTaskError}))
    driven.connect()
    driven.fail(DriverError(1062, "duplicate", 2))
    driven.expect(b"ROLLBACK")
    with pytest.raises(DuplicateTaskError) as raised:
        driven.results()
    assert raised.value.__cause__.errno == 1062


def test_the_same_number_of_another_statement_means_something_else():
    driven = Driven(one(b"GUARD", b"INSERT", commit=True, errors={(1, 1062): DuplicateTaskError}))
    driven.connect()
    driven.fail(DriverError(1062, "duplicate", 1))
    with pytest.raises(BrokerError) as raised:
        driven.results()
    assert raised.value.errno == 1062


def test_in_an_opened_transaction_the_indexes_count_from_the_packet():
    def steps():
        yield Packet(b"A")
        yield Packet(b"INSERT", errors={(0, 1062): DuplicateTaskError})

    driven = Driven(steps)
    driven.connect()
    driven.results()
    driven.fail(DriverError(1062, "duplicate", 0))
    with pytest.raises(DuplicateTaskError):
        driven.results()


@pytest.mark.parametrize("errno", [1146, 1054])
def test_a_schema_that_does_not_fit_says_what_to_do(errno):
    driven = Driven(one(b"A"), "read")
    driven.connect()
    with pytest.raises(ConfigurationError, match="celers migrate"):
        driven.fail(DriverError(errno, "no such thing", 0))


def test_an_operation_may_go_on_after_an_error():
    def steps():
        try:
            yield Packet(b"A", commit=True, errors={(0, 1690): DuplicateTaskError})
        except DuplicateTaskError:
            return (yield Packet(b"B", commit=True))[0]

    driven = Driven(steps)
    driven.connect()
    driven.fail(DriverError(1690, "out of range", 1))
    driven.expect(b"ROLLBACK").results()
    driven.expect(b"START TRANSACTION;B;COMMIT")
    assert driven.returns(Result((), 0, 0), row(b"b")) == row(b"b")


def test_a_commit_that_fails_is_rolled_back():
    def steps():
        yield Packet(b"UPDATE t")

    driven = Driven(steps)
    driven.connect()
    driven.results()
    driven.expect(b"COMMIT").fail(DriverError(1030, "disk full", 0))
    driven.expect(b"ROLLBACK")
    with pytest.raises(BrokerError) as raised:
        driven.results()
    assert raised.value.errno == 1030


def test_a_connection_that_cannot_roll_back_is_closed():
    driven = Driven(one(b"A", commit=True))
    driven.connect()
    driven.fail(DriverError(1064, "syntax", 1))
    driven.expect(b"ROLLBACK").lose(2013, 0)
    with pytest.raises(BrokerError) as raised:
        driven.discarded()
    assert raised.value.errno == 1064
    assert driven.session.connection is None


def test_an_error_of_the_operation_itself_rolls_back():
    def steps():
        yield Packet(b"A")
        raise KeyError("mine")

    driven = Driven(steps)
    driven.connect()
    driven.results()
    driven.expect(b"ROLLBACK")
    with pytest.raises(KeyError):
        driven.results()
    assert not driven.session.in_transaction


# Nothing is left behind


def test_an_operation_is_closed_with_its_driver():
    ended = []

    def steps():
        try:
            yield Packet(b"A", commit=True)
        finally:
            ended.append(1)

    driven = Driven(steps)
    driven.connect()
    driven.run.close()
    assert ended == [1]


def test_an_error_leaves_no_cycle_behind():
    ended = []

    def steps():
        try:
            yield Packet(b"A", commit=True)
        finally:
            ended.append(1)

    gc.disable()
    try:
        driven = Driven(steps)
        driven.connect()
        driven.fail(DriverError(1064, "syntax", 1))
        with pytest.raises(BrokerError) as kept:
            driven.results()
        assert kept.value.errno == 1064  # its traceback is held, and yet:
        assert ended == [1]
    finally:
        gc.enable()


# Operations of several transactions


def failing_parts(count):
    """An operation of several parts, each of which is begun anew as often as it meets a deadlock."""

    def part():
        yield Packet(b"LOOK")
        yield Packet(b"CHANGE", commit=True)
        return 1, True

    def steps():
        done = 0
        for _ in range(count):
            done += (yield from one_part(part))[0]
        return done

    return Driven(steps)


@pytest.mark.spec("ARCH-05")
def test_each_part_of_an_operation_has_its_own_attempts():
    driven = failing_parts(3)
    driven.connect()
    for number in range(3):
        for _ in range(ATTEMPTS - 1):
            driven.expect(b"START TRANSACTION;LOOK").results()
            driven.expect(b"CHANGE;COMMIT").fail(DriverError(*DEADLOCK, 0))
            driven.expect(b"ROLLBACK").results()
            driven.slept()
            driven.slept()  # of the part, before it looks again
        driven.expect(b"START TRANSACTION;LOOK").results()
        driven.expect(b"CHANGE;COMMIT")
        if number == 2:
            assert driven.returns() == 3
        else:
            driven.results()


def test_a_part_that_saw_its_rows_change_is_rolled_back_before_it_begins_anew():
    looks = []

    def part():
        looks.append((yield Packet(b"LOOK")))
        yield Packet(b"CHANGE")
        if len(looks) == 1:
            raise Restart
        yield Packet(b"LAST", commit=True)
        return "done"

    driven = Driven(lambda: one_part(part))
    driven.connect()
    driven.results()
    driven.expect(b"CHANGE").results()
    driven.expect(b"ROLLBACK").results()
    driven.slept()
    driven.expect(b"START TRANSACTION;LOOK").results()
    driven.expect(b"CHANGE").results()
    driven.expect(b"LAST;COMMIT")
    assert driven.returns() == "done"


def test_a_part_whose_rows_keep_changing_ends_with_a_retryable_error():
    def part():
        yield Packet(b"LOOK")
        raise Restart

    driven = Driven(lambda: one_part(part))
    driven.connect()
    with pytest.raises(BrokerError, match="kept changing") as raised:
        for _ in range(RESTARTS):
            driven.expect(b"START TRANSACTION;LOOK").results()
            driven.expect(b"ROLLBACK").results()
            driven.slept()
    assert raised.value.retryable


@pytest.mark.parametrize("lost", [False, True])
def test_an_operation_that_begins_anew_after_each_commit_comes_to_an_end(lost):
    """The counts are not reset for one that does not hold on to what it has done."""

    def steps():
        yield Packet(b"A", commit=True)
        yield Packet(b"LOOK")
        yield Packet(b"B", commit=True)

    driven = Driven(steps)
    driven.connect()
    rounds = 0
    with pytest.raises(BrokerError):
        while True:
            if isinstance(driven.request, Sleep):
                driven.slept()
            elif isinstance(driven.request, Discard):
                driven.discarded()
            elif isinstance(driven.request, Acquire):
                driven.connect()
            elif driven.request.text == b"START TRANSACTION;A;COMMIT":
                rounds += 1
                assert rounds < 100
                driven.results()
            elif driven.request.text == b"START TRANSACTION;LOOK" and lost:
                driven.lose(errno=2006, index=-1)
            elif driven.request.text == b"B;COMMIT":
                driven.fail(DriverError(*DEADLOCK, 0))
            else:
                driven.results()
