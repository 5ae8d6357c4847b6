-- name: export_tasks
-- All at once, oldest first: one statement sees one snapshot. Primary key; rows of other queues are passed over.
SELECT t.id, t.task_name, t.payload, t.payload_encoding, t.state, t.priority, t.retry_count, t.max_retries,
  t.timeout_secs, t.created_at, t.scheduled_at, t.started_at, t.completed_at, w.worker_id, t.error_message, t.metadata,
  t.retry_policy, t.dedup_key, t.group_id, t.chord_id, t.parent_task_id,
  (SELECT GROUP_CONCAT(HEX(d.parent_task_id) ORDER BY d.parent_task_id)
   FROM celers_task_dependencies d FORCE INDEX (uq_dependencies_task_parent) WHERE d.task_id = t.id)
FROM celers_tasks t FORCE INDEX (PRIMARY) LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
WHERE t.queue_id = :queue_id AND (:any_state OR t.state = :state)
ORDER BY t.seq LIMIT :count

-- name: snapshot_level
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ

-- name: snapshot
START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY

-- name: last_task
-- The end of the primary key.
SELECT MAX(seq) FROM celers_tasks

-- name: tasks_page
-- The next tasks by primary key: as many as fit into a number of rows and a number of bytes, and at least one.
SELECT t.id, t.task_name, t.payload, t.payload_encoding, t.state, t.priority, t.retry_count, t.max_retries,
  t.timeout_secs, t.created_at, t.scheduled_at, t.started_at, t.completed_at, w.worker_id, t.error_message, t.metadata,
  t.retry_policy, t.dedup_key, t.group_id, t.chord_id, t.parent_task_id,
  (SELECT GROUP_CONCAT(HEX(d.parent_task_id) ORDER BY d.parent_task_id)
   FROM celers_task_dependencies d FORCE INDEX (uq_dependencies_task_parent) WHERE d.task_id = t.id),
  t.seq
FROM (SELECT seq, size, SUM(size) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS upto
      FROM (SELECT seq,
              LENGTH(payload) + IFNULL(LENGTH(metadata), 0) + IFNULL(LENGTH(error_message), 0) AS size
            FROM celers_tasks FORCE INDEX (PRIMARY)
            WHERE queue_id = :queue_id AND seq > :after AND seq <= :last AND (:any_state OR state = :state)
            ORDER BY seq LIMIT :count) some) page
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = page.seq
LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
WHERE page.upto - page.size < :most
ORDER BY t.seq

-- name: export_letters
-- All at once, newest first. Key idx_dlq_failed_at, backwards.
SELECT id, task_id, task_name, payload, payload_encoding, priority, retry_count, max_retries, timeout_secs,
  error_message, failed_at, created_at, metadata, retry_policy, dedup_key, group_id, chord_id, parent_task_id
FROM celers_dead_letter_queue FORCE INDEX (idx_dlq_failed_at) WHERE queue_name = :queue_name
ORDER BY failed_at DESC, id DESC LIMIT :count

-- name: letters_page
-- The next dead letters, newest first, by rows and bytes as tasks_page. Key idx_dlq_failed_at, backwards.
SELECT d.id, d.task_id, d.task_name, d.payload, d.payload_encoding, d.priority, d.retry_count, d.max_retries,
  d.timeout_secs, d.error_message, d.failed_at, d.created_at, d.metadata, d.retry_policy, d.dedup_key, d.group_id,
  d.chord_id, d.parent_task_id
FROM (SELECT id, failed_at, size,
        SUM(size) OVER (ORDER BY failed_at DESC, id DESC ROWS UNBOUNDED PRECEDING) AS upto
      FROM (SELECT id, failed_at,
              LENGTH(payload) + IFNULL(LENGTH(metadata), 0) + IFNULL(LENGTH(error_message), 0) AS size
            FROM celers_dead_letter_queue FORCE INDEX (idx_dlq_failed_at)
            WHERE queue_name = :queue_name AND failed_at <= :failed_at AND (failed_at < :failed_at OR id < :id)
            ORDER BY failed_at DESC, id DESC LIMIT :count) some) page
STRAIGHT_JOIN celers_dead_letter_queue d FORCE INDEX (PRIMARY) ON d.id = page.id
WHERE page.upto - page.size < :most
ORDER BY d.failed_at DESC, d.id DESC

-- name: stored_ids
-- Which of these ids are taken, in any queue. Unique key uq_tasks_id.
SELECT id FROM celers_tasks FORCE INDEX (uq_tasks_id) WHERE id IN (:ids)

-- name: set_unmet
-- Imported tasks that wait for that many others.
UPDATE celers_tasks t FORCE INDEX (uq_tasks_id) STRAIGHT_JOIN (SELECT 1) one
SET unmet_dependencies = :unmet WHERE id IN (:ids)

-- name: place_ready
-- Imported pending tasks that may be claimed now. Unique key uq_tasks_id.
INSERT INTO celers_ready (queue_id, sort_rank, seq)
SELECT queue_id, -CAST(priority AS SIGNED), seq FROM celers_tasks FORCE INDEX (uq_tasks_id)
WHERE id IN (:ids) AND state = 'pending' AND unmet_dependencies = 0 AND scheduled_at <= @celers_now

-- name: place_scheduled
INSERT INTO celers_scheduled (due_at, seq, queue_id, sort_rank)
SELECT scheduled_at, seq, queue_id, -CAST(priority AS SIGNED) FROM celers_tasks FORCE INDEX (uq_tasks_id)
WHERE id IN (:ids) AND state = 'pending' AND unmet_dependencies = 0 AND scheduled_at > @celers_now

-- name: place_blocked
INSERT INTO celers_blocked (queue_id, seq)
SELECT queue_id, seq FROM celers_tasks FORCE INDEX (uq_tasks_id)
WHERE id IN (:ids) AND state = 'pending' AND unmet_dependencies > 0
