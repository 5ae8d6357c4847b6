"""The floor: celers' storage protocol written by hand on mysqlclient's low level, without the library.

What a careful person would write who needs exactly this and nothing else: no checks of arguments, no pool, no
retries, no recovery. It has the same tables, the same packets with the same guards, and the same durability, so the
distance between its figures and those of celers is the price of the library. It imports nothing of celers; the
tables are made beforehand by ``celers migrate``.

It also holds the two clients that celers is compared with for what the packets are worth: `executemany` into the same
tables, and a classic consumer that sends begin, select, delete, update, select, commit and ack one after the other.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import MySQLdb
from MySQLdb import _mysql
from MySQLdb.constants import CLIENT

from benchmarks import proxy
from benchmarks.driver import Clock, Driver, Wrong, main
from benchmarks.tally import Tally, number_of, payload_of

__all__ = ["Floor", "FloorDriver", "connect"]

SESSION = (
    "SET SESSION time_zone='+00:00', autocommit=1, lock_wait_timeout=5, innodb_lock_wait_timeout=5,"
    " group_concat_max_len=16777216;SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
)
COLUMNS = "id, queue_id, task_name, payload, payload_encoding, priority, max_retries, created_at, scheduled_at"
NARROW = "id, queue_id, task_name, payload, created_at, scheduled_at"
READY = (
    "INSERT INTO celers_ready (queue_id, sort_rank, seq) SELECT queue_id, -CAST(priority AS SIGNED), seq"
    " FROM celers_tasks FORCE INDEX (PRIMARY) WHERE seq >= LAST_INSERT_ID()"
    " AND seq < LAST_INSERT_ID() + %d * @@auto_increment_increment"
    " AND (seq - LAST_INSERT_ID()) %% @@auto_increment_increment = 0"
)
ROW = (
    "t.seq, t.id, t.task_name, t.payload, t.payload_encoding, t.priority, t.retry_count, t.max_retries,"
    " t.timeout_secs, t.created_at, t.started_at, t.deliveries, t.group_id, t.chord_id, t.parent_task_id, t.metadata,"
    " t.isolated"
)
TABLES = ("tasks", "ready", "scheduled", "blocked", "task_results", "queue_totals")
IDLE_SECS = 0.001

Rows = tuple[tuple[bytes | None, ...], ...]


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Return how to connect: by the unix socket, or by the port of a proxy when the options name one."""
    found: dict[str, Any] = {"user": "root", "database": config["database"], "charset": "utf8mb4"}
    port = config.get("options", {}).get("port")
    if port:
        return found | {"host": "127.0.0.1", "port": port, "ssl_mode": "DISABLED"}
    return found | {"unix_socket": config["socket"]}


def connect(config: dict[str, Any]) -> Any:
    """Open a connection of the low level for packets of several statements."""
    raw = _mysql.connect(
        **arguments(config), conv={}, client_flag=CLIENT.MULTI_STATEMENTS | CLIENT.MULTI_RESULTS | CLIENT.FOUND_ROWS
    )
    run(raw, SESSION.encode())
    return raw


def run(raw: Any, text: bytes) -> list[Any]:
    """Send one packet; return rows, or the number of changed rows, of each statement."""
    raw.query(text)
    found: list[Any] = []
    while True:
        result = raw.store_result()
        found.append(raw.affected_rows() if result is None else result.fetch_row(0))
        if raw.next_result() == -1:
            return found


