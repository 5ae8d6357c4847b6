-- name: statistics
-- Numbers of a queue, by its number. Ranges of keys of small tables, the leases, and key idx_dlq_failed_at.
SELECT (SELECT COUNT(*) FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id)
  + (SELECT COUNT(*) FROM celers_scheduled FORCE INDEX (idx_scheduled_queue) WHERE queue_id = :queue_id)
  + (SELECT COUNT(*) FROM celers_blocked FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id),
  (SELECT COUNT(DISTINCT t.seq) FROM celers_consumers c
     STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
     STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
     WHERE c.queue_id = :queue_id AND t.state = 'processing' AND t.consumer_no = c.consumer_no),
  (SELECT COUNT(*) FROM celers_dead_letter_queue FORCE INDEX (idx_dlq_failed_at) WHERE queue_name = :queue_name), UTC_TIMESTAMP(6)

-- name: count_due
-- Due tasks, counted up to a bound. Ranges of the primary key and of idx_scheduled_queue.
SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id LIMIT :most) ready)
  + (SELECT COUNT(*) FROM (SELECT 1 FROM celers_scheduled FORCE INDEX (idx_scheduled_queue)
     WHERE queue_id = :queue_id AND due_at <= UTC_TIMESTAMP(6) LIMIT :most) due)
