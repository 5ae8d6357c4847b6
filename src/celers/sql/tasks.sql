-- name: get
-- One task by its id. Unique key uq_tasks_id.
SELECT t.id, t.task_name, t.state, t.priority, t.retry_count, t.max_retries, t.created_at, t.scheduled_at, t.started_at,
  t.completed_at, w.worker_id, t.error_message, t.metadata, t.group_id, t.chord_id, t.parent_task_id, t.dedup_key,
  t.unmet_dependencies
FROM celers_tasks t LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
WHERE t.id = :id AND t.queue_id = :queue_id

-- name: dependencies_of
SELECT parent_task_id FROM celers_task_dependencies WHERE task_id = :id

-- name: page
-- Newest first: descending seq is the order of creation. Primary key, backwards; rows of other queues are passed over.
SELECT t.id, t.task_name, t.state, t.priority, t.retry_count, t.max_retries, t.created_at, t.scheduled_at, t.started_at,
  t.completed_at, w.worker_id, t.error_message, t.metadata, t.group_id, t.chord_id, t.parent_task_id, t.dedup_key,
  t.unmet_dependencies
FROM (SELECT seq FROM celers_tasks FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id
      ORDER BY seq DESC LIMIT :count OFFSET :skip) newest
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = newest.seq
LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
ORDER BY t.seq DESC

-- name: page_of_state
SELECT t.id, t.task_name, t.state, t.priority, t.retry_count, t.max_retries, t.created_at, t.scheduled_at, t.started_at,
  t.completed_at, w.worker_id, t.error_message, t.metadata, t.group_id, t.chord_id, t.parent_task_id, t.dedup_key,
  t.unmet_dependencies
FROM (SELECT seq FROM celers_tasks FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id AND state = :state
      ORDER BY seq DESC LIMIT :count OFFSET :skip) newest
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = newest.seq
LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
ORDER BY t.seq DESC

-- name: scheduled_page
-- Key idx_scheduled_queue in order.
SELECT t.id, t.task_name, t.priority, s.due_at, t.created_at,
  GREATEST(0, TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), s.due_at))
FROM (SELECT due_at, seq FROM celers_scheduled FORCE INDEX (idx_scheduled_queue)
      WHERE queue_id = :queue_id AND due_at > UTC_TIMESTAMP(6) ORDER BY due_at, seq LIMIT :count OFFSET :skip) s
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = s.seq
ORDER BY s.due_at, s.seq

-- name: count_scheduled
SELECT COUNT(*) FROM celers_scheduled FORCE INDEX (idx_scheduled_queue)
WHERE queue_id = :queue_id AND due_at > UTC_TIMESTAMP(6)

-- name: overdue
-- Ready or promoted tasks that have been due for longer than an age, with that time in seconds.
SELECT t.id, FLOOR(TIMESTAMPDIFF(MICROSECOND, t.scheduled_at, UTC_TIMESTAMP(6)) / 1000000)
FROM celers_ready r FORCE INDEX (PRIMARY) STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = r.seq
WHERE r.queue_id = :queue_id AND t.scheduled_at < UTC_TIMESTAMP(6) - INTERVAL :age MICROSECOND
UNION ALL
SELECT t.id, FLOOR(TIMESTAMPDIFF(MICROSECOND, t.scheduled_at, UTC_TIMESTAMP(6)) / 1000000)
FROM celers_scheduled s FORCE INDEX (idx_scheduled_queue)
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = s.seq
WHERE s.queue_id = :queue_id AND s.due_at < UTC_TIMESTAMP(6) - INTERVAL :age MICROSECOND
LIMIT :count

-- name: open_parents
-- What tasks still wait for. Unique key uq_dependencies_task_parent.
SELECT DISTINCT parent_task_id FROM celers_task_dependencies WHERE task_id IN (:ids) AND satisfied = FALSE

-- name: count_open_parents
-- The same as a number by task, without parents that are stored no longer: these can never complete.
SELECT d.task_id, COUNT(*) FROM celers_task_dependencies d JOIN celers_tasks p ON p.id = d.parent_task_id
WHERE d.task_id IN (:ids) AND d.satisfied = FALSE GROUP BY d.task_id

-- name: place_blocked
INSERT INTO celers_blocked (queue_id, seq)
SELECT queue_id, seq FROM celers_tasks FORCE INDEX (PRIMARY) WHERE seq IN (:seqs)

-- name: satisfy_own
-- Tasks started by hand wait for nothing any more.
UPDATE celers_task_dependencies d FORCE INDEX (uq_dependencies_task_parent) STRAIGHT_JOIN (SELECT 1) one
SET satisfied = TRUE, satisfied_at = UTC_TIMESTAMP(6)
WHERE task_id IN (:ids) AND satisfied = FALSE

-- name: administer
-- A state change by hand: clears what belongs to a run that is over.
UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET state = 'pending', scheduled_at = CAST(@celers_now AS DATETIME(6)), started_at = DEFAULT, completed_at = DEFAULT,
    consumer_no = 0, worker_no = 0, unmet_dependencies = :unmet,
    metadata = IF(JSON_CONTAINS_PATH(metadata, 'one', '$.progress'),
      IF(JSON_LENGTH(metadata) = 1, NULL, JSON_REMOVE(metadata, '$.progress')), metadata)
WHERE seq IN (:seqs)

-- name: administer_processing
UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET state = 'processing', started_at = UTC_TIMESTAMP(6), consumer_no = :consumer_no, worker_no = 0,
    deliveries = deliveries + 1, unmet_dependencies = 0
WHERE seq IN (:seqs)

-- name: set_lease
UPDATE celers_consumers c FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET lease = CONCAT('[[', :held, ']]'), heartbeat_at = UTC_TIMESTAMP(6)
WHERE consumer_no = :consumer_no AND queue_id = :queue_id
