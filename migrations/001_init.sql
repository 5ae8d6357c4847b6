-- Queues, tasks, workers, dead letters and history.
--
-- What a busy queue touches is kept in small tables: a task's own row is found by its number `seq`, and
-- narrow tables say which tasks may run now (ready), later (scheduled) or after others (blocked). Lock order
-- everywhere: ready, scheduled or blocked first, then tasks, each by primary key ascending.
--
-- There are no foreign keys and no triggers (online schema change tools and partitions forbid them), and no
-- listing indexes on celers_tasks: migration 003 adds them on request, at a measured price.

-- Interned queue names and everything that is set for a queue.
CREATE TABLE IF NOT EXISTS celers_queues (
    queue_id   INT UNSIGNED NOT NULL AUTO_INCREMENT,  -- number that other tables use
    name       VARCHAR(255) NOT NULL,                 -- compared byte by byte: Mail and mail are two queues
    paused     BOOLEAN      NOT NULL DEFAULT FALSE,   -- claims find nothing, enqueue still works
    draining   BOOLEAN      NOT NULL DEFAULT FALSE,   -- enqueue is refused, stored tasks are still run
    created_at DATETIME(6)  NOT NULL,
    updated_at DATETIME(6)  NOT NULL,                 -- last change of a setting
    unheard_at DATETIME(6)  NULL,                     -- when a producer was last not allowed to wake a worker
    PRIMARY KEY (queue_id),
    UNIQUE KEY uq_queues_name (name)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Every task that has not been archived or moved to the dead letters.
CREATE TABLE IF NOT EXISTS celers_tasks (
    seq                BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,  -- order of enqueue, and the key of every hot statement
    id                 BINARY(16)      NOT NULL,                 -- the public id, a time-ordered UUID
    queue_id           INT UNSIGNED    NOT NULL,                 -- celers_queues.queue_id
    task_name          VARCHAR(255)    NOT NULL,                 -- which function runs it
    payload            MEDIUMBLOB      NOT NULL,                 -- the arguments, opaque to the database
    payload_encoding   VARCHAR(16)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'raw',  -- raw or deflate
    state              ENUM('pending', 'processing', 'completed', 'failed', 'cancelled')
                       CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'pending',
    priority           INT             NOT NULL DEFAULT 0,       -- higher runs first
    retry_count        INT UNSIGNED    NOT NULL DEFAULT 0,       -- retries granted so far
    max_retries        INT UNSIGNED    NOT NULL DEFAULT 3,       -- when these are used up: the dead letters
    timeout_secs       INT UNSIGNED    NULL,                     -- time limit of one run
    created_at         DATETIME(6)     NOT NULL,                 -- time of enqueue
    scheduled_at       DATETIME(6)     NOT NULL,                 -- not before this time
    -- 1970-01-01 stands for "not yet": a row that keeps its size is changed in place at each step of a task's life.
    started_at         DATETIME(6)     NOT NULL DEFAULT '1970-01-01 00:00:00',  -- last claim
    completed_at       DATETIME(6)     NOT NULL DEFAULT '1970-01-01 00:00:00',  -- when completed, failed or cancelled
    consumer_no        INT UNSIGNED    NOT NULL DEFAULT 0,       -- consumer of the last claim, 0 for none
    worker_no          INT UNSIGNED    NOT NULL DEFAULT 0,       -- worker of the last claim, 0 for none
    deliveries         INT UNSIGNED    NOT NULL DEFAULT 0,       -- number of claims; part of the receipt
    isolated           BOOLEAN         NOT NULL DEFAULT FALSE,   -- recovered from a dead consumer: runs alone from now on
    has_dependants     BOOLEAN         NOT NULL DEFAULT FALSE,   -- others wait for it: see celers_task_dependencies
    unmet_dependencies INT UNSIGNED    NOT NULL DEFAULT 0,       -- how many it still waits for itself
    error_message      TEXT            NULL,                     -- last error
    metadata           JSON            NULL,                     -- the caller's own keys only, NULL when there are none
    retry_policy       JSON            NULL,                     -- how long to wait before each retry
    dedup_key          VARCHAR(255)    NULL,                     -- key of a deduplicated enqueue
    group_id           VARCHAR(255)    NULL,                     -- group it belongs to
    chord_id           BINARY(16)      NULL,                     -- task that collects the results of the group
    parent_task_id     BINARY(16)      NULL,                     -- task that caused it
    PRIMARY KEY (seq),
    UNIQUE KEY uq_tasks_id (id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One row for each task that may be claimed now, stored in the order of claiming.
CREATE TABLE IF NOT EXISTS celers_ready (
    queue_id  INT UNSIGNED    NOT NULL,
    sort_rank BIGINT          NOT NULL,  -- minus the priority, so that ascending order is claim order
    seq       BIGINT UNSIGNED NOT NULL,  -- celers_tasks.seq
    PRIMARY KEY (queue_id, sort_rank, seq)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Delayed tasks, and retries that wait for their backoff. Due ones are moved to celers_ready.
CREATE TABLE IF NOT EXISTS celers_scheduled (
    due_at    DATETIME(6)     NOT NULL,
    seq       BIGINT UNSIGNED NOT NULL,  -- celers_tasks.seq
    queue_id  INT UNSIGNED    NOT NULL,
    sort_rank BIGINT          NOT NULL,  -- as it will be in celers_ready
    PRIMARY KEY (due_at, seq),
    KEY idx_scheduled_queue (queue_id, due_at, seq)  -- the next due time of a queue
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Tasks that wait until the tasks they depend on have completed.
CREATE TABLE IF NOT EXISTS celers_blocked (
    queue_id INT UNSIGNED    NOT NULL,
    seq      BIGINT UNSIGNED NOT NULL,  -- celers_tasks.seq
    PRIMARY KEY (queue_id, seq)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One row for each claim slot and queue: what it holds, its heartbeat and what it has counted. The row goes
-- when the consumer ends or is declared dead; its counters are then added to celers_queue_totals.
CREATE TABLE IF NOT EXISTS celers_consumers (
    consumer_no  INT UNSIGNED NOT NULL AUTO_INCREMENT,  -- a new number at every start
    queue_id     INT UNSIGNED NOT NULL,
    worker_no    INT UNSIGNED NOT NULL DEFAULT 0,       -- celers_workers.worker_no, 0 for none
    lease        MEDIUMTEXT   NOT NULL,                 -- JSON: lists of the seq it holds, [[3,4],[7]]; may hold more than is true
    lease_secs   INT UNSIGNED NOT NULL,                 -- silent for longer than this: dead; 0: holds counters only
    heartbeat_at DATETIME(6)  NOT NULL,
    started_at   DATETIME(6)  NOT NULL,
    completed    BIGINT       NOT NULL DEFAULT 0,       -- changes of the number of completed tasks by this consumer
    failed       BIGINT       NOT NULL DEFAULT 0,
    cancelled    BIGINT       NOT NULL DEFAULT 0,
    retried      BIGINT       NOT NULL DEFAULT 0,       -- tasks it sent back for another run
    completions  BIGINT       NOT NULL DEFAULT 0,       -- tasks that were completed, whatever became of them since
    failures     BIGINT       NOT NULL DEFAULT 0,       -- tasks that failed or became dead letters
    PRIMARY KEY (consumer_no, queue_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Interned workers, and what they report about themselves. Rows outlive the consumers.
CREATE TABLE IF NOT EXISTS celers_workers (
    worker_no      INT UNSIGNED NOT NULL AUTO_INCREMENT,
    worker_id      VARCHAR(255) NOT NULL,                    -- name given by the caller
    queue_id       INT UNSIGNED NOT NULL,
    last_heartbeat DATETIME(6)  NULL,                        -- NULL: has claimed tasks but never registered
    status         VARCHAR(50)  NOT NULL DEFAULT 'offline',  -- active, idle, busy or offline
    task_count     BIGINT       NOT NULL DEFAULT 0,          -- tasks in hand, as reported
    capabilities   JSON         NULL,                        -- anything the worker says about itself
    created_at     DATETIME(6)  NOT NULL,
    updated_at     DATETIME(6)  NOT NULL,
    PRIMARY KEY (worker_no),
    UNIQUE KEY uq_workers_worker (worker_id, queue_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Numbers of finished tasks, as far as they are not in the rows of running consumers: what ended consumers
-- counted, and changes made by nobody's consumer. A value may be negative; only the sum with the consumers counts.
CREATE TABLE IF NOT EXISTS celers_queue_totals (
    queue_id    INT UNSIGNED NOT NULL,
    completed   BIGINT       NOT NULL DEFAULT 0,
    failed      BIGINT       NOT NULL DEFAULT 0,
    cancelled   BIGINT       NOT NULL DEFAULT 0,
    retried     BIGINT       NOT NULL DEFAULT 0,
    completions BIGINT       NOT NULL DEFAULT 0,  -- these two never go down
    failures    BIGINT       NOT NULL DEFAULT 0,
    PRIMARY KEY (queue_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What a queue had completed, and failed, at some time: a ring of places, each for five seconds of a little more than
-- an hour. Written behind acknowledgements, so a queue at rest writes nothing; the rate is the difference of two.
CREATE TABLE IF NOT EXISTS celers_throughput (
    queue_id    INT UNSIGNED      NOT NULL,
    place       SMALLINT UNSIGNED NOT NULL,  -- of the ring
    taken_at    DATETIME(6)       NOT NULL,
    completions BIGINT            NOT NULL,  -- sum of the counters of that name, before the acknowledgement
    failures    BIGINT            NOT NULL,
    PRIMARY KEY (queue_id, place)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Tasks whose retries are used up, or that could not be read. They stay until requeued or purged.
CREATE TABLE IF NOT EXISTS celers_dead_letter_queue (
    id               BINARY(16)   NOT NULL,  -- id of this entry
    task_id          BINARY(16)   NOT NULL,  -- id of the task
    queue_name       VARCHAR(255) NOT NULL,
    task_name        VARCHAR(255) NOT NULL,
    payload          MEDIUMBLOB   NOT NULL,
    payload_encoding VARCHAR(16)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'raw',
    priority         INT          NOT NULL DEFAULT 0,
    retry_count      INT UNSIGNED NOT NULL DEFAULT 0,
    max_retries      INT UNSIGNED NOT NULL DEFAULT 3,
    timeout_secs     INT UNSIGNED NULL,
    error_message    TEXT         NULL,      -- why it is here
    failed_at        DATETIME(6)  NOT NULL,  -- when it came here
    created_at       DATETIME(6)  NOT NULL,  -- when the task was enqueued
    metadata         JSON         NULL,
    retry_policy     JSON         NULL,
    dedup_key        VARCHAR(255) NULL,
    group_id         VARCHAR(255) NULL,
    chord_id         BINARY(16)   NULL,
    parent_task_id   BINARY(16)   NULL,
    PRIMARY KEY (id),
    KEY idx_dlq_failed_at (queue_name, failed_at, id),  -- pages, newest first
    KEY idx_dlq_task_id (task_id)                       -- has this task died?
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One row for each change of state, written only by brokers that record history.
CREATE TABLE IF NOT EXISTS celers_task_history (
    id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    queue_name  VARCHAR(255)    NOT NULL,
    task_id     BINARY(16)      NOT NULL,
    task_name   VARCHAR(255)    NOT NULL,
    from_state  VARCHAR(20)     CHARACTER SET ascii COLLATE ascii_bin NULL,      -- NULL: the task was new
    state       VARCHAR(20)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,  -- a task state, or dead_letter
    `timestamp` DATETIME(6)     NOT NULL,
    worker_id   VARCHAR(255)    NULL,
    message     TEXT            NULL,
    PRIMARY KEY (id),
    KEY idx_history_task_id (task_id, id),
    KEY idx_history_timestamp (queue_name, `timestamp`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The views below are for people at the SQL prompt: ids as text, queue and worker names. To find one task
-- quickly, search the table: SELECT ... FROM celers_tasks WHERE id = UNHEX(REPLACE('018f...', '-', '')).

CREATE OR REPLACE SQL SECURITY INVOKER VIEW celers_tasks_view AS
SELECT t.seq,
       LOWER(INSERT(INSERT(INSERT(INSERT(HEX(t.id), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-')) AS id,
       q.name AS queue_name,
       t.task_name,
       t.state,
       t.priority,
       t.retry_count,
       t.max_retries,
       t.timeout_secs,
       t.created_at,
       t.scheduled_at,
       NULLIF(t.started_at, '1970-01-01 00:00:00') AS started_at,
       NULLIF(t.completed_at, '1970-01-01 00:00:00') AS completed_at,
       w.worker_id,
       t.deliveries,
       t.unmet_dependencies,
       t.error_message,
       t.metadata,
       t.retry_policy,
       t.dedup_key,
       t.group_id,
       LOWER(INSERT(INSERT(INSERT(INSERT(HEX(t.chord_id), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-')) AS chord_id,
       LOWER(INSERT(INSERT(INSERT(INSERT(HEX(t.parent_task_id), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-')) AS parent_task_id,
       t.payload_encoding,
       LENGTH(t.payload) AS payload_bytes
FROM celers_tasks t
LEFT JOIN celers_queues q ON q.queue_id = t.queue_id
LEFT JOIN celers_workers w ON w.worker_no = t.worker_no;

CREATE OR REPLACE SQL SECURITY INVOKER VIEW celers_dlq_view AS
SELECT LOWER(INSERT(INSERT(INSERT(INSERT(HEX(d.id), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-')) AS id,
       LOWER(INSERT(INSERT(INSERT(INSERT(HEX(d.task_id), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-')) AS task_id,
       d.queue_name,
       d.task_name,
       d.priority,
       d.retry_count,
       d.max_retries,
       d.timeout_secs,
       d.error_message,
       d.failed_at,
       d.created_at,
       d.metadata,
       d.retry_policy,
       d.dedup_key,
       d.group_id,
       LOWER(INSERT(INSERT(INSERT(INSERT(HEX(d.chord_id), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-')) AS chord_id,
       LOWER(INSERT(INSERT(INSERT(INSERT(HEX(d.parent_task_id), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-')) AS parent_task_id,
       d.payload_encoding,
       LENGTH(d.payload) AS payload_bytes
FROM celers_dead_letter_queue d;

CREATE OR REPLACE SQL SECURITY INVOKER VIEW celers_workers_view AS
SELECT w.worker_no,
       w.worker_id,
       q.name AS queue_name,
       w.status,
       w.last_heartbeat,
       TIMESTAMPDIFF(SECOND, w.last_heartbeat, UTC_TIMESTAMP(6)) AS silent_secs,
       w.task_count,
       w.capabilities,
       w.created_at,
       w.updated_at
FROM celers_workers w
LEFT JOIN celers_queues q ON q.queue_id = w.queue_id;

-- One line for each queue. Waiting tasks are counted, which takes a while when there are millions; those in
-- work come from the leases of the consumers, finished ones from the counters.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW celers_queues_view AS
SELECT q.queue_id,
       q.name AS queue_name,
       q.paused,
       q.draining,
       (SELECT COUNT(*) FROM celers_ready r WHERE r.queue_id = q.queue_id) AS ready,
       (SELECT COUNT(*) FROM celers_scheduled s WHERE s.queue_id = q.queue_id) AS scheduled,
       (SELECT COUNT(*) FROM celers_blocked b WHERE b.queue_id = q.queue_id) AS blocked,
       (SELECT COUNT(DISTINCT t.seq)
        FROM celers_consumers c
        JOIN JSON_TABLE(c.lease, '$[*][*]' COLUMNS (seq BIGINT UNSIGNED PATH '$')) held
        JOIN celers_tasks t ON t.seq = held.seq AND t.consumer_no = c.consumer_no AND t.state = 'processing'
        WHERE c.queue_id = q.queue_id) AS processing,
       (SELECT COUNT(*) FROM celers_consumers c WHERE c.queue_id = q.queue_id AND c.lease_secs > 0) AS consumers,
       COALESCE((SELECT t.completed FROM celers_queue_totals t WHERE t.queue_id = q.queue_id), 0)
         + COALESCE((SELECT SUM(c.completed) FROM celers_consumers c WHERE c.queue_id = q.queue_id), 0) AS completed,
       COALESCE((SELECT t.failed FROM celers_queue_totals t WHERE t.queue_id = q.queue_id), 0)
         + COALESCE((SELECT SUM(c.failed) FROM celers_consumers c WHERE c.queue_id = q.queue_id), 0) AS failed,
       COALESCE((SELECT t.cancelled FROM celers_queue_totals t WHERE t.queue_id = q.queue_id), 0)
         + COALESCE((SELECT SUM(c.cancelled) FROM celers_consumers c WHERE c.queue_id = q.queue_id), 0) AS cancelled,
       (SELECT COUNT(*) FROM celers_dead_letter_queue d WHERE d.queue_name = q.name) AS dead_letters,
       q.created_at,
       q.updated_at
FROM celers_queues q;

-- The procedures are for people and programs that have only SQL; celers itself never calls them. They never
-- commit a transaction of the caller. Called outside a transaction they make one of their own, so that a
-- call takes effect as a whole or not at all. After an error inside a transaction of the caller, everything
-- that the call had changed is undone and the transaction stays open.

DELIMITER $$

-- CALL celers_enqueue(queue, task name, payload, priority, delay in seconds): stores one task and answers
-- with its id. NULL stands for priority 0 and no delay. The payload of a Python function that was declared
-- with @app.task is the JSON text [[positional arguments], {named arguments}].
DROP PROCEDURE IF EXISTS celers_enqueue$$

CREATE PROCEDURE celers_enqueue(
    IN p_queue     VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_task_name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_payload   MEDIUMBLOB,
    IN p_priority  INT,
    IN p_delay     DOUBLE
)
    MODIFIES SQL DATA
    SQL SECURITY INVOKER
    COMMENT 'Stores one task and answers with its id'
BEGIN
    DECLARE v_own      BOOLEAN DEFAULT FALSE;  -- the transaction is our own
    DECLARE v_now      DATETIME(6) DEFAULT UTC_TIMESTAMP(6);
    DECLARE v_due      DATETIME(6);
    DECLARE v_queue_id INT UNSIGNED;
    DECLARE v_draining BOOLEAN DEFAULT FALSE;
    DECLARE v_micros   BIGINT;
    DECLARE v_random   CHAR(64) CHARACTER SET ascii COLLATE ascii_bin;
    DECLARE v_id       CHAR(32) CHARACTER SET ascii COLLATE ascii_bin;
    DECLARE v_seq      BIGINT UNSIGNED;
    DECLARE v_message  VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        IF v_own THEN
            ROLLBACK;
            SET autocommit = 1;
        ELSE
            BEGIN
                -- A deadlock has rolled back everything, savepoints too.
                DECLARE CONTINUE HANDLER FOR 1305 BEGIN END;
                ROLLBACK TO SAVEPOINT enqueue_by_procedure;
            END;
        END IF;
        RESIGNAL;
    END;

    -- Outside a transaction, with autocommit on, a savepoint is gone at the next statement.
    BEGIN
        DECLARE CONTINUE HANDLER FOR 1305 SET v_own = TRUE;
        SAVEPOINT enqueue_by_procedure;
        RELEASE SAVEPOINT enqueue_by_procedure;
    END;
    IF v_own THEN
        SET autocommit = 0;
    END IF;
    SAVEPOINT enqueue_by_procedure;

    IF p_queue IS NULL OR p_queue = '' OR p_queue REGEXP '^[[:space:]]|[[:space:]]$|[[:cntrl:]]' THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the queue name is empty or has white space at an end';
    END IF;
    IF p_task_name IS NULL OR p_task_name = '' OR p_task_name REGEXP '^[[:space:]]|[[:space:]]$|[[:cntrl:]]' THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the task name is empty or has white space at an end';
    END IF;
    IF p_payload IS NULL THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the payload is NULL; an empty payload is allowed';
    END IF;
    IF p_delay < 0 OR p_delay > 251635852799 THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the delay is negative or ends after the year 9999';
    END IF;
    SET v_due = v_now + INTERVAL ROUND(COALESCE(p_delay, 0) * 1000000) MICROSECOND;
    IF v_due IS NULL THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the delay is negative or ends after the year 9999';
    END IF;

    SET v_queue_id = (SELECT queue_id FROM celers_queues WHERE name = p_queue);
    IF v_queue_id IS NULL THEN
        INSERT INTO celers_queues (name, created_at, updated_at) VALUES (p_queue, v_now, v_now)
            ON DUPLICATE KEY UPDATE queue_id = LAST_INSERT_ID(queue_id);
        SET v_queue_id = LAST_INSERT_ID();
    END IF;
    -- The shared lock makes the check and the insert one: draining cannot begin between them.
    SELECT draining INTO v_draining FROM celers_queues WHERE queue_id = v_queue_id LOCK IN SHARE MODE;
    IF v_draining THEN
        SET v_message = CONCAT('queue ', LEFT(p_queue, 60), ' is draining and takes no new tasks');
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = v_message;
    END IF;

    -- A UUID of version 7: 48 bits of milliseconds, 12 bits of the fraction, 62 random bits. UUID() is unique
    -- to the server; its hash gives random bits on every version (RANDOM_BYTES is missing in MariaDB 10.6).
    SET v_micros = TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', v_now);
    SET v_random = SHA2(CONCAT(UUID(), CONNECTION_ID(), RAND()), 256);
    SET v_id = LOWER(CONCAT(
        LPAD(HEX(v_micros DIV 1000), 12, '0'),
        '7', LPAD(HEX(((v_micros MOD 1000) * 4096) DIV 1000), 3, '0'),
        ELT(1 + CONV(SUBSTR(v_random, 1, 1), 16, 10) MOD 4, '8', '9', 'a', 'b'), SUBSTR(v_random, 2, 15)));

    INSERT INTO celers_tasks (id, queue_id, task_name, payload, priority, created_at, scheduled_at)
        VALUES (UNHEX(v_id), v_queue_id, p_task_name, p_payload, COALESCE(p_priority, 0), v_now, v_due);
    SET v_seq = LAST_INSERT_ID();
    IF v_due > v_now THEN
        INSERT INTO celers_scheduled (due_at, seq, queue_id, sort_rank)
            VALUES (v_due, v_seq, v_queue_id, -CAST(COALESCE(p_priority, 0) AS SIGNED));
    ELSE
        INSERT INTO celers_ready (queue_id, sort_rank, seq)
            VALUES (v_queue_id, -CAST(COALESCE(p_priority, 0) AS SIGNED), v_seq);
    END IF;

    RELEASE SAVEPOINT enqueue_by_procedure;
    IF v_own THEN
        SET autocommit = 1;  -- ends our own transaction
    END IF;
    SELECT INSERT(INSERT(INSERT(INSERT(v_id, 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-') AS id;
END$$

-- CALL move_to_dlq(task id as text): moves a pending, processing or failed task to the dead letters and cancels
-- the pending tasks that depend on it, directly or through others. With another table prefix than celers_ the
-- procedure's name starts with that prefix.
DROP PROCEDURE IF EXISTS move_to_dlq$$

CREATE PROCEDURE move_to_dlq(IN p_task_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin)
    MODIFIES SQL DATA
    SQL SECURITY INVOKER
    COMMENT 'Moves a task to the dead letters'
BEGIN
    DECLARE v_own          BOOLEAN DEFAULT FALSE;  -- the transaction is our own
    DECLARE v_now          DATETIME(6) DEFAULT UTC_TIMESTAMP(6);
    DECLARE v_id           BINARY(16);
    DECLARE v_seq          BIGINT UNSIGNED;
    DECLARE v_queue_id     INT UNSIGNED;
    DECLARE v_queue_name   VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    DECLARE v_state        VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin;
    DECLARE v_priority     INT;
    DECLARE v_due          DATETIME(6);
    DECLARE v_history      BOOLEAN DEFAULT FALSE;
    DECLARE v_micros       BIGINT;
    DECLARE v_random       CHAR(64) CHARACTER SET ascii COLLATE ascii_bin;
    DECLARE v_dlq_id       CHAR(32) CHARACTER SET ascii COLLATE ascii_bin;
    DECLARE v_cancelled    BIGINT DEFAULT 0;
    DECLARE v_done         BOOLEAN DEFAULT FALSE;
    DECLARE v_dep_seq      BIGINT UNSIGNED;
    DECLARE v_dep_priority INT;
    DECLARE v_dep_due      DATETIME(6);
    DECLARE v_message      VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

    -- Dependencies that are satisfied end the search: what lies behind them does not wait for this task.
    DECLARE v_dependants CURSOR FOR
        WITH RECURSIVE waiting (id) AS (
            SELECT d.task_id FROM celers_task_dependencies d WHERE d.parent_task_id = v_id AND d.satisfied = FALSE
            UNION
            SELECT d.task_id FROM waiting w
            JOIN celers_task_dependencies d ON d.parent_task_id = w.id AND d.satisfied = FALSE
        )
        SELECT t.seq, t.priority, s.due_at
        FROM waiting w
        JOIN celers_tasks t ON t.id = w.id AND t.queue_id = v_queue_id
        LEFT JOIN celers_scheduled s ON s.queue_id = t.queue_id AND s.due_at = t.scheduled_at AND s.seq = t.seq
        WHERE t.state = 'pending' AND t.seq <> v_seq
        ORDER BY t.seq;

    DECLARE CONTINUE HANDLER FOR NOT FOUND SET v_done = TRUE;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        IF v_own THEN
            ROLLBACK;
            SET autocommit = 1;
        ELSE
            BEGIN
                -- A deadlock has rolled back everything, savepoints too.
                DECLARE CONTINUE HANDLER FOR 1305 BEGIN END;
                ROLLBACK TO SAVEPOINT dead_letter_by_procedure;
            END;
        END IF;
        RESIGNAL;
    END;

    -- Outside a transaction, with autocommit on, a savepoint is gone at the next statement.
    BEGIN
        DECLARE CONTINUE HANDLER FOR 1305 SET v_own = TRUE;
        SAVEPOINT dead_letter_by_procedure;
        RELEASE SAVEPOINT dead_letter_by_procedure;
    END;
    IF v_own THEN
        SET autocommit = 0;
    END IF;
    SAVEPOINT dead_letter_by_procedure;

    IF p_task_id IS NULL
       OR NOT LOWER(p_task_id) REGEXP '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the task id must be text such as 018f2b1c-0000-7000-8000-000000000000';
    END IF;
    SET v_id = UNHEX(REPLACE(p_task_id, '-', ''));

    SELECT t.seq, t.queue_id, t.priority, q.name INTO v_seq, v_queue_id, v_priority, v_queue_name
        FROM celers_tasks t JOIN celers_queues q ON q.queue_id = t.queue_id WHERE t.id = v_id;
    IF v_seq IS NULL THEN
        SET v_message = CONCAT('task ', p_task_id, ' does not exist');
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = v_message;
    END IF;

    -- Multi-table forms: MariaDB may skip a single-table DELETE or UPDATE that KILL QUERY meets, without an error.
    -- The narrow rows first, then the task (see the lock order above). Promotion goes from scheduled and
    -- blocked to ready, hence ready is the last of them.
    SELECT due_at INTO v_due FROM celers_scheduled WHERE queue_id = v_queue_id AND seq = v_seq LIMIT 1;
    DELETE s FROM celers_scheduled s FORCE INDEX (PRIMARY) WHERE due_at = v_due AND seq = v_seq;
    DELETE b FROM celers_blocked b FORCE INDEX (PRIMARY) WHERE queue_id = v_queue_id AND seq = v_seq;
    DELETE r FROM celers_ready r FORCE INDEX (PRIMARY)
        WHERE queue_id = v_queue_id AND sort_rank = -CAST(v_priority AS SIGNED) AND seq = v_seq;
    SET v_state = NULL;
    SELECT t.state INTO v_state FROM celers_tasks t WHERE t.seq = v_seq FOR UPDATE;
    IF v_state IS NULL OR v_state NOT IN ('pending', 'processing', 'failed') THEN
        SET v_message = CONCAT('task ', p_task_id, ' is ', COALESCE(v_state, 'gone'), ' and cannot become a dead letter');
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = v_message;
    END IF;

    -- A UUID of version 7, made as in celers_enqueue.
    SET v_micros = TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', v_now);
    SET v_random = SHA2(CONCAT(UUID(), CONNECTION_ID(), RAND()), 256);
    SET v_dlq_id = LOWER(CONCAT(
        LPAD(HEX(v_micros DIV 1000), 12, '0'),
        '7', LPAD(HEX(((v_micros MOD 1000) * 4096) DIV 1000), 3, '0'),
        ELT(1 + CONV(SUBSTR(v_random, 1, 1), 16, 10) MOD 4, '8', '9', 'a', 'b'), SUBSTR(v_random, 2, 15)));

    INSERT INTO celers_dead_letter_queue (
            id, task_id, queue_name, task_name, payload, payload_encoding, priority, retry_count, max_retries,
            timeout_secs, error_message, failed_at, created_at, metadata, retry_policy, dedup_key, group_id,
            chord_id, parent_task_id)
        SELECT UNHEX(v_dlq_id), t.id, v_queue_name, t.task_name, t.payload, t.payload_encoding, t.priority,
               t.retry_count, t.max_retries, t.timeout_secs, t.error_message, v_now, t.created_at, t.metadata,
               t.retry_policy, t.dedup_key, t.group_id, t.chord_id, t.parent_task_id
        FROM celers_tasks t WHERE t.seq = v_seq;

    -- History goes on for tasks that have one; whether it is recorded at all is a setting of the broker.
    SET v_history = EXISTS (SELECT 1 FROM celers_task_history WHERE task_id = v_id);
    IF v_history THEN
        INSERT INTO celers_task_history (queue_name, task_id, task_name, from_state, state, `timestamp`, worker_id, message)
            SELECT v_queue_name, t.id, t.task_name, t.state, 'dead_letter', v_now, w.worker_id, t.error_message
            FROM celers_tasks t LEFT JOIN celers_workers w ON w.worker_no = t.worker_no
            WHERE t.seq = v_seq;
    END IF;

    SET v_done = FALSE;
    OPEN v_dependants;
    next_dependant: LOOP
        FETCH v_dependants INTO v_dep_seq, v_dep_priority, v_dep_due;
        IF v_done THEN
            LEAVE next_dependant;
        END IF;
        DELETE b FROM celers_blocked b FORCE INDEX (PRIMARY) WHERE queue_id = v_queue_id AND seq = v_dep_seq;
        DELETE s FROM celers_scheduled s FORCE INDEX (PRIMARY) WHERE due_at = v_dep_due AND seq = v_dep_seq;
        DELETE r FROM celers_ready r FORCE INDEX (PRIMARY)
            WHERE queue_id = v_queue_id AND sort_rank = -CAST(v_dep_priority AS SIGNED) AND seq = v_dep_seq;
        UPDATE celers_tasks t FORCE INDEX (PRIMARY) STRAIGHT_JOIN (SELECT 1) one
            SET state = 'cancelled', completed_at = v_now,
                error_message = CONCAT('cancelled because the task ', LOWER(p_task_id),
                                       ', which it depends on, was moved to the dead letters')
            WHERE seq = v_dep_seq AND state = 'pending';
        IF ROW_COUNT() = 1 THEN
            SET v_cancelled = v_cancelled + 1;
            IF v_history THEN
                INSERT INTO celers_task_history (queue_name, task_id, task_name, from_state, state, `timestamp`, message)
                    SELECT v_queue_name, t.id, t.task_name, 'pending', 'cancelled', v_now, t.error_message
                    FROM celers_tasks t WHERE t.seq = v_dep_seq;
            END IF;
        END IF;
    END LOOP;
    CLOSE v_dependants;

    DELETE t FROM celers_tasks t FORCE INDEX (PRIMARY) WHERE seq = v_seq;
    -- A task that had failed is counted among the failures already.
    INSERT INTO celers_queue_totals (queue_id, failed, cancelled, failures)
        VALUES (v_queue_id, IF(v_state = 'failed', -1, 0), v_cancelled, IF(v_state = 'failed', 0, 1))
        ON DUPLICATE KEY UPDATE failed = failed + VALUES(failed), cancelled = cancelled + VALUES(cancelled),
            failures = failures + VALUES(failures);

    RELEASE SAVEPOINT dead_letter_by_procedure;
    IF v_own THEN
        SET autocommit = 1;  -- ends our own transaction
    END IF;
END$$

DELIMITER ;
