"""Connections that are lost, cut short or stalled at any moment: one effect, and a true answer."""

# ruff: noqa: B023 - what is called again is called before the loop goes on

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
import time
from dataclasses import replace
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from celers import (
    AsyncMysqlBroker,
    BrokerConnectionError,
    BrokerError,
    CelersError,
    DbTaskState,
    DuplicateTaskError,
    InvalidStateTransitionError,
    MysqlBroker,
    PoolConfig,
    SerializedTask,
    StaleReceiptError,
    TaskResultStatus,
)
from celers.components.consumer import Completion
from celers.db import session as session_module
from celers.db.driver import Connection
from tests.fixtures.server import database_at
from tests.fixtures.waiting import until

pytestmark = [pytest.mark.spec("ARCH-12", "TEST-05"), pytest.mark.timeout(60)]

new = SerializedTask.new
TASKS = b"INSERT INTO celers_tasks"
LEASE = b"UPDATE lease ="
COMMIT = b"COMMIT"


class Case:
    """One operation: what has to be there, the packet that is spoilt, the call, and what has to be true afterwards."""

    words: tuple[bytes, ...] = (COMMIT,)

    def prepare(self, broker, tables):
        """Put in place what the call needs."""

    def call(self, broker):
        raise NotImplementedError

    def check(self, broker, tables, answer):
        raise NotImplementedError


class Enqueue(Case):
    words = (TASKS, COMMIT)

    def __init__(self, count=1, size=1):
        self.tasks = [new("job", bytes([index % 256]) * size) for index in range(count)]

    def call(self, broker):
        if len(self.tasks) == 1:
            return [broker.enqueue(self.tasks[0])]
        return broker.enqueue_batch(self.tasks)

    def check(self, broker, tables, answer):
        wanted = [task.metadata.id for task in self.tasks]
        assert answer == wanted
        assert [message.task_id for message in drain(broker)] == wanted


class EnqueueSeveral(Enqueue):
    """More than one packet."""

    words = (TASKS,)

    def __init__(self):
        super().__init__(40, 2000)

    def prepare(self, broker, tables):
        core = getattr(broker, "_target", broker).core
        core.server = replace(core.server, max_allowed_packet=60_000)


class EnqueueLast(EnqueueSeveral):
    words = (TASKS, COMMIT)


class EnqueueAfter(Enqueue):
    def call(self, broker):
        return [broker.enqueue_after(self.tasks[0], 3600)]

    def check(self, broker, tables, answer):
        assert answer == [self.tasks[0].metadata.id]
        assert broker.count_scheduled_tasks() == 1


class Held(Case):
    """Some tasks are delivered already."""

    count = 3
    max_retries = 3

    def prepare(self, broker, tables):
        broker.enqueue_batch([new("job", b"x", max_retries=self.max_retries) for _ in range(self.count)])
        self.held = broker.dequeue_batch(self.count)
        assert len(self.held) == self.count

    @property
    def first(self):
        return self.held[0]

    def states(self, broker):
        return [getattr(broker.get_task(message.task_id), "state", None) for message in self.held]


class Dequeue(Case):
    words = (LEASE,)

    def __init__(self, count=1):
        self.count = count

    def prepare(self, broker, tables):
        self.tasks = [new("job") for _ in range(5)]
        broker.enqueue_batch(self.tasks)

    def call(self, broker):
        if self.count == 1:
            return [broker.dequeue()]
        return broker.dequeue_batch(self.count)

    def check(self, broker, tables, answer):
        wanted = [task.metadata.id for task in self.tasks]
        assert [message.task_id for message in answer] == wanted[: self.count]
        tables.check(broker)
        rest = broker.dequeue_batch(10)
        assert [message.task_id for message in rest] == wanted[self.count :]
        assert broker.ack_batch([(m.task_id, m.receipt_handle) for m in answer + rest]) == 5


class DequeueFirst(Dequeue):
    """The consumer's row itself."""

    words = (b"INSERT INTO celers_consumers",)


class DequeueAsWorker(Dequeue):
    words = (b"INSERT", b"celers_workers")

    def call(self, broker):
        return [broker.dequeue_with_worker_id("w1")]


class Ack(Held):
    words = (b"completed = completed + VALUES(completed), heartbeat_at", COMMIT)

    def call(self, broker):
        return broker.ack(self.first.task_id, self.first.receipt_handle)

    def check(self, broker, tables, answer):
        assert answer is None
        assert self.states(broker) == [DbTaskState.COMPLETED] + [DbTaskState.PROCESSING] * 2
        broker.ack(self.first.task_id, self.first.receipt_handle)
        assert broker.get_statistics().completed == 1


