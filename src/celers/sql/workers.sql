-- name: find
-- Unique key uq_workers_worker.
SELECT worker_no FROM celers_workers WHERE worker_id = :worker_id AND queue_id = :queue_id

-- name: intern
-- A number for a worker that was only named with a claim; last_heartbeat stays NULL until it registers.
INSERT IGNORE INTO celers_workers (worker_id, queue_id, created_at, updated_at)
VALUES (:worker_id, :queue_id, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))

-- name: register
INSERT INTO celers_workers (worker_id, queue_id, last_heartbeat, status, capabilities, created_at, updated_at)
VALUES (:worker_id, :queue_id, UTC_TIMESTAMP(6), :status, :capabilities, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))
ON DUPLICATE KEY UPDATE last_heartbeat = VALUES(last_heartbeat), status = VALUES(status),
  capabilities = IFNULL(VALUES(capabilities), capabilities), updated_at = VALUES(updated_at)

-- name: processing_of
-- Tasks of one worker that are processing, from the leases.
SELECT COUNT(DISTINCT t.seq) FROM celers_consumers c
STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
WHERE c.queue_id = :queue_id AND t.state = 'processing' AND t.consumer_no = c.consumer_no
  AND t.worker_no = :worker_no

-- name: beat
UPDATE celers_workers w FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET last_heartbeat = UTC_TIMESTAMP(6), status = :status, task_count = :task_count, updated_at = UTC_TIMESTAMP(6)
WHERE worker_no = :worker_no AND last_heartbeat IS NOT NULL

-- name: beat_idle
-- As beat, for a worker that is known to hold nothing. Unique key uq_workers_worker.
UPDATE celers_workers w FORCE INDEX (uq_workers_worker) STRAIGHT_JOIN (SELECT 1) one
SET last_heartbeat = UTC_TIMESTAMP(6), status = 'idle', task_count = 0, updated_at = UTC_TIMESTAMP(6)
WHERE worker_id = :worker_id AND queue_id = :queue_id AND last_heartbeat IS NOT NULL

-- name: unregister
-- The number stays, because tasks refer to it.
UPDATE celers_workers w FORCE INDEX (uq_workers_worker) STRAIGHT_JOIN (SELECT 1) one
SET last_heartbeat = NULL, status = 'offline', task_count = 0, capabilities = NULL, updated_at = UTC_TIMESTAMP(6)
WHERE worker_id = :worker_id AND queue_id = :queue_id AND last_heartbeat IS NOT NULL

-- name: heartbeats
SELECT worker_id, last_heartbeat, status, task_count, capabilities,
  last_heartbeat < UTC_TIMESTAMP(6) - INTERVAL :threshold MICROSECOND
FROM celers_workers WHERE queue_id = :queue_id AND last_heartbeat IS NOT NULL
ORDER BY last_heartbeat DESC, worker_id

-- name: active
-- Workers with at least one processing task, from the leases.
SELECT DISTINCT w.worker_id FROM celers_consumers c
STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
STRAIGHT_JOIN celers_workers w ON w.worker_no = t.worker_no
WHERE c.queue_id = :queue_id AND t.state = 'processing' AND t.consumer_no = c.consumer_no
ORDER BY w.worker_id

-- name: statistics
-- Tasks last held by these workers; reads the tasks of the queue.
SELECT w.worker_id,
  IFNULL(SUM(t.state = 'processing'), 0), IFNULL(SUM(t.state = 'completed'), 0), IFNULL(SUM(t.state = 'failed'), 0),
  GREATEST(IFNULL(MAX(w.last_heartbeat), '1000-01-01'), IFNULL(MAX(NULLIF(t.started_at, '1970-01-01')), '1000-01-01'),
           IFNULL(MAX(NULLIF(t.completed_at, '1970-01-01')), '1000-01-01')),
  IFNULL(AVG(IF(t.state = 'completed',
    GREATEST(0, TIMESTAMPDIFF(MICROSECOND, NULLIF(t.started_at, '1970-01-01'), t.completed_at)), NULL)), 0)
FROM celers_workers w
LEFT JOIN celers_tasks t ON t.worker_no = w.worker_no AND t.queue_id = w.queue_id
WHERE w.queue_id = :queue_id AND w.worker_id IN (:worker_ids)
GROUP BY w.worker_id ORDER BY w.worker_id

-- name: all_statistics
-- The same for many workers: one walk by primary key, where a join would fetch each task by an index on the workers.
SELECT w.worker_id, IFNULL(held.processing, 0), IFNULL(held.completed, 0), IFNULL(held.failed, 0),
  GREATEST(IFNULL(w.last_heartbeat, '1000-01-01'), IFNULL(held.started_at, '1000-01-01'),
           IFNULL(held.completed_at, '1000-01-01')),
  IFNULL(held.micros, 0)
FROM celers_workers w
LEFT JOIN (
  SELECT worker_no, SUM(state = 'processing') AS processing, SUM(state = 'completed') AS completed,
    SUM(state = 'failed') AS failed, MAX(NULLIF(started_at, '1970-01-01')) AS started_at,
    MAX(NULLIF(completed_at, '1970-01-01')) AS completed_at,
    AVG(IF(state = 'completed',
      GREATEST(0, TIMESTAMPDIFF(MICROSECOND, NULLIF(started_at, '1970-01-01'), completed_at)), NULL)) AS micros
  FROM celers_tasks FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id AND worker_no > 0 GROUP BY worker_no
) held ON held.worker_no = w.worker_no
WHERE w.queue_id = :queue_id AND w.worker_id IN (:worker_ids)
ORDER BY w.worker_id
