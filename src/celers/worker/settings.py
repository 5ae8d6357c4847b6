"""What a worker is told to do."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from celers import validate
from celers.errors import ValidationError
from celers.model.base import Record
from celers.payload import FORMATS
from celers.worker.upkeep import Upkeep

__all__ = ["WorkerSettings", "usable_processors"]

MOST_PROCESSES = 1024
MOST_THREADS = 1024


def usable_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _name() -> str:
    return f"{socket.gethostname()[:200] or 'worker'}-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class WorkerSettings(Record):
    """Settings of a worker.

    Parameters
    ----------
    queues : tuple of str
        Queues to take tasks from; an earlier one is emptied before a later one is looked at.
    processes : int
        Child processes that run tasks, 0 to 1024; with 0 this process runs them.
    threads : int
        Tasks at a time in each process, 1 to 1024.
    async_tasks : int
        Coroutines at a time in each process, 1 to 10000.
    lease_secs : int
        Silence after which the worker counts as dead, at least 1. It beats five times as often.
    grace_secs : float
        How long running tasks may go on when the worker is told to stop.
    batch : int
        Most tasks to claim at once, 1 to 10000. So many only while they take
        no longer than 50 ms together.
    accept : tuple of str or None
        Formats of arguments to read; what the application says when None.
    name : str
        Noted with the tasks that the worker runs; host and process id by default.
    log_level : str or None
        Level of the child processes' log on standard error; None sets up none.
    upkeep : Upkeep
        What to delete and take back when this worker leads the maintenance.
    wake_up : bool
        Let producers wake idle processes; False looks for tasks up to once a second instead.
    """

    queues: tuple[str, ...]
    processes: int = 1
    threads: int = 4
    async_tasks: int = 100
    lease_secs: int = 15
    grace_secs: float = 30.0
    batch: int = 500
    accept: tuple[str, ...] | None = None
    name: str = field(default_factory=_name)
    log_level: str | None = None
    upkeep: Upkeep = field(default_factory=Upkeep)
    wake_up: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        put = object.__setattr__
        queues: object = self.queues
        if isinstance(queues, str) or not isinstance(queues, Sequence) or not queues:
            raise ValidationError(
                f"queues must be a sequence of names, not {validate.shown(queues)}", parameter="queues"
            )
        put(self, "queues", tuple(dict.fromkeys(validate.name(queue, "queues") for queue in queues)))
        validate.integer(self.processes, "processes", 0, MOST_PROCESSES)
        validate.integer(self.threads, "threads", 1, MOST_THREADS)
        validate.integer(self.async_tasks, "async_tasks", 1, 10_000)
        put(self, "lease_secs", math.ceil(validate.duration(self.lease_secs, "lease", minimum=1)))
        put(self, "grace_secs", validate.duration(self.grace_secs, "grace"))
        validate.integer(self.batch, "batch", 1, 10_000)
        validate.name(self.name, "name")
        upkeep: object = self.upkeep
        if isinstance(upkeep, Mapping):  # as `to_dict` writes it, for the child processes
            put(self, "upkeep", Upkeep(**upkeep))
        elif not isinstance(upkeep, Upkeep):
            raise ValidationError(f"upkeep must be an Upkeep, not {validate.shown(upkeep)}", parameter="upkeep")
        validate.boolean(self.wake_up, "wake_up")
        if self.accept is not None:
            for form in self.accept:
                if form not in FORMATS:
                    raise ValidationError(f"accept must name {', '.join(FORMATS)}, not {form!r}", parameter="accept")
            put(self, "accept", tuple(self.accept))

    @property
    def slots(self) -> int:
        """Tasks that may run at the same time in one process."""
        return self.threads + self.async_tasks

    @property
    def beat_secs(self) -> float:
        """Seconds between two heartbeats."""
        return self.lease_secs / 5