class AckWithoutReceipt(Ack):
    words = (b"'completed'", COMMIT)

    def call(self, broker):
        return broker.ack(self.first.task_id)


class AckBatch(Held):
    words = (b"completed = completed + VALUES(completed), heartbeat_at", COMMIT)

    def call(self, broker):
        return broker.ack_batch([(m.task_id, m.receipt_handle) for m in self.held])

    def check(self, broker, tables, answer):
        assert answer == 3
        assert set(self.states(broker)) == {DbTaskState.COMPLETED}
        assert broker.get_statistics().completed == 3


class Complete(Held):
    words = (b"celers_task_results", COMMIT)

    def call(self, broker):
        return broker.consumer.complete([Completion(m, result=str(n)) for n, m in enumerate(self.held)])

    def check(self, broker, tables, answer):
        assert answer == [True] * 3
        assert [broker.get_result(m.task_id).result for m in self.held] == [0, 1, 2]
        assert broker.get_statistics().completed == 3


class Reject(Held):
    words = (b"retry_count = retry_count + 1", COMMIT)

    def call(self, broker):
        return broker.reject(self.first.task_id, self.first.receipt_handle, error="no")

    def check(self, broker, tables, answer):
        task = broker.get_task(self.first.task_id)
        assert (task.state, task.retry_count, task.error_message) == (DbTaskState.PENDING, 1, "no")


class RejectToDlq(Held):
    words = (b"INSERT INTO celers_dead_letter_queue", COMMIT)
    max_retries = 0

    def call(self, broker):
        return broker.reject(self.first.task_id, self.first.receipt_handle, error="no")

    def check(self, broker, tables, answer):
        assert broker.get_task(self.first.task_id) is None
        assert [letter.task_id for letter in broker.list_dlq(10, 0)] == [self.first.task_id]


class Fail(Held):
    words = (b"celers_task_results", COMMIT)
    max_retries = 0

    def call(self, broker):
        return broker.consumer.fail(self.first, error="no")

    def check(self, broker, tables, answer):
        assert answer == "dead_letter"
        assert len(broker.list_dlq(10, 0)) == 1
        assert broker.get_result(self.first.task_id).status is TaskResultStatus.FAILURE


class Cancel(Held):
    words = (b"'cancelled'", COMMIT)

    def call(self, broker):
        return broker.cancel(self.first.task_id)

    def check(self, broker, tables, answer):
        assert answer is True
        assert broker.get_task(self.first.task_id).state is DbTaskState.CANCELLED
        assert broker.get_statistics().cancelled == 1


class CancelPending(Case):
    words = (b"'cancelled'", COMMIT)

    def prepare(self, broker, tables):
        self.id = broker.enqueue(new("job"))

    def call(self, broker):
        return broker.cancel(self.id)

    def check(self, broker, tables, answer):
        assert answer is True
        assert broker.dequeue() is None
        assert broker.get_statistics().cancelled == 1


class StoreResult(Case):
    words = (b"celers_task_results", COMMIT)

    def prepare(self, broker, tables):
        self.task = new("job")

    def call(self, broker):
        return broker.store_result(self.task.metadata.id, "job", TaskResultStatus.SUCCESS, result={"a": 1})

    def check(self, broker, tables, answer):
        assert broker.get_result(self.task.metadata.id).result == {"a": 1}


class DeleteResult(Case):
    words = (b"DELETE r FROM celers_task_results", COMMIT)

    def prepare(self, broker, tables):
        self.id = uuid4()
        broker.store_result(self.id, "job", TaskResultStatus.SUCCESS)

    def call(self, broker):
        return broker.delete_result(self.id)

    def check(self, broker, tables, answer):
        assert answer is True
        assert broker.get_result(self.id) is None
        assert broker.delete_result(self.id) is False


class Purge(Held):
    """One dead letter."""

    words = (b"DELETE d FROM celers_dead_letter_queue", COMMIT)
    max_retries = 0

    def prepare(self, broker, tables):
        super().prepare(broker, tables)
        broker.reject(self.first.task_id, self.first.receipt_handle)
        self.letter = broker.list_dlq(1, 0)[0].id

    def call(self, broker):
        return broker.purge_dlq(self.letter)

    def check(self, broker, tables, answer):
        assert answer is True
        assert broker.list_dlq(1, 0) == []


