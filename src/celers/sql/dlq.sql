-- name: page
-- Newest first. Key idx_dlq_failed_at (queue_name, failed_at, id).
SELECT id, task_id, task_name, retry_count, max_retries, priority, error_message, failed_at, metadata
FROM celers_dead_letter_queue WHERE queue_name = :queue_name
ORDER BY failed_at DESC, id DESC LIMIT :count OFFSET :skip
