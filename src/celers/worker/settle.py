"""Telling the broker what became of tasks."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from celers.components.consumer import Completion
from celers.errors import BrokerError, CelersError, SerializationError, ValidationError
from celers.worker.delivery import Delivery, Failure, Outcome, Success

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.model.task import BrokerMessage

__all__ = ["Settler"]

log = logging.getLogger("celers.worker.tasks")
acks = logging.getLogger("celers.worker.acks")

AT_ONCE = 1000
# So long an outcome waits for others. It travels with the next claim when tasks wait to be run, which comes soon then.
FLUSH_SECS = 0.005
BUSY_SECS = 0.02

DATA_ERRNOS = frozenset(
    {
        1153,  # packet too large
        1264,  # out of range
        1301,  # result too large for the packet
        1366,  # bad text
        1406,  # too long for the column
        3140,  # bad JSON (MySQL)
        3157,  # JSON nested too deeply (MySQL)
        4025,  # bad JSON (MariaDB)
    }
)


class Settler:
    """Settles outcomes and gives deliveries back.

    What the broker has not answered for stays where it was, so every method may be called again after an error.

    Parameters
    ----------
    brokers : sequence of MysqlBroker
        One for each queue.
    outcomes : deque of Outcome
        What the runners have reported, oldest first.
    unsettled : set of Delivery
        All claimed deliveries; settled ones are removed.
    batch : int
        So many outcomes leave without a claim; a busy worker claims before.
    """

    def __init__(
        self, brokers: Sequence[MysqlBroker], outcomes: deque[Outcome], unsettled: set[Delivery], batch: int
    ) -> None:
        self._brokers = brokers
        self._outcomes = outcomes
        self._unsettled = unsettled
        self._batch = batch
        self.returns: list[tuple[float, list[Delivery]]] = []

    def is_due(self, now: float, busy: bool) -> bool:
        """Is it time to settle: nothing else runs, there are many outcomes, or one of them waits for long?

        Parameters
        ----------
        busy : bool
            Claimed tasks wait to be run.
        """
        count = len(self._outcomes)
        return bool(count) and (
            count >= min(self._batch, len(self._unsettled))
            or now - self._outcomes[0].finished_at >= (BUSY_SECS if busy else FLUSH_SECS)
        )

    def may_wait(self, now: float) -> bool:
        """May the outcomes travel with the next claim? Not when one had to wait for long."""
        return now - self._outcomes[0].finished_at < 2 * BUSY_SECS

    def due_in(self, now: float, busy: bool) -> float:
        """Return the seconds after which the outcomes have waited long enough; 1 without any."""
        if not self._outcomes:
            return 1.0
        return max(0.0005, self._outcomes[0].finished_at + (BUSY_SECS if busy else FLUSH_SECS) - now)

    def settle(self) -> float | None:
        """Settle what was reported; return the mean run time of the tasks in seconds, None without any."""
        taken = [self._outcomes.popleft() for _ in range(min(len(self._outcomes), AT_ONCE))]
        # The owner may have given up a task that was still running.
        taken = [one for one in taken if one.delivery in self._unsettled]
        if not taken:
            return None
        try:
            done = [one for one in taken if isinstance(one, Success)]
            for index in range(len(self._brokers)):
                self._complete(index, [one for one in done if one.delivery.queue == index])
            for one in taken:
                if isinstance(one, Failure):
                    self._fail(one)
        except BaseException:
            left = [one for one in taken if one.delivery in self._unsettled]
            self._outcomes.extendleft(reversed(left))
            raise
        return sum(one.runtime_secs for one in taken) / len(taken)

    def cycle(self, index: int, wanted: int, worker_id: str) -> tuple[list[BrokerMessage], float | None]:
        """Claim from one queue, and settle with the same packet what was reported as done there.

        Returns
        -------
        messages : list of BrokerMessage
        mean : float or None
            Mean run time in seconds of the settled tasks.
        """
        consumer = self._brokers[index].consumer
        done = self._take_done(index)
        if not done:
            return consumer.dequeue_batch(wanted, worker_id=worker_id), None
        _intend(done)
        try:
            kept, messages = consumer.cycle([_completion(one) for one in done], wanted, worker_id=worker_id)
        except BaseException as error:
            self._outcomes.extendleft(reversed(done))
            if isinstance(error, BrokerError | SerializationError | ValidationError) and _is_about_the_data(error):
                self.settle()  # finds the one that cannot be stored
                return consumer.dequeue_batch(wanted, worker_id=worker_id), None
            raise
        mean = sum([one.runtime_secs for one in done]) / len(done)
        if None in kept:
            self._outcomes.extendleft(one for one, was_ours in zip(done, kept, strict=True) if was_ours is None)
            done = [one for one, was_ours in zip(done, kept, strict=True) if was_ours is not None]
        self._kept(done, [was_ours for was_ours in kept if was_ours is not None])
        return messages, mean

    def _take_done(self, index: int) -> list[Success]:
        """Take successes of one queue out of what was reported."""
        done: list[Success] = []
        for _ in range(min(len(self._outcomes), AT_ONCE)):
            one = self._outcomes.popleft()
            if one.delivery not in self._unsettled:
                continue  # given up while it was running
            if isinstance(one, Success) and one.delivery.queue == index:
                done.append(one)
            else:
                self._outcomes.append(one)
        return done

    def give_back(self) -> None:
        """Return to the queue what is to be returned."""
        while self.returns:
            delay, deliveries = self.returns[0]
            held = [one for one in deliveries if one in self._unsettled]
            for index, broker in enumerate(self._brokers):
                messages = [one.message for one in held if one.queue == index]
                if messages:
                    broker.consumer.give_back(messages, delay_secs=delay)
            self._unsettled.difference_update(held)
            del self.returns[0]

    def _complete(self, index: int, done: list[Success]) -> None:
        if not done:
            return
        _intend(done)
        try:
            kept = self._brokers[index].consumer.complete([_completion(one) for one in done])
        except (BrokerError, SerializationError, ValidationError) as error:
            if not _is_about_the_data(error):
                raise
            if len(done) > 1:
                for one in done:
                    self._complete(index, [one])
            else:
                reason = f"the task has run, but its result cannot be stored: {error}"
                self._fail(Failure(done[0].delivery, reason, runtime_secs=done[0].runtime_secs))
            return
        self._kept(done, kept)

    def _kept(self, done: Sequence[Success], kept: Sequence[bool]) -> None:
        """Forget settled deliveries; `kept` tells which of them were still ours."""
        self._unsettled.difference_update([one.delivery for one in done])
        if not all(kept):
            for one, was_ours in zip(done, kept, strict=True):
                if not was_ours:
                    _lost(one.delivery)
        if acks.isEnabledFor(logging.DEBUG):
            for one, was_ours in zip(done, kept, strict=True):
                if was_ours:
                    acks.debug("completed %s", _receipt(one))

    def _fail(self, failure: Failure) -> None:
        delivery = failure.delivery
        consumer = self._brokers[delivery.queue].consumer
        word = consumer.fail(
            delivery.message,
            error=failure.error,
            traceback=failure.traceback,
            requeue=failure.verdict != "fail",
            dead_letter=failure.verdict == "dead_letter",
            delay_secs=failure.delay_secs,
            store_result=delivery.keeps_result,
            runtime_ms=int(failure.runtime_secs * 1000),
        )
        self._unsettled.discard(delivery)
        if word == "lost":
            _lost(delivery)
            return
        message = delivery.message
        level = logging.INFO if word == "retried" else logging.WARNING
        # The text of the error may quote the arguments; it is kept with the task and not in the log.
        log.log(
            level,
            "task %s %s failed in attempt %d of %d: %s; %s",
            message.task_name,
            message.task_id,
            message.retry_count + 1,
            message.task.metadata.max_retries + 1,
            failure.error.partition(":")[0][:100],
            _WORDS.get(word, word),
        )
        if failure.traceback is not None and log.isEnabledFor(logging.DEBUG):
            log.debug("traceback of task %s:\n%s", message.task_id, failure.traceback)


_WORDS = {
    "retried": "it will run again",
    "dead_letter": "it was moved to the dead letters",
    "failed": "it will not run again",
}


def _completion(one: Success) -> Completion:
    delivery = one.delivery
    runtime_ms = int(one.runtime_secs * 1000)
    return Completion(delivery.message, one.result, runtime_ms, delivery.keeps_result, delivery.receipt)


def _intend(done: Sequence[Success]) -> None:
    """Log what the next packet acknowledges: with the stored row it tells what a process that was killed had done."""
    if acks.isEnabledFor(logging.DEBUG):
        for one in done:
            acks.debug("completing %s", _receipt(one))


def _receipt(one: Success) -> str:
    delivery = one.delivery
    _, consumer_no, number = delivery.receipt
    return f"{delivery.task_id} in delivery {number} to consumer {consumer_no}"


def _lost(delivery: Delivery) -> None:
    log.warning(
        "task %s %s ended here, but its delivery %d had been taken back: the outcome is dropped",
        delivery.message.task_name,
        delivery.task_id,
        delivery.receipt[2],
    )


def _is_about_the_data(error: CelersError) -> bool:
    """Would the same packet fail for ever, because of what it holds, and not because of the server's state?"""
    return not isinstance(error, BrokerError) or error.errno in DATA_ERRNOS
