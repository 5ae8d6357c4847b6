-- Optional: indexes for reports that list or count tasks by other things than their number.
--
-- Applied by migrate(reporting_indexes=True) or `celers migrate --with reporting-indexes`, removed by
-- migrate(reporting_indexes=False) or `--without reporting-indexes`. They make enqueue two to three times dearer
-- and claims up to three times slower, so they are never needed and never counted as missing.
--
-- The migration runner leaves out a CREATE INDEX whose index exists.

CREATE INDEX idx_tasks_state_priority ON celers_tasks (queue_id, state, priority, seq);

CREATE INDEX idx_tasks_scheduled ON celers_tasks (queue_id, state, scheduled_at, seq);

CREATE INDEX idx_tasks_worker ON celers_tasks (queue_id, worker_no, state);

CREATE INDEX idx_tasks_task_name ON celers_tasks (queue_id, task_name);

CREATE INDEX idx_tasks_task_name_state ON celers_tasks (queue_id, task_name, state);

CREATE INDEX idx_tasks_worker_started ON celers_tasks (queue_id, worker_no, started_at);

CREATE INDEX idx_tasks_created_at ON celers_tasks (queue_id, created_at);

CREATE INDEX idx_tasks_completed_at ON celers_tasks (queue_id, completed_at);

CREATE INDEX idx_tasks_metadata_group ON celers_tasks (queue_id, group_id);
