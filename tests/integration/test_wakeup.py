"""Waking idle consumers by a ring instead of polling: what is heard, what it costs, and where consumers poll."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from celers import App, BrokerError, MysqlBroker, SerializedTask
from celers.attendant import Attendant
from celers.db.url import parse_url
from celers.waiting import WaitingRoom
from celers.wakeup import PARK_SECS, SLOTS
from celers.worker.board import Board
from celers.worker.loop import ClaimLoop
from celers.worker.settings import WorkerSettings
from tests.fixtures.server import running
from tests.fixtures.waiting import until

pytestmark = pytest.mark.spec("CORE-16")

# Longer than any test: whoever is not woken is not found.
LONG = 120.0
GALERA = Path("/usr/lib/galera/libgalera_smm.so")


@pytest.fixture
def brokers(database_url):
    """Makes blocking brokers, each of which parks for itself."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, url=database_url, **kwargs: stack.enter_context(MysqlBroker(url, *args, **kwargs))


@pytest.fixture
def short_parks(monkeypatch):
    """A parked consumer looks again after a second."""
    monkeypatch.setitem(Attendant.__init__.__kwdefaults__, "park_secs", 1.0)


def new(**options) -> SerializedTask:
    return SerializedTask.new("x", **options)


def rests(broker) -> bool:
    """Does a waiting caller of this broker rely on rings?"""
    room = broker._room
    return room is not None and room._attendant is not None and room._attendant.resting


def waiting(pool, broker, **options):
    """A call that waits for a task, and would look for itself after two minutes only."""
    call = pool.submit(broker.dequeue_wait, LONG, poll_interval_secs=LONG, **options)
    until(lambda: rests(broker) or call.done())
    return call


# What is heard


def test_an_enqueue_wakes_a_waiting_consumer(broker, brokers):
    with ThreadPoolExecutor() as pool:
        call = pool.submit(broker.dequeue_wait, LONG, poll_interval_secs=LONG)
        task_id = brokers().enqueue(new())
        assert call.result(20).task_id == task_id


def test_each_of_many_tasks_is_heard(broker, brokers):
    received = []
    count = 60

    def consume():
        while len(received) < count:
            message = broker.dequeue_wait(LONG, poll_interval_secs=LONG)
            received.append(message.task_id)
            broker.ack(message.task_id, message.receipt_handle)

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    producer = brokers()
    sent = [producer.enqueue(new()) for _ in range(count)]
    thread.join(40)
    assert received == sent


@pytest.mark.parametrize("count", [1, 4, 8])
def test_no_ring_is_lost_at_the_moment_of_parking(brokers, count):
    """Tasks placed while consumers park, leave, or stand in line for a slot.

    A task whose ring is lost would wait for the end of somebody's park.
    """
    taken: dict[object, float] = {}
    stop = threading.Event()
    consumers = [brokers() for _ in range(count)]

    def consume(broker):
        while not stop.is_set():
            message = broker.dequeue_wait(LONG, poll_interval_secs=LONG)
            if message is not None:
                taken[message.task_id] = time.monotonic()
                broker.ack(message.task_id, message.receipt_handle)

    threads = [threading.Thread(target=consume, args=(broker,), daemon=True) for broker in consumers]
    for thread in threads:
        thread.start()
    producer = brokers()
    choose = random.Random(count)
    waits = []
    for _ in range(150):
        size = choose.choice((1, 1, 1, 2, 3 * count))
        placed = time.monotonic()
        ids = producer.enqueue_batch([new() for _ in range(size)])
        until(lambda ids=ids: all(one in taken for one in ids), 60, every=0.0005)
        waits += [taken[one] - placed for one in ids]
        # From before the consumers have parked until long after.
        time.sleep(choose.uniform(0, 0.006))
    stop.set()
    producer.enqueue_batch([new() for _ in range(count)])
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert max(waits) < PARK_SECS / 3, sorted(waits)[-5:]


