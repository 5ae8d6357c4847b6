-- name: sample
-- What the queue had completed, and failed, before the acknowledgement that this stands behind; of several callers
-- within five seconds the first one writes. Primary key; the counters are small tables.
INSERT INTO celers_throughput (queue_id, place, taken_at, completions, failures)
SELECT :queue_id, TIMESTAMPDIFF(SECOND, '1970-01-01', now.taken_at) DIV 5 MOD 800, now.taken_at,
  (SELECT IFNULL(SUM(completions), 0) FROM celers_consumers WHERE queue_id = :queue_id)
  + (SELECT IFNULL(SUM(completions), 0) FROM celers_queue_totals WHERE queue_id = :queue_id) - :completions,
  (SELECT IFNULL(SUM(failures), 0) FROM celers_consumers WHERE queue_id = :queue_id)
  + (SELECT IFNULL(SUM(failures), 0) FROM celers_queue_totals WHERE queue_id = :queue_id) - :failures
FROM (SELECT UTC_TIMESTAMP(6) AS taken_at) now
ON DUPLICATE KEY UPDATE
  completions = IF(celers_throughput.taken_at < VALUES(taken_at) - INTERVAL 5 SECOND,
    VALUES(completions), celers_throughput.completions),
  failures = IF(celers_throughput.taken_at < VALUES(taken_at) - INTERVAL 5 SECOND,
    VALUES(failures), celers_throughput.failures),
  taken_at = IF(celers_throughput.taken_at < VALUES(taken_at) - INTERVAL 5 SECOND,
    VALUES(taken_at), celers_throughput.taken_at)

-- name: read
-- The counters now, and for either window the samples before and after its beginning, with their age in microseconds.
-- A range of the primary key of at most 800 rows, and small tables.
SELECT 0, 0, (SELECT IFNULL(SUM(completions), 0) FROM celers_consumers WHERE queue_id = :queue_id)
  + (SELECT IFNULL(SUM(completions), 0) FROM celers_queue_totals WHERE queue_id = :queue_id),
  (SELECT IFNULL(SUM(failures), 0) FROM celers_consumers WHERE queue_id = :queue_id)
  + (SELECT IFNULL(SUM(failures), 0) FROM celers_queue_totals WHERE queue_id = :queue_id)
UNION ALL
SELECT edge.secs, TIMESTAMPDIFF(MICROSECOND, s.taken_at, UTC_TIMESTAMP(6)), s.completions, s.failures
FROM (SELECT wanted.secs,
        MAX(IF(t.taken_at <= UTC_TIMESTAMP(6) - INTERVAL wanted.secs SECOND, t.taken_at, NULL)) AS before_at,
        MIN(IF(t.taken_at > UTC_TIMESTAMP(6) - INTERVAL wanted.secs SECOND, t.taken_at, NULL)) AS after_at
      FROM (SELECT 60 AS secs UNION ALL SELECT 3600) wanted
      STRAIGHT_JOIN celers_throughput t FORCE INDEX (PRIMARY) ON t.queue_id = :queue_id
      GROUP BY wanted.secs) edge
STRAIGHT_JOIN celers_throughput s FORCE INDEX (PRIMARY)
  ON s.queue_id = :queue_id AND s.taken_at IN (edge.before_at, edge.after_at)
