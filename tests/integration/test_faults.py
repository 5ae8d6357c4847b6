"""Connections that are lost, cut short or stalled at any moment: one effect, and a true answer."""

from __future__ import annotations

import contextlib
import time

import pytest

from celers import BrokerConnectionError, DuplicateTaskError, PoolConfig, SerializedTask, StaleReceiptError
from celers.db import session as session_module
from tests.fixtures.cuts import CASES, COMMIT, LEASE, TASKS, drain

pytestmark = [pytest.mark.spec("ARCH-12", "TEST-05"), pytest.mark.timeout(60)]
new = SerializedTask.new


@pytest.fixture
def through(proxy, make_broker, database_url):
    """A broker that is connected through the proxy; with answers bounded in time."""
    return make_broker(url=proxy.url(database_url, read_timeout=1), pool_config=PoolConfig(max_connections=3))


@pytest.mark.parametrize("how", ["before", "during", "after", "middle"])
@pytest.mark.parametrize("name", CASES)
def test_a_cut_connection_has_one_effect_and_a_true_answer(proxy, through, tables, name, how):
    case = CASES[name]()
    case.prepare(through, tables)
    rule = proxy.spoil(how, *case.words)
    answer = case.call(through)
    assert rule.seen.is_set()
    assert through.pool().failures >= 1
    case.check(through, tables, answer)
    tables.check(through)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("how", ["after", "middle"])
def test_an_enqueue_in_doubt_finds_its_task_among_the_dead_letters(
    proxy, through, make_sync, tables, packets, how, count
):
    """Between the commit and the look a worker has claimed the task, and failed for good."""
    batch = [new("job", max_retries=0) for _ in range(count)]
    other = make_sync()

    died = []

    def fail_one():
        # The answer to the first statement is there before the last one has run, so it may have been rolled back.
        if message := other.dequeue():
            other.reject(message.task_id, message.receipt_handle)
            died.append(message.task_id)

    packets.before(b"id IN (X'" + batch[0].metadata.id.hex.encode(), fail_one)
    rule = proxy.spoil(how, TASKS, COMMIT)
    if count == 1:
        assert through.enqueue(batch[0]) == batch[0].metadata.id
    else:
        assert through.enqueue_batch(batch) == [task.metadata.id for task in batch]
    assert rule.seen.is_set()
    assert [letter.task_id for letter in through.list_dlq(10, 0)] == died
    assert through.queue_size() == count - len(died)
    tables.check(through)


def test_an_older_dead_letter_of_the_same_id_does_not_stand_for_a_lost_enqueue(proxy, through, tables):
    task = new("job", max_retries=0)
    through.enqueue(task)
    message = through.dequeue()
    through.reject(message.task_id, message.receipt_handle)
    tables.rows("UPDATE celers_dead_letter_queue SET created_at = created_at - INTERVAL 1 MINUTE")
    rule = proxy.spoil("before", TASKS, COMMIT)
    assert through.enqueue(task) == task.metadata.id
    assert rule.seen.is_set()
    assert through.dequeue().task_id == task.metadata.id
    tables.check(through)


@pytest.mark.parametrize("how", ["before", "after", "middle"])
def test_a_requeued_dead_letter_that_died_again_counts_as_requeued(proxy, through, make_sync, tables, packets, how):
    through.enqueue(new("job", max_retries=0))
    message = through.dequeue()
    through.reject(message.task_id, message.receipt_handle)
    letter = through.list_dlq(1, 0)[0].id
    other = make_sync()

    def fail_again():
        if again := other.dequeue():
            other.reject(again.task_id, again.receipt_handle)

    packets.before(b"FROM celers_dead_letter_queue FORCE INDEX (idx_dlq_task_id)", fail_again)
    rule = proxy.spoil(how, TASKS, COMMIT)
    made = through.requeue_from_dlq(letter)
    assert rule.seen.is_set()
    if message := through.dequeue():
        assert message.task_id == made
        through.reject(message.task_id, message.receipt_handle)
    assert [found.task_id for found in through.list_dlq(10, 0)] == [made]
    tables.check(through)


@pytest.mark.parametrize("name", ["enqueue", "enqueue_batch_first_packet", "dequeue_batch", "ack", "reject", "cancel"])
def test_a_stalled_answer_ends_at_the_read_timeout(proxy, through, tables, name):
    case = CASES[name]()
    case.prepare(through, tables)
    proxy.spoil("stall", *case.words)
    started = time.monotonic()
    answer = case.call(through)
    assert 0.5 < time.monotonic() - started < 8
    case.check(through, tables, answer)
    tables.check(through)


@pytest.mark.parametrize("name", ["enqueue", "dequeue", "ack", "read"])
def test_connections_cut_while_idle_are_replaced_unseen(proxy, through, tables, name):
    case = CASES[name]()
    case.prepare(through, tables)
    proxy.cut_all()
    case.check(through, tables, case.call(through))


def test_all_idle_connections_may_be_dead(proxy, make_broker, database_url):
    broker = make_broker(url=proxy.url(database_url), pool_config=PoolConfig(min_connections=15, max_connections=15))
    pool = getattr(broker, "_target", broker)._pool
    if hasattr(broker, "_target"):
        assert broker._loop.run(pool.warm_up()) == 15
    else:
        assert pool.warm_up() == 15
    proxy.cut_all()
    assert broker.enqueue(new("job"))
    assert broker.queue_size() == 1


@pytest.mark.parametrize("name", ["enqueue", "dequeue_batch", "ack_batch", "cancel", "reject"])
@pytest.mark.parametrize("how", ["during", "after"])
def test_the_outcome_is_unknown_only_when_the_server_stays_away(proxy, through, tables, monkeypatch, name, how):
    monkeypatch.setattr(session_module, "SETTLE_SECS", 0.2)
    case = CASES[name]()
    case.prepare(through, tables)
    rule = proxy.spoil(how, *case.words)
    proxy.down = True
    with pytest.raises(BrokerConnectionError) as raised:
        case.call(through)
    assert rule.seen.is_set()
    assert raised.value.outcome_unknown
    assert raised.value.retryable
    proxy.down = False
    # Asking again is safe, and settles it.
    if name == "reject":
        with contextlib.suppress(StaleReceiptError):
            case.call(through)
        answer = None
    elif name == "enqueue":
        with contextlib.suppress(DuplicateTaskError):
            case.call(through)
        answer = [case.tasks[0].metadata.id]
    elif name == "cancel":
        case.call(through)
        answer = True
    else:
        answer = case.call(through)
    case.check(through, tables, answer)
    tables.check(through)


def test_nothing_was_sent_to_a_server_that_is_away(proxy, through):
    through.queue_size()
    proxy.down = True
    proxy.cut_all()
    with pytest.raises(BrokerConnectionError) as raised:
        through.enqueue(new("job"))
    assert not raised.value.outcome_unknown
    proxy.down = False
    through.enqueue(new("job"))
    assert through.queue_size() == 1


@pytest.mark.spec("CORE-15")
def test_a_claim_that_failed_half_way_returns_what_it_has(proxy, through, tables):
    through.enqueue_batch([new("job") for _ in range(150)])
    first = through.dequeue_batch(1)
    rule = proxy.spoil("before", LEASE, b"LIMIT 50")
    proxy.spoil("before", LEASE, b"LIMIT 50", times=20)
    # The first claim is bounded to 100 rows; the second finds no connection that lives.
    found = through.dequeue_batch(149)
    assert rule.left == 0 or len(found) == 149
    proxy.rules.clear()
    found += drain(through)
    assert len({message.task_id for message in first + found}) == 150
    tables.check(through)
