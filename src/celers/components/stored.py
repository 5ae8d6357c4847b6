"""After an enqueue of unknown outcome: are its tasks stored?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from celers import rows as read
from celers.components.base import Component
from celers.components.settling import chunks
from celers.operation import Packet, Steps

__all__ = ["all_stored"]

MARGIN_SECS = 1.0
"""Between this process's clock and the database's, over the few seconds of one operation."""


def all_stored(component: Component[Any], ids: Sequence[UUID], began: float) -> Steps[bool]:
    """Look whether all of these tasks are stored, whatever has become of them since.

    They may have been claimed, and even have become dead letters, before anybody looks. A dead letter counts when its
    task was enqueued since the operation began: the same id may have died before, in an earlier life. A task that was
    archived, purged, or requeued from the dead letters meanwhile is not found. Alone it is stored once more, which
    at-least-once delivery allows; with others of its batch that are there, the repetition ends in
    `DuplicateTaskError`.

    Parameters
    ----------
    ids : sequence of UUID
        Those of one transaction, whose session is gone: it is stored as a whole or not at all.
    began : float
        `time.monotonic()` when the operation began.
    """
    core = component.core
    count = 0
    for chunk in chunks(ids):
        since = round((time.monotonic() - began + MARGIN_SECS) * 1e6)
        look = core.sql(
            "producer", "count_stored", ids=list(chunk), queue_id=core.queue_id, queue_name=core.queue_name, since=since
        )
        count += read.integer((yield Packet(look))[0].rows[0][0])
    return count == len(ids)
