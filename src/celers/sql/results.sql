-- name: store_acked
-- Results of tasks that the statements before have completed under these receipts, and of no others.
INSERT INTO celers_task_results (task_id, queue_name, task_name, status, result, error, traceback, created_at,
  completed_at, runtime_ms)
SELECT t.id, :queue_name, IFNULL(v.task_name, t.task_name), v.status, v.result, v.error, v.traceback,
  UTC_TIMESTAMP(6), IF(v.status IN ('SUCCESS', 'FAILURE', 'REVOKED'), UTC_TIMESTAMP(6), NULL), v.runtime_ms
FROM JSON_TABLE(:values, '$[*]' COLUMNS (
    seq BIGINT UNSIGNED PATH '$[0]', consumer_no INT UNSIGNED PATH '$[1]', deliveries INT UNSIGNED PATH '$[2]',
    status VARCHAR(20) PATH '$[3]', task_name VARCHAR(255) PATH '$[4]', result MEDIUMTEXT PATH '$[5]',
    error TEXT PATH '$[6]', traceback MEDIUMTEXT PATH '$[7]', runtime_ms BIGINT UNSIGNED PATH '$[8]')) v
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = v.seq
WHERE t.state = 'completed' AND t.consumer_no = v.consumer_no AND t.deliveries = v.deliveries
ON DUPLICATE KEY UPDATE task_name = VALUES(task_name), status = VALUES(status), result = VALUES(result),
  error = VALUES(error), traceback = VALUES(traceback), completed_at = VALUES(completed_at),
  runtime_ms = VALUES(runtime_ms)

-- name: find
SELECT task_id, task_name, status, result, error, traceback, created_at, completed_at, runtime_ms
FROM celers_task_results WHERE task_id IN (:ids) AND queue_name = :queue_name

-- name: page
-- Last completed first, unfinished ones at the end. Key idx_results_completed_at, backwards, until the page is full.
SELECT r.task_id, r.task_name, r.status, r.result, r.error, r.traceback, r.created_at, r.completed_at, r.runtime_ms
FROM (SELECT task_id, completed_at FROM celers_task_results FORCE INDEX (idx_results_completed_at)
      WHERE queue_name = :queue_name AND (:any_state OR status = :status) AND (:any_name OR task_name = :name)
      ORDER BY completed_at DESC, task_id DESC LIMIT :count OFFSET :skip) page
STRAIGHT_JOIN celers_task_results r FORCE INDEX (PRIMARY) ON r.task_id = page.task_id AND r.queue_name = :queue_name
ORDER BY page.completed_at DESC, page.task_id DESC

-- name: delete
DELETE r FROM celers_task_results r FORCE INDEX (PRIMARY) WHERE task_id = :task_id AND queue_name = :queue_name

-- name: pick_old
-- One chunk to delete, by a range of key idx_results_completed_at.
SELECT task_id FROM celers_task_results FORCE INDEX (idx_results_completed_at)
WHERE queue_name = :queue_name AND completed_at < UTC_TIMESTAMP(6) - INTERVAL :age MICROSECOND
ORDER BY completed_at LIMIT :count FOR UPDATE

-- name: delete_picked
-- Primary key.
DELETE r
FROM JSON_TABLE(:keys, '$[*]' COLUMNS (id CHAR(32) PATH '$')) k
STRAIGHT_JOIN celers_task_results r FORCE INDEX (PRIMARY)
WHERE r.task_id = UNHEX(k.id) AND r.queue_name = :queue_name

-- name: count_picked
-- Those that are there still; a result that was stored anew since is younger.
SELECT COUNT(*) FROM celers_task_results FORCE INDEX (PRIMARY)
WHERE task_id IN (:ids) AND queue_name = :queue_name AND completed_at < UTC_TIMESTAMP(6) - INTERVAL :age MICROSECOND
