-- name: processing_page
-- Longest in work first. From the leases: costs what is in work, however many tasks are stored.
SELECT t.id, t.task_name, t.state, t.priority, t.retry_count, t.max_retries, t.created_at, t.scheduled_at, t.started_at,
  t.completed_at, w.worker_id, t.error_message, t.metadata, t.group_id, t.chord_id, t.parent_task_id, t.dedup_key,
  t.unmet_dependencies
FROM (SELECT DISTINCT t.seq, t.started_at FROM celers_consumers c
      STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
      STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
      WHERE c.queue_id = :queue_id AND t.state = 'processing' AND t.consumer_no = c.consumer_no
      ORDER BY t.started_at, t.seq LIMIT :count OFFSET :skip) longest
STRAIGHT_JOIN celers_tasks t ON t.seq = longest.seq
LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
ORDER BY t.started_at, t.seq

-- name: of_worker
-- The last started first. Reads the tasks of the queue, or idx_tasks_worker_started where it was made.
SELECT t.id, t.task_name, t.state, t.priority, t.retry_count, t.max_retries, t.created_at, t.scheduled_at, t.started_at,
  t.completed_at, w.worker_id, t.error_message, t.metadata, t.group_id, t.chord_id, t.parent_task_id, t.dedup_key,
  t.unmet_dependencies
FROM celers_workers w STRAIGHT_JOIN celers_tasks t ON t.queue_id = :queue_id AND t.worker_no = w.worker_no
WHERE w.worker_id = :worker_id AND w.queue_id = :queue_id
ORDER BY t.started_at DESC, t.seq DESC

-- name: created_between
-- Newest first. The primary key backwards until the page is full, or idx_tasks_created_at where it was made.
SELECT t.id, t.task_name, t.state, t.priority, t.retry_count, t.max_retries, t.created_at, t.scheduled_at, t.started_at,
  t.completed_at, w.worker_id, t.error_message, t.metadata, t.group_id, t.chord_id, t.parent_task_id, t.dedup_key,
  t.unmet_dependencies
FROM (SELECT seq FROM celers_tasks
      WHERE queue_id = :queue_id AND created_at BETWEEN :from_time AND :to_time AND (:any_state OR state = :state)
      ORDER BY seq DESC LIMIT :count OFFSET :skip) found
STRAIGHT_JOIN celers_tasks t ON t.seq = found.seq
LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
ORDER BY t.seq DESC

-- name: with_metadata
-- Newest first. The primary key backwards until the page is full; every metadata object on the way is looked into.
SELECT t.id, t.task_name, t.state, t.priority, t.retry_count, t.max_retries, t.created_at, t.scheduled_at, t.started_at,
  t.completed_at, w.worker_id, t.error_message, t.metadata, t.group_id, t.chord_id, t.parent_task_id, t.dedup_key,
  t.unmet_dependencies
FROM (SELECT seq FROM celers_tasks FORCE INDEX (PRIMARY)
      WHERE queue_id = :queue_id AND metadata IS NOT NULL AND :condition
      ORDER BY seq DESC LIMIT :count OFFSET :skip) found
STRAIGHT_JOIN celers_tasks t ON t.seq = found.seq
LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
ORDER BY t.seq DESC

-- name: lock_metadata
-- A task that lock_tasks has locked. Primary key.
SELECT metadata FROM celers_tasks FORCE INDEX (PRIMARY) WHERE seq = :seq FOR UPDATE

-- name: set_metadata
UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one SET metadata = :metadata WHERE seq = :seq

-- name: set_error
UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one SET error_message = :error WHERE seq = :seq

-- name: find_seq
-- The number of a task into a variable, so that it is changed by its primary key; NULL without one. Key uq_tasks_id.
SELECT MAX(seq) INTO @celers_seq FROM celers_tasks WHERE id = :id AND queue_id = :queue_id

-- name: set_worker
UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET worker_no = :worker_no WHERE seq = @celers_seq AND state = 'processing'

-- name: set_progress
-- As an object: JSON_EXTRACT is what turns text into JSON on both servers.
UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET metadata = JSON_SET(IFNULL(metadata, '{}'), '$.progress', JSON_EXTRACT(
      JSON_SET(:progress, '$.updated_at', DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ')), '$'))
WHERE seq = @celers_seq AND state = 'processing'

-- name: progress
-- Unique key uq_tasks_id.
SELECT JSON_EXTRACT(metadata, '$.progress') FROM celers_tasks WHERE id = :id AND queue_id = :queue_id

-- name: history
-- Recorded transitions. Key idx_history_task_id (task_id, id).
SELECT from_state, state, `timestamp`, worker_id, message FROM celers_task_history
WHERE task_id = :task_id AND queue_name = :queue_name ORDER BY id

-- name: times
-- What a stored task tells about its transitions. Unique key uq_tasks_id.
SELECT t.state, t.created_at, t.started_at, t.completed_at, w.worker_id, t.error_message
FROM celers_tasks t LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
WHERE t.id = :id AND t.queue_id = :queue_id

-- name: letter_times
-- The same of a dead letter. Key idx_dlq_task_id.
SELECT created_at, failed_at, error_message FROM celers_dead_letter_queue
WHERE task_id = :task_id AND queue_name = :queue_name ORDER BY failed_at DESC, id DESC LIMIT 1