class GiveBack(Held):
    words = (b"state = 'pending'", COMMIT)

    def call(self, broker):
        return broker.consumer.give_back(self.held)

    def check(self, broker, tables, answer):
        assert answer == 3
        again = broker.dequeue_batch(10)
        assert [m.task_id for m in again] == [m.task_id for m in self.held]
        assert [m.retry_count for m in again] == [0, 0, 0]


class Read(Held):
    words = (b"FROM celers_tasks",)

    def call(self, broker):
        return broker.get_task(self.first.task_id)

    def check(self, broker, tables, answer):
        assert answer.state is DbTaskState.PROCESSING


def drain(broker):
    found = []
    while messages := broker.dequeue_batch(100):
        found += messages
    return found


CASES = {
    "enqueue": Enqueue,
    "enqueue_after": EnqueueAfter,
    "enqueue_batch": lambda: Enqueue(10),
    "enqueue_batch_first_packet": EnqueueSeveral,
    "enqueue_batch_last_packet": EnqueueLast,
    "dequeue": Dequeue,
    "dequeue_batch": lambda: Dequeue(3),
    "dequeue_new_consumer": DequeueFirst,
    "dequeue_new_worker": DequeueAsWorker,
    "ack": Ack,
    "ack_without_receipt": AckWithoutReceipt,
    "ack_batch": AckBatch,
    "complete": Complete,
    "reject": Reject,
    "reject_to_dlq": RejectToDlq,
    "fail": Fail,
    "cancel": Cancel,
    "cancel_pending": CancelPending,
    "store_result": StoreResult,
    "delete_result": DeleteResult,
    "purge_dlq": Purge,
    "give_back": GiveBack,
    "read": Read,
}


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


# KILL QUERY while the server plans a statement: MariaDB answers a single-table UPDATE or DELETE with OK and no rows


class Planning:
    """Sends KILL QUERY while the server plans the next UPDATE or DELETE of a table, which a long list makes slow."""

    PLANS = frozenset({"init for update", "optimizing"})

    def __init__(self, server, monkeypatch, table, column):
        self.begins = re.compile(rb"(UPDATE|DELETE)\b[^()]* %s\b" % table)
        numbers = b",".join(b"%d" % number for number in range(10**9, 10**9 + 300_000))
        self.list = b"WHERE %s NOT IN (%s) AND " % (column, numbers)
        self.connection = server.connect()
        self.watcher, self.watching, self.answered, self.met = None, threading.Event(), threading.Event(), False
        run = Connection.run

        def spoilt(own, text, *rest):
            parts = text.split(b";")
            for index, part in enumerate(parts):
                if self.watcher is None and self.begins.match(part):
                    parts[index] = part.replace(b"WHERE ", self.list, 1)
                    assert parts[index] != part
                    self.watcher = threading.Thread(target=self.watch, args=(own.thread_id,), daemon=True)
                    self.watcher.start()
                    self.watching.wait(30)
                    try:
                        return run(own, b";".join(parts), *rest)
                    finally:
                        self.answered.set()
                        self.watcher.join(30)
            return run(own, text, *rest)

        # An asyncio broker's connections are the same, each on a thread of its own.
        monkeypatch.setattr(Connection, "run", spoilt)

    def watch(self, thread_id):
        cursor = self.connection.cursor()
        while not self.answered.is_set() and not self.met:
            cursor.execute("SELECT state FROM information_schema.processlist WHERE id = %s", (thread_id,))
            self.watching.set()
            if {str(row[0]).lower() for row in cursor.fetchall()} & self.PLANS:
                cursor.execute(f"KILL QUERY {thread_id}")
                self.met = True
        self.connection.close()


@pytest.fixture
def planning(server, monkeypatch):
    made = []
    yield lambda table, column: made.append(Planning(server, monkeypatch, table, column))
    # MySQL reads no plan of a single table in a state that can be told from others.
    assert [one.met for one in made] == [True] * len(made) or not server.is_mariadb


