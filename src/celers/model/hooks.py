"""What a hook is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from celers.model.base import Record
from celers.model.enums import TaskHook

__all__ = ["HookContext"]


@dataclass(frozen=True, slots=True)
class HookContext(Record):
    """Where and about what a hook is called.

    Parameters
    ----------
    hook : TaskHook
        The point.
    queue_name : str
    task_id : UUID or None
        None before a claim.
    timestamp : datetime
        By this machine's clock.
    metadata : mapping
        ``task_name`` of the task; after a rejection also ``outcome``: retried, failed or dead_letter.
    """

    hook: TaskHook
    queue_name: str
    task_id: UUID | None
    timestamp: datetime
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
