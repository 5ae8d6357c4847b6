-- name: pick
-- The next tasks of load tests from the low end, in any state. Primary key; every metadata object on the way is looked
-- into.
SELECT seq, state, priority, scheduled_at FROM celers_tasks FORCE INDEX (PRIMARY)
WHERE queue_id = :queue_id AND seq > :after AND metadata IS NOT NULL AND :condition ORDER BY seq LIMIT :count
