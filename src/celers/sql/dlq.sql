-- name: page
-- Newest first. Key idx_dlq_failed_at (queue_name, failed_at, id).
SELECT id, task_id, task_name, retry_count, max_retries, priority, error_message, failed_at, metadata
FROM celers_dead_letter_queue WHERE queue_name = :queue_name
ORDER BY failed_at DESC, id DESC LIMIT :count OFFSET :skip

-- name: get
-- Primary key.
SELECT id, task_id, task_name, retry_count, max_retries, priority, error_message, failed_at, metadata
FROM celers_dead_letter_queue WHERE id = :id AND queue_name = :queue_name

-- name: lock
-- Whoever locks the letter first requeues it; later ones wait and find nothing. Primary key.
SELECT id, task_id, priority FROM celers_dead_letter_queue FORCE INDEX (PRIMARY)
WHERE id = :id AND queue_name = :queue_name FOR UPDATE

-- name: lock_some
-- The oldest that fit; letters that somebody else requeues just now are passed over. LOCATE takes its text literally
-- and, by the column's collation, byte by byte. Key idx_dlq_failed_at in order.
SELECT id, task_id, priority FROM celers_dead_letter_queue FORCE INDEX (idx_dlq_failed_at)
WHERE queue_name = :queue_name AND (:any_name OR LOCATE(:part, task_name) > 0) AND retry_count >= :least
ORDER BY failed_at, id LIMIT :count FOR UPDATE SKIP LOCKED

-- name: requeue
-- A locked letter becomes a new pending task. What told of the old one's delay and progress is left out.
INSERT INTO celers_tasks (id, queue_id, task_name, payload, payload_encoding, priority, max_retries, timeout_secs,
  created_at, scheduled_at, metadata, retry_policy, dedup_key, group_id, chord_id, parent_task_id)
SELECT :task_id, :queue_id, task_name, payload, payload_encoding, priority, max_retries, timeout_secs,
  @celers_now, @celers_now,
  JSON_SET(JSON_REMOVE(IFNULL(metadata, '{}'), '$.progress', '$.scheduled_for', '$.delay_seconds'),
    '$.requeued_from', JSON_EXTRACT(:origin, '$')),
  retry_policy, dedup_key, group_id, chord_id, parent_task_id
FROM celers_dead_letter_queue FORCE INDEX (PRIMARY) WHERE id = :id

-- name: whole
-- What hooks of an enqueue are shown of a locked letter. Primary key.
SELECT task_name, payload, payload_encoding, priority, max_retries, timeout_secs, metadata, group_id, chord_id,
  parent_task_id
FROM celers_dead_letter_queue FORCE INDEX (PRIMARY) WHERE id = :id

-- name: replace
-- The task just made of a letter becomes the one that a hook has returned. Unique key uq_tasks_id.
UPDATE celers_tasks t FORCE INDEX (uq_tasks_id) STRAIGHT_JOIN (SELECT 1) one
SET task_name = :task_name, payload = :payload, payload_encoding = :encoding, priority = :priority,
  max_retries = :max_retries, timeout_secs = :timeout_secs, group_id = :group_id, chord_id = :chord_id,
  parent_task_id = :parent_task_id, metadata = :metadata
WHERE id = :task_id

-- name: delete_locked
-- One by one: a list might be looked for by a scan, which waits for the rows that others have locked. Primary key.
DELETE d FROM celers_dead_letter_queue d FORCE INDEX (PRIMARY) WHERE id = :id

-- name: purge
-- Primary key.
DELETE d FROM celers_dead_letter_queue d FORCE INDEX (PRIMARY) WHERE id = :id AND queue_name = :queue_name

-- name: pick_some
-- One chunk to delete, by a range of key idx_dlq_failed_at.
SELECT id FROM celers_dead_letter_queue FORCE INDEX (idx_dlq_failed_at)
WHERE queue_name = :queue_name ORDER BY failed_at, id LIMIT :count FOR UPDATE

-- name: pick_old
-- The same, of letters older than an age.
SELECT id FROM celers_dead_letter_queue FORCE INDEX (idx_dlq_failed_at)
WHERE queue_name = :queue_name AND failed_at < UTC_TIMESTAMP(6) - INTERVAL :age MICROSECOND
ORDER BY failed_at, id LIMIT :count FOR UPDATE

-- name: delete_picked
-- Primary key.
DELETE d
FROM JSON_TABLE(:keys, '$[*]' COLUMNS (id CHAR(32) PATH '$')) k
STRAIGHT_JOIN celers_dead_letter_queue d FORCE INDEX (PRIMARY) WHERE d.id = UNHEX(k.id)

-- name: count_picked
SELECT COUNT(*) FROM celers_dead_letter_queue FORCE INDEX (PRIMARY) WHERE id IN (:ids)

-- name: statistics
-- Reads the letters of the queue.
SELECT task_name, COUNT(*) AS letters, AVG(retry_count), MAX(retry_count)
FROM celers_dead_letter_queue WHERE queue_name = :queue_name GROUP BY task_name ORDER BY letters DESC, task_name
