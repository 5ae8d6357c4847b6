"""What the workers of one measurement share: a gate to start at, and a mark for every task that ran.

A file in memory, mapped by the measuring process and by each worker, of whatever library. Standard library only,
because it is imported in the environments of the peers too. The layout:

    byte 0            1 when the gate is open
    bytes 8 to 16     number of tasks
    bytes 16 to 24    1 when times are kept
    from 64 on        one byte for each task: how often it ran
    after that        one double for each task: when it ran (monotonic seconds), when times are kept
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

__all__ = ["VARIABLE", "Tally", "number_of", "payload_of"]

VARIABLE = "CELERS_BENCHMARK_TALLY"
HEADER = 64
GATE_POLL_SECS = 0.0005


def payload_of(number: int, size: int = 100) -> str:
    """Return the argument of task `number`: text of `size` characters that begins with the number."""
    return f"{number:010d}".ljust(size, "x")


def number_of(payload: str | bytes) -> int:
    """Return the number that a payload begins with."""
    return int(payload[:10])


class Tally:
    """The shared file of one measurement."""

    def __init__(self, path: Path, count: int, times: bool) -> None:
        self.path = path
        self.count = count
        self.times_at = HEADER + (count + 7) // 8 * 8 if times else 0
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    @classmethod
    def create(cls, path: Path, count: int, *, times: bool = False) -> Tally:
        """Make the file for `count` tasks."""
        size = HEADER + (count + 7) // 8 * 8 + (8 * count if times else 0)
        header = struct.pack("<QQQ", 0, count, int(times)).ljust(HEADER, b"\0")
        path.write_bytes(header + bytes(size - HEADER))
        return cls(path, count, times)

    @classmethod
    def attach(cls, path: str | Path) -> Tally:
        """Open the file in a worker."""
        with Path(path).open("rb") as file:
            _, count, times = struct.unpack("<QQQ", file.read(24))
        return cls(Path(path), count, bool(times))

    # In workers

    def mark(self, number: int) -> None:
        """Note that a task ran."""
        if self.times_at:
            struct.pack_into("<d", self._map, self.times_at + 8 * number, time.monotonic())
        self._map[HEADER + number] += 1

    def wait_at_gate(self) -> None:
        """Say that this process is ready, and wait until all others are."""
        self.ready()
        while not self._map[0]:
            time.sleep(GATE_POLL_SECS)

    def ready(self) -> None:
        """Say that this process is ready."""
        self.path.with_suffix(f".{os.getpid()}").touch()

    # In the measuring process

    def pids(self) -> list[int]:
        """Return the processes that are ready."""
        found = self.path.parent.glob(f"{self.path.stem}.*")
        return sorted(int(path.suffix[1:]) for path in found if path.suffix[1:].isdigit())

    def open_gate(self) -> None:
        """Let all workers begin."""
        self._map[0] = 1

    def done(self) -> int:
        """Return how many tasks have run at least once."""
        return self.count - self._map[HEADER : HEADER + self.count].count(0)

    def duplicates(self) -> int:
        """Return how many tasks have run more than once."""
        marks = self._map[HEADER : HEADER + self.count]
        return self.count - marks.count(0) - marks.count(1)

    def ran(self, number: int) -> bool:
        """Has this task run?"""
        return self._map[HEADER + number] > 0

    def time_of(self, number: int) -> float:
        """Return when a task ran."""
        found: float = struct.unpack_from("<d", self._map, self.times_at + 8 * number)[0]
        return found

    def close(self) -> None:
        """Remove the file."""
        self._map.close()
        for path in (self.path, *self.path.parent.glob(f"{self.path.stem}.*")):
            path.unlink(missing_ok=True)
