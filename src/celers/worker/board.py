"""The board: memory that a child process writes and its parent reads.

A child notes there which consumers it has opened and which tasks it is running. Writing needs neither a system call
nor the parent's attention, and reading needs nothing of the child: it may be busy in C code, or dead.

Layout, little endian: a header with flags, the numbers of the consumers, then one slot for each task that may run at
the same time. A slot counts when its `seq` is not 0: it is written last, and cleared at the end of the task. Nobody
asks more than that of a task without a timeout, so the fields behind it are written for the others only.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID, uuid4

__all__ = ["Board", "Running"]

_HEADER = struct.Struct("<IIII")  # ready, number of consumers, slots, unused
_CONSUMERS_AT = 64
_MOST_CONSUMERS = 256
_SLOTS_AT = _CONSUMERS_AT + 4 * _MOST_CONSUMERS
_SLOT_BYTES = 64
_HEAD = struct.Struct("<dQ")  # deadline, seq
_REST = struct.Struct("<IIHHI16s")  # consumer, deliveries, queue, keeps result, timeout, id
_SEQ = struct.Struct("<Q")
_SEQ_AT = _HEAD.size - _SEQ.size
_NUMBER = struct.Struct("<I")
_NO_ID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Running:
    """A task that a child is running, as its slot shows it.

    `deadline` is a time of the monotonic clock, which all processes of a machine share; infinite without a timeout,
    and nothing is known then but the `seq`.
    """

    seq: int
    deadline: float = math.inf
    consumer_no: int = 0
    deliveries: int = 0
    queue: int = 0
    keeps_result: bool = False
    timeout_secs: int = 0
    task_id: UUID = _NO_ID


class Board:
    """A board of one child.

    Make one with `create` in the parent; the child takes it with `attach`.
    """

    def __init__(self, memory: mmap.mmap, handle: str, fd: int | None = None) -> None:
        self._memory = memory
        self.handle = handle
        self.fd = fd
        self.slots = _HEADER.unpack_from(memory, 0)[2]

    @classmethod
    def create(cls, slots: int) -> Board:
        """Make the memory for a child with so many slots."""
        size = _SLOTS_AT + slots * _SLOT_BYTES
        if sys.platform == "win32":
            handle = f"celers-{uuid4().hex}"
            memory = mmap.mmap(-1, size, tagname=handle)
            fd = None
        else:
            fd = _anonymous_file(size)
            handle = str(fd)
            memory = mmap.mmap(fd, size)
        _HEADER.pack_into(memory, 0, 0, 0, slots, 0)
        return cls(memory, handle, fd)

    @classmethod
    def attach(cls, handle: str, slots: int) -> Board:
        """Take the board that the parent made; its file descriptor was inherited."""
        size = _SLOTS_AT + slots * _SLOT_BYTES
        if sys.platform == "win32":
            return cls(mmap.mmap(-1, size, tagname=handle), handle)
        fd = int(handle)
        memory = mmap.mmap(fd, size)
        os.close(fd)
        return cls(memory, handle)

    @classmethod
    def private(cls, slots: int) -> Board:
        """Make a board for a worker without child processes."""
        memory = mmap.mmap(-1, _SLOTS_AT + slots * _SLOT_BYTES)
        _HEADER.pack_into(memory, 0, 0, 0, slots, 0)
        return cls(memory, "")

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    # What the child writes

    def set_ready(self) -> None:
        """Note that the child has started and looks for tasks."""
        _NUMBER.pack_into(self._memory, 0, 1)

    def set_consumers(self, numbers: Iterable[int]) -> None:
        """Note the consumers that the child has opened."""
        listed = list(numbers)[-_MOST_CONSUMERS:]
        # New numbers first and their count last, so that the parent never reads one that is not there yet.
        for index, number in enumerate(listed):
            _NUMBER.pack_into(self._memory, _CONSUMERS_AT + 4 * index, number)
        _NUMBER.pack_into(self._memory, 4, len(listed))

    def start(self, slot: int, seq: int) -> None:
        """Note that a task without a timeout is running."""
        _HEAD.pack_into(self._memory, _SLOTS_AT + slot * _SLOT_BYTES, math.inf, seq)

    def start_timed(
        self,
        slot: int,
        seq: int,
        deadline: float,
        consumer_no: int,
        deliveries: int,
        queue: int,
        keeps_result: bool,
        timeout_secs: int,
        task_id: bytes,
    ) -> None:
        """Note that a task is running, and what is needed to settle it when its time is over."""
        at = _SLOTS_AT + slot * _SLOT_BYTES
        _REST.pack_into(
            self._memory, at + _HEAD.size, consumer_no, deliveries, queue, keeps_result, timeout_secs, task_id
        )
        _HEAD.pack_into(self._memory, at, deadline, seq)

    def end(self, slot: int) -> None:
        """Note that the task of a slot has ended."""
        _SEQ.pack_into(self._memory, _SLOTS_AT + slot * _SLOT_BYTES + _SEQ_AT, 0)

    # What the parent reads

    @property
    def ready(self) -> bool:
        """Has the child started?"""
        return bool(_NUMBER.unpack_from(self._memory, 0)[0])

    def consumers(self) -> tuple[int, ...]:
        """Return the numbers of the child's consumers."""
        count = min(_NUMBER.unpack_from(self._memory, 4)[0], _MOST_CONSUMERS)
        return tuple(_NUMBER.unpack_from(self._memory, _CONSUMERS_AT + 4 * index)[0] for index in range(count))

    def running(self) -> list[Running]:
        """Return the tasks that run now."""
        found: list[Running] = []
        for slot in range(self.slots):
            at = _SLOTS_AT + slot * _SLOT_BYTES
            seq = _SEQ.unpack_from(self._memory, at + _SEQ_AT)[0]
            if not seq:
                continue
            deadline = _HEAD.unpack_from(self._memory, at)[0]
            consumer, deliveries, queue, keeps, timeout, raw = _REST.unpack_from(self._memory, at + _HEAD.size)
            if _SEQ.unpack_from(self._memory, at + _SEQ_AT)[0] != seq:
                continue  # it ended, or another one began, while it was read
            if deadline == math.inf:
                found.append(Running(seq))
            else:
                found.append(Running(seq, deadline, consumer, deliveries, queue, bool(keeps), timeout, UUID(bytes=raw)))
        return found

    def overdue(self, now: float) -> list[Running]:
        """Return the running tasks whose deadline has passed."""
        return [task for task in self.running() if task.deadline <= now]


def _anonymous_file(size: int) -> int:
    """Open a file without a name, in memory where the system has that."""
    if sys.platform == "linux":
        fd = os.memfd_create("celers-board")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
