-- Keys that make an enqueue safe to repeat.

-- One row for each key of a task name in a queue. It outlives the task: only purging removes it before its time.
CREATE TABLE IF NOT EXISTS celers_task_idempotency (
    id              BINARY(16)   NOT NULL,
    queue_name      VARCHAR(255) NOT NULL,
    idempotency_key VARCHAR(255) NOT NULL,
    task_name       VARCHAR(255) NOT NULL,
    task_id         BINARY(16)   NOT NULL,  -- the task that the first caller stored
    created_at      DATETIME(6)  NOT NULL,
    expires_at      DATETIME(6)  NOT NULL,  -- afterwards the key may be used anew
    metadata        JSON         NULL,
    PRIMARY KEY (id),
    UNIQUE KEY uq_idempotency_key (queue_name, task_name, idempotency_key),
    KEY idx_idempotency_expires (queue_name, expires_at),
    KEY idx_idempotency_task_id (task_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
