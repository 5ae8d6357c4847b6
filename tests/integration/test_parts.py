"""Operations of several transactions: a part that begins anew or whose outcome is unknown does not spoil the sum."""

from __future__ import annotations

import threading

import pytest

from celers import DbTaskState, PoolConfig, SerializedTask, TaskResultStatus
from celers.components import deleting, dlq, maintenance, results, tasks
from tests.fixtures.waiting import INNODB_EVERY, until

pytestmark = [pytest.mark.spec("ARCH-05", "ARCH-12"), pytest.mark.timeout(60)]

COUNT = 7
LOCK = b"FROM celers_tasks FORCE INDEX (PRIMARY) WHERE seq IN"
DELETE = b"JOIN celers_tasks t FORCE INDEX (PRIMARY) WHERE t.seq = k.seq"


def fill(broker, **options):
    return broker.enqueue_batch([SerializedTask.new("job", **options) for _ in range(COUNT)])


def hold(broker, **options):
    fill(broker, **options)
    return broker.dequeue_batch(COUNT, worker_id="one")


def dead_letters(broker):
    for message in hold(broker, max_retries=0):
        broker.reject(message.task_id, message.receipt_handle)


class Case:
    """One operation in chunks of two rows.

    `last` are words of the packet that commits a chunk, `lock` of one that goes before it in the same transaction.
    """

    last: tuple[bytes, ...]
    lock: tuple[bytes, ...] = (LOCK, b"FOR UPDATE")

    def prepare(self, broker, tables):
        raise NotImplementedError

    def call(self, broker):
        raise NotImplementedError

    def check(self, broker):
        raise NotImplementedError


class Purge(Case):
    last = (DELETE,)

    def prepare(self, broker, tables):
        fill(broker)

    def call(self, broker):
        return broker.purge_all()

    def check(self, broker):
        assert broker.get_statistics().total == 0


class Expire(Case):
    last = (b"'cancelled'", b"COMMIT")

    def prepare(self, broker, tables):
        fill(broker)
        tables.rows("UPDATE celers_tasks SET scheduled_at = scheduled_at - INTERVAL 1 HOUR")

    def call(self, broker):
        return broker.expire_pending_tasks(60)

    def check(self, broker):
        assert broker.get_statistics().cancelled == COUNT


class Recover(Case):
    last = (b"SET state = 'pending'", b"COMMIT")

    def prepare(self, broker, tables):
        hold(broker)
        tables.rows("UPDATE celers_tasks SET started_at = started_at - INTERVAL 1 HOUR")

    def call(self, broker):
        return broker.recover_stuck_tasks(60)

    def check(self, broker):
        again = broker.dequeue_batch(COUNT + 1)
        assert [message.retry_count for message in again] == [1] * COUNT


class RecoverOfWorker(Recover):
    def call(self, broker):
        return broker.requeue_stuck_tasks_by_worker("one")


class RecoverToDlq(Recover):
    last = (b"INSERT INTO celers_dead_letter_queue", b"COMMIT")

    def prepare(self, broker, tables):
        hold(broker, max_retries=0)
        tables.rows("UPDATE celers_tasks SET started_at = started_at - INTERVAL 1 HOUR")

    def check(self, broker):
        assert len(broker.list_dlq(100, 0)) == COUNT


class RescueDead(Case):
    """One transaction for each consumer."""

    last = (b"DELETE c FROM celers_consumers", b"COMMIT")

    def prepare(self, broker, tables):
        for _ in range(COUNT):
            broker.enqueue(SerializedTask.new("job"))
            slot = broker.core.slots.take()
            if slot is not None:
                broker.core.slots.drop(slot)  # the next claim opens another consumer
            assert broker.dequeue() is not None
        tables.rows("UPDATE celers_consumers SET heartbeat_at = heartbeat_at - INTERVAL 1 HOUR")

    def call(self, broker):
        return broker.maintenance.rescue_dead()

    def check(self, broker):
        assert len(broker.dequeue_batch(COUNT + 1)) == COUNT


class Promote(Case):
    last = (b"INSERT INTO celers_ready", b"DELETE celers_scheduled", b"COMMIT")
    lock = ()

    def prepare(self, broker, tables):
        for _ in range(COUNT):
            broker.enqueue_after(SerializedTask.new("job"), 60)
        tables.pass_time(61)

    def call(self, broker):
        return broker.maintenance.promote_due()

    def check(self, broker):
        assert broker.count_scheduled_tasks() == 0
        assert len(broker.dequeue_batch(COUNT + 1)) == COUNT


class PurgeDlq(Case):
    last = (b"DELETE d", b"JOIN celers_dead_letter_queue d")
    lock = ()

    def prepare(self, broker, tables):
        dead_letters(broker)
        tables.rows("UPDATE celers_dead_letter_queue SET failed_at = failed_at - INTERVAL 2 HOUR")

    def call(self, broker):
        return broker.purge_all_dlq()

    def check(self, broker):
        assert broker.list_dlq(10, 0) == []


class Retention(PurgeDlq):
    def call(self, broker):
        return broker.apply_dlq_retention(3600)


class Archive(Case):
    last = (b"DELETE r", b"JOIN celers_task_results r")
    lock = ()

    def prepare(self, broker, tables):
        for task_id in fill(broker):
            broker.store_result(task_id, "job", TaskResultStatus.SUCCESS)
        tables.rows("UPDATE celers_task_results SET completed_at = completed_at - INTERVAL 1 HOUR")

    def call(self, broker):
        return broker.archive_results(60)

    def check(self, broker):
        ids = [task.id for task in broker.list_tasks(None, 100, 0)]
        assert broker.get_result_batch(ids) == []


