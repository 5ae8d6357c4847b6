-- name: open
-- A new consumer: its row is its lease, its heartbeat and its counters.
INSERT INTO celers_consumers (queue_id, worker_no, lease, lease_secs, heartbeat_at, started_at)
VALUES (:queue_id, :worker_no, '[]', :lease_secs, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))

-- name: guard_alive
-- Locks the consumer's own row first; stops the packet with error 1690 when it was declared dead and removed. Is the
-- queue paused?
SELECT 9223372036854775807 + (COUNT(*) <> 1), (SELECT paused FROM celers_queues WHERE queue_id = :queue_id)
INTO @celers_guard, @celers_paused
FROM (SELECT 1 FROM celers_consumers WHERE consumer_no = :consumer_no AND queue_id = :queue_id FOR UPDATE) own

-- name: due_keys
-- The next due tasks. Key idx_scheduled_queue in order; rows that another consumer promotes are skipped.
SELECT JSON_ARRAYAGG(JSON_ARRAY(due_at, sort_rank, seq)) INTO @celers_due
FROM (SELECT due_at, sort_rank, seq FROM celers_scheduled FORCE INDEX (idx_scheduled_queue)
      WHERE queue_id = :queue_id AND due_at <= UTC_TIMESTAMP(6)
      ORDER BY due_at, seq LIMIT :count FOR UPDATE SKIP LOCKED) due

-- name: due_insert
INSERT INTO celers_ready (queue_id, sort_rank, seq)
SELECT :queue_id, due.sort_rank, due.seq
FROM JSON_TABLE(@celers_due, '$[*]' COLUMNS (sort_rank BIGINT PATH '$[1]', seq BIGINT UNSIGNED PATH '$[2]')) due

-- name: due_delete
-- By primary key, joined to the list and never by a row-constructor IN, which deadlocks.
DELETE celers_scheduled
FROM JSON_TABLE(@celers_due, '$[*]' COLUMNS (due_at DATETIME(6) PATH '$[0]', seq BIGINT UNSIGNED PATH '$[2]')) due
STRAIGHT_JOIN celers_scheduled FORCE INDEX (PRIMARY) ON celers_scheduled.due_at = due.due_at AND celers_scheduled.seq = due.seq

-- name: pick_many
-- The first ready rows in key order, locking only those; a paused queue looks under number 0, which has none.
SELECT JSON_ARRAYAGG(JSON_ARRAY(sort_rank, seq)), JSON_ARRAYAGG(seq) INTO @celers_keys, @celers_seqs
FROM (SELECT sort_rank, seq FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = IF(@celers_paused, 0, :queue_id)
      ORDER BY sort_rank, seq LIMIT :count FOR UPDATE SKIP LOCKED) picked

-- name: take_many
DELETE celers_ready
FROM JSON_TABLE(@celers_keys, '$[*]' COLUMNS (sort_rank BIGINT PATH '$[0]', seq BIGINT UNSIGNED PATH '$[1]')) picked
STRAIGHT_JOIN celers_ready FORCE INDEX (PRIMARY) ON celers_ready.queue_id = :queue_id
  AND celers_ready.sort_rank = picked.sort_rank AND celers_ready.seq = picked.seq