class Floor:
    """One connection with its consumer row."""

    def __init__(self, config: dict[str, Any], queue: str = "bench") -> None:
        self.raw = connect(config)
        insert = (
            "INSERT IGNORE INTO celers_queues (name, created_at, updated_at)"
            f" VALUES ('{queue}', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
        )
        run(self.raw, insert.encode())
        self.queue = queue
        self.queue_id = int(run(self.raw, f"SELECT queue_id FROM celers_queues WHERE name='{queue}'".encode())[0][0][0])
        self.ids = itertools.count((int(time.time() * 1000) << 80) + (int.from_bytes(os.urandom(4), "big") << 48))
        self.consumer_no = 0
        self.held: list[tuple[int, int]] = []
        self._prepare_producer()

    # Producer

    def _prepare_producer(self) -> None:
        queue_id = self.queue_id
        self._begin = f"START TRANSACTION;INSERT INTO celers_tasks ({NARROW}) VALUES "
        self._row = f"(X'%032x',{queue_id},'noop',X'%s',UTC_TIMESTAMP(6),UTC_TIMESTAMP(6))"
        self._one = (
            ";INSERT INTO celers_ready (queue_id, sort_rank, seq)"
            f" SELECT {queue_id}, 0 * (9223372036854775807 + MAX(draining)), LAST_INSERT_ID()"
            f" FROM celers_queues WHERE queue_id = {queue_id};COMMIT"
        )
        self._range = (
            ";INSERT INTO celers_ready (queue_id, sort_rank, seq)"
            " SELECT q.queue_id, 0 * (9223372036854775807 + q.draining),"
            " LAST_INSERT_ID() + (n.place - 1) * @@auto_increment_increment"
            " FROM celers_queues q STRAIGHT_JOIN celers_tasks t"
            " STRAIGHT_JOIN JSON_TABLE('[%s]', '$[*]' COLUMNS (place FOR ORDINALITY)) n"
            f" WHERE q.queue_id = {queue_id} AND t.id = X'%032x'"
            " AND t.seq = LAST_INSERT_ID() + %d * @@auto_increment_increment;COMMIT"
        )

    def enqueue(self, payload: bytes) -> None:
        """Store one task in one packet."""
        values = self._row % (next(self.ids), payload.hex())
        run(self.raw, (self._begin + values + self._one).encode())

    def enqueue_batch(self, payloads: Sequence[bytes]) -> None:
        """Store a batch in one packet, with hexadecimal literals."""
        row, ids, count = self._row, list(itertools.islice(self.ids, len(payloads))), len(payloads)
        values = ",".join([row % (number, payload.hex()) for number, payload in zip(ids, payloads, strict=True)])
        places = ",".join(["0"] * count)
        text = self._begin + values + self._range % (places, ids[-1], count - 1)
        found = run(self.raw, text.encode())
        if found[2] != count:
            raise Wrong("the numbers of an INSERT were not consecutive")

    # Consumer

    def open(self) -> None:
        """Make the consumer's row, and the texts of its packets."""
        raw, queue_id = self.raw, self.queue_id
        insert = (
            "INSERT INTO celers_consumers (queue_id, worker_no, lease, lease_secs, heartbeat_at, started_at)"
            f" VALUES ({queue_id}, 0, '[]', 300, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
        )
        run(raw, insert.encode())
        self.consumer_no = consumer = raw.insert_id()
        own = f"consumer_no = {consumer} AND queue_id = {queue_id}"
        self._guard = (
            "START TRANSACTION;SELECT 9223372036854775807 + (COUNT(*) <> 1) INTO @guard FROM"
            f" (SELECT 1 FROM celers_consumers WHERE {own} FOR UPDATE) own"
        )
        paused = f";SELECT paused INTO @paused FROM celers_queues WHERE queue_id = {queue_id}"
        ready = f"FROM celers_ready WHERE queue_id = IF(@paused, 0, {queue_id}) ORDER BY sort_rank, seq"
        start = (
            "t.state = 'processing', t.started_at = UTC_TIMESTAMP(6),"
            f" t.consumer_no = {consumer}, t.worker_no = 0, t.deliveries = t.deliveries + 1"
        )
        due = (
            ";SELECT TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), MIN(due_at)) FROM celers_scheduled"
            f" WHERE queue_id = {queue_id};COMMIT"
        )
        table = "FROM JSON_TABLE(@%s, '$[*]' COLUMNS (%s)) picked"
        seqs = "JSON_TABLE(@seqs, '$[*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) picked"
        keys = table % ("keys", "sort_rank BIGINT PATH '$[0]', seq BIGINT UNSIGNED PATH '$[1]'")
        lease = "UPDATE celers_consumers SET lease = CONCAT('[', IFNULL(@seqs, '[]'), ']'),"
        lease_one = "UPDATE celers_consumers SET lease = CONCAT('[[', IFNULL(@seq, ''), ']]'),"
        beat = f" completed = completed + %d, heartbeat_at = UTC_TIMESTAMP(6) WHERE {own}"
        self._many = (
            paused
            + ";SELECT JSON_ARRAYAGG(JSON_ARRAY(sort_rank, seq)), JSON_ARRAYAGG(seq) INTO @keys, @seqs FROM"
            + f" (SELECT sort_rank, seq {ready} LIMIT %d FOR UPDATE SKIP LOCKED) picked"
            + f";DELETE celers_ready {keys} STRAIGHT_JOIN celers_ready ON celers_ready.queue_id = {queue_id}"
            + " AND celers_ready.sort_rank = picked.sort_rank AND celers_ready.seq = picked.seq"
            + f";UPDATE {seqs} STRAIGHT_JOIN celers_tasks t ON t.seq = picked.seq SET {start} WHERE t.state = 'pending'"
            + f";{lease}{beat}"
            + f";SELECT {ROW} FROM {seqs} STRAIGHT_JOIN celers_tasks t ON t.seq = picked.seq"
            + f" WHERE t.consumer_no = {consumer} AND t.state = 'processing'"
            + due
        )
        self._single = (
            paused
            + ";SELECT MAX(sort_rank), MAX(seq) INTO @rank, @seq FROM"
            + f" (SELECT sort_rank, seq {ready} LIMIT 1 FOR UPDATE SKIP LOCKED) picked"
            + f";DELETE FROM celers_ready WHERE queue_id = {queue_id} AND sort_rank = @rank AND seq = @seq"
            + f";UPDATE celers_tasks t SET {start} WHERE t.seq = @seq AND t.state = 'pending'"
            + f";{lease_one}{beat}"
            + f";SELECT {ROW} FROM celers_tasks t WHERE t.seq = @seq AND t.consumer_no = {consumer}"
            + " AND t.state = 'processing'"
            + due
        )
        self._ack = (
            ";UPDATE celers_tasks FORCE INDEX (PRIMARY) SET state = 'completed', completed_at = UTC_TIMESTAMP(6)"
            f" WHERE seq IN (%s) AND state = 'processing' AND consumer_no = {consumer} AND deliveries = %d"
            f" AND queue_id = {queue_id} AND has_dependants = FALSE"
        )
        self._results = (
            ";INSERT INTO celers_task_results (task_id, queue_name, task_name, status, result, created_at,"
            " completed_at, runtime_ms)"
            f" SELECT t.id, '{self.queue}', t.task_name, 'SUCCESS', v.result, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), v.ms"
            " FROM JSON_TABLE('%s', '$[*]' COLUMNS (seq BIGINT UNSIGNED PATH '$[0]', result MEDIUMTEXT PATH '$[1]',"
            " ms BIGINT UNSIGNED PATH '$[2]')) v STRAIGHT_JOIN celers_tasks t ON t.seq = v.seq"
            f" WHERE t.state = 'completed' AND t.consumer_no = {consumer} AND t.deliveries = 1"
        )
        self._count = f";UPDATE celers_consumers SET {beat[1:]};COMMIT"

    def _ack_text(self, held: Sequence[tuple[int, int]]) -> str:
        if all(deliveries == 1 for _, deliveries in held):
            return self._ack % (",".join([str(seq) for seq, _ in held]), 1)
        return "".join([self._ack % (seq, deliveries) for seq, deliveries in held])

    def cycle(self, size: int, results: Sequence[tuple[int, str, int]] = ()) -> Rows:
        """Acknowledge what is held and claim the next tasks, in one packet with one commit."""
        held = self.held
        text = self._guard
        if held:
            text += self._ack_text(held)
            if results:
                text += self._results % json.dumps(results).replace("\\", "\\\\").replace("'", "''")
        text += self._single % len(held) if size == 1 else self._many % (size, len(held))
        found = run(self.raw, text.encode())
        if held and found[2] != len(held):
            raise Wrong(f"{found[2]} of {len(held)} tasks were acknowledged")
        rows: Rows = found[-3]
        self.held = [(int(row[0]), int(row[11])) for row in rows]  # type: ignore[arg-type]
        return rows

    def claim(self, size: int) -> Rows:
        """Claim without acknowledging."""
        self.held = []
        return self.cycle(size)

    def ack(self) -> None:
        """Acknowledge what is held, in a packet of its own."""
        held, self.held = self.held, []
        text = "START TRANSACTION" + self._ack_text(held) + self._count % len(held)
        if run(self.raw, text.encode())[1] != len(held):
            raise Wrong("not all tasks were acknowledged")


