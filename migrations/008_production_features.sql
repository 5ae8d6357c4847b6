-- Task groups, and indexes for the lists of workers and queues.
--
-- The migration runner leaves out a CREATE INDEX whose index exists.

-- Groups of tasks. The tasks carry the group's id themselves.
CREATE TABLE IF NOT EXISTS celers_task_groups (
    group_id   VARCHAR(255) NOT NULL,
    queue_name VARCHAR(255) NOT NULL,
    task_count BIGINT       NOT NULL DEFAULT 0,  -- size at creation
    created_at DATETIME(6)  NOT NULL,
    metadata   JSON         NULL,
    PRIMARY KEY (group_id, queue_name),
    KEY idx_task_groups_created (queue_name, created_at),
    KEY idx_task_groups_queue (queue_name, group_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX idx_queue_config_updated ON celers_queues (updated_at);

CREATE INDEX idx_worker_heartbeat_last ON celers_workers (last_heartbeat);

CREATE INDEX idx_worker_heartbeat_status ON celers_workers (queue_id, status);

CREATE INDEX idx_worker_heartbeat_queue ON celers_workers (queue_id, last_heartbeat);