class ArchiveFinished(Case):
    last = (DELETE, b"COMMIT")

    def prepare(self, broker, tables):
        hold(broker)
        broker.ack_batch([(task.id, None) for task in broker.get_processing_tasks(100, 0)])
        tables.rows("UPDATE celers_tasks SET completed_at = completed_at - INTERVAL 1 HOUR")

    def call(self, broker):
        return broker.archive_completed_tasks(60)

    def check(self, broker):
        assert broker.get_statistics().total == 0


CASES = {
    case.__name__: case
    for case in (
        *(Purge, Expire, Recover, RecoverOfWorker, RecoverToDlq),
        *(RescueDead, Promote, PurgeDlq, Retention, Archive, ArchiveFinished),
    )
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(deleting, "PURGE_CHUNK", 2)
    monkeypatch.setattr(maintenance, "PURGE_CHUNK", 2)
    monkeypatch.setattr(maintenance, "RECOVER_CHUNK", 2)
    monkeypatch.setattr(maintenance, "PROMOTE_CHUNK", 2)
    monkeypatch.setattr(tasks, "EXPIRE_CHUNK", 2)
    monkeypatch.setattr(dlq, "PURGE_CHUNK", 2)
    monkeypatch.setattr(results, "ARCHIVE_CHUNK", 2)


@pytest.fixture
def through(proxy, make_broker, database_url):
    return make_broker(
        url=proxy.url(database_url, read_timeout=2), pool_config=PoolConfig(max_connections=3), heartbeat=False
    )


@pytest.mark.parametrize("how", ["before", "during", "after", "middle"])
@pytest.mark.parametrize("name", CASES)
def test_a_later_part_of_unknown_outcome_is_counted_once(proxy, through, tables, name, how):
    case = CASES[name]()
    case.prepare(through, tables)
    rule = proxy.spoil(how, *case.last, skip=1)
    assert case.call(through) == COUNT
    assert rule.seen.is_set()
    case.check(through)
    tables.check(through)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.lock])
def test_a_later_part_that_begins_anew_does_not_forget_the_earlier_ones(proxy, through, tables, name):
    case = CASES[name]()
    case.prepare(through, tables)
    rule = proxy.spoil("before", *case.lock, skip=1, times=3)
    assert case.call(through) == COUNT
    assert rule.left == 0
    case.check(through)
    tables.check(through)


def test_rows_that_change_between_look_and_lock_begin_only_their_part_anew(broker, make_sync, tables, packets):
    fill(broker)
    other = make_sync()
    taken = []

    def put_off():
        for message in other.dequeue_batch(3):
            other.reject(message.task_id, message.receipt_handle)
            taken.append(message.task_id)

    # Between look and lock tasks of the second chunk move from the ready ones to the scheduled ones.
    packets.before(b"JOIN celers_ready r", lambda: packets.before(b"JOIN celers_ready r", put_off))
    assert broker.purge_all() == COUNT
    assert len(taken) == 3
    assert broker.get_statistics().total == 0
    tables.check(broker)


def test_a_deadlock_in_a_later_part_does_not_spoil_the_sum(broker, tables, packets):
    ids = fill(broker)
    seqs = [tables.task(task_id)["seq"] for task_id in ids]
    tables.rows("CREATE TABLE ballast (id INT PRIMARY KEY, n INT)")
    tables.rows("INSERT INTO ballast VALUES " + ", ".join(f"({n}, 0)" for n in range(200)))
    mine = tables.connect(autocommit=False)
    cursor = mine.cursor()
    # Whoever has changed more rows survives a deadlock.
    cursor.execute("UPDATE ballast SET n = 1")
    cursor.execute("SELECT 1 FROM celers_tasks FORCE INDEX (PRIMARY) WHERE seq = %s FOR UPDATE", (seqs[3],))
    found = []
    purge = threading.Thread(target=lambda: found.append(broker.purge_all()), daemon=True)
    purge.start()
    waiting = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE %s"
    until(lambda: tables.value(waiting, (f"%seq IN ({seqs[2]},{seqs[3]})%",)), 10, every=INNODB_EVERY)
    cursor.execute("SELECT 1 FROM celers_tasks FORCE INDEX (PRIMARY) WHERE seq = %s FOR UPDATE", (seqs[2],))
    mine.rollback()
    purge.join(20)
    mine.close()
    assert b"ROLLBACK" in packets.sent
    assert found == [COUNT]
    assert broker.get_statistics().total == 0


def test_consumers_end_although_the_connection_is_lost(proxy, through, tables):
    through.enqueue(SerializedTask.new("job"))
    message = through.dequeue()
    through.ack(message.task_id, message.receipt_handle)
    rule = proxy.spoil("before", b"DELETE c FROM celers_consumers", b"COMMIT")
    assert through.consumers.end() == 1
    assert rule.seen.is_set()
    assert tables.value("SELECT COUNT(*) FROM celers_consumers") == 0


@pytest.mark.spec("BATCH-06")
@pytest.mark.parametrize("how", ["before", "during", "after", "middle"])
@pytest.mark.parametrize("state", [DbTaskState.PENDING, DbTaskState.PROCESSING, DbTaskState.COMPLETED])
def test_a_state_set_by_hand_is_known_although_its_commit_was_not_heard_of(proxy, through, tables, how, state):
    ids = fill(through)
    if state is DbTaskState.PENDING:
        through.update_batch_state(ids, DbTaskState.FAILED)
    rule = proxy.spoil(how, b"UPDATE celers_tasks", b"COMMIT")
    assert through.update_batch_state(ids, state) == COUNT
    assert rule.seen.is_set()
    assert through.count_by_state_quick(state) == COUNT
    tables.check(through)