class Classic:
    """A consumer that sends its statements one after the other, as most code does."""

    def __init__(self, config: dict[str, Any], queue_id: int, consumer_no: int) -> None:
        self.connection = MySQLdb.connect(**arguments(config))
        self.cursor = self.connection.cursor()
        self.cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        self.cursor.execute("SET SESSION time_zone = '+00:00'")
        self.queue_id, self.consumer_no = queue_id, consumer_no
        self.connection.autocommit(True)

    def cycle(self, size: int) -> list[bytes]:
        """Claim, return the payloads, and acknowledge: seven round trips."""
        execute, queue_id, consumer = self.cursor.execute, self.queue_id, self.consumer_no
        execute("START TRANSACTION")
        execute(
            "SELECT sort_rank, seq FROM celers_ready WHERE queue_id = %s ORDER BY sort_rank, seq"
            " LIMIT %s FOR UPDATE SKIP LOCKED",
            (queue_id, size),
        )
        picked = self.cursor.fetchall()
        if not picked:
            execute("COMMIT")
            return []
        seqs = tuple(seq for _, seq in picked)
        # Rows of one rank: the keys are a list of numbers, which does not deadlock as a list of pairs does.
        execute("DELETE FROM celers_ready WHERE queue_id = %s AND sort_rank = 0 AND seq IN %s", (queue_id, seqs))
        execute(
            "UPDATE celers_tasks SET state = 'processing', started_at = UTC_TIMESTAMP(6), consumer_no = %s,"
            " deliveries = deliveries + 1 WHERE seq IN %s AND state = 'pending'",
            (consumer, seqs),
        )
        execute("SELECT seq, payload FROM celers_tasks WHERE seq IN %s", (seqs,))
        rows = self.cursor.fetchall()
        execute("COMMIT")
        execute(
            "UPDATE celers_tasks SET state = 'completed', completed_at = UTC_TIMESTAMP(6)"
            " WHERE seq IN %s AND state = 'processing' AND consumer_no = %s",
            (seqs, consumer),
        )
        return [payload for _, payload in rows]


