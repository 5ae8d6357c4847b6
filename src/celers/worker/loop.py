"""The claim loop of one worker process.

One thread talks to the database: it claims tasks for the runners, and settles what they report. Everything between
two round trips is plain memory: a task's thread appends its outcome to a deque and rings only when that changes what
the loop would do next.

Acknowledgements leave together, at the latest some milliseconds after the first of them, at once when nothing else
runs, and always before a claim. Whatever happens on the way to the database, an outcome stays here until the broker
has said what became of it.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from celers import payload
from celers.attendant import Attendant
from celers.errors import CelersError
from celers.worker.bell import Bell
from celers.worker.board import Board
from celers.worker.delivery import Delivery, Failure, Outcome, timed_out
from celers.worker.intake import Intake, unknown_delay
from celers.worker.runners import AsyncRunner, ThreadRunner
from celers.worker.settle import Settler

if TYPE_CHECKING:
    from celers.app import App
    from celers.broker import MysqlBroker
    from celers.model.task import BrokerMessage
    from celers.worker.settings import WorkerSettings

__all__ = ["ClaimLoop"]

log = logging.getLogger("celers.worker.loop")

# The first task after idling gets the interpreter to itself for so long, unless it ends before.
HEAD_START_SECS = 0.001
STALL_SECS = 1.0
WARN_AGAIN_SECS = 3600.0
LONGEST_BACKOFF_SECS = 5.0
# So long after the end of the grace period the database may still be tried.
LAST_WORDS_SECS = 5.0


class ClaimLoop:
    """Claims, runs and settles tasks until it is told to stop.

    Parameters
    ----------
    app : App
        Knows the functions.
    brokers : sequence of MysqlBroker
        One for each queue, in the order in which they are emptied.
    settings : WorkerSettings
    board : Board
        Where the running tasks are noted.
    abandon_overdue : bool
        Give up threads whose task is over its time. False where a parent ends the process instead.
    """

    def __init__(
        self,
        app: App,
        brokers: Sequence[MysqlBroker],
        settings: WorkerSettings,
        board: Board,
        *,
        abandon_overdue: bool,
    ) -> None:
        self._app = app
        self._brokers = brokers
        self._settings = settings
        self._board = board
        self._abandon_overdue = abandon_overdue
        self._accept = app.accept if settings.accept is None else payload.accepted_formats(settings.accept)
        self._outcomes: deque[Outcome] = deque()
        self._unsettled: set[Delivery] = set()
        self._settler = Settler(brokers, self._outcomes, self._unsettled, settings.batch)
        self._threads = ThreadRunner(settings.threads, board, self._report)
        self._coroutines = AsyncRunner(settings.async_tasks, board, settings.threads, self._report)
        self._intake = Intake(settings.threads, settings.batch)
        self._alone: Delivery | None = None
        self._alone_started = False
        self._numbers: tuple[int, ...] = ()
        self._warned: dict[str, float] = {}
        self._bell = Bell()
        self._sleeping = False
        self._may_claim = False
        self._moved_at = 0.0
        self._quiet_until = 0.0
        self._backoff = 0.0
        self._stop_at: float | None = None
        self._winding_up = False
        self._attendant: Attendant | None = None
        self._wakes = 0
        self._rung = False
        self._parked = False
        self._wake_up = settings.wake_up and all(broker.core.wake_up for broker in brokers)

    # From other threads and signal handlers

    def stop(self, grace_secs: float) -> None:
        """Claim nothing more, give running tasks so many seconds, then return what is held and end."""
        deadline = time.monotonic() + grace_secs
        if self._stop_at is None or deadline < self._stop_at:
            self._stop_at = deadline
        self._bell.ring()

    def wake(self) -> None:
        """Look for tasks at once: somebody knows that there are some."""
        self._wakes += 1
        self._rung = True
        self._intake.woken()
        self._bell.ring()

    def _report(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        if self._sleeping and self._worth_waking():
            self._sleeping = False
            self._bell.ring()

    def _worth_waking(self) -> bool:
        count = len(self._outcomes)
        return (
            count == 1  # starts the clock of the next flush
            or count >= min(self._settings.batch, len(self._unsettled))
            or (self._may_claim and self._threads.waiting.qsize() <= self._intake.low_water())
        )

    # The loop

    def run(self) -> None:
        """Work until `stop`."""
        self._threads.start()
        self._board.set_ready()
        try:
            while True:
                try:
                    seen = len(self._outcomes)
                    pause = self._step(time.monotonic())
                except Exception as error:  # noqa: BLE001 - the loop outlives whatever goes wrong in one round
                    self._trouble(error)
                    continue
                if pause is None:
                    break
                if pause > 0:
                    self._wait(pause, seen)
        finally:
            if self._attendant is not None:
                self._attendant.close()
            self._threads.stop()
            self._coroutines.stop()

    def _wait(self, pause: float, seen: int) -> None:
        self._sleeping = True
        # What was reported before the flag went up has rung no bell.
        if len(self._outcomes) == seen or not self._worth_waking():
            self._bell.wait(pause)
        self._sleeping = False

    def _trouble(self, error: Exception) -> None:
        if isinstance(error, CelersError):
            if self._backoff == 0.0 or not getattr(error, "retryable", False):
                log.warning("the database cannot be used now and is tried again: %s", error)
        else:
            log.error("unexpected error in the claim loop; going on", exc_info=error)
        self._backoff = min(LONGEST_BACKOFF_SECS, max(0.05, self._backoff * 2))
        self._quiet_until = time.monotonic() + self._backoff * random.uniform(0.5, 1.0)

    def _all_well(self) -> None:
        if self._backoff:
            self._backoff = 0.0
            log.info("the database answers again")

    def _step(self, now: float) -> float | None:
        """Do the next thing; return how long to wait then, None at the end."""
        stop_at = self._stop_at
        if stop_at is not None:
            if not self._winding_up:
                self._begin_to_stop()
            if not self._unsettled or now > stop_at + LAST_WORDS_SECS:
                return None
        if now < self._quiet_until:
            return self._quiet_until - now
        if self._settler.returns:
            self._settler.give_back()
            self._all_well()
            return 0.0
        if self._abandon_overdue:
            self._abandon(now)
        busy = not self._threads.waiting.empty()
        wanted = 0
        if stop_at is None and self._alone is None:
            have = self._have()
            wanted = self._intake.wanted(have, now)
            if self._parked and not wanted and not self._intake.room(have):
                self._leave()  # a ring would be lost on this process
        if self._settler.is_due(now, busy) and not (wanted and self._settler.may_wait(now)):
            self._settle()
            return 0.0
        if stop_at is not None:
            if now >= stop_at:
                self._give_up_running()
                return 0.0
            return min(stop_at - now, self._settler.due_in(now, busy))
        if self._alone is not None:
            return self._run_alone(now, busy)
        if wanted:
            return self._claim(wanted)
        self._may_claim = self._intake.look_in(now) == 0.0
        self._look_for_stall(now)
        look = 1.0 if self._may_claim else self._intake.look_in(now)
        return min(look, self._settler.due_in(now, busy))

    def _have(self) -> int:
        """Count what runs or waits, less the coroutines that have room of their own."""
        coroutines = min(self._coroutines.in_flight, self._settings.async_tasks)
        return len(self._unsettled) - len(self._outcomes) - coroutines

    # Settling

    def _settle(self) -> None:
        mean = self._settler.settle()
        if mean is not None:
            self._intake.ran(mean)
        self._moved_at = time.monotonic()
        self._all_well()

    # Claiming

    def _claim(self, wanted: int) -> float:
        """Claim from the queues in turn; return how long to wait then."""
        brought = 0
        wakes = self._wakes
        rung, self._rung = self._rung, False
        if rung and not self._unsettled:
            wanted = 1  # most rings tell of one task, and a claim of one is the quickest
        for index in range(len(self._brokers)):
            messages, mean = self._settler.cycle(index, wanted - brought, self._settings.name)
            if mean is not None:
                self._intake.ran(mean)
            self._note_consumers()
            brought += len(messages)
            isolated = self._take(self._deliveries(messages, index))
            if messages:
                self._intake.isolated(isolated)
            if isolated or brought >= wanted:
                break
        self._intake.claimed(brought, self._due_secs())
        if brought:
            self._moved_at = time.monotonic()
            if self._attendant is not None:
                self._attendant.leave()
            self._parked = self._wakes != wakes  # a ring came in the meantime: follow it, or hand it on
        else:
            self._park()
            if self._wakes != wakes:
                self._intake.woken()  # it was said while the claim was under way, which may have missed it
        self._all_well()
        return HEAD_START_SECS if rung and brought else 0.0

    def _due_secs(self) -> float | None:
        """Seconds until something scheduled is due in one of the queues, as far as known."""
        known = [due for broker in self._brokers if (due := broker.core.next_due_secs) is not None]
        return min(known, default=None)

    def _park(self) -> None:
        """Nothing is due: be woken by whoever brings work, as far as the server allows; poll until then."""
        if self._attendant is None and self._wake_up:
            options = self._brokers[0].options
            self._attendant = Attendant(options, [broker.core for broker in self._brokers], self.wake)
            attendant = self._attendant
            self._intake.resting = lambda: attendant.resting
            self._intake.due_secs = self._due_secs
        if self._attendant is not None:
            self._attendant.enter()
            self._parked = True

    def _leave(self) -> None:
        """Nothing can be taken any more: whoever rings, or has rung, shall reach another process."""
        self._parked = False
        if self._attendant is not None:
            self._attendant.decline()

    def _deliveries(self, messages: Sequence[BrokerMessage], index: int) -> list[Delivery]:
        """Look up what claimed messages ask for, and note that they are to be settled."""
        find = self._app.tasks.get
        found = [Delivery(message, index, find(message.task.metadata.name)) for message in messages]
        self._unsettled.update(found)
        return found

    def _note_consumers(self) -> None:
        numbers = tuple(number for broker in self._brokers for number in broker.core.slots.numbers())
        if numbers != self._numbers:
            self._numbers = numbers
            self._board.set_consumers(numbers)

    def _take(self, deliveries: list[Delivery]) -> bool:
        """Hand claimed tasks to the runners; return whether one of them has to run alone."""
        known: list[Delivery] = []
        alone: Delivery | None = None
        for delivery in deliveries:
            message = delivery.message
            if delivery.task is None or payload.format_of(message.task.payload) not in self._accept:
                self._refuse(delivery)
            elif message.isolated and alone is None:
                alone = delivery
            else:
                known.append(delivery)
        if alone is None:
            self._dispatch(known)
            return False
        # It may have been what ended its last worker: nothing else shall be lost with it again.
        others = known + self._threads.take_back() + self._coroutines.take_back()
        if others:
            self._settler.returns.append((0.0, others))
        self._alone = alone
        self._alone_started = False
        return True

    def _refuse(self, delivery: Delivery) -> None:
        """Leave a task that cannot be run here to other workers."""
        message = delivery.message
        tries = delivery.receipt[2] - 1 - message.retry_count
        self._settler.returns.append((unknown_delay(tries), [delivery]))
        name, form = message.task.metadata.name, payload.format_of(message.task.payload)
        now = time.monotonic()
        key = name if delivery.task is None else f"{name} {form}"
        if now - self._warned.get(key, -WARN_AGAIN_SECS) >= WARN_AGAIN_SECS:
            self._warned[key] = now
            if delivery.task is None:
                log.warning("no task is named %r here: leaving such tasks to other workers", name)
            else:
                log.warning("%s arguments are not accepted here: leaving such %r to other workers", form, name)

    def _dispatch(self, deliveries: Sequence[Delivery]) -> None:
        coroutines: list[Delivery] = []
        put = self._threads.waiting.put
        for delivery in deliveries:
            if delivery.task is not None:
                (coroutines.append if delivery.task.is_async else put)(delivery)
        if coroutines:
            self._coroutines.put(coroutines)

    def _run_alone(self, now: float, busy: bool) -> float:
        alone = self._alone
        assert alone is not None
        if alone not in self._unsettled:
            self._alone = None
            return 0.0
        if not self._alone_started and len(self._unsettled) == 1:
            self._alone_started = True
            self._dispatch([alone])
        return self._settler.due_in(now, busy)

    # Special cases

    def _look_for_stall(self, now: float) -> None:
        """Give back what waits behind tasks that turn out to be slow."""
        if now - self._moved_at < STALL_SECS or self._outcomes or not self._threads.waiting.qsize():
            return
        waiting = self._threads.take_back()
        if waiting:
            self._intake.stalled()
            self._settler.returns.append((0.0, waiting))

    def _abandon(self, now: float) -> None:
        for delivery in self._threads.abandon_overdue(now):
            limit = float(delivery.message.task.metadata.timeout_secs or 0)
            self._outcomes.append(Failure(delivery, timed_out(limit), runtime_secs=limit))

    def _begin_to_stop(self) -> None:
        self._winding_up = True
        self._leave()
        waiting = self._threads.take_back() + self._coroutines.take_back()
        if self._alone is not None and not self._alone_started:
            waiting.append(self._alone)
        if waiting:
            self._settler.returns.append((0.0, waiting))
        running = len(self._unsettled) - len(waiting) - len(self._outcomes)
        if running > 0:
            log.info("stopping: waiting for %d running tasks", running)

    def _give_up_running(self) -> None:
        """At the end of the grace period: return what still runs, without counting an attempt."""
        if self._outcomes:
            self._settle()
        running = list(self._unsettled)
        if running:
            log.warning("stopping: giving back %d tasks that are still running", len(running))
            self._settler.returns.append((0.0, running))
