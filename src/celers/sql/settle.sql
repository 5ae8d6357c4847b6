-- name: look_ids
-- Where tasks are, without a lock: says which rows have to be locked first. Unique key uq_tasks_id.
SELECT seq, state, priority, scheduled_at FROM celers_tasks WHERE id IN (:ids) AND queue_id = :queue_id

-- name: look_seqs
SELECT seq, state, priority, scheduled_at FROM celers_tasks FORCE INDEX (PRIMARY)
WHERE seq IN (:seqs) AND queue_id = :queue_id

-- name: lock_ready
-- Pending tasks are locked here first: a claim then skips them instead of waiting.
-- MySQL refuses a locking clause over JSON_TABLE itself (3569), so the keys stand in a derived table of their own.
SELECT r.seq FROM (SELECT sort_rank, seq FROM JSON_TABLE(:keys, '$[*]' COLUMNS (
    sort_rank BIGINT PATH '$[0]', seq BIGINT UNSIGNED PATH '$[1]')) list LIMIT 100000) k
STRAIGHT_JOIN celers_ready r FORCE INDEX (PRIMARY) ON r.queue_id = :queue_id AND r.sort_rank = k.sort_rank
  AND r.seq = k.seq FOR UPDATE

-- name: lock_scheduled
SELECT s.seq FROM (SELECT due_at, seq FROM JSON_TABLE(:keys, '$[*]' COLUMNS (
    due_at DATETIME(6) PATH '$[0]', seq BIGINT UNSIGNED PATH '$[1]')) list LIMIT 100000) k
STRAIGHT_JOIN celers_scheduled s FORCE INDEX (PRIMARY) ON s.due_at = k.due_at AND s.seq = k.seq FOR UPDATE

-- name: lock_blocked
SELECT seq FROM celers_blocked WHERE queue_id = :queue_id AND seq IN (:seqs) FOR UPDATE

-- name: lock_tasks
-- By primary key ascending, after the small tables.
SELECT seq, id, state, priority, retry_count, max_retries, consumer_no, worker_no, deliveries, has_dependants,
  unmet_dependencies, retry_policy, scheduled_at, timeout_secs, task_name
FROM celers_tasks FORCE INDEX (PRIMARY) WHERE seq IN (:seqs) AND queue_id = :queue_id ORDER BY seq FOR UPDATE

-- name: delete_ready
DELETE celers_ready
FROM JSON_TABLE(:keys, '$[*]' COLUMNS (sort_rank BIGINT PATH '$[0]', seq BIGINT UNSIGNED PATH '$[1]')) k
STRAIGHT_JOIN celers_ready FORCE INDEX (PRIMARY) ON celers_ready.queue_id = :queue_id
  AND celers_ready.sort_rank = k.sort_rank AND celers_ready.seq = k.seq

-- name: delete_scheduled
DELETE celers_scheduled
FROM JSON_TABLE(:keys, '$[*]' COLUMNS (due_at DATETIME(6) PATH '$[0]', seq BIGINT UNSIGNED PATH '$[1]')) k
STRAIGHT_JOIN celers_scheduled FORCE INDEX (PRIMARY) ON celers_scheduled.due_at = k.due_at AND celers_scheduled.seq = k.seq

