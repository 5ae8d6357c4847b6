-- What the server says about our tables, indexes and statements. The catalogue is asked, not the tables.

-- name: tables
-- Base tables that begin with the prefix, letter by letter: no LIKE, in which _ would stand for any character.
SELECT table_name, table_rows, data_length, index_length, data_free FROM information_schema.tables
WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'
  AND LOWER(LEFT(table_name, CHAR_LENGTH(:prefix))) = LOWER(:prefix)

-- name: indexes
-- One row for each column of each index.
SELECT table_name, index_name, column_name, cardinality, non_unique FROM information_schema.statistics
WHERE table_schema = DATABASE() AND LOWER(LEFT(table_name, CHAR_LENGTH(:prefix))) = LOWER(:prefix)
ORDER BY table_name, index_name, seq_in_index

-- name: fresh_statistics
-- MySQL keeps these columns of the catalogue for a day unless it is told not to.
SET SESSION information_schema_stats_expiry = 0

-- name: variables
SHOW GLOBAL VARIABLES WHERE Variable_name IN (:names)

-- name: digests
-- Statements of one form, executed in this database, that mention our tables. Times are picoseconds.
SELECT digest_text, count_star, sum_timer_wait, avg_timer_wait, min_timer_wait, max_timer_wait, sum_rows_examined,
  sum_rows_sent, sum_no_index_used, sum_no_good_index_used
FROM performance_schema.events_statements_summary_by_digest
WHERE schema_name = DATABASE() AND LOCATE(:prefix, digest_text) > 0 AND avg_timer_wait >= :least
ORDER BY :order_by DESC, digest_text LIMIT :count

-- name: forget_digests
TRUNCATE TABLE performance_schema.events_statements_summary_by_digest
