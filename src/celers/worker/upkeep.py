"""What the worker that keeps house deletes, when it is told to: finished tasks, results, dead letters, history.

Nothing is deleted unless a period is set. The work is cut into steps of a few hundred rows by primary key with pauses
as long as the steps, and goes on where it stopped; it never touches a row that a claim or an ack could wait for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from celers import validate
from celers.errors import CelersError
from celers.model.base import Duration, Record

if TYPE_CHECKING:
    from celers.broker import MysqlBroker

__all__ = ["Retention", "Upkeep", "upkeep_steps"]

log = logging.getLogger("celers.worker.upkeep")

ROUND_SECS = 60.0
"""Time from the end of one round to the next."""
LONGEST_SECS = 1.0
"""So long the work may keep whoever calls it."""
SHORTEST_PAUSE_SECS = 0.01


@dataclass(frozen=True, slots=True)
class Upkeep(Record):
    """What a worker that leads the maintenance does for all queues of the database, besides rescue and promotion.

    Every rule is off when None. All workers of a database should be given the same: one of them leads.

    Parameters
    ----------
    keep_finished, keep_results, keep_dead_letters, keep_history : timedelta, int or float, optional
        How long completed, failed and cancelled tasks, results, dead letters and history rows are kept after their
        end, in seconds; 0 or more.
    overdue_after : timedelta, int or float, optional
        Take back tasks that have been processing for longer than their own time limit, or than this when they have
        none; above 0, and more than the longest task may take.
    """

    keep_finished: Duration | None = None
    keep_results: Duration | None = None
    keep_dead_letters: Duration | None = None
    keep_history: Duration | None = None
    overdue_after: Duration | None = None

    def __post_init__(self) -> None:
        """Check the values, and turn them into seconds."""
        for rule in fields(self):
            value = getattr(self, rule.name)
            if value is not None:
                secs = validate.duration(value, rule.name, positive=rule.name == "overdue_after")
                object.__setattr__(self, rule.name, secs)

    @property
    def is_off(self) -> bool:
        """Is there nothing to do?"""
        return all(getattr(self, rule.name) is None for rule in fields(self))


class Retention:
    """Applies the rules, step by step.

    Parameters
    ----------
    broker : MysqlBroker
        Of any queue of the database.
    rules : Upkeep
    wait : callable
        Waits for so many seconds; True when the work shall end.
    """

    def __init__(self, broker: MysqlBroker, rules: Upkeep, wait: Callable[[float], bool]) -> None:
        self._broker = broker
        self._rules = rules
        self._wait = wait
        self._round: Iterator[int] | None = None
        self._next_round = 0.0

    def work(self) -> float:
        """Work for a second at most, and return in how many seconds to call again."""
        if self._rules.is_off:
            return ROUND_SECS
        began = time.monotonic()
        if self._round is None:
            if began < self._next_round:
                return self._next_round - began
            self._round = self._steps()
        while True:
            started = time.monotonic()
            try:
                next(self._round)
            except StopIteration:
                self._round = None
                self._next_round = time.monotonic() + ROUND_SECS
                return ROUND_SECS
            except CelersError:
                self._round = None
                self._next_round = time.monotonic() + ROUND_SECS
                raise
            took = time.monotonic() - started
            if self._wait(max(took, SHORTEST_PAUSE_SECS)) or time.monotonic() - began > LONGEST_SECS:
                return 0.0

    def _steps(self) -> Iterator[int]:
        """One round: each value is the number of rows of one step."""
        done: dict[tuple[str, str], int] = {}
        for queue, what, count in upkeep_steps(self._broker, self._rules):
            done[queue, what] = done.get((queue, what), 0) + count
            yield count
        for (queue, what), count in done.items():
            if count:
                log.info("upkeep of queue %s: %s: %d", queue, what, count)


def upkeep_steps(broker: MysqlBroker, rules: Upkeep) -> Iterator[tuple[str, str, int]]:
    """Apply the rules to all queues of a database once; each value says what one small transaction did.

    Parameters
    ----------
    broker : MysqlBroker
        Of any queue of the database.
    rules : Upkeep

    Returns
    -------
    iterator of (str, str, int)
        Queue, what was done, and to how many rows.
    """
    for queue in broker.queue.names():
        maintenance = broker.for_queue(queue).maintenance
        if rules.overdue_after is not None:
            yield queue, "overdue tasks taken back", maintenance.recover_timed_out(rules.overdue_after)
        if rules.keep_finished is not None:
            after: int | None = 0
            while after is not None:
                count, after = maintenance.archive_step(rules.keep_finished, after)
                yield queue, "finished tasks deleted", count
        for what, period, step in (
            ("results deleted", rules.keep_results, maintenance.results_step),
            ("dead letters deleted", rules.keep_dead_letters, maintenance.dead_letters_step),
            ("history rows deleted", rules.keep_history, maintenance.history_step),
        ):
            while period is not None:
                count = step(period)
                yield queue, what, count
                if not count:
                    break
