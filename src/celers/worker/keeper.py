"""What a worker's parent does in the database: it beats for its children, takes back what dead ones held, and says
that it is there.

Each job has a thread, so that none delays a heartbeat.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from celers.errors import CelersError, WorkerNotFoundError
from celers.heartbeat import IDLE_FACTOR
from celers.model.enums import WorkerStatus
from celers.model.task import BrokerMessage, SerializedTask
from celers.worker.bell import Bell
from celers.worker.board import Running
from celers.worker.delivery import timed_out
from celers.worker.leader import Leader
from celers_fast.rows import make_receipt

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.worker.settings import WorkerSettings

__all__ = ["Housekeeper", "Keeper", "Rescue"]

log = logging.getLogger("celers.worker.keeper")

PRESENT_EVERY_SECS = 20.0
"""An idle worker says so this often."""


@dataclass(frozen=True, slots=True)
class Rescue:
    """What a dead child held.

    Parameters
    ----------
    numbers : collection of int
        Its consumers.
    started : collection of int
        `seq` of the tasks whose attempt counts.
    overdue : sequence of Running
        Tasks for whose timeout the child was ended.
    """

    numbers: Collection[int]
    started: Collection[int]
    overdue: Sequence[Running] = ()


class Keeper(threading.Thread):
    """Beats and rescues.

    Parameters
    ----------
    brokers : sequence of MysqlBroker
        One for each queue of the worker.
    period_secs : float
        Time between two heartbeats.
    numbers : callable
        Returns the consumers that live.
    running : callable
        Returns how many tasks run now.
    """

    def __init__(
        self,
        brokers: Sequence[MysqlBroker],
        period_secs: float,
        numbers: Callable[[], Sequence[int]],
        running: Callable[[], int],
    ) -> None:
        super().__init__(name="celers-keeper", daemon=True)
        self._brokers = brokers
        self._period = period_secs
        self._numbers = numbers
        self._running = running
        self._rescues: deque[Rescue] = deque()
        self._bell = Bell()
        self._stopping = False

    def rescue(self, rescue: Rescue) -> None:
        """Take back what a dead child held, soon."""
        if rescue.numbers:
            self._rescues.append(rescue)
            self._bell.ring()

    def finish(self, timeout: float) -> bool:
        """Do what is still to do, end the thread, and tell whether all was done."""
        self._stopping = True
        self._bell.ring()
        self.join(timeout)
        return not self._rescues

    def run(self) -> None:
        """Beat in time, rescue at once."""
        next_beat = 0.0
        pause = 0.0
        while True:
            try:
                now = time.monotonic()
                if now >= next_beat:
                    self._beat()
                    # Who is idle loses nothing by being late, and a claim renews the heartbeat by itself.
                    next_beat = now + self._period * (1.0 if self._running() else IDLE_FACTOR)
                while self._rescues:
                    self._rescue(self._rescues[0])
                    self._rescues.popleft()
                pause = 0.0
            except CelersError as error:
                log.warning("heartbeats or rescue could not be sent and are tried again: %s", error)
                pause = min(max(0.1, pause * 2), self._period)
            except Exception:
                log.exception("unexpected error of the keeper; going on")
                pause = self._period
            if self._stopping and not self._rescues:
                return
            self._bell.wait(pause or max(0.01, next_beat - time.monotonic()))

    def _beat(self) -> None:
        numbers = self._numbers()
        if numbers:
            self._brokers[0].consumers.beat(numbers)

    def _rescue(self, rescue: Rescue) -> None:
        for task in rescue.overdue:
            broker = self._brokers[task.queue]
            word = broker.consumer.fail(
                _message(task),
                error=timed_out(task.timeout_secs),
                store_result=task.keeps_result,
                runtime_ms=task.timeout_secs * 1000,
            )
            log.warning("task %s timed out after %d s: %s", task.task_id, task.timeout_secs, word)
        count = self._brokers[0].consumers.rescue(list(rescue.numbers), set(rescue.started))
        if count:
            log.info(
                "took back %d tasks of a dead process, %d of which it had started",
                count,
                len(rescue.started),
            )


def _message(task: Running) -> BrokerMessage:
    """Make the message of a running task as far as settling it needs one."""
    stored = SerializedTask.new("timed out", id=UUID(bytes=task.task_id.bytes))
    receipt = make_receipt(task.seq, task.consumer_no, task.deliveries)
    return BrokerMessage(stored, receipt, 0, stored.metadata.created_at)


class Housekeeper(threading.Thread):
    """Says that this worker is there, and leads the maintenance of the database when it can.

    Parameters
    ----------
    brokers : sequence of MysqlBroker
        One for each queue of the worker.
    settings : WorkerSettings
    running : callable
        Returns how many tasks run now.
    """

    def __init__(self, brokers: Sequence[MysqlBroker], settings: WorkerSettings, running: Callable[[], int]) -> None:
        super().__init__(name="celers-housekeeper", daemon=True)
        self._brokers = brokers
        self._settings = settings
        self._running = running
        self._period = min(2.0, settings.beat_secs)
        self._ended = threading.Event()
        self._leader = Leader(brokers, settings.upkeep)
        self._registered = False
        self._shown: WorkerStatus | None = None
        self._show_again = 0.0

    def finish(self, timeout: float) -> None:
        """End the thread and give the leadership up."""
        self._ended.set()
        if self._leader.is_alive():
            self._leader.finish(timeout)
        self.join(timeout)

    def run(self) -> None:
        """Keep house until `finish`."""
        self._leader.start()
        complained = False
        while not self._ended.is_set():
            try:
                self._show_presence()
                complained = False
            except CelersError as error:
                if not complained:
                    log.warning("this worker could not say that it is there and tries again: %s", error)
                complained = True
            except Exception:
                log.exception("unexpected error of the housekeeper; going on")
            self._ended.wait(self._period)
        with suppress(CelersError):
            for broker in self._brokers:
                broker.workers.unregister(self._settings.name)

    def _show_presence(self) -> None:
        status = WorkerStatus.BUSY if self._running() else WorkerStatus.IDLE
        now = time.monotonic()
        if status is self._shown is WorkerStatus.IDLE and now < self._show_again:
            return
        for broker in self._brokers:
            if not (self._registered and self._beat(broker, status)):
                capabilities = {"processes": self._settings.processes, "threads": self._settings.threads}
                broker.workers.register(self._settings.name, status, capabilities)
        self._registered = True
        self._shown, self._show_again = status, now + PRESENT_EVERY_SECS

    def _beat(self, broker: MysqlBroker, status: WorkerStatus) -> bool:
        """Renew the registration; False when somebody has removed it."""
        if status is WorkerStatus.IDLE:
            return broker.workers.beat_idle(self._settings.name)
        try:
            broker.workers.update_heartbeat(self._settings.name, status)
        except WorkerNotFoundError:
            return False
        return True
