"""How one operation is carried out: `drive` stepped by hand, with scripted answers instead of a server."""

# ruff: noqa: PT012 - an operation is driven to its error, and looks at what it catches

from __future__ import annotations

import gc

import pytest

from celers.components.parts import one_part
from celers.db.outcome import DriverError, Result
from celers.db.requests import Acquire, Discard, Sleep
from celers.db.session import ATTEMPTS, RESTARTS, backoff
from celers.errors import BrokerError, ConfigurationError, DuplicateTaskError
from celers.operation import Packet, Restart
from tests.fixtures.driven import DEADLOCK, Driven, one, row, two

pytestmark = pytest.mark.spec("ARCH-04", "ARCH-05", "ARCH-12")


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


@pytest.mark.parametrize(("errno", "index"), [(1213, 0), (1317, 0), (2006, -1), (2013, 0)])
def test_what_an_operation_returns_does_not_depend_on_the_end_of_its_last_locks(errno, index):
    """It may have committed something, looked at more, and found rows changed: to begin anew would lose the first."""

    def steps():
        kept = (yield Packet(b"CLAIM", commit=True))[0]
        yield Packet(b"SELECT seq FROM t FOR UPDATE")
        return kept

    driven = Driven(steps)
    driven.connect()
    driven.results(Result((), 0, 0), row(b"mine"))
    driven.results()
    driven.expect(b"COMMIT").fail(DriverError(errno, "failed", index))
    if errno < 2000:
        driven.expect(b"ROLLBACK")
        assert driven.returns() == row(b"mine")
    else:
        with pytest.raises(StopIteration) as stop:
            driven.discarded()
        assert stop.value.value == row(b"mine")
    assert not driven.session.in_transaction


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
