-- Dependencies between tasks, and workflows made of stages.

-- Workflows as a whole.
CREATE TABLE IF NOT EXISTS celers_workflows (
    id            BINARY(16)   NOT NULL,
    queue_name    VARCHAR(255) NOT NULL,
    workflow_name VARCHAR(255) NOT NULL,
    state         VARCHAR(20)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'pending',  -- pending, running, completed, failed or cancelled
    config        JSON         NULL,      -- the caller's own settings
    created_at    DATETIME(6)  NOT NULL,
    started_at    DATETIME(6)  NULL,      -- first delivery of one of its tasks
    completed_at  DATETIME(6)  NULL,      -- when it became completed, failed or cancelled
    error_message TEXT         NULL,
    PRIMARY KEY (id),
    KEY idx_workflows_state (queue_name, state, created_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Stages of workflows.
CREATE TABLE IF NOT EXISTS celers_workflow_stages (
    id              BINARY(16)   NOT NULL,
    queue_name      VARCHAR(255) NOT NULL,
    workflow_id     BINARY(16)   NOT NULL,            -- celers_workflows.id
    stage_number    INT UNSIGNED NOT NULL,            -- from 0, in the order of definition
    stage_name      VARCHAR(255) NOT NULL,
    state           VARCHAR(20)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'pending',  -- pending, running, completed, failed or skipped
    task_count      INT UNSIGNED NOT NULL DEFAULT 0,
    completed_count INT UNSIGNED NOT NULL DEFAULT 0,
    failed_count    INT UNSIGNED NOT NULL DEFAULT 0,
    started_at      DATETIME(6)  NULL,
    completed_at    DATETIME(6)  NULL,
    PRIMARY KEY (id),
    UNIQUE KEY uq_workflow_stages_number (workflow_id, stage_number),
    UNIQUE KEY uq_workflow_stages_name (workflow_id, stage_name)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which stage waits for which.
CREATE TABLE IF NOT EXISTS celers_workflow_stage_dependencies (
    stage_id        BINARY(16)   NOT NULL,  -- this stage
    parent_stage_id BINARY(16)   NOT NULL,  -- waits for this one
    workflow_id     BINARY(16)   NOT NULL,
    queue_name      VARCHAR(255) NOT NULL,
    PRIMARY KEY (stage_id, parent_stage_id),
    KEY idx_stage_dependencies_parent (parent_stage_id),
    KEY idx_stage_dependencies_workflow (workflow_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which task waits for which: by explicit dependencies, in chains, and between the stages of workflows.
CREATE TABLE IF NOT EXISTS celers_task_dependencies (
    id             BINARY(16)   NOT NULL,
    queue_name     VARCHAR(255) NOT NULL,
    task_id        BINARY(16)   NOT NULL,                -- this task
    parent_task_id BINARY(16)   NOT NULL,                -- waits for this one
    workflow_id    BINARY(16)   NULL,
    stage_id       BINARY(16)   NULL,                    -- stage of task_id
    delay_secs     DOUBLE       NOT NULL DEFAULT 0,      -- wait this long after the parent has completed
    satisfied      BOOLEAN      NOT NULL DEFAULT FALSE,  -- the parent has completed
    created_at     DATETIME(6)  NOT NULL,
    satisfied_at   DATETIME(6)  NULL,
    PRIMARY KEY (id),
    UNIQUE KEY uq_dependencies_task_parent (task_id, parent_task_id),
    KEY idx_dependencies_parent (parent_task_id, satisfied),
    KEY idx_dependencies_workflow (workflow_id, stage_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
