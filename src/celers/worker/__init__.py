"""The worker: claims tasks and runs them, in this process or in child processes it looks after.

A parent (`supervisor`) starts children, beats for them (`keeper`) and takes back what a dead one held. A child runs a
`loop` that claims, hands tasks to `runners` and settles (`settle`) what they report. Parent and child share a
`board` in memory on which the child notes what it is running.
"""

from __future__ import annotations

from celers.worker.settings import WorkerSettings
from celers.worker.worker import Worker

__all__ = ["Worker", "WorkerSettings"]
