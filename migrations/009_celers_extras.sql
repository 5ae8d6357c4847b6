-- Recurring tasks, deduplication and rate limits.

-- Schedules that enqueue a task again and again.
CREATE TABLE IF NOT EXISTS celers_recurring_tasks (
    id               BINARY(16)   NOT NULL,
    queue_name       VARCHAR(255) NOT NULL,
    task_name        VARCHAR(255) NOT NULL,
    schedule         JSON         NOT NULL,                -- type and fields of the schedule
    payload          MEDIUMBLOB   NOT NULL,
    payload_encoding VARCHAR(16)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'raw',
    priority         INT          NOT NULL DEFAULT 0,
    max_retries      INT UNSIGNED NOT NULL DEFAULT 3,
    enabled          BOOLEAN      NOT NULL DEFAULT TRUE,
    timezone         VARCHAR(64)  NOT NULL DEFAULT 'UTC',  -- IANA name; wall-clock schedules follow it
    last_run         DATETIME(6)  NULL,
    next_run         DATETIME(6)  NOT NULL,
    error_message    TEXT         NULL,                    -- why it was disabled
    created_at       DATETIME(6)  NOT NULL,
    updated_at       DATETIME(6)  NOT NULL,
    PRIMARY KEY (id),
    KEY idx_recurring_next_run (queue_name, enabled, next_run, id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The last task of each deduplication key.
CREATE TABLE IF NOT EXISTS celers_task_dedup (
    queue_name VARCHAR(255) NOT NULL,
    dedup_key  VARCHAR(255) NOT NULL,
    task_id    BINARY(16)   NOT NULL,
    created_at DATETIME(6)  NOT NULL,
    PRIMARY KEY (queue_name, dedup_key),
    KEY idx_dedup_created (queue_name, created_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Limits by task name; the row is locked while a reservation is made.
CREATE TABLE IF NOT EXISTS celers_rate_limits (
    queue_name     VARCHAR(255) NOT NULL,
    task_name      VARCHAR(255) NOT NULL,
    max_per_second DOUBLE       NULL,      -- NULL: no such limit
    max_per_minute INT UNSIGNED NULL,
    max_per_hour   INT UNSIGNED NULL,
    updated_at     DATETIME(6)  NOT NULL,
    PRIMARY KEY (queue_name, task_name)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Reservations of the last hour.
CREATE TABLE IF NOT EXISTS celers_rate_limit_hits (
    id         BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    queue_name VARCHAR(255)    NOT NULL,
    task_name  VARCHAR(255)    NOT NULL,
    hit_at     DATETIME(6)     NOT NULL,
    PRIMARY KEY (id),
    KEY idx_rate_limit_hits (queue_name, task_name, hit_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
