"""Statements that an administrator interrupts, and connections that he ends, at any moment."""

# ruff: noqa: B023 - what is called again is called before the loop goes on

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
import time
from urllib.parse import urlsplit

import pytest

from celers import (
    AsyncMysqlBroker,
    BrokerError,
    DbTaskState,
    DuplicateTaskError,
    MysqlBroker,
    PoolConfig,
    SerializedTask,
)
from celers.components.consumer import Completion
from celers.db.driver import Connection
from tests.fixtures.cuts import AckWithoutReceipt, Case, Reject, RejectToDlq, again
from tests.fixtures.waiting import until

pytestmark = [pytest.mark.spec("ARCH-12", "TEST-05"), pytest.mark.timeout(60)]
new = SerializedTask.new


# KILL QUERY while the server plans a statement: MariaDB answers a single-table UPDATE or DELETE with OK and no rows


class Planning:
    """Sends KILL QUERY while the server plans the next UPDATE or DELETE of a table, which a long list makes slow."""

    PLANS = frozenset({"init for update", "optimizing"})

    def __init__(self, server, monkeypatch, table, column):
        self.begins = re.compile(rb"(UPDATE\b[^()]*|DELETE\b[^;]*) %s\b" % table)
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
    "delete_tasks": (RejectToDlq, b"celers_tasks", b"t.seq"),
    "delete_blocked": (CancelBlocked, b"celers_blocked", b"b.seq"),
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
