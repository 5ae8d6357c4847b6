"""Leases: what consumers hold, and what becomes of it when they are gone (design: consumers, recovery)."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

import celers.sql
from celers import (
    DbTaskState,
    InvalidStateTransitionError,
    MysqlBroker,
    QueueStatistics,
    SerializedTask,
    StaleReceiptError,
    ValidationError,
)
from celers.components.consumer import Completion
from celers_fast.rows import parse_receipt
from tests.fixtures.filling import silence
from tests.fixtures.waiting import until


def fill(broker, count: int, **options) -> list:
    return broker.enqueue_batch([SerializedTask.new("job", **options) for _ in range(count)])


def seq(message) -> int:
    return parse_receipt(message.receipt_handle)[0]


def number(message) -> int:
    return parse_receipt(message.receipt_handle)[1]


def lease(tables, consumer_no: int) -> set[int]:
    text = tables.value("SELECT lease FROM celers_consumers WHERE consumer_no = %s", (consumer_no,))
    return {member for part in json.loads(text) for member in part}


def rows_of(tables) -> int:
    return tables.value("SELECT COUNT(*) FROM celers_consumers")


@pytest.mark.spec("CORE-15")
def test_a_lease_holds_what_was_claimed_and_is_pruned_by_the_next_claim(broker, tables):
    fill(broker, 6)
    first = broker.dequeue_batch(3)
    (consumer_no,) = {number(message) for message in first}
    assert broker.consumers.numbers() == (consumer_no,)
    assert lease(tables, consumer_no) == {seq(message) for message in first}
    broker.ack(first[0].task_id, first[0].receipt_handle)
    broker.reject(first[1].task_id, first[1].receipt_handle)
    second = broker.dequeue()
    assert number(second) == consumer_no
    assert lease(tables, consumer_no) == {seq(first[2]), seq(second)}
    broker.consumer.give_back([second])
    (third,) = broker.dequeue_batch(1)
    assert lease(tables, consumer_no) == {seq(first[2]), seq(third)}
    tables.check(broker)


@pytest.mark.spec("CORE-09", "INSP-01")
@pytest.mark.parametrize("count", [1, 10])
def test_a_cycle_counts_first_and_later_deliveries_alike(broker, tables, count):
    """They are acknowledged by a statement for each number of the delivery."""
    fill(broker, 3)
    broker.consumer.give_back([broker.dequeue()])
    messages = broker.dequeue_batch(3)
    assert sorted(parse_receipt(message.receipt_handle)[2] for message in messages) == [1, 1, 2]
    done, _ = broker.consumer.cycle([Completion(message) for message in messages], count)
    assert done == [True] * 3
    assert broker.get_statistics().completed == 3
    tables.check(broker)


@pytest.mark.spec("CORE-08", "CORE-09")
def test_a_claim_whose_ready_row_is_not_taken_starts_nothing(broker, tables, monkeypatch):
    """As when KILL QUERY meets the DELETE, which MariaDB then passes over: the claim is made by its other form."""
    task_id = fill(broker, 1)[0]
    statements = vars(celers.sql)["_topic"]("consumer", "celers_")
    monkeypatch.setitem(statements, "take_one", ((b"DELETE FROM celers_ready WHERE seq = 0",), ()))
    message = broker.dequeue()
    assert (message.task_id, parse_receipt(message.receipt_handle)[2]) == (task_id, 1)
    assert tables.value("SELECT COUNT(*) FROM celers_ready") == 0
    assert broker.dequeue() is None


@pytest.mark.spec("CORE-15", "MAINT-05")
def test_tasks_of_silent_consumers_are_taken_back_and_run_alone(make_broker, tables):
    dead, alive = make_broker(heartbeat=False), make_broker(heartbeat=False)
    fill(dead, 4, max_retries=1)
    lost = dead.dequeue_batch(2)
    held = alive.dequeue_batch(1)
    assert alive.maintenance.rescue_dead() == 0
    silence(tables, *dead.consumers.numbers(), secs=299)
    assert alive.maintenance.rescue_dead() == 0
    silence(tables, *dead.consumers.numbers(), secs=2)
    assert alive.maintenance.rescue_dead() == 2
    assert alive.maintenance.rescue_dead() == 0
    assert rows_of(tables) == 1
    for message in lost:
        info = alive.get_task(message.task_id)
        assert (info.state, info.retry_count) == (DbTaskState.PENDING, 1)
        assert "lost" in info.error_message
    assert alive.get_task(held[0].task_id).state is DbTaskState.PROCESSING
    again = alive.dequeue_batch(3)
    assert {message.task_id for message in again if message.isolated} == {message.task_id for message in lost}
    assert [message.retry_count for message in again if message.isolated] == [1, 1]
    tables.check(alive)


@pytest.mark.spec("CORE-15", "CORE-10")
def test_a_task_that_was_lost_once_runs_alone_from_then_on(broker, tables):
    fill(broker, 1)
    message = broker.dequeue()
    assert message.isolated is False
    assert broker.consumers.rescue([number(message)], None) == 1
    message = broker.dequeue()
    assert message.isolated is True
    broker.consumer.fail(message, error="x", delay_secs=0)
    message = broker.dequeue()
    assert message.isolated is True
    broker.consumer.give_back([message])
    message = broker.dequeue()
    assert (message.isolated, message.retry_count) == (True, 2)
    tables.check(broker)


@pytest.mark.spec("CORE-15", "DLQ-01", "CHAIN-04")
def test_a_lost_task_without_retries_is_a_dead_letter(broker, tables):
    (task_id,) = fill(broker, 1, max_retries=0)
    child = SerializedTask.new("child", dependencies=[task_id])
    broker.enqueue(child)
    broker.dequeue()
    silence(tables)
    assert broker.maintenance.rescue_dead() == 1
    (letter,) = broker.list_dlq(10, 0)
    assert letter.task_id == task_id
    assert "lost" in letter.error_message
    assert str(task_id) in broker.get_task(child.metadata.id).error_message
    tables.check(broker)


@pytest.mark.spec("CORE-15")
def test_only_tasks_that_had_started_count_an_attempt(broker, tables):
    fill(broker, 3, max_retries=1)
    fill(broker, 1, max_retries=0, priority=-1)
    one, two, three, last = messages = broker.dequeue_batch(4)
    assert broker.consumers.rescue([number(one)], {seq(two)}) == 4
    counts = [broker.get_task(message.task_id).retry_count for message in messages]
    assert counts == [0, 1, 0, 0]
    assert [broker.get_task(message.task_id).error_message is None for message in messages] == [True, False, True, True]
    again = broker.dequeue_batch(4)
    assert [(message.task_id, message.isolated) for message in again] == [
        (one.task_id, False),
        (two.task_id, True),
        (three.task_id, False),
        (last.task_id, False),
    ]
    tables.check(broker)


@pytest.mark.spec("CORE-15")
def test_a_rescue_of_nothing(broker):
    assert broker.consumers.rescue([], None) == 0
    assert broker.consumers.rescue([4_000_000_000], None) == 0
    assert broker.consumers.beat([]) == 0
    assert broker.consumers.beat([4_000_000_000]) == 0
    for bad in ([-1], ["1"], [True], [None]):
        with pytest.raises(ValidationError, match="numbers"):
            broker.consumers.rescue(bad, None)
        with pytest.raises(ValidationError, match="numbers"):
            broker.consumers.beat(bad)


@pytest.mark.spec("CORE-15", "CONF-06")
def test_whoever_rescues_does_it_for_all_queues_of_the_database(make_broker, tables):
    brokers = [make_broker(name, heartbeat=False) for name in ("a", "ä", "c" * 255)]
    for broker in brokers:
        fill(broker, 3, max_retries=0)
        fill(broker, 2)
        lost = broker.dequeue_batch(5)
        broker.ack(lost[0].task_id, lost[0].receipt_handle)
    silence(tables)
    assert make_broker("stranger").maintenance.rescue_dead() == 12
    for broker in brokers:
        assert broker.get_statistics() == QueueStatistics(pending=2, completed=1, dlq=2, total=3)
        assert len(broker.list_dlq(10, 0)) == 2
        assert len(broker.dequeue_batch(10)) == 2
    assert tables.value("SELECT COUNT(*) FROM celers_queue_totals WHERE completed = 1") == 3


@pytest.mark.spec("CORE-15")
def test_brokers_of_several_queues_share_connections_and_not_leases(make_broker, tables):
    broker = make_broker("a", heartbeat=False)
    other = broker.for_queue("b")
    fill(broker, 1)
    fill(other, 1)
    mine, theirs = broker.dequeue(), other.dequeue()
    assert (mine is not None, theirs is not None) == (True, True)
    assert broker.consumers.numbers() == (number(mine),)
    assert other.consumers.numbers() == (number(theirs),)
    assert number(mine) != number(theirs)
    silence(tables, number(theirs))
    assert broker.maintenance.rescue_dead() == 1
    broker.ack(mine.task_id, mine.receipt_handle)
    with pytest.raises(StaleReceiptError):
        other.ack(theirs.task_id, theirs.receipt_handle)
    assert other.dequeue().task_id == theirs.task_id


@pytest.mark.spec("CORE-15", "ERR-14", "RES-01")
def test_a_consumer_declared_dead_starts_anew_under_another_number(make_broker, tables):
    late, other = make_broker(heartbeat=False), make_broker()
    fill(late, 3)
    old = late.dequeue_batch(2)
    silence(tables, *late.consumers.numbers())
    assert other.maintenance.rescue_dead() == 2
    with pytest.raises(StaleReceiptError):
        late.ack(old[0].task_id, old[0].receipt_handle)
    assert late.consumer.complete([Completion(message, "1") for message in old]) == [False, False]
    assert late.ack_batch([(message.task_id, message.receipt_handle) for message in old]) == 0
    assert late.consumer.fail(old[0], error="late") == "lost"
    assert late.get_result_batch([message.task_id for message in old]) == []
    new = late.dequeue_batch(3)
    assert len(new) == 3
    assert {number(message) for message in new}.isdisjoint({number(message) for message in old})
    assert late.consumers.numbers() == (number(new[0]),)
    with pytest.raises(StaleReceiptError):
        late.ack(old[0].task_id, old[0].receipt_handle)
    assert late.consumer.complete([Completion(message, "2") for message in new]) == [True] * 3
    with pytest.raises(InvalidStateTransitionError):
        late.ack(old[0].task_id, old[0].receipt_handle)
    assert late.get_result(old[0].task_id).result == 2
    tables.check(late)


@pytest.mark.spec("CORE-15", "CORE-08")
def test_a_consumer_declared_dead_while_it_claims_gets_its_tasks_once(sync_broker, database_url, tables, packets):
    """The row disappears between two packets of one call."""
    fill(sync_broker, 2)
    first = sync_broker.dequeue()
    with MysqlBroker(database_url) as other:
        silence(tables)
        packets.before(b"FOR UPDATE SKIP LOCKED", other.maintenance.rescue_dead)
        messages = sync_broker.dequeue_batch(2)
    assert len(messages) == 2
    assert number(first) not in {number(message) for message in messages}
    tables.check(sync_broker)


@pytest.mark.spec("CORE-15", "CORE-09")
def test_an_ack_of_a_task_whose_consumer_was_folded_is_counted(make_broker, tables):
    """The acknowledgement and the rescue of an empty consumer may cross: no count is lost."""
    broker, other = make_broker(heartbeat=False), make_broker()
    fill(broker, 2)
    one, two = broker.dequeue_batch(2)
    broker.ack(one.task_id, one.receipt_handle)
    silence(tables)
    assert other.maintenance.rescue_dead() == 1
    again = other.dequeue()
    assert again.task_id == two.task_id
    other.ack(again.task_id, again.receipt_handle)
    assert other.get_statistics() == QueueStatistics(completed=2, total=2)
    tables.check(other)


@pytest.mark.spec("CORE-15")
def test_any_claim_and_ack_renews_the_lease(make_broker, tables):
    broker = make_broker(heartbeat=False)
    fill(broker, 1)
    message = broker.dequeue()
    silence(tables)
    assert broker.dequeue() is None
    assert broker.maintenance.rescue_dead() == 0
    silence(tables)
    broker.ack(message.task_id, message.receipt_handle)
    assert broker.maintenance.rescue_dead() == 0
    silence(tables)
    assert broker.consumers.beat(broker.consumers.numbers()) == 1
    assert broker.maintenance.rescue_dead() == 0
    assert rows_of(tables) == 1


@pytest.mark.spec("CORE-15")
def test_a_background_heartbeat_keeps_the_lease_of_a_broker_that_does_nothing(make_broker, tables):
    beating = make_broker(lease_secs=1)
    silent = make_broker("other", lease_secs=1, heartbeat=False)
    derived = beating.for_queue("third")
    for broker in (beating, silent, derived):
        fill(broker, 1)
        broker.dequeue()
    fresh = (
        "SELECT COUNT(*) FROM celers_consumers WHERE heartbeat_at > UTC_TIMESTAMP(6) - INTERVAL 60 SECOND"
        f" AND consumer_no IN ({beating.consumers.numbers()[0]}, {derived.consumers.numbers()[0]})"
    )
    silence(tables)
    until(lambda: tables.value(fresh) == 2, 10)
    assert beating.maintenance.rescue_dead() == 1
    assert silent.get_statistics() == QueueStatistics(pending=1, total=1)
    assert beating.get_statistics() == QueueStatistics(processing=1, total=1)
    assert derived.get_statistics() == QueueStatistics(processing=1, total=1)


@pytest.mark.spec("CORE-15", "CONF-04")
def test_a_closed_broker_s_empty_consumers_vanish_and_are_counted(make_broker, tables):
    broker, other = make_broker(), make_broker()
    fill(broker, 4, max_retries=1)
    one, two, three, four = broker.dequeue_batch(4)
    broker.ack(one.task_id, one.receipt_handle)
    broker.reject(two.task_id, two.receipt_handle, requeue=False)
    broker.cancel(three.task_id)
    broker.reject(four.task_id, four.receipt_handle)
    broker.close()
    broker.close()
    assert rows_of(tables) == 0
    assert tables.rows("SELECT completed, failed, cancelled, retried FROM celers_queue_totals") == [(1, 1, 1, 1)]
    tables.check(other)


@pytest.mark.spec("CORE-15", "CONF-04")
def test_a_closed_broker_s_tasks_stay_until_their_lease_is_over(make_broker, tables):
    broker, other = make_broker(lease_secs=1), make_broker()
    fill(broker, 2)
    one, two = broker.dequeue_batch(2)
    broker.ack(one.task_id, one.receipt_handle)
    broker.close()
    assert rows_of(tables) == 1
    assert other.get_statistics() == QueueStatistics(processing=1, completed=1, total=2)
    until(lambda: other.maintenance.rescue_dead() == 1, 10)
    assert rows_of(tables) == 0
    assert other.dequeue().task_id == two.task_id


@pytest.mark.spec("CORE-15")
def test_rescued_consumers_are_counted_in_the_totals_of_their_queue(broker, make_broker, tables):
    other = make_broker("other")
    for one in (broker, other):
        for _ in range(2):
            fill(one, 3, max_retries=2)
            first, second, third = one.dequeue_batch(3)
            one.ack(first.task_id, first.receipt_handle)
            one.reject(second.task_id, second.receipt_handle, requeue=False)
            one.consumer.fail(third, error="x", delay_secs=3600)
            silence(tables)
            assert other.maintenance.rescue_dead() == 0
            assert rows_of(tables) == 0
    assert tables.rows("SELECT completed, failed, cancelled, retried FROM celers_queue_totals") == [(2, 2, 0, 2)] * 2
    for one in (broker, other):
        assert one.get_statistics() == QueueStatistics(pending=2, completed=2, failed=2, total=6)


@pytest.mark.spec("CORE-15", "CORE-08")
def test_giving_back_counts_no_attempt_and_keeps_the_order(broker, tables):
    ids = fill(broker, 4)
    messages = broker.dequeue_batch(3, worker_id="one")
    assert broker.consumer.give_back(messages[1:]) == 2
    assert broker.consumer.give_back(messages[1:]) == 0
    for message in messages[1:]:
        info = broker.get_task(message.task_id)
        assert (info.state, info.retry_count, info.error_message) == (DbTaskState.PENDING, 0, None)
        assert (info.worker_id, info.started_at) == (None, None)
        with pytest.raises(StaleReceiptError):
            broker.ack(message.task_id, message.receipt_handle)
    again = broker.dequeue_batch(10)
    assert [message.task_id for message in again] == ids[1:]
    assert {message.isolated for message in again} == {False}
    tables.check(broker)
    assert broker.consumer.give_back([]) == 0
    with pytest.raises(ValidationError):
        broker.consumer.give_back(["x"])


@pytest.mark.spec("CORE-15", "DATA-02")
def test_giving_back_with_a_delay(broker, tables):
    fill(broker, 2)
    one, two = broker.dequeue_batch(2)
    assert broker.consumer.give_back([one], delay_secs=timedelta(hours=1)) == 1
    assert broker.consumer.give_back([two], delay_secs=0.05) == 1
    assert broker.queue_size() == 2
    again = broker.dequeue_wait(10)
    assert again.task_id == two.task_id
    assert [info.id for info in broker.list_scheduled_tasks(10, 0)] == [one.task_id]
    tables.check(broker)
    for bad in (-1, float("nan"), True):
        with pytest.raises(ValidationError, match="delay_secs"):
            broker.consumer.give_back([again], delay_secs=bad)


@pytest.mark.spec("CORE-15", "CORE-09")
def test_a_stranger_may_settle_with_the_receipt_and_the_owner_prunes_its_lease(make_broker, tables):
    owner, stranger = make_broker(), make_broker()
    fill(owner, 4)
    one, two, three, four = owner.dequeue_batch(4)
    stranger.ack(one.task_id, one.receipt_handle)
    assert stranger.consumer.complete([Completion(two, "1")]) == [True]
    assert stranger.consumer.fail(three, error="x", delay_secs=0) == "retried"
    assert stranger.consumer.give_back([four]) == 1
    assert owner.get_statistics() == QueueStatistics(pending=2, completed=2, total=4)
    assert owner.ack_batch([(one.task_id, one.receipt_handle), (two.task_id, two.receipt_handle)]) == 2
    assert owner.consumer.fail(three, error="x") == "lost"
    again = owner.dequeue_batch(4)
    assert {message.task_id for message in again} == {three.task_id, four.task_id}
    owner.ack_batch([(message.task_id, message.receipt_handle) for message in again])
    owner.dequeue()
    tables.check(owner)


@pytest.mark.spec("BATCH-06", "CORE-15")
def test_tasks_made_processing_by_hand_are_recovered_like_claimed_ones(broker, tables):
    ids = fill(broker, 2)
    assert broker.update_batch_state(ids, DbTaskState.PROCESSING) == 2
    tables.check(broker)
    silence(tables)
    assert broker.maintenance.rescue_dead() == 2
    assert broker.get_statistics() == QueueStatistics(pending=2, total=2)
    assert len(broker.dequeue_batch(5)) == 2


@pytest.mark.spec("CORE-15", "ARCH-01")
def test_a_consumer_is_opened_for_each_claim_at_the_same_time(sync_broker, tables):
    import threading

    fill(sync_broker, 400)
    start = threading.Barrier(4)
    found = []

    def claim():
        start.wait()
        for _ in range(10):
            found.extend(sync_broker.dequeue_batch(10))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({message.task_id for message in found}) == len(found) == 400
    assert rows_of(tables) == len(sync_broker.consumers.numbers()) <= 4
    tables.check(sync_broker)
    assert sync_broker.ack_batch([(message.task_id, message.receipt_handle) for message in found]) == 400
    tables.check(sync_broker)


@pytest.mark.spec("CORE-09", "BATCH-03")
@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("older_first", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_of_two_deliveries_of_a_task_that_are_settled_together_one_counts(
    make_broker, tables, fused, older_first, history
):
    """A claim of several packets may get a task again that was taken back while it went on."""
    broker = make_broker(record_history=history)
    fill(broker, 2)
    older, other = broker.dequeue_batch(2)
    assert broker.recover_stuck_tasks(1e-6) == 2
    newer, other = broker.dequeue_batch(2)
    assert newer.task_id == older.task_id
    messages = [older, newer, other] if older_first else [newer, older, other]
    done = [Completion(message, "1") for message in messages]
    answer = broker.consumer.cycle(done, 1)[0] if fused else broker.consumer.complete(done)
    assert answer == [message is not older for message in messages]
    assert broker.get_statistics().completed == 2
    tables.check(broker)


@pytest.mark.spec("CORE-09", "BATCH-03")
@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_delivery_that_is_settled_twice_at_once_counts_once(make_broker, tables, fused, history):
    broker = make_broker(record_history=history)
    fill(broker, 1)
    done = [Completion(broker.dequeue(), "1")] * 2
    assert (broker.consumer.cycle(done, 1)[0] if fused else broker.consumer.complete(done)) == [True, True]
    assert broker.get_statistics().completed == 1
    tables.check(broker)