class FloorDriver(Driver):
    """Measures the floor."""

    module = "benchmarks.floor"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.floor = Floor(config)

    def versions(self) -> dict[str, str]:
        """Return the driver's version."""
        return {"mysqlclient": version("mysqlclient")}

    def clear(self) -> None:
        """Empty the tables."""
        for table in TABLES:
            run(self.floor.raw, f"TRUNCATE celers_{table}".encode())

    def left(self) -> int:
        """Count unfinished tasks."""
        rows = run(self.floor.raw, b"SELECT COUNT(*) FROM celers_tasks WHERE state IN ('pending', 'processing')")
        return int(rows[0][0][0])

    def enqueue(self, payload: str) -> None:
        """Store one task."""
        self.floor.enqueue(payload.encode())

    def enqueue_many(self, payloads: Sequence[str]) -> None:
        """Store a batch."""
        self.floor.enqueue_batch([payload.encode() for payload in payloads])

    def measure_executemany(self, count: int, size: int = 1000) -> dict[str, Any]:
        """Store batches by the driver's own `executemany`, into the same tables."""
        self.clear()
        connection = MySQLdb.connect(**arguments(self.config))
        cursor = connection.cursor()
        cursor.max_stmt_length = 1 << 24  # one statement for a batch, the better setting for it
        ids, queue_id = self.floor.ids, self.floor.queue_id
        insert = (
            f"INSERT INTO celers_tasks ({COLUMNS}) VALUES"
            " (%s, %s, %s, %s, %s, %s, %s, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
        )
        batches = [[payload_of(at + n).encode() for n in range(size)] for at in range(0, count, size)]
        with Clock() as clock:
            for batch in batches:
                rows = [(next(ids).to_bytes(16, "big"), queue_id, "noop", one, "raw", 0, 3) for one in batch]
                cursor.executemany(insert, rows)
                cursor.execute(READY % len(batch))
                connection.commit()
        connection.close()
        self.expect(size * len(batches))
        return {"tasks": size * len(batches), "secs": clock.secs, "cpu": clock.cpu}

    def measure_claim_ack(self, count: int, size: int = 100) -> dict[str, Any]:
        """Claim and acknowledge batches, without a worker."""
        self.clear()
        self.fill([payload_of(number) for number in range(count)])
        self.floor.open()
        seen: set[int] = set()
        with Clock() as clock:
            while rows := self.floor.claim(size):
                seen.update([number_of(row[3]) for row in rows])  # type: ignore[arg-type]
                self.floor.ack()
        if len(seen) != count:
            raise Wrong(f"{len(seen)} of {count} tasks were claimed")
        self.expect(0)
        return {"tasks": count, "secs": clock.secs, "cpu": clock.cpu}

    def measure_network(self, count: int, delay_secs: float = 0.0005, **options: Any) -> dict[str, Any]:
        """Drain through a delay in each direction."""
        with proxy.running(self.config["socket"], delay_secs) as network:
            return self.measure_drain(count, 1, port=network.port, **options)

    def work(self, tally: Tally) -> None:
        """Run tasks by the fused cycle, or classically."""
        options = self.config["options"]
        size = options.get("batch", 500)  # as a worker of celers does
        floor = Floor(self.config)
        floor.open()
        mark = tally.mark
        if options.get("classic"):
            classic = Classic(self.config, floor.queue_id, floor.consumer_no)
            tally.wait_at_gate()
            while True:
                payloads = classic.cycle(size)
                for payload in payloads:
                    mark(number_of(payload))
                if not payloads:
                    time.sleep(IDLE_SECS)
        with_results = options.get("results", False)
        results: list[tuple[int, str, int]] = []
        tally.wait_at_gate()
        while True:
            rows = floor.cycle(size, results)
            for row in rows:
                mark(number_of(row[3]))  # type: ignore[arg-type]
            if with_results:
                results = [(seq, str(seq), 0) for seq, _ in floor.held]
            if not rows:
                time.sleep(IDLE_SECS)


if __name__ == "__main__":
    main(FloorDriver)
