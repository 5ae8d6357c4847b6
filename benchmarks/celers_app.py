"""The application whose workers are measured: tasks that do nothing but note that they ran."""

from __future__ import annotations

import os
import sys

from benchmarks.tally import VARIABLE, Tally, number_of
from celers import App

QUEUE = "bench"

app = App(default_queue=QUEUE)

_tally: Tally | None = None


def _mark(payload: str) -> int:
    number = number_of(payload)
    if _tally is not None:
        _tally.mark(number)
    return number


@app.task(name="noop", ignore_result=True)
def noop(payload: str) -> None:
    """Do nothing; no result is stored."""
    _mark(payload)


@app.task(name="noop_result")
def noop_result(payload: str) -> int:
    """Do nothing; the result is stored."""
    return _mark(payload)


@app.task(name="noop_async", ignore_result=True)
async def noop_async(payload: str) -> None:
    """Do nothing, as a coroutine; no result is stored."""
    _mark(payload)


if VARIABLE in os.environ:
    _tally = Tally.attach(os.environ[VARIABLE])
    if sys.argv[0] == "-c":
        # A child process of a worker: it has everything imported now, and begins together with the others.
        _tally.wait_at_gate()
