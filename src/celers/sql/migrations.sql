-- Statements of migrate, list_migrations and verify_migrations.

-- name: database
-- Which database is this? Part of the lock's name.
SELECT DATABASE();

-- name: lock
-- Waits a while for the lock of all migrations of one database and prefix: 1 taken, 0 not yet.
SELECT GET_LOCK(:name, :secs);

-- name: held
-- Fails with 1690 when this connection does not hold the lock (any more), which stops its packet.
-- INTO makes it fail at once; a result set would be announced first and break off.
SELECT 9223372036854775807 + IF(IS_USED_LOCK(:name) <=> CONNECTION_ID(), 0, 1) INTO @celers_held;

-- name: unlock
DO RELEASE_LOCK(:name);

-- name: recorded
SELECT version, name, checksum, applied_at FROM celers_migrations ORDER BY version;

-- name: record
INSERT INTO celers_migrations (version, name, checksum, applied_at) VALUES (:version, :name, :checksum, UTC_TIMESTAMP(6));

-- name: forget
DELETE FROM celers_migrations WHERE version = :version;

-- name: tables
-- Tables and views with the prefix. Servers with lower_case_table_names store names in lower case.
SELECT LOWER(table_name) FROM information_schema.tables
WHERE table_schema = DATABASE() AND LOWER(LEFT(table_name, CHAR_LENGTH(:prefix))) = LOWER(:prefix);

-- name: columns
SELECT LOWER(table_name), column_name FROM information_schema.columns
WHERE table_schema = DATABASE() AND LOWER(LEFT(table_name, CHAR_LENGTH(:prefix))) = LOWER(:prefix);

-- name: indexes
SELECT LOWER(table_name), index_name, column_name FROM information_schema.statistics
WHERE table_schema = DATABASE() AND LOWER(LEFT(table_name, CHAR_LENGTH(:prefix))) = LOWER(:prefix)
ORDER BY table_name, index_name, seq_in_index;

-- name: procedures
SELECT LOWER(routine_name) FROM information_schema.routines
WHERE routine_schema = DATABASE() AND routine_type = 'PROCEDURE';

-- name: index_exists
SELECT 1 FROM information_schema.statistics
WHERE table_schema = DATABASE() AND LOWER(table_name) = LOWER(:table) AND index_name = :name LIMIT 1;

-- name: procedure_exists
SELECT 1 FROM information_schema.routines
WHERE routine_schema = DATABASE() AND routine_type = 'PROCEDURE' AND LOWER(routine_name) = LOWER(:name);

-- name: drop_index
DROP INDEX :name ON :table;