def test_ring_after_a_commit_of_the_callers_own(broker, brokers):
    with ThreadPoolExecutor() as pool:
        call = waiting(pool, broker)
        producer = brokers()
        with producer.with_transaction() as tx:
            task_id = tx.enqueue(new())
        producer.ring()
        assert call.result(20).task_id == task_id


def test_whatever_makes_a_task_claimable_wakes(broker, brokers):
    other = brokers()
    task_id = other.enqueue(new())
    held = other.dequeue()
    with ThreadPoolExecutor() as pool:
        call = waiting(pool, broker)
        other.consumer.give_back([held])
        message = call.result(20)
        assert message.task_id == task_id
        broker.ack(message.task_id, message.receipt_handle)
        other.pause()
        paused = other.enqueue(new())
        call = waiting(pool, broker)
        time.sleep(0.05)
        assert not call.done()
        other.resume()
        assert call.result(20).task_id == paused


@pytest.mark.spec("SCHED-01")
def test_a_scheduled_task_wakes_in_time_and_without_polling(broker, brokers, packets):
    producer = brokers()
    producer.enqueue_after(new(), 600)
    with ThreadPoolExecutor() as pool:
        call = waiting(pool, broker)
        # Earlier than anything that the consumer knew of.
        started = time.monotonic()
        task_id = producer.enqueue_after(new(), 1.0)
        assert call.result(20).task_id == task_id
        assert 0.9 < time.monotonic() - started < 8
    assert sum(b"SKIP LOCKED" in text for text in packets.sent) <= 4


@pytest.mark.spec("SCHED-01")
def test_a_consumer_that_turns_to_other_work_hands_what_is_due_on(brokers):
    first, second, producer = brokers(), brokers(), brokers()
    with ThreadPoolExecutor() as pool:
        calls = [waiting(pool, first), waiting(pool, second)]
        due = producer.enqueue_after(new(), 2.0)  # one of the two hears of it
        until(lambda: any(broker.core.next_due_secs is not None for broker in (first, second)))
        until(lambda: rests(first) and rests(second))
        knows = int(first.core.next_due_secs is None)
        while not calls[knows].done():
            now = producer.enqueue(new())
            until(lambda: any(call.done() for call in calls))
            if not calls[knows].done():
                # The other one took it: let it wait again.
                other = 1 - knows
                assert calls[other].result().task_id == now
                calls[other] = waiting(pool, (first, second)[other])
        assert calls[1 - knows].result(15).task_id == due


def test_who_finds_all_slots_taken_stands_in_line_and_does_not_poll(brokers, packets):
    consumers = [brokers() for _ in range(SLOTS + 3)]
    with ThreadPoolExecutor(len(consumers)) as pool:
        calls = [waiting(pool, broker) for broker in consumers]
        before = len(packets.sent)
        time.sleep(1.5)
        assert len(packets.sent) - before <= 2
        sent = {brokers().enqueue(new()) for _ in calls}
        assert {call.result(20).task_id for call in calls} == sent


# What it costs


def test_the_ring_is_part_of_the_enqueues_one_packet(broker, packets):
    broker.enqueue(new())
    for call in (
        lambda: broker.enqueue(new()),
        lambda: broker.enqueue_after(new(), 60),
        lambda: broker.enqueue_batch([new(), new()]),
    ):
        assert packets.count(call) == 1
        head, _, tail = packets.sent[-1].partition(b";COMMIT;")
        assert b"INSERT INTO celers_tasks" in head
        assert tail.startswith(b"KILL QUERY")
        assert b";" not in tail


