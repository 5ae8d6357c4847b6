-- name: record
-- Before locked tasks change: who holds them and their last error are still there. Primary key.
INSERT INTO celers_task_history (queue_name, task_id, task_name, from_state, state, `timestamp`, worker_id, message)
SELECT :queue_name, t.id, t.task_name, :from_state, :state, UTC_TIMESTAMP(6), w.worker_id,
  IFNULL(:message, IF(:with_error, t.error_message, NULL))
FROM celers_tasks t FORCE INDEX (PRIMARY) LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
WHERE t.seq IN (:seqs) ORDER BY t.seq

-- name: started_many
-- In the packet of a claim, after its tasks were started. Primary key.
INSERT INTO celers_task_history (queue_name, task_id, task_name, from_state, state, `timestamp`, worker_id)
SELECT :queue_name, t.id, t.task_name, 'pending', 'processing', t.started_at, w.worker_id
FROM JSON_TABLE(@celers_seqs, '$[*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) picked
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = picked.seq
LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
WHERE t.consumer_no = :consumer_no AND t.state = 'processing'

-- name: started_one
INSERT INTO celers_task_history (queue_name, task_id, task_name, from_state, state, `timestamp`, worker_id)
SELECT :queue_name, t.id, t.task_name, 'pending', 'processing', t.started_at, w.worker_id
FROM celers_tasks t FORCE INDEX (PRIMARY) LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
WHERE t.seq = @celers_seq AND t.consumer_no = :consumer_no AND t.state = 'processing'

-- name: requeued
-- Before a locked dead letter becomes a new task. Primary key.
INSERT INTO celers_task_history (queue_name, task_id, task_name, state, `timestamp`, message)
SELECT :queue_name, :task_id, task_name, 'pending', @celers_now, :message
FROM celers_dead_letter_queue FORCE INDEX (PRIMARY) WHERE id = :id

-- name: pick_old
-- One chunk to delete, by a range of key idx_history_timestamp.
SELECT id FROM celers_task_history FORCE INDEX (idx_history_timestamp)
WHERE queue_name = :queue_name AND `timestamp` < UTC_TIMESTAMP(6) - INTERVAL :age MICROSECOND
ORDER BY `timestamp` LIMIT :count FOR UPDATE

-- name: delete_picked
-- Primary key.
DELETE h
FROM JSON_TABLE(:keys, '$[*]' COLUMNS (id BIGINT UNSIGNED PATH '$')) k
STRAIGHT_JOIN celers_task_history h FORCE INDEX (PRIMARY) WHERE h.id = k.id

-- name: count_picked
SELECT COUNT(*) FROM celers_task_history FORCE INDEX (PRIMARY) WHERE id IN (:numbers)
