-- name: look
-- What a parked consumer asks: is anything ready, when is something due next, and are there producers that may not
-- ring? Three looks at one row each.
SELECT EXISTS(SELECT 1 FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id),
  (SELECT TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), MIN(due_at))
   FROM celers_scheduled FORCE INDEX (idx_scheduled_queue) WHERE queue_id = :queue_id),
  (SELECT unheard_at > UTC_TIMESTAMP(6) - INTERVAL 1 DAY FROM celers_queues FORCE INDEX (PRIMARY)
   WHERE queue_id = :queue_id)

-- name: unheard
-- A producer may not ring the consumers of this queue: they poll for a day. Unique key uq_queues_name.
UPDATE celers_queues q FORCE INDEX (uq_queues_name) STRAIGHT_JOIN (SELECT 1) one
SET unheard_at = UTC_TIMESTAMP(6) WHERE name = :name

-- name: list_unheard
SELECT name FROM celers_queues WHERE unheard_at > UTC_TIMESTAMP(6) - INTERVAL 1 DAY