def test_a_waiting_consumer_is_silent(broker, server):
    def questions() -> int:
        return int(server.rows("SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])

    with ThreadPoolExecutor() as pool:
        call = waiting(pool, broker)
        alone = -questions() + questions()  # what the asking costs
        before = questions()
        time.sleep(3)
        assert questions() - before - alone <= 3
        broker.enqueue(new())
        call.result(20)


# Where consumers poll


def test_switched_off(make_broker, packets):
    broker = make_broker(wake_up=False)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(broker.dequeue_wait, LONG, poll_interval_secs=0.01)
        task_id = broker.enqueue(new())
        assert call.result(20).task_id == task_id
    assert not any(b"KILL" in text or b"GET_LOCK" in text for text in packets.sent)
    assert broker.queue.ring() is False


@pytest.fixture
def accounts(server, database_url):
    """URLs of two accounts that may use the tables, but not each other's connections."""
    options = parse_url(database_url)
    names = ("celers_one", "celers_two")
    for name in names:
        server.rows(f"CREATE USER {name}@localhost IDENTIFIED BY 'secret'")
        server.rows(f"GRANT SELECT, INSERT, UPDATE, DELETE ON `{options.database}`.* TO {name}@localhost")
    try:
        yield [database_url.replace("root@", f"{name}:secret@") for name in names]
    finally:
        for name in names:
            server.rows(f"DROP USER {name}@localhost")


def test_an_account_that_may_not_ring_is_polled_for(make_broker, accounts, tables, short_parks):
    consumer, producer = make_broker(url=accounts[0]), make_broker(url=accounts[1])
    with ThreadPoolExecutor() as pool:
        call = waiting(pool, consumer)
        task_id = producer.enqueue(new())  # the refused ring fails nothing
        until(lambda: tables.value("SELECT unheard_at IS NOT NULL FROM celers_queues"))
        assert call.result(20).task_id == task_id
        # The consumer knows now.
        call = pool.submit(consumer.dequeue_wait, LONG, poll_interval_secs=0.05)
        time.sleep(0.5)
        assert not rests(consumer)
        task_id = producer.enqueue(new())
        assert call.result(20).task_id == task_id
        # An account may ring itself.
        tables.rows("UPDATE celers_queues SET unheard_at = NULL")
        call = waiting(pool, consumer)
        task_id = make_broker(url=accounts[0]).enqueue(new())
        assert call.result(20).task_id == task_id


def given_up(caplog, words: str) -> bool:
    return any(record.name == "celers.wakeup" and words in record.getMessage() for record in caplog.records)


def test_connections_that_reach_different_servers(sync_broker, own_server, caplog):
    caplog.set_level(logging.INFO, "celers.wakeup")
    woken = threading.Event()
    sync_broker.queue_size()
    attendant = Attendant(parse_url(own_server.url), [sync_broker.core], woken.set)
    try:
        attendant.enter()
        assert woken.wait(20)
        assert not attendant.resting
        assert given_up(caplog, "different servers")
    finally:
        attendant.close()


def test_a_server_that_goes_away_and_comes_back(own_server, caplog):
    caplog.set_level(logging.INFO, "celers.wakeup")
    with MysqlBroker(own_server.url) as broker, ThreadPoolExecutor() as pool:
        broker.migrate()
        call = pool.submit(broker.dequeue_wait, LONG, poll_interval_secs=0.05)
        until(lambda: rests(broker))
        attendant = broker._room._attendant
        with MysqlBroker(own_server.url) as other:
            for thread in (attendant._park.thread_id, attendant._control.thread_id):
                # The second may be gone with the first.
                with contextlib.suppress(BrokerError), other.with_transaction() as tx:
                    tx.execute(f"KILL {thread}")
            until(lambda: given_up(caplog, "polling instead"))
            until(lambda: rests(broker))
            task_id = other.enqueue(new())
            assert call.result(20).task_id == task_id


@pytest.mark.slow
def test_a_cluster_with_several_writers_is_polled(place, server, caplog):
    caplog.set_level(logging.INFO, "celers.wakeup")
    if server.is_mariadb:
        if not GALERA.exists():
            pytest.skip("no Galera here")
        options = [
            *("--wsrep-on=ON", f"--wsrep-provider={GALERA}", "--wsrep-cluster-address=gcomm://"),
            *("--binlog-format=ROW", "--wsrep-node-address=127.0.0.1", "--wsrep-sst-method=rsync"),
        ]
        words = "Galera"
    else:
        options = ["--plugin-load-add=group_replication.so", "--loose-group-replication-single-primary-mode=OFF"]
        words = "group replication"
    with running(place / "server", options=options) as cluster, MysqlBroker(cluster.url) as broker:
        broker.migrate()
        with ThreadPoolExecutor() as pool:
            call = pool.submit(broker.dequeue_wait, LONG, poll_interval_secs=0.05)
            until(lambda: given_up(caplog, words))
            assert not rests(broker)
            task_id = broker.enqueue(new())
            assert call.result(20).task_id == task_id


# Who hands a ring on


def test_a_caller_that_leaves_has_heard_of_every_ring(sync_broker, monkeypatch):
    """A ring is handed to callers of whom the last one goes at that moment, with a task from elsewhere."""
    sync_broker.queue_size()
    passed_on = threading.Event()
    at_the_door, gone = threading.Event(), threading.Event()
    room = WaitingRoom(sync_broker._pool.options, sync_broker.core)
    attendant = room._attendant
    pass_on, tell = attendant._pass_on, attendant._on_wake

    def slow_tell():
        at_the_door.set()
        gone.wait(0.3)  # as long as nothing keeps the caller from leaving
        tell()

    def told_to_pass_on(control):
        pass_on(control)
        passed_on.set()

    monkeypatch.setattr(attendant, "_on_wake", slow_tell)
    monkeypatch.setattr(attendant, "_pass_on", told_to_pass_on)
    try:
        with room:
            room.prepare()
            until(lambda: attendant.resting)
            sync_broker.queue.ring()
            assert at_the_door.wait(20)
        gone.set()
        assert passed_on.wait(20)
    finally:
        gone.set()
        room.close()


def test_a_caller_that_comes_while_the_last_one_leaves_is_not_forgotten(sync_broker, monkeypatch):
    sync_broker.queue_size()
    room = WaitingRoom(sync_broker._pool.options, sync_broker.core)
    attendant = room._attendant
    leave = attendant.leave
    entered, left = threading.Event(), threading.Event()

    def late_leave():
        entered.wait(20)
        leave()
        left.set()

    monkeypatch.setattr(attendant, "leave", late_leave)
    woken = []

    def come():
        with room:
            room.prepare()
            entered.set()
            left.wait(20)
            woken.append(room.wait(20))

    try:
        second = threading.Thread(target=come)
        with room:
            room.prepare()
            until(lambda: attendant.resting)
            monkeypatch.setattr(attendant, "leave", lambda: (second.start(), late_leave()))
        monkeypatch.setattr(attendant, "leave", leave)
        second.join(30)
        assert woken == [True]
    finally:
        room.close()


def test_a_ring_for_a_worker_that_is_full_is_handed_on(sync_broker, monkeypatch):
    """It comes while the claim is under way that takes the last task for which the worker has room."""
    app, ended, declined = App(), threading.Event(), threading.Event()

    @app.task(name="long")
    def long() -> None:
        ended.wait(30)

    settings = WorkerSettings(queues=("default",), processes=0, threads=1, batch=1)
    loop = ClaimLoop(app, [sync_broker], settings, Board.private(settings.slots), abandon_overdue=True)
    sync_broker.enqueue_batch([SerializedTask.new("long", b"[[], {}]") for _ in range(9)])
    cycle = loop._settler.cycle

    def rung_meanwhile(*args):
        found = cycle(*args)
        loop.wake()
        return found

    monkeypatch.setattr(loop._settler, "cycle", rung_meanwhile)
    loop._threads.start()
    loop._park()
    attendant = loop._attendant
    monkeypatch.setattr(attendant, "decline", declined.set)
    try:
        until(lambda: loop._step(time.monotonic()) is not None and not loop._intake.room(loop._have()))
        assert not declined.is_set()
        until(lambda: loop._step(time.monotonic()) is not None and declined.is_set())
    finally:
        ended.set()
        attendant.close()
        loop._threads.stop()
        loop._coroutines.stop()
