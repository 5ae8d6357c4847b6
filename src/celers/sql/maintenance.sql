-- name: dead_consumers
-- Consumers whose heartbeat is older than their own lease, by the database's clock. A small table: no index needed.
SELECT consumer_no, queue_id FROM celers_consumers
WHERE heartbeat_at < UTC_TIMESTAMP(6) - INTERVAL lease_secs SECOND ORDER BY consumer_no, queue_id

-- name: rows_of
SELECT consumer_no, queue_id FROM celers_consumers WHERE consumer_no IN (:numbers) ORDER BY consumer_no, queue_id

-- name: lock_consumer
-- The row is locked before its tasks: a claim of this consumer either came before or finds no row.
SELECT heartbeat_at < UTC_TIMESTAMP(6) - INTERVAL lease_secs SECOND FROM celers_consumers
WHERE consumer_no = :consumer_no AND queue_id = :queue_id FOR UPDATE

-- name: leased
-- The tasks that a consumer really holds.
SELECT t.seq FROM celers_consumers c
STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
WHERE c.consumer_no = :consumer_no AND c.queue_id = :queue_id
  AND t.consumer_no = :consumer_no AND t.state = 'processing'
ORDER BY t.seq

-- name: fold_consumer
-- What an ended consumer counted goes to the totals of its queue.
INSERT INTO celers_queue_totals (queue_id, completed, failed, cancelled, retried, completions, failures)
SELECT queue_id, completed, failed, cancelled, retried, completions, failures FROM celers_consumers
WHERE consumer_no = :consumer_no AND queue_id = :queue_id
ON DUPLICATE KEY UPDATE completed = celers_queue_totals.completed + VALUES(completed),
  failed = celers_queue_totals.failed + VALUES(failed), cancelled = celers_queue_totals.cancelled + VALUES(cancelled),
  retried = celers_queue_totals.retried + VALUES(retried),
  completions = celers_queue_totals.completions + VALUES(completions),
  failures = celers_queue_totals.failures + VALUES(failures)

-- name: delete_consumer
DELETE c FROM celers_consumers c FORCE INDEX (PRIMARY) WHERE consumer_no = :consumer_no AND queue_id = :queue_id

-- name: queue_name
SELECT name FROM celers_queues WHERE queue_id = :queue_id

-- name: stuck
-- Deliveries in processing for longer than an age, from the leases.
SELECT DISTINCT t.seq, t.consumer_no, t.deliveries FROM celers_consumers c
STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
WHERE c.queue_id = :queue_id AND t.consumer_no = c.consumer_no AND t.state = 'processing'
  AND t.started_at < UTC_TIMESTAMP(6) - INTERVAL :age MICROSECOND
LIMIT :count

-- name: held_by_worker
SELECT DISTINCT t.seq, t.consumer_no, t.deliveries FROM celers_consumers c
STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
STRAIGHT_JOIN celers_workers w ON w.worker_no = t.worker_no
WHERE c.queue_id = :queue_id AND t.consumer_no = c.consumer_no AND t.state = 'processing'
  AND w.worker_id = :worker_id AND w.queue_id = :queue_id
LIMIT :count

-- name: any_due
SELECT 1 FROM celers_scheduled FORCE INDEX (PRIMARY) WHERE due_at <= UTC_TIMESTAMP(6) LIMIT 1

-- name: due_keys
-- Due tasks of any queue. Primary key in order.
SELECT JSON_ARRAYAGG(JSON_ARRAY(due_at, sort_rank, seq, queue_id)), COUNT(*) INTO @celers_due, @celers_count
FROM (SELECT due_at, sort_rank, seq, queue_id FROM celers_scheduled FORCE INDEX (PRIMARY)
      WHERE due_at <= UTC_TIMESTAMP(6) ORDER BY due_at, seq LIMIT :count FOR UPDATE SKIP LOCKED) due

-- name: due_insert
INSERT INTO celers_ready (queue_id, sort_rank, seq)
SELECT due.queue_id, due.sort_rank, due.seq
FROM JSON_TABLE(@celers_due, '$[*]' COLUMNS (
    sort_rank BIGINT PATH '$[1]', seq BIGINT UNSIGNED PATH '$[2]', queue_id INT UNSIGNED PATH '$[3]')) due

-- name: due_delete
DELETE celers_scheduled
FROM JSON_TABLE(@celers_due, '$[*]' COLUMNS (due_at DATETIME(6) PATH '$[0]', seq BIGINT UNSIGNED PATH '$[2]')) due
STRAIGHT_JOIN celers_scheduled FORCE INDEX (PRIMARY) ON celers_scheduled.due_at = due.due_at AND celers_scheduled.seq = due.seq

-- name: due_count
-- How many, and the key of the first.
SELECT @celers_count, JSON_UNQUOTE(JSON_EXTRACT(@celers_due, '$[0][0]')), JSON_EXTRACT(@celers_due, '$[0][2]')

-- name: still_scheduled
-- After a promotion of unknown outcome: nothing was moved when the first of its rows is still there.
SELECT 1 FROM celers_scheduled FORCE INDEX (PRIMARY) WHERE due_at = :due_at AND seq = :seq

