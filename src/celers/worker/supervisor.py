"""The parent of a worker's processes: starts, watches, replaces and stops them, and runs no tasks itself."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from celers.worker.bell import Bell
from celers.worker.board import Board, Running
from celers.worker.child import BOOTSTRAP
from celers.worker.keeper import Housekeeper, Keeper, Rescue

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.worker.settings import WorkerSettings

__all__ = ["Supervisor"]

log = logging.getLogger("celers.worker.supervisor")

TICK_SECS = 0.1
# A process that lived for longer is replaced at once; others after a pause that doubles.
GOOD_LIFE_SECS = 5.0
FIRST_PAUSE_SECS = 0.1
LONGEST_PAUSE_SECS = 30.0
# So long after the grace period children may take to say good-bye to the database.
GOODBYE_SECS = 10.0


class _Child:
    """One process and its board."""

    def __init__(self, process: subprocess.Popen[bytes], board: Board) -> None:
        self.process = process
        self.board = board
        self.started_at = time.monotonic()
        self.overdue: list[Running] = []
        self.suspects: list[Running] = []


class _Place:
    """A place for a child; its next one starts at `start_at`."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.child: _Child | None = None
        self.start_at = 0.0
        self.pause = 0.0


class Supervisor:
    """Keeps `settings.processes` children running until it is told to stop.

    Parameters
    ----------
    app_path : str
        ``module:name`` of the application, imported by each child.
    url : str
        Database URL; it reaches the children through a pipe, not through their arguments.
    settings : WorkerSettings
    brokers : sequence of MysqlBroker
        The parent's own, one for each queue.
    """

    def __init__(self, app_path: str, url: str, settings: WorkerSettings, brokers: Sequence[MysqlBroker]) -> None:
        self._app_path = app_path
        self._url = url
        self._settings = settings
        self._places = [_Place(index) for index in range(settings.processes)]
        self._bell = Bell()
        self._stop_asked = 0
        self._keeper = Keeper(brokers, settings.beat_secs, self._living_consumers, self._count_running)
        self._housekeeper = Housekeeper(brokers, settings, self._count_running)

    def stop(self) -> None:
        """Ask for an orderly end; the second time, for one at once. Safe in a signal handler."""
        self._stop_asked += 1
        self._bell.ring()

    @property
    def processes(self) -> tuple[int, ...]:
        """Process ids of the children that live."""
        return tuple(place.child.process.pid for place in self._places if place.child is not None)

    @property
    def ready(self) -> bool:
        """Have all children started to look for tasks?"""
        return all(place.child is not None and place.child.board.ready for place in self._places)

    def run(self) -> bool:
        """Work until `stop`; return whether the end was orderly."""
        self._keeper.start()
        self._housekeeper.start()
        try:
            while not self._stop_asked:
                now = time.monotonic()
                for place in self._places:
                    self._look_after(place, now)
                self._bell.wait(TICK_SECS)
            return self._wind_up()
        finally:
            self._kill_all()
            self._housekeeper.finish(5.0)
            if not self._keeper.finish(5.0):
                log.warning("what this worker held comes back only when its lease is over")

    # Children

    def _look_after(self, place: _Place, now: float) -> None:
        child = place.child
        if child is None:
            if now >= place.start_at:
                place.child = self._start(place.index)
            return
        if child.process.poll() is not None:
            self._bury(place, child, now)
        else:
            self._check_time(place, child, now)

    def _start(self, index: int) -> _Child:
        settings = self._settings
        board = Board.create(settings.slots)
        title = f"celers-worker:{settings.name}:{index}"
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", BOOTSTRAP, title],
            stdin=subprocess.PIPE,
            pass_fds=() if board.fd is None else (board.fd,),
        )
        child = _Child(process, board)
        config = {
            "app": self._app_path,
            "url": self._url,
            "parent": os.getpid(),
            "board": board.handle,
            "settings": settings.to_dict(),
        }
        self._send(child, json.dumps([part or str(Path.cwd()) for part in sys.path]))
        self._send(child, json.dumps(config))
        threading.Thread(target=_ring_at_end, args=(process, self._bell), daemon=True).start()
        log.info("started process %d in place %d", process.pid, index)
        return child

    def _send(self, child: _Child, line: str) -> None:
        pipe = child.process.stdin
        assert pipe is not None
        with suppress(OSError):  # it is dead, which is seen elsewhere
            pipe.write(line.encode() + b"\n")
            pipe.flush()

    def _bury(self, place: _Place, child: _Child, now: float) -> None:
        """Return what a dead child held, and set the time for its successor."""
        place.child = None
        code = child.process.returncode
        running = child.board.running()
        numbers = child.board.consumers()
        if child.overdue:
            # Only the overdue task is to blame; the others were bystanders.
            rescue = Rescue(numbers, (), tuple(child.overdue))
        elif self._stop_asked:
            rescue = Rescue(numbers, ())
        else:
            rescue = Rescue(numbers, {task.seq for task in running})
        self._keeper.rescue(rescue)
        self._close(child)
        if self._stop_asked:
            return
        lived = now - child.started_at
        if lived >= GOOD_LIFE_SECS:
            place.pause = 0.0
            place.start_at = now
        else:
            place.pause = min(LONGEST_PAUSE_SECS, max(FIRST_PAUSE_SECS, place.pause * 2))
            place.start_at = now + place.pause * random.uniform(0.8, 1.2)
        if not child.overdue:
            log.warning(
                "process %d %s after %.1f s with %d running tasks; it is replaced",
                child.process.pid,
                _how_it_ended(code),
                lived,
                len(running),
            )

    def _check_time(self, place: _Place, child: _Child, now: float) -> None:
        """End a child one of whose tasks is over its time: a thread cannot be ended alone."""
        overdue = child.board.overdue(now)
        # Seen twice in the same state: nothing was being written while it was read.
        sure = [task for task in overdue if task in child.suspects]
        child.suspects = overdue
        if not sure:
            return
        child.process.kill()
        child.process.wait()
        # It may have ended its task in the last moment.
        still = child.board.running()
        child.overdue = [task for task in sure if task in still]
        if child.overdue:
            log.warning("process %d is replaced: a task ran over its time", child.process.pid)
        self._bury(place, child, now)
        place.start_at, place.pause = now, 0.0

    def _close(self, child: _Child) -> None:
        if child.process.stdin is not None:
            with suppress(OSError):
                child.process.stdin.close()
        child.board.close()

    def _living_consumers(self) -> list[int]:
        # Called by the keeper's thread; a board may be closed between the look and the reading.
        numbers: list[int] = []
        for place in self._places:
            child = place.child
            if child is not None:
                with suppress(ValueError):
                    numbers.extend(child.board.consumers())
        return numbers

    def _count_running(self) -> int:
        count = 0
        for _, child in self._living():
            with suppress(ValueError):
                count += len(child.board.running())
        return count

    # The end

    def _wind_up(self) -> bool:
        grace = self._settings.grace_secs
        living = self._living()
        log.info("stopping %d processes, which may take %g s", len(living), grace)
        for _, child in living:
            self._send(child, f"stop {grace}")
        deadline = time.monotonic() + grace + GOODBYE_SECS
        asked = self._stop_asked
        while (living := self._living()) and time.monotonic() < deadline:
            if self._stop_asked > asked:
                log.warning("stopping at once: ending %d processes", len(living))
                return False
            now = time.monotonic()
            for place, child in living:
                if child.process.poll() is not None:
                    self._bury(place, child, now)
                else:
                    self._check_time(place, child, now)
            self._bell.wait(TICK_SECS)
        return not living

    def _living(self) -> list[tuple[_Place, _Child]]:
        return [(place, place.child) for place in self._places if place.child is not None]

    def _kill_all(self) -> None:
        for _, child in self._living():
            child.process.kill()
        for place, child in self._living():
            child.process.wait()
            self._bury(place, child, time.monotonic())


def _ring_at_end(process: subprocess.Popen[bytes], bell: Bell) -> None:
    process.wait()
    bell.ring()


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"
