-- name: count_pending
-- Ranges of keys of small tables.
SELECT (SELECT COUNT(*) FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id)
     + (SELECT COUNT(*) FROM celers_scheduled FORCE INDEX (idx_scheduled_queue) WHERE queue_id = :queue_id)
     + (SELECT COUNT(*) FROM celers_blocked FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id)

-- name: count_processing
-- From the leases.
SELECT COUNT(DISTINCT t.seq) FROM celers_consumers c
STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
WHERE c.queue_id = :queue_id AND t.state = 'processing' AND t.consumer_no = c.consumer_no

-- name: count_completed
-- From the counters: one row for each consumer, one for the queue.
SELECT (SELECT IFNULL(SUM(completed), 0) FROM celers_consumers WHERE queue_id = :queue_id)
     + (SELECT IFNULL(SUM(completed), 0) FROM celers_queue_totals WHERE queue_id = :queue_id)

-- name: count_failed
SELECT (SELECT IFNULL(SUM(failed), 0) FROM celers_consumers WHERE queue_id = :queue_id)
     + (SELECT IFNULL(SUM(failed), 0) FROM celers_queue_totals WHERE queue_id = :queue_id)

-- name: count_cancelled
SELECT (SELECT IFNULL(SUM(cancelled), 0) FROM celers_consumers WHERE queue_id = :queue_id)
     + (SELECT IFNULL(SUM(cancelled), 0) FROM celers_queue_totals WHERE queue_id = :queue_id)

-- name: names
-- Reads the tasks of the queue, grouped by a number: to look up a text of up to 255 characters for each row costs more
-- than to read it. The number is two independent checksums of the name, 61 bits together, and the state; the name
-- comes from the first row of each group. MariaDB 10.8 has a second checksum, cheaper than turning the name round; other
-- servers take the inside of its IF.
SELECT t.task_name, t.state, counted.tasks
FROM (SELECT MIN(seq) AS seq, COUNT(*) AS tasks FROM celers_tasks FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id
      GROUP BY (CRC32(task_name) << 32)
        | ((/*M!100800 IF(TRUE, CRC32C(task_name), */ CRC32(REVERSE(task_name)) /*M!100800 ) */) & 4294967288)
        | (state + 0)) counted
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = counted.seq

-- name: names_indexed
-- The same with idx_tasks_task_name_state of the reporting indexes: it is skipped through for the names and states (both
-- servers do that only when the index's columns are asked for from the first), and each pair is a range to be counted.
-- Error 1176 without the index.
SELECT found.task_name, found.state,
  (SELECT COUNT(*) FROM celers_tasks t FORCE INDEX (idx_tasks_task_name_state)
   WHERE t.queue_id = :queue_id AND t.task_name = found.task_name AND t.state = found.state)
FROM (SELECT DISTINCT queue_id, task_name, state FROM celers_tasks FORCE INDEX (idx_tasks_task_name_state)
      WHERE queue_id = :queue_id) found

-- name: ages
-- Pending tasks from the small tables, each looked up by primary key: costs what is pending.
SELECT bucket, COUNT(*), MAX(age) FROM (
  SELECT age, IF(age < 60, 0, IF(age < 300, 1, IF(age < 900, 2, IF(age < 3600, 3, 4)))) AS bucket FROM (
    SELECT GREATEST(0, TIMESTAMPDIFF(SECOND, t.created_at, UTC_TIMESTAMP(6))) AS age
    FROM (SELECT seq FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id
          UNION ALL SELECT seq FROM celers_scheduled FORCE INDEX (idx_scheduled_queue) WHERE queue_id = :queue_id
          UNION ALL SELECT seq FROM celers_blocked FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id) pending
    STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = pending.seq) aged) sorted
GROUP BY bucket

-- name: retries
-- Reads the tasks of the queue by primary key: no index has the retries, and to fetch each row by another is far slower.
SELECT task_name, SUM(retry_count) AS retries, COUNT(*), MAX(retry_count)
FROM celers_tasks FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id AND retry_count > 0 GROUP BY task_name ORDER BY retries DESC, task_name

-- name: health
-- Ready, due and all scheduled or blocked tasks, those in work and the workers that have them. Ranges of keys of small
-- tables, and the leases.
SELECT (SELECT COUNT(*) FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id),
  (SELECT COUNT(*) FROM celers_scheduled FORCE INDEX (idx_scheduled_queue)
   WHERE queue_id = :queue_id AND due_at <= UTC_TIMESTAMP(6)),
  (SELECT COUNT(*) FROM celers_scheduled FORCE INDEX (idx_scheduled_queue) WHERE queue_id = :queue_id)
  + (SELECT COUNT(*) FROM celers_blocked FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id),
  COUNT(DISTINCT t.seq), COUNT(DISTINCT NULLIF(t.worker_no, 0))
FROM celers_consumers c
STRAIGHT_JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = held.seq
WHERE c.queue_id = :queue_id AND t.state = 'processing' AND t.consumer_no = c.consumer_no

-- name: oldest_due
-- Microseconds since the oldest task of each kind became due: of the first to be claimed, of the first of each priority
-- (the key is skipped through for these), and of those not promoted yet.
SELECT TIMESTAMPDIFF(MICROSECOND, MIN(t.scheduled_at), UTC_TIMESTAMP(6))
FROM (SELECT seq FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id ORDER BY sort_rank, seq LIMIT 1000) r
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = r.seq
UNION ALL
SELECT TIMESTAMPDIFF(MICROSECOND, MIN(t.scheduled_at), UTC_TIMESTAMP(6))
FROM (SELECT MIN(seq) AS seq FROM celers_ready FORCE INDEX (PRIMARY) WHERE queue_id = :queue_id
      GROUP BY queue_id, sort_rank) r
STRAIGHT_JOIN celers_tasks t FORCE INDEX (PRIMARY) ON t.seq = r.seq
UNION ALL
SELECT TIMESTAMPDIFF(MICROSECOND, MIN(due_at), UTC_TIMESTAMP(6))
FROM celers_scheduled FORCE INDEX (idx_scheduled_queue) WHERE queue_id = :queue_id AND due_at <= UTC_TIMESTAMP(6)
