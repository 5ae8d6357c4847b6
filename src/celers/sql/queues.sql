-- name: find
-- The number of a queue. Unique key uq_queues_name.
SELECT queue_id FROM celers_queues WHERE name = :name

-- name: create
-- A new queue; of several callers at once one inserts and the others change nothing.
INSERT IGNORE INTO celers_queues (name, created_at, updated_at) VALUES (:name, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))

-- name: set_paused
UPDATE celers_queues q FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET paused = :on, updated_at = UTC_TIMESTAMP(6) WHERE queue_id = :queue_id

-- name: set_draining
-- Waits for transactions of callers that enqueue on their own connection: their share lock ends with their commit.
UPDATE celers_queues q FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
SET draining = :on, updated_at = UTC_TIMESTAMP(6) WHERE queue_id = :queue_id

-- name: read_flags
SELECT paused, draining FROM celers_queues WHERE queue_id = :queue_id

-- name: lock
-- Serialises the callers of enqueue_with_capacity.
SELECT queue_id FROM celers_queues WHERE queue_id = :queue_id FOR UPDATE

-- name: count_pending
-- Ready, scheduled and blocked tasks; each part is a range of a key that starts with queue_id.
SELECT (SELECT COUNT(*) FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id)
     + (SELECT COUNT(*) FROM celers_scheduled FORCE INDEX (idx_scheduled_queue) WHERE queue_id = :queue_id)
     + (SELECT COUNT(*) FROM celers_blocked FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id)

-- name: count_pending_up_to
-- As count_pending, but stops counting at a limit: enqueue_with_capacity asks on every call.
SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM celers_ready FORCE INDEX (PRIMARY)
                             WHERE queue_id = :queue_id LIMIT :most) ready)
     + (SELECT COUNT(*) FROM (SELECT 1 FROM celers_scheduled FORCE INDEX (idx_scheduled_queue)
                             WHERE queue_id = :queue_id LIMIT :most) scheduled)
     + (SELECT COUNT(*) FROM (SELECT 1 FROM celers_blocked FORCE INDEX (PRIMARY)
                             WHERE queue_id = :queue_id LIMIT :most) blocked)

-- name: statistics
-- Pending from the small tables, processing from the leases, the rest from the counters: one snapshot, no scan of tasks.
SELECT
  (SELECT COUNT(*) FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id)
  + (SELECT COUNT(*) FROM celers_scheduled FORCE INDEX (idx_scheduled_queue) WHERE queue_id = :queue_id)
  + (SELECT COUNT(*) FROM celers_blocked FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id),
  (SELECT COUNT(DISTINCT t.seq) FROM celers_consumers c
     STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
     STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
     WHERE c.queue_id = :queue_id AND t.state = 'processing' AND t.consumer_no = c.consumer_no),
  (SELECT IFNULL(SUM(completed), 0) FROM celers_consumers WHERE queue_id = :queue_id)
  + (SELECT IFNULL(SUM(completed), 0) FROM celers_queue_totals WHERE queue_id = :queue_id),
  (SELECT IFNULL(SUM(failed), 0) FROM celers_consumers WHERE queue_id = :queue_id)
  + (SELECT IFNULL(SUM(failed), 0) FROM celers_queue_totals WHERE queue_id = :queue_id),
  (SELECT IFNULL(SUM(cancelled), 0) FROM celers_consumers WHERE queue_id = :queue_id)
  + (SELECT IFNULL(SUM(cancelled), 0) FROM celers_queue_totals WHERE queue_id = :queue_id),
  (SELECT COUNT(*) FROM celers_dead_letter_queue WHERE queue_name = :queue_name)

-- name: names
SELECT name FROM celers_queues ORDER BY name