-- name: delete_blocked
DELETE b
FROM JSON_TABLE(:keys, '$[*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) k
STRAIGHT_JOIN celers_blocked b FORCE INDEX (PRIMARY) WHERE b.queue_id = :queue_id AND b.seq = k.seq

-- name: finish
-- A locked task reaches a terminal state; an older error text is kept when there is no new one.
UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET state = :state, completed_at = UTC_TIMESTAMP(6), error_message = IFNULL(:error, error_message)
WHERE seq IN (:seqs)

-- name: take_time
SELECT UTC_TIMESTAMP(6) INTO @celers_now

-- name: requeue
-- A locked task goes back to pending; its receipt ends with consumer_no, its progress is forgotten. A delay is cut at
-- the end of the year 9999.
UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET state = 'pending', retry_count = retry_count + :granted,
    scheduled_at = CAST(@celers_now AS DATETIME(6)) + INTERVAL LEAST(:delay,
      TIMESTAMPDIFF(MICROSECOND, @celers_now, '9999-12-31 23:59:59.999999')) MICROSECOND,
    started_at = DEFAULT, completed_at = DEFAULT, consumer_no = 0, worker_no = 0, isolated = isolated OR :isolated,
    error_message = IFNULL(:error, error_message),
    metadata = IF(JSON_CONTAINS_PATH(metadata, 'one', '$.progress'),
      IF(JSON_LENGTH(metadata) = 1, NULL, JSON_REMOVE(metadata, '$.progress')), metadata)
WHERE seq IN (:seqs)

-- name: place_ready
INSERT INTO celers_ready (queue_id, sort_rank, seq)
SELECT queue_id, -CAST(priority AS SIGNED), seq FROM celers_tasks FORCE INDEX (PRIMARY)
WHERE seq IN (:seqs) AND scheduled_at <= @celers_now

-- name: place_scheduled
INSERT INTO celers_scheduled (due_at, seq, queue_id, sort_rank)
SELECT scheduled_at, seq, queue_id, -CAST(priority AS SIGNED) FROM celers_tasks FORCE INDEX (PRIMARY)
WHERE seq IN (:seqs) AND scheduled_at > @celers_now

-- name: dead_letter
-- A complete copy of a locked task.
INSERT INTO celers_dead_letter_queue (id, task_id, queue_name, task_name, payload, payload_encoding, priority,
  retry_count, max_retries, timeout_secs, error_message, failed_at, created_at, metadata, retry_policy, dedup_key,
  group_id, chord_id, parent_task_id)
SELECT :dlq_id, id, :queue_name, task_name, payload, payload_encoding, priority, retry_count, max_retries,
  timeout_secs, IFNULL(:error, error_message), UTC_TIMESTAMP(6), created_at, metadata, retry_policy, dedup_key,
  group_id, chord_id, parent_task_id
FROM celers_tasks WHERE seq = :seq

-- name: delete_tasks
DELETE t
FROM JSON_TABLE(:keys, '$[*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) k
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) WHERE t.seq = k.seq

-- name: find_dead_letter
-- Did an operation whose outcome was unknown move the task? Key idx_dlq_task_id.
SELECT 1 FROM celers_dead_letter_queue WHERE task_id = :task_id AND queue_name = :queue_name LIMIT 1

-- name: dependants
-- Tasks that still wait for these. Key idx_dependencies_parent (parent_task_id, satisfied).
SELECT d.parent_task_id, t.seq, t.id, d.delay_secs
FROM celers_task_dependencies d STRAIGHT_JOIN celers_tasks t FORCE INDEX (uq_tasks_id) ON t.id = d.task_id
WHERE d.parent_task_id IN (:ids) AND d.satisfied = FALSE AND t.queue_id = :queue_id AND t.state = 'pending'

-- name: satisfy
UPDATE celers_task_dependencies d FORCE INDEX (idx_dependencies_parent) STRAIGHT_JOIN (SELECT 1) one
SET satisfied = TRUE, satisfied_at = UTC_TIMESTAMP(6)
WHERE parent_task_id IN (:ids) AND satisfied = FALSE

-- name: reduce_unmet
UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET unmet_dependencies = unmet_dependencies - :met WHERE seq IN (:seqs)

-- name: become_due
-- A released task is due now, after its chain's delay, or at its own later time.
UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET scheduled_at = GREATEST(scheduled_at, CAST(@celers_now AS DATETIME(6)) + INTERVAL :delay MICROSECOND)
WHERE seq IN (:seqs)

-- name: count_consumer
-- On the row of the consumer that settles; made anew when it was folded meanwhile, so that no count is lost.
-- The consumer is one of this process, so this is a beat as well.
INSERT INTO celers_consumers (consumer_no, queue_id, worker_no, lease, lease_secs, heartbeat_at, started_at,
  completed, failed, cancelled, retried, completions, failures)
VALUES (:consumer_no, :queue_id, 0, '[]', 0, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6),
  :completed, :failed, :cancelled, :retried, :completions, :failures)
ON DUPLICATE KEY UPDATE completed = completed + VALUES(completed), failed = failed + VALUES(failed),
  cancelled = cancelled + VALUES(cancelled), retried = retried + VALUES(retried), heartbeat_at = VALUES(heartbeat_at),
  completions = completions + VALUES(completions), failures = failures + VALUES(failures)

-- name: count_inside
-- In a transaction of the caller, however long: a row of its own, so that nobody waits. Maintenance folds it.
INSERT INTO celers_consumers (queue_id, worker_no, lease, lease_secs, heartbeat_at, started_at,
  completed, failed, cancelled, retried, completions, failures)
VALUES (:queue_id, 0, '[]', 0, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), :completed, :failed, :cancelled, :retried,
  :completions, :failures)

-- name: count_totals
-- Changes by nobody's consumer.
INSERT INTO celers_queue_totals (queue_id, completed, failed, cancelled, retried, completions, failures)
VALUES (:queue_id, :completed, :failed, :cancelled, :retried, :completions, :failures)
ON DUPLICATE KEY UPDATE completed = completed + VALUES(completed), failed = failed + VALUES(failed),
  cancelled = cancelled + VALUES(cancelled), retried = retried + VALUES(retried),
  completions = completions + VALUES(completions), failures = failures + VALUES(failures)
