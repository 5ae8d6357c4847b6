"""One delivery in a worker, and what came of it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from celers import payload, validate
from celers.control import Reject, Retry
from celers.errors import DeserializationError
from celers.model.task import BrokerMessage
from celers.task import Task
from celers_fast.rows import parse_receipt

__all__ = ["Delivery", "Failure", "Outcome", "Success", "describe", "failure_of", "run_sync", "timed_out"]

MAX_RESULT_BYTES = 16_777_215  # MEDIUMTEXT


class Delivery:
    """A claimed task in a worker process: the message, its queue, and the function to run."""

    __slots__ = ("message", "queue", "receipt", "task")

    def __init__(self, message: BrokerMessage, queue: int, task: Task[..., Any] | None) -> None:
        receipt = parse_receipt(message.receipt_handle)
        if receipt is None:  # the broker made it
            raise ValueError("the broker delivered a task with an unreadable receipt")
        self.receipt = receipt
        self.message = message
        self.queue = queue
        self.task = task

    @property
    def task_id(self) -> UUID:
        """The task's id."""
        return self.message.task.metadata.id

    @property
    def keeps_result(self) -> bool:
        """Whether a result is to be stored."""
        return self.task is not None and not self.task.ignore_result


class Success:
    """The task returned; `result` is the JSON text of the value, None for None."""

    __slots__ = ("delivery", "finished_at", "result", "runtime_secs")

    def __init__(self, delivery: Delivery, result: str | None, runtime_secs: float, finished_at: float) -> None:
        self.delivery = delivery
        self.result = result
        self.runtime_secs = runtime_secs
        self.finished_at = finished_at


class Failure:
    """The task did not return.

    Attributes
    ----------
    error, traceback : str and str or None
    verdict : {"retry", "fail", "dead_letter"}
        What the task or the worker asks for; a retry happens only as long as retries are left.
    delay_secs : float or None
        Time until the retry when the task chose one.
    """

    __slots__ = ("delay_secs", "delivery", "error", "finished_at", "runtime_secs", "traceback", "verdict")

    def __init__(
        self,
        delivery: Delivery,
        error: str,
        traceback: str | None = None,
        *,
        verdict: str = "retry",
        delay_secs: float | None = None,
        runtime_secs: float = 0.0,
    ) -> None:
        self.delivery = delivery
        self.error = error
        self.traceback = traceback
        self.verdict = verdict
        self.delay_secs = delay_secs
        self.runtime_secs = runtime_secs
        self.finished_at = time.monotonic()


Outcome = Success | Failure


def run_sync(delivery: Delivery) -> Outcome:
    """Run a delivery's plain function with its arguments, and catch whatever happens."""
    task = delivery.task
    assert task is not None
    started = time.monotonic()
    try:
        args, kwargs = payload.decode(delivery.message.task.payload)
    except DeserializationError as error:
        return Failure(delivery, str(error), verdict="dead_letter")
    try:
        value = task.fn(*args, **kwargs)
        text = None if value is None or task.ignore_result else result_text(value)
    except BaseException as error:  # noqa: BLE001 - a task that calls sys.exit() must not end the worker
        return failure_of(delivery, error, time.monotonic() - started)
    finished = time.monotonic()
    return Success(delivery, text, finished - started, finished)


def result_text(value: Any) -> str:
    """Return the JSON text of a task's result."""
    text = validate.json_text(value, "the task's result")
    if len(text) * 4 > MAX_RESULT_BYTES and len(text.encode()) > MAX_RESULT_BYTES:
        raise ValueError(f"the task's result is longer than {MAX_RESULT_BYTES} bytes of JSON text")
    return text


def failure_of(delivery: Delivery, error: BaseException, runtime_secs: float) -> Failure:
    """Turn an exception into a failure."""
    if isinstance(error, Reject):
        return Failure(delivery, str(error), verdict="fail", runtime_secs=runtime_secs)
    delay = error.delay_secs if isinstance(error, Retry) else None
    trace = error.__traceback__
    if trace is not None:
        trace = trace.tb_next  # without the worker's own frame
    try:
        lines: Sequence[str] = traceback.format_exception(type(error), error, trace)
        text = describe(error)
    except Exception:  # noqa: BLE001 - an exception that cannot even be printed is still a failure
        lines, text = (), type(error).__name__
    return Failure(delivery, text, "".join(lines) or None, delay_secs=delay, runtime_secs=runtime_secs)


def describe(error: BaseException) -> str:
    """Return the type and text of an exception, on one or more lines."""
    if isinstance(error, Retry):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip()


def timed_out(timeout_secs: float) -> str:
    """Return the error text of a task that ran for too long."""
    return f"timed out: the task ran longer than {timeout_secs:g} s"