-- name: start_many
UPDATE JSON_TABLE(@celers_seqs, '$[*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) picked
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = picked.seq
SET t.state = 'processing', t.started_at = UTC_TIMESTAMP(6), t.consumer_no = :consumer_no, t.worker_no = :worker_no,
    t.deliveries = t.deliveries + 1
WHERE t.state = 'pending'

-- name: lease_many
-- What the consumer held before and what it took now; written only when something was taken or a beat is due. And how
-- many tasks the same packet has acknowledged. The row is there: guard_alive has locked it.
INSERT INTO celers_consumers (consumer_no, queue_id, lease, lease_secs, heartbeat_at, started_at, completed)
VALUES (:consumer_no, :queue_id, CONCAT('[[', :held, '],', IFNULL(@celers_seqs, '[]'), ']'), 0, UTC_TIMESTAMP(6),
  UTC_TIMESTAMP(6), :acked)
ON DUPLICATE KEY UPDATE
  lease = IF(@celers_seqs IS NOT NULL OR heartbeat_at < UTC_TIMESTAMP(6) - INTERVAL 1 SECOND, VALUES(lease), lease),
  heartbeat_at = IF(@celers_seqs IS NOT NULL OR heartbeat_at < UTC_TIMESTAMP(6) - INTERVAL 1 SECOND,
    VALUES(heartbeat_at), heartbeat_at),
  completed = completed + VALUES(completed), completions = completions + VALUES(completed)

-- name: read_many
SELECT t.seq, t.id, t.task_name, t.payload, t.payload_encoding, t.priority, t.retry_count, t.max_retries,
  t.timeout_secs, t.created_at, t.started_at, t.deliveries, t.group_id, t.chord_id, t.parent_task_id, t.metadata,
  t.isolated
FROM JSON_TABLE(@celers_seqs, '$[*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) picked
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = picked.seq
WHERE t.consumer_no = :consumer_no AND t.state = 'processing'

-- name: pick_one
-- As pick_many for a single task. MAX over one row gives NULL when there is none.
SELECT MAX(sort_rank), MAX(seq) INTO @celers_rank, @celers_seq
FROM (SELECT sort_rank, seq FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = IF(@celers_paused, 0, :queue_id)
      ORDER BY sort_rank, seq LIMIT 1 FOR UPDATE SKIP LOCKED) picked

-- name: take_one
-- That it took the task is asked by start_one.
DELETE FROM celers_ready WHERE queue_id = :queue_id AND sort_rank = @celers_rank AND seq = @celers_seq

-- name: start_one
-- Nothing, unless take_one has taken one row. That it started the task is asked by lease_one.
UPDATE celers_tasks
SET state = 'processing', started_at = UTC_TIMESTAMP(6), consumer_no = :consumer_no, worker_no = :worker_no,
    deliveries = deliveries + 1
WHERE seq = @celers_seq AND state = 'pending' AND ROW_COUNT() = 1

-- name: lease_one
-- As lease_many; stops the packet with 1690 when a task was picked and the statement before did not change one row.
INSERT INTO celers_consumers (consumer_no, queue_id, lease, lease_secs, heartbeat_at, started_at, completed)
VALUES (:consumer_no, :queue_id, CONCAT('[[', :held, '],[', IFNULL(@celers_seq, ''), ']]'),
  9223372036854775807 + (@celers_seq IS NOT NULL AND ROW_COUNT() <> 1) - 9223372036854775807, UTC_TIMESTAMP(6),
  UTC_TIMESTAMP(6), :acked)
ON DUPLICATE KEY UPDATE
  lease = IF(@celers_seq IS NOT NULL OR heartbeat_at < UTC_TIMESTAMP(6) - INTERVAL 1 SECOND, VALUES(lease), lease),
  heartbeat_at = IF(@celers_seq IS NOT NULL OR heartbeat_at < UTC_TIMESTAMP(6) - INTERVAL 1 SECOND,
    VALUES(heartbeat_at), heartbeat_at),
  completed = completed + VALUES(completed), completions = completions + VALUES(completed)

-- name: read_one
SELECT seq, id, task_name, payload, payload_encoding, priority, retry_count, max_retries,
  timeout_secs, created_at, started_at, deliveries, group_id, chord_id, parent_task_id, metadata, isolated
FROM celers_tasks WHERE seq = @celers_seq AND consumer_no = :consumer_no AND state = 'processing'

-- name: next_due
-- Microseconds until the next scheduled task of the queue is due; NULL without any. Key idx_scheduled_queue.
SELECT TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), MIN(due_at))
FROM celers_scheduled FORCE INDEX (idx_scheduled_queue) WHERE queue_id = :queue_id

-- name: next_due_and_left
-- As next_due; and is anything left behind that claim of the same transaction? Key PRIMARY of celers_ready, one row.
SELECT (SELECT TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), MIN(due_at))
        FROM celers_scheduled FORCE INDEX (idx_scheduled_queue) WHERE queue_id = :queue_id),
  EXISTS(SELECT 1 FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id)

-- name: lock_lease
-- After a claim whose outcome is unknown.
SELECT lease FROM celers_consumers WHERE consumer_no = :consumer_no AND queue_id = :queue_id FOR UPDATE

-- name: read_lease
-- What the consumer really holds; its lease is a superset.
SELECT t.seq, t.id, t.task_name, t.payload, t.payload_encoding, t.priority, t.retry_count, t.max_retries,
  t.timeout_secs, t.created_at, t.started_at, t.deliveries, t.group_id, t.chord_id, t.parent_task_id, t.metadata,
  t.isolated
FROM celers_consumers c
STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
WHERE c.consumer_no = :consumer_no AND c.queue_id = :queue_id
  AND t.consumer_no = :consumer_no AND t.state = 'processing'

-- name: ack_many
-- The owner's acknowledgement: primary key, and only rows whose receipt is still valid. Tasks that others depend on
-- take the longer way.
UPDATE celers_tasks FORCE INDEX (PRIMARY) SET state = 'completed', completed_at = UTC_TIMESTAMP(6)
WHERE seq IN (:seqs) AND state = 'processing' AND consumer_no = :consumer_no AND deliveries = :deliveries
  AND queue_id = :queue_id AND has_dependants = FALSE

-- name: count_acked
-- In the packet of ack_many: counts what it changed on the consumer's own row, which is there when it changed any.
-- None stops the packet with 1690, out of range. MariaDB goes on with a packet whose client is gone, and
-- ROW_COUNT() is -1 then.
INSERT INTO celers_consumers (consumer_no, queue_id, lease, lease_secs, heartbeat_at, started_at, completed)
VALUES (:consumer_no, :queue_id, '[]', 0, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6),
  IF(ROW_COUNT() < 1, 9223372036854775807 + (1 - ROW_COUNT()), ROW_COUNT()))
ON DUPLICATE KEY UPDATE completed = completed + VALUES(completed), heartbeat_at = VALUES(heartbeat_at),
  completions = completions + VALUES(completed)

-- name: note_acked
-- As count_acked, where the claim's lease in the same packet counts. `so_far`: what other groups have acknowledged.
SELECT :so_far + IF(ROW_COUNT() < 0, 9223372036854775807 - ROW_COUNT(), ROW_COUNT()) INTO @celers_acked

-- name: beat
UPDATE celers_consumers c FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one SET c.heartbeat_at = UTC_TIMESTAMP(6)
WHERE c.consumer_no IN (:numbers)
