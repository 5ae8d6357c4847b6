"""Dead letters: tasks whose retries are used up."""

from __future__ import annotations

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.model.dlq import DlqTaskInfo
from celers.operation import Packet, Steps, operation

__all__ = ["DeadLetters"]


class DeadLetters(Component[M]):
    """Tasks whose retries are used up."""

    attribute = "dlq"

    @operation("read")
    def page(self, limit: int, offset: int) -> Steps[list[DlqTaskInfo]]:
        """Return dead letters, the newest first. Key idx_dlq_failed_at, backwards.

        Parameters
        ----------
        limit : int
            0 to 10000.
        offset : int
            Not negative.
        """
        count, skip = validate.limit(limit), validate.offset(offset)
        if not count:
            return []
        core = self.core
        results = yield Packet(core.sql("dlq", "page", queue_name=core.queue_name, count=count, skip=skip))
        return [
            DlqTaskInfo(
                id=read.uuid(row[0]),
                task_id=read.uuid(row[1]),
                task_name=read.text(row[2]),
                retry_count=read.integer(row[3]),
                max_retries=read.integer(row[4]),
                priority=read.integer(row[5]),
                error_message=read.text_or_none(row[6]),
                failed_at=read.instant(row[7]),
                metadata={} if row[8] is None else validate.json_value(row[8], "metadata"),
            )
            for row in results[0].rows
        ]
