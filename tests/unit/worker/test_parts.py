"""The parts of the worker that need no database."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers import ValidationError
from celers.worker.bell import Bell
from celers.worker.board import Board, Running
from celers.worker.intake import Intake, unknown_delay
from celers.worker.settings import WorkerSettings


class TestBell:
    def test_a_ring_before_the_wait_counts(self):
        bell = Bell()
        bell.ring()
        bell.ring()
        assert bell.wait(10)
        assert not bell.wait(0)

    def test_a_ring_ends_the_wait(self):
        bell = Bell()
        started = time.monotonic()
        threading.Timer(0.02, bell.ring).start()
        assert bell.wait(10)
        assert time.monotonic() - started < 5

    def test_it_may_be_rung_by_a_signal(self):
        bell = Bell()
        old = signal.signal(signal.SIGUSR1, lambda *_: bell.ring())
        try:
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            assert bell.wait(10)
        finally:
            signal.signal(signal.SIGUSR1, old)


class TestBoard:
    def start(self, board: Board, slot: int, seq: int, deadline: float = math.inf):
        if deadline == math.inf:
            board.start(slot, seq)
        else:
            board.start_timed(slot, seq, deadline, 7, 2, 1, True, 30, uuid4().bytes)

    def test_what_runs(self):
        board = Board.private(3)
        assert board.running() == []
        task_id = uuid4()
        board.start_timed(1, 2**63, 12.5, 2**32 - 1, 3, 1, True, 30, task_id.bytes)
        (task,) = board.running()
        assert (task.seq, task.deadline, task.consumer_no, task.deliveries) == (2**63, 12.5, 2**32 - 1, 3)
        assert (task.queue, task.keeps_result, task.timeout_secs, task.task_id) == (1, True, 30, task_id)
        self.start(board, 0, 5)
        assert [one.seq for one in board.running()] == [5, 2**63]
        board.end(1)
        assert [one.seq for one in board.running()] == [5]
        board.start(1, 6)  # without a timeout nothing else is told, and nothing of the task before
        assert board.running() == [Running(5), Running(6)]
        assert board.overdue(1e18) == []

    def test_what_is_overdue(self):
        board = Board.private(2)
        self.start(board, 0, 1, 10.0)
        self.start(board, 1, 2)
        assert [task.seq for task in board.overdue(9.9)] == []
        assert [task.seq for task in board.overdue(10.0)] == [1]

    @given(st.lists(st.integers(1, 2**32 - 1), max_size=300))
    def test_consumers(self, numbers):
        board = Board.private(1)
        board.set_consumers(numbers)
        assert list(board.consumers()) == numbers[-256:]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_another_process_sees_it(self):
        board = Board.create(2)
        pid = os.fork()
        if pid == 0:
            mine = Board.attach(board.handle, 2)
            mine.set_consumers([11, 12])
            mine.set_ready()
            self.start(mine, 1, 99)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        assert board.ready
        assert board.consumers() == (11, 12)
        assert [task.seq for task in board.running()] == [99]
        board.close()


class TestIntake:
    def test_a_new_worker_takes_what_it_can_run(self):
        assert Intake(4, 100).wanted(0, time.monotonic()) == 4

    def test_short_tasks_come_in_batches(self):
        intake = Intake(4, 2000)
        intake.ran(0.000_01)
        now = time.monotonic()
        assert intake.wanted(0, now) == 2000
        assert intake.wanted(1004, now) == 0
        assert intake.wanted(1003, now) == 1001

    @pytest.mark.parametrize("batch", [100, 500])
    def test_a_whole_batch_is_claimed_while_one_runs(self, batch):
        """So the time of a round trip is no loss, and a packet carries as much as it may."""
        intake = Intake(4, batch)
        intake.ran(0.000_01)
        now = time.monotonic()
        assert intake.wanted(0, now) == batch
        assert intake.wanted(batch + 4, now) == 0
        assert intake.wanted(batch + 3, now) == batch

    def test_what_waits_is_bounded_by_time(self):
        intake = Intake(4, 100)
        intake.ran(0.01)
        assert intake.ahead == 20

    def test_nothing_waits_behind_long_tasks(self):
        intake = Intake(4, 100)
        intake.ran(10.0)
        now = time.monotonic()
        assert intake.wanted(0, now) == 4
        assert intake.wanted(3, now) == 1
        assert intake.wanted(4, now) == 0

    def test_slow_tasks_are_believed_at_once_and_fast_ones_slowly(self):
        intake = Intake(2, 100)
        intake.ran(0.001)
        assert intake.ahead == 100  # of 50 ms for two threads
        intake.ran(5.0)
        assert intake.ahead == 0
        intake.ran(0.001)
        assert intake.ahead == 0

    def test_a_stall_lets_nothing_wait(self):
        intake = Intake(4, 100)
        intake.ran(0.001)
        intake.stalled()
        assert intake.ahead == 0

    @given(st.integers(1, 64), st.integers(1, 1000), st.floats(1e-6, 100), st.integers(0, 2000))
    def test_it_never_asks_for_more_than_fits(self, threads, batch, mean, have):
        intake = Intake(threads, batch)
        intake.ran(mean)
        wanted = intake.wanted(have, time.monotonic())
        assert 0 <= wanted <= batch
        assert wanted == 0 or have + wanted <= threads + intake.ahead

    def test_idle_looks_become_rare(self):
        intake = Intake(1, 10)
        looks = []
        for _ in range(8):
            intake.claimed(0, None)
            looks.append(intake.look_in(time.monotonic()))
        assert 0.03 < looks[0] <= 0.05
        assert 0.7 < looks[-1] <= 1.0
        assert looks == sorted(looks) or looks[-2] > 0.7
        intake.woken()
        assert intake.look_in(time.monotonic()) == 0

    def test_a_known_due_time_is_kept(self):
        intake = Intake(1, 10)
        for _ in range(8):
            intake.claimed(0, None)
        intake.claimed(0, 0.2)
        assert intake.look_in(time.monotonic()) <= 0.2

    def test_after_an_isolated_task_the_next_comes_alone(self):
        intake = Intake(4, 100)
        intake.isolated(True)
        now = time.monotonic()
        assert intake.wanted(0, now) == 1
        assert intake.wanted(1, now) == 0
        intake.isolated(False)
        assert intake.wanted(1, now) == 3

    def test_unknown_tasks_are_offered_ever_more_rarely(self):
        assert [unknown_delay(tries) for tries in range(8)] == [5, 10, 20, 40, 80, 160, 300, 300]
        assert unknown_delay(-1) == 5
        assert unknown_delay(10**9) == 300


class TestSettings:
    def test_defaults(self):
        settings = WorkerSettings(("a", "b", "a"))
        assert settings.queues == ("a", "b")
        assert settings.beat_secs == 3
        assert WorkerSettings(**settings.to_dict()) == settings

    @pytest.mark.parametrize(
        "change",
        [
            {"queues": ()},
            {"queues": "default"},
            {"queues": ("",)},
            {"processes": -1},
            {"processes": True},
            {"threads": 0},
            {"async_tasks": 0},
            {"lease_secs": 0},
            {"lease_secs": math.nan},
            {"grace_secs": -1},
            {"batch": 0},
            {"batch": 10_001},
            {"accept": ("xml",)},
            {"name": ""},
        ],
    )
    def test_bad_values(self, change):
        with pytest.raises(ValidationError):
            WorkerSettings(**{"queues": ("q",), **change})


def test_the_command_line_waits_longer_for_an_idle_worker_than_that_is_silent():
    from celers.cli.workers import STALE_SECS
    from celers.worker.keeper import PRESENT_EVERY_SECS

    assert STALE_SECS > 2 * PRESENT_EVERY_SECS


@pytest.mark.spec("WORK-01")
def test_a_child_process_is_set_to_run_many_small_tasks():
    """In a process of its own, because it is the interpreter that is set."""
    look = "print(sys.getswitchinterval(), gc.get_threshold()[0], gc.get_freeze_count() > 1000)"
    code = f"import gc, sys; from celers.worker import child; child._tune(); {look}"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert (float(shown[0]), int(shown[1]), shown[2]) == (0.001, 10_000, "True")