-- name: walk_end
-- Where the next stretch of tasks ends, and whether all of it is younger than an age. Primary key in order.
SELECT MAX(seq), MIN(created_at) >= UTC_TIMESTAMP(6) - INTERVAL :age MICROSECOND
FROM (SELECT seq, created_at FROM celers_tasks FORCE INDEX (PRIMARY)
      WHERE seq > :after ORDER BY seq LIMIT :count) stretch

-- name: walk_pick
-- Tasks of one stretch, by state, name and age. A range of the primary key.
SELECT seq, state, priority, scheduled_at FROM celers_tasks FORCE INDEX (PRIMARY)
WHERE seq > :after AND seq <= :last AND queue_id = :queue_id AND state IN (:states)
  AND (:any_name OR task_name = :name) AND (:any_age OR created_at < UTC_TIMESTAMP(6) - INTERVAL :age MICROSECOND)
ORDER BY seq LIMIT :count

-- name: walk_finished
-- Finished tasks of one stretch that nobody needs any more. A range of the primary key; counting keeps the look into
-- the dependencies one of keys, where a condition would be made a join over the whole table.
SELECT t.seq, t.state, t.priority, t.scheduled_at FROM celers_tasks t FORCE INDEX (PRIMARY)
WHERE t.seq > :after AND t.seq <= :last AND t.queue_id = :queue_id AND t.state IN ('completed', 'failed', 'cancelled')
  AND t.completed_at < UTC_TIMESTAMP(6) - INTERVAL :age MICROSECOND
  AND (NOT t.has_dependants OR 0 = (
    SELECT COUNT(*) FROM celers_task_dependencies d FORCE INDEX (idx_dependencies_parent)
    STRAIGHT_JOIN celers_tasks c FORCE INDEX (uq_tasks_id) ON c.id = d.task_id
    WHERE d.parent_task_id = t.id AND c.state IN ('pending', 'processing')))
  AND 0 = (
    SELECT COUNT(*) FROM celers_task_dependencies d FORCE INDEX (uq_dependencies_task_parent)
    STRAIGHT_JOIN celers_workflows w FORCE INDEX (PRIMARY) ON w.id = d.workflow_id
    WHERE d.task_id = t.id AND w.state IN ('pending', 'running'))
  AND (NOT t.has_dependants OR 0 = (
    SELECT COUNT(*) FROM celers_task_dependencies d FORCE INDEX (idx_dependencies_parent)
    STRAIGHT_JOIN celers_workflows w FORCE INDEX (PRIMARY) ON w.id = d.workflow_id
    WHERE d.parent_task_id = t.id AND w.state IN ('pending', 'running')))
ORDER BY t.seq LIMIT :count

-- name: timed_out
-- Deliveries in processing for longer than their own limit, or than an age when they have none, from the leases.
SELECT DISTINCT t.seq, t.consumer_no, t.deliveries FROM celers_consumers c
STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
WHERE c.queue_id = :queue_id AND t.consumer_no = c.consumer_no AND t.state = 'processing'
  AND t.started_at < UTC_TIMESTAMP(6) - INTERVAL IFNULL(t.timeout_secs * 1000000, :age) MICROSECOND
LIMIT :count

-- name: errors
-- The last error of locked tasks. Primary key.
SELECT seq, error_message FROM celers_tasks FORCE INDEX (PRIMARY) WHERE seq IN (:seqs)

-- name: purge_dependencies
DELETE d
FROM JSON_TABLE(:keys, '$[*]' COLUMNS (id CHAR(32) PATH '$')) k
STRAIGHT_JOIN celers_task_dependencies d FORCE INDEX (uq_dependencies_task_parent) WHERE d.task_id = UNHEX(k.id)

-- name: purge_dependencies_on
DELETE d
FROM JSON_TABLE(:keys, '$[*]' COLUMNS (id CHAR(32) PATH '$')) k
STRAIGHT_JOIN celers_task_dependencies d FORCE INDEX (idx_dependencies_parent)
WHERE d.parent_task_id = UNHEX(k.id)

-- name: purge_dedup
-- Before the tasks go: their own keys lead to the rows, which no index by task does. Primary keys.
DELETE d
FROM JSON_TABLE(:keys, '$[*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) k
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = k.seq
STRAIGHT_JOIN celers_task_dedup d FORCE INDEX (PRIMARY) ON d.queue_name = :queue_name AND d.dedup_key = t.dedup_key
WHERE d.task_id = t.id

-- name: purge_idempotency
DELETE i
FROM JSON_TABLE(:keys, '$[*]' COLUMNS (id CHAR(32) PATH '$')) k
STRAIGHT_JOIN celers_task_idempotency i FORCE INDEX (idx_idempotency_task_id) WHERE i.task_id = UNHEX(k.id)

-- name: due_queues
-- The queues of the tasks just promoted, whose idle consumers are rung.
SELECT DISTINCT q.name
FROM JSON_TABLE(@celers_due, '$[*]' COLUMNS (queue_id INT UNSIGNED PATH '$[3]')) due
JOIN celers_queues q ON q.queue_id = due.queue_id

-- name: next_upkeep
-- Does this connection lead, and in how many microseconds may the first consumer count as dead, and is something due?
SELECT IS_USED_LOCK(:lock) <=> CONNECTION_ID(),
  (SELECT MIN(TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), heartbeat_at + INTERVAL lease_secs SECOND))
   FROM celers_consumers),
  (SELECT TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), MIN(due_at)) FROM celers_scheduled FORCE INDEX (PRIMARY))
