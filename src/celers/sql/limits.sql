-- Priorities that rise with the time of waiting, and limits of how often tasks of a name may start.

-- name: next_rank
-- The next priority, from high to low, that has ready tasks. Primary key.
SELECT sort_rank FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id AND sort_rank > :rank
ORDER BY sort_rank, seq LIMIT 1

-- name: waiting
-- A page of the ready tasks of one priority, and whether they have waited for long. Primary keys.
SELECT page.seq, t.scheduled_at < UTC_TIMESTAMP(6) - INTERVAL :age MICROSECOND
FROM (SELECT seq FROM celers_ready FORCE INDEX (PRIMARY)
      WHERE queue_id = :queue_id AND sort_rank = :rank AND seq > :after ORDER BY seq LIMIT :count) page
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = page.seq

-- name: raise_priority
-- Tasks whose ready rows are locked. Primary key.
UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET priority = :priority WHERE seq IN (:seqs) AND state = 'pending'

-- name: place_ready
INSERT INTO celers_ready (queue_id, sort_rank, seq)
SELECT queue_id, -CAST(priority AS SIGNED), seq FROM celers_tasks FORCE INDEX (PRIMARY) WHERE seq IN (:seqs)

-- name: priority_of
-- After an unknown outcome. Primary key.
SELECT priority FROM celers_tasks WHERE seq = :seq

-- name: lock_rate
-- Serialises the reservations for a name.
INSERT INTO celers_rate_limits (queue_name, task_name, updated_at) VALUES (:queue_name, :task_name, UTC_TIMESTAMP(6))
ON DUPLICATE KEY UPDATE updated_at = VALUES(updated_at)

-- name: count_reserved
-- Reservations of the last minute and of the last hour. Key idx_rate_limit_hits.
SELECT IFNULL(SUM(hit_at > UTC_TIMESTAMP(6) - INTERVAL 60 SECOND), 0), COUNT(*) INTO @celers_minute, @celers_hour
FROM celers_rate_limit_hits FORCE INDEX (idx_rate_limit_hits)
WHERE queue_name = :queue_name AND task_name = :task_name AND hit_at > UTC_TIMESTAMP(6) - INTERVAL 3600 SECOND

-- name: count_started
-- Deliveries of the same time, from the history: an hour of key idx_history_timestamp. The larger number counts.
SELECT GREATEST(@celers_minute, IFNULL(SUM(`timestamp` > UTC_TIMESTAMP(6) - INTERVAL 60 SECOND), 0)),
  GREATEST(@celers_hour, COUNT(*)) INTO @celers_minute, @celers_hour
FROM celers_task_history FORCE INDEX (idx_history_timestamp)
WHERE queue_name = :queue_name AND `timestamp` > UTC_TIMESTAMP(6) - INTERVAL 3600 SECOND
  AND state = 'processing' AND task_name = :task_name

-- name: reserve
INSERT INTO celers_rate_limit_hits (queue_name, task_name, hit_at)
SELECT :queue_name, :task_name, UTC_TIMESTAMP(6) FROM (SELECT 1) one WHERE @celers_minute < :most

-- name: forget_hits
-- Key idx_rate_limit_hits.
DELETE FROM celers_rate_limit_hits
WHERE queue_name = :queue_name AND task_name = :task_name AND hit_at <= UTC_TIMESTAMP(6) - INTERVAL 3600 SECOND
LIMIT 1000

-- name: read_rate
SELECT @celers_minute, @celers_hour
