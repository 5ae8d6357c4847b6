-- name: guard_drain
-- Takes the time of the enqueue and stops the packet with error 1690 when the queue is draining. A plain read: no lock.
SELECT UTC_TIMESTAMP(6), 9223372036854775807 + draining INTO @celers_now, @celers_guard
FROM celers_queues WHERE queue_id = :queue_id

-- name: guard_drain_locked
-- The same on a connection of the caller, whose snapshot may be old: a locking read sees the latest commit.
SELECT UTC_TIMESTAMP(6), 9223372036854775807 + draining INTO @celers_now, @celers_guard
FROM celers_queues WHERE queue_id = :queue_id LOCK IN SHARE MODE

-- name: guard_rows
-- Stops the packet with error 1690 unless the statement before it wrote that many rows.
SELECT 9223372036854775807 + (ROW_COUNT() <> :count) INTO @celers_guard

-- name: ready_last
-- The task inserted by the statement before may be claimed now.
INSERT INTO celers_ready (queue_id, sort_rank, seq) VALUES (:queue_id, :sort_rank, LAST_INSERT_ID())

-- name: ready_one
-- As ready_last, with the guard in it: 1690 when the queue is draining. The aggregate makes a row, and a NULL that is
-- refused, when there is no such queue. A plain read of celers_queues: no lock.
INSERT INTO celers_ready (queue_id, sort_rank, seq)
SELECT :queue_id, :sort_rank + 0 * (9223372036854775807 + MAX(draining)), LAST_INSERT_ID()
FROM celers_queues WHERE queue_id = :queue_id

-- name: ready_numbered
-- The tasks of one multi-row INSERT, whose numbers are consecutive: the last of them is where it has to be, or nothing is
-- written. 1690 when the queue is draining. Three look-ups by key, whatever the number of tasks.
INSERT INTO celers_ready (queue_id, sort_rank, seq)
SELECT queue.queue_id, :sort_rank + 0 * (9223372036854775807 + queue.draining),
  LAST_INSERT_ID() + (numbered.place - 1) * @@auto_increment_increment
FROM celers_queues queue FORCE INDEX (PRIMARY) STRAIGHT_JOIN celers_tasks final FORCE INDEX (PRIMARY)
STRAIGHT_JOIN JSON_TABLE(:places, '$[*]' COLUMNS (place FOR ORDINALITY)) numbered
WHERE queue.queue_id = :queue_id AND final.id = :last_id
  AND final.seq = LAST_INSERT_ID() + (:count - 1) * @@auto_increment_increment

-- name: now
SELECT UTC_TIMESTAMP(6) INTO @celers_now

-- name: ready_range
-- The tasks of one multi-row INSERT: its numbers are consecutive, in steps of auto_increment_increment. Primary key.
INSERT INTO celers_ready (queue_id, sort_rank, seq)
SELECT queue_id, -CAST(priority AS SIGNED), seq FROM celers_tasks FORCE INDEX (PRIMARY)
WHERE seq >= LAST_INSERT_ID() AND seq < LAST_INSERT_ID() + :count * @@auto_increment_increment
  AND (seq - LAST_INSERT_ID()) % @@auto_increment_increment = 0

-- name: ready_range_due
-- Those of the range that are due already.
INSERT INTO celers_ready (queue_id, sort_rank, seq)
SELECT queue_id, -CAST(priority AS SIGNED), seq FROM celers_tasks FORCE INDEX (PRIMARY)
WHERE seq >= LAST_INSERT_ID() AND seq < LAST_INSERT_ID() + :count * @@auto_increment_increment
  AND (seq - LAST_INSERT_ID()) % @@auto_increment_increment = 0 AND scheduled_at <= @celers_now

-- name: scheduled_range
-- Those of the range whose time has not come.
INSERT INTO celers_scheduled (due_at, seq, queue_id, sort_rank)
SELECT scheduled_at, seq, queue_id, -CAST(priority AS SIGNED) FROM celers_tasks FORCE INDEX (PRIMARY)
WHERE seq >= LAST_INSERT_ID() AND seq < LAST_INSERT_ID() + :count * @@auto_increment_increment
  AND (seq - LAST_INSERT_ID()) % @@auto_increment_increment = 0 AND scheduled_at > @celers_now

-- name: place_ready
-- By id, for tasks with dependencies and when the numbers of an INSERT were not consecutive. Unique key uq_tasks_id.
INSERT INTO celers_ready (queue_id, sort_rank, seq)
SELECT queue_id, -CAST(priority AS SIGNED), seq FROM celers_tasks
WHERE id IN (:ids) AND unmet_dependencies = 0 AND scheduled_at <= @celers_now

-- name: place_scheduled
INSERT INTO celers_scheduled (due_at, seq, queue_id, sort_rank)
SELECT scheduled_at, seq, queue_id, -CAST(priority AS SIGNED) FROM celers_tasks
WHERE id IN (:ids) AND unmet_dependencies = 0 AND scheduled_at > @celers_now

-- name: place_blocked
INSERT INTO celers_blocked (queue_id, seq)
SELECT queue_id, seq FROM celers_tasks WHERE id IN (:ids) AND unmet_dependencies > 0

-- name: read_placed
-- Where the rows just inserted belong: number, rank, due time, due already, waits for others. Sees its own transaction.
SELECT seq, -CAST(priority AS SIGNED), scheduled_at, scheduled_at <= @celers_now, unmet_dependencies > 0
FROM celers_tasks FORCE INDEX (uq_tasks_id) WHERE id IN (:ids) ORDER BY seq

-- name: count_stored
-- How many of these ids are stored, as tasks or as dead letters of tasks that are no older than this many microseconds.
-- Keys uq_tasks_id and idx_dlq_task_id.
SELECT COUNT(*) FROM (
  SELECT id FROM celers_tasks FORCE INDEX (uq_tasks_id) WHERE id IN (:ids) AND queue_id = :queue_id
  UNION
  SELECT task_id FROM celers_dead_letter_queue FORCE INDEX (idx_dlq_task_id)
  WHERE task_id IN (:ids) AND queue_name = :queue_name AND created_at >= UTC_TIMESTAMP(6) - INTERVAL :since MICROSECOND
) found

-- name: lock_parents
-- Tasks that new tasks depend on, locked in key order so that none of them ends in between.
SELECT id, state FROM celers_tasks FORCE INDEX (uq_tasks_id) WHERE id IN (:ids) AND queue_id = :queue_id ORDER BY seq FOR UPDATE

-- name: dead_parents
-- Key idx_dlq_task_id.
SELECT task_id FROM celers_dead_letter_queue WHERE task_id IN (:ids) AND queue_name = :queue_name

-- name: archived_parents
-- Dependencies that were archived after they had completed; only with history rows. Key idx_history_task_id.
SELECT DISTINCT task_id FROM celers_task_history
WHERE task_id IN (:ids) AND queue_name = :queue_name AND state = 'completed'

-- name: mark_parents
UPDATE celers_tasks t FORCE INDEX (uq_tasks_id) STRAIGHT_JOIN (SELECT 1) one
SET has_dependants = TRUE WHERE id IN (:ids)
