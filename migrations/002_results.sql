-- Results of tasks.

-- The last outcome of each task of each queue. Rows outlive the task and are removed by the retention of results.
CREATE TABLE IF NOT EXISTS celers_task_results (
    task_id      BINARY(16)      NOT NULL,
    queue_name   VARCHAR(255)    NOT NULL,
    task_name    VARCHAR(255)    NOT NULL,
    status       VARCHAR(20)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,  -- PENDING, STARTED, SUCCESS, FAILURE, RETRY or REVOKED
    result       MEDIUMTEXT      NULL,      -- the exact JSON text; a JSON column would change or refuse some values
    error        TEXT            NULL,
    traceback    MEDIUMTEXT      NULL,
    created_at   DATETIME(6)     NOT NULL,
    completed_at DATETIME(6)     NULL,      -- set for SUCCESS, FAILURE and REVOKED
    runtime_ms   BIGINT UNSIGNED NULL,
    PRIMARY KEY (task_id, queue_name),
    KEY idx_results_task_name (queue_name, task_name),
    KEY idx_results_completed_at (queue_name, completed_at),
    KEY idx_results_status (queue_name, status)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- For people at the SQL prompt: the id as text.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW celers_results_view AS
SELECT LOWER(INSERT(INSERT(INSERT(INSERT(HEX(r.task_id), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-')) AS task_id,
       r.queue_name,
       r.task_name,
       r.status,
       r.result,
       r.error,
       r.traceback,
       r.created_at,
       r.completed_at,
       r.runtime_ms
FROM celers_task_results r;