@pytest.mark.spec("CORE-08", "CORE-09")
@pytest.mark.parametrize("table", [b"celers_tasks SET state", b"celers_tasks FORCE"], ids=["claim", "ack"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_claim_or_an_acknowledgement_that_kill_query_meets_early_loses_nothing(
    broker, tables, planning, table, fused
):
    broker.enqueue_batch([new("job") for _ in range(3)])
    first = broker.dequeue()
    planning(table, b"seq")
    if fused:
        done, messages = again(lambda: broker.consumer.cycle([Completion(first)], 1))
        assert done == [True]
        (second,) = messages or broker.dequeue_batch(1)
    else:
        second = again(broker.dequeue)
        again(lambda: broker.ack(first.task_id, first.receipt_handle))
    assert broker.get_statistics().completed == 1
    tables.check(broker)
    third = broker.dequeue()
    assert broker.ack_batch([(m.task_id, m.receipt_handle) for m in (second, third)]) == 2
    assert broker.get_statistics().completed == 3
    tables.check(broker)


class Pause(Case):
    def call(self, broker):
        broker.pause()

    def check(self, broker, tables, answer):
        assert broker.is_paused()


class CancelBlocked(Case):
    def prepare(self, broker, tables):
        parent = broker.enqueue(new("job"))
        self.id = broker.enqueue(new("job", dependencies={parent}))

    def call(self, broker):
        return broker.cancel(self.id)

    def check(self, broker, tables, answer):
        assert broker.get_task(self.id).state is DbTaskState.CANCELLED


EARLY = {
    "finish": (AckWithoutReceipt, b"celers_tasks", b"seq"),
    "requeue": (Reject, b"celers_tasks", b"seq"),
    "delete_tasks": (RejectToDlq, b"celers_tasks", b"seq"),
    "delete_blocked": (CancelBlocked, b"celers_blocked", b"seq"),
    "set_paused": (Pause, b"celers_queues", b"queue_id"),
}


@pytest.mark.spec("CORE-09", "DLQ-01", "CTRL-01")
@pytest.mark.parametrize("name", EARLY)
def test_a_change_that_kill_query_meets_early_is_made_or_refused(broker, tables, planning, name):
    make, *words = EARLY[name]
    case = make()
    case.prepare(broker, tables)
    planning(*words)
    case.check(broker, tables, again(lambda: case.call(broker)))
    tables.check(broker)


# KILL by an administrator


class Killer(threading.Thread):
    """Kills connections and queries of one database at random moments."""

    def __init__(self, server, tables, database, secs, seed):
        super().__init__(daemon=True)
        self.connection = server.connect()
        self.database = database
        self.spared = tables.connection.thread_id()
        self.ends = time.monotonic() + secs
        self.random = random.Random(seed)
        self.kills = 0

    def run(self):
        cursor = self.connection.cursor()
        while time.monotonic() < self.ends:
            cursor.execute("SHOW PROCESSLIST")
            found = [row[0] for row in cursor.fetchall() if row[3] == self.database and row[0] != self.spared]
            if found:
                what = self.random.choice(("KILL", "KILL QUERY", "KILL QUERY"))
                with contextlib.suppress(Exception):
                    cursor.execute(f"{what} {self.random.choice(found)}")
                    self.kills += 1
            time.sleep(self.random.random() * 0.02)
        self.connection.close()


def again(call, *, also=()):
    """Call until it works: an interrupted statement was rolled back and says so."""
    while True:
        try:
            return call()
        except BrokerError as error:
            if not error.retryable:
                raise
        except also:
            return None


@pytest.mark.parametrize("seed", [1])
def test_kills_at_random_moments_lose_and_double_nothing_on_threads(server, database_url, tables, seed):
    name = urlsplit(database_url).path[1:]
    url = database_url + ("&" if "?" in database_url else "?") + "read_timeout=2"
    with MysqlBroker(url, pool_config=PoolConfig(max_connections=8), heartbeat=False) as broker:
        broker.queue_size()
        sent, done, errors = set(), [], []
        killer = Killer(server, tables, name, 6.0, seed)
        consuming = threading.Event()
        consuming.set()

        def guarded(work):
            def run():
                try:
                    work()
                except BaseException as error:  # noqa: BLE001 - shown at the end
                    errors.append(error)

            return threading.Thread(target=run, daemon=True)

        def produce():
            while time.monotonic() < killer.ends:
                batch = [new("job") for _ in range(random.choice((1, 1, 5)))]
                if len(batch) == 1:
                    again(lambda: broker.enqueue(batch[0]), also=DuplicateTaskError)
                else:
                    again(lambda: broker.enqueue_batch(batch), also=DuplicateTaskError)
                sent.update(task.metadata.id for task in batch)

        def consume():
            while consuming.is_set():
                for message in again(lambda: broker.dequeue_batch(5)) or []:
                    again(lambda: broker.ack(message.task_id, message.receipt_handle))
                    done.append(message.task_id)

        workers = [guarded(produce) for _ in range(2)] + [guarded(consume) for _ in range(3)]
        killer.start()
        for worker in workers:
            worker.start()
        killer.join(30)
        for worker in workers[:2]:
            worker.join(30)
        until(lambda: errors or broker.get_statistics().pending + broker.get_statistics().processing == 0, 30)
        consuming.clear()
        for worker in workers:
            worker.join(30)
            assert not worker.is_alive()
        assert errors == []
        assert killer.kills > 50
        assert len(done) == len(set(done))
        assert set(done) == sent
        assert broker.get_statistics().completed == len(sent)
        tables.check(broker)


def test_kills_at_random_moments_lose_and_double_nothing_on_asyncio(server, database_url, tables):
    name = urlsplit(database_url).path[1:]
    url = database_url + ("&" if "?" in database_url else "?") + "read_timeout=2"
    sent, done = set(), []

    async def retry(call, *, also=()):
        while True:
            try:
                return await call()
            except BrokerError as error:
                if not error.retryable:
                    raise
            except also:
                return None

    async def main():
        async with AsyncMysqlBroker(url, pool_config=PoolConfig(max_connections=6), heartbeat=False) as broker:
            await broker.queue_size()
            killer = Killer(server, tables, name, 5.0, 7)
            consuming = True

            async def produce():
                while time.monotonic() < killer.ends:
                    task = new("job")
                    await retry(lambda: broker.enqueue(task), also=DuplicateTaskError)
                    sent.add(task.metadata.id)

            async def consume():
                while consuming:
                    for message in await retry(lambda: broker.dequeue_batch(5)) or []:
                        await retry(lambda: broker.ack(message.task_id, message.receipt_handle))
                        done.append(message.task_id)

            killer.start()
            consumers = [asyncio.create_task(consume()) for _ in range(4)]
            await asyncio.gather(*(produce() for _ in range(3)))
            deadline = time.monotonic() + 30
            while True:
                found = await retry(broker.get_statistics)
                if found.pending + found.processing == 0 or time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.02)
            consuming = False
            await asyncio.wait_for(asyncio.gather(*consumers), 30)
            killer.join(10)
            assert killer.kills > 50

    asyncio.run(main())
    assert len(done) == len(set(done))
    assert set(done) == sent
    with MysqlBroker(database_url) as broker:
        assert broker.get_statistics().completed == len(sent)
        tables.check(broker)


# The server itself is restarted


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_server_restarted_under_use(own_server, how):
    import os
    import signal

    url = database_at(own_server.ensure_started()).url("celers")
    with MysqlBroker(url, heartbeat=False) as broker:
        broker.migrate()
        held = broker.enqueue(new("job"))
        message = broker.dequeue()
        ids, errors = [], []
        stop = threading.Event()

        def produce():
            while not stop.is_set():
                task = new("job")
                while True:
                    try:
                        broker.enqueue(task)
                    except DuplicateTaskError:
                        pass
                    except CelersError as error:
                        errors.append(error)
                        time.sleep(0.02)
                        continue
                    ids.append(task.metadata.id)
                    break

        producers = [threading.Thread(target=produce, daemon=True) for _ in range(2)]
        for producer in producers:
            producer.start()
        until(lambda: len(ids) > 20)
        if how == "stop":
            own_server.stop()
        else:
            os.kill(own_server.status().server_pid, signal.SIGKILL)
        own_server.ensure_started()
        before = len(ids)
        until(lambda: len(ids) > before + 20)
        stop.set()
        for producer in producers:
            producer.join(30)
            assert not producer.is_alive()
        assert all(isinstance(error, BrokerError) for error in errors), errors
        broker.ack(held, message.receipt_handle)
        with pytest.raises(InvalidStateTransitionError):
            broker.ack(held)
        assert sorted(message.task_id for message in drain(broker)) == sorted(ids)


def test_an_asyncio_broker_over_a_restart(own_server):
    async def main():
        url = database_at(own_server.ensure_started()).url("celers")
        async with AsyncMysqlBroker(url, heartbeat=False) as broker:
            await broker.migrate()
            await asyncio.gather(*(broker.enqueue(new("job")) for _ in range(10)))
            message = await broker.dequeue()
            loop = asyncio.get_running_loop()
            stopping = threading.Thread(target=lambda: (own_server.stop(), own_server.ensure_started()))
            stopping.start()
            while stopping.is_alive():
                with contextlib.suppress(BrokerConnectionError):
                    await broker.queue_size()
                await asyncio.sleep(0.01)
            assert loop.is_running()
            await broker.ack(message.task_id, message.receipt_handle)
            assert len(await broker.dequeue_batch(20)) == 9

    asyncio.run(asyncio.wait_for(main(), 50))
