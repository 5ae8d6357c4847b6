"""What the components of one broker share: names, limits, and the consumer slots of this process."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from celers import forks
from celers.hooks import TaskHooks
from celers.operation import QueueUnknown
from celers.sql import Statements
from celers.wakeup import Ring, ring_statement, slot_names

if TYPE_CHECKING:
    from celers.db.server import ServerInfo

__all__ = ["ClaimTexts", "Core", "Delivery", "Slot", "Slots"]

ClaimTexts = tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]
"""The parts of a claim's packet that stay the same from one claim to the next."""

CLAIM_BYTES = 16 * 1024 * 1024
FIRST_CLAIM_ROWS = 100
PACKET_MARGIN = 4096
METERED_CALLS = 1000


class Delivery(Protocol):
    """One delivery of a task; its receipt is (seq, consumer number, number of the delivery)."""

    @property
    def id(self) -> UUID:
        """The task."""

    @property
    def receipt(self) -> tuple[int, int, int] | None:
        """None when it is not known."""


class Slot:
    """One consumer of this process: a row of `celers_consumers` and what is known to be in its lease.

    A slot makes one claim at a time. `held` maps the `seq` of a delivered, unsettled task to its id and delivery.
    """

    __slots__ = ("consumer_no", "held", "in_doubt", "ring", "texts", "unreadable")

    def __init__(self, consumer_no: int) -> None:
        self.consumer_no = consumer_no
        self.in_doubt = False
        """A claim was sent and nobody has seen its end: the next one reads the lease first."""
        self.ring = False
        """The last claim left work behind: another consumer is to be woken."""
        self.held: dict[int, tuple[UUID, int]] = {}
        self.texts: tuple[tuple[str, int, int, bool], ClaimTexts] | None = None
        """What the last claim was like, and its texts."""
        self.unreadable: dict[int, str] = {}
        """Held tasks that cannot be decoded, with the reason: each claim tries to move them to the dead letters."""

    def held_text(self) -> bytes:
        """The held numbers as they stand in the lease."""
        return b",".join([b"%d" % seq for seq in list(self.held)])


class Slots:
    """The consumer slots of one queue in this process.

    Every claim takes a free slot, so concurrent callers never wait for each other's row.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Slot] = []
        self._by_number: dict[int, Slot] = {}
        forks.watch(self)
        self.on_open: Callable[[], None] | None = None
        """Called when a consumer was opened; starts the heartbeat."""

    def take(self) -> Slot | None:
        """Take a free slot; None when a new one has to be opened."""
        with self._lock:
            return self._free.pop() if self._free else None

    def add(self, consumer_no: int) -> Slot:
        """Register a consumer that was just opened; it counts as taken."""
        slot = Slot(consumer_no)
        with self._lock:
            self._by_number[consumer_no] = slot
        if self.on_open is not None:
            self.on_open()
        return slot

    def put(self, slot: Slot) -> None:
        """Give a slot back."""
        with self._lock:
            if slot.consumer_no in self._by_number:
                self._free.append(slot)

    def drop(self, slot: Slot) -> None:
        """Forget a slot whose row is gone."""
        with self._lock:
            self._by_number.pop(slot.consumer_no, None)
            if slot in self._free:
                self._free.remove(slot)

    def owner(self, consumer_no: int) -> Slot | None:
        """Return this process's slot of that number."""
        return self._by_number.get(consumer_no)

    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of all open consumers."""
        with self._lock:
            return tuple(self._by_number)

    def holding(self) -> bool:
        """Does any consumer hold a task?"""
        with self._lock:
            return any(slot.held for slot in self._by_number.values())

    def hold(self, slot: Slot, deliveries: Mapping[int, tuple[UUID, int]]) -> None:
        """Note deliveries as held by a slot: from `seq` to the id and the number of the delivery."""
        with self._lock:
            slot.held.update(deliveries)

    def release(self, slot: Slot, numbers: Iterable[int]) -> None:
        """Note that whatever a slot held under these `seq` is settled."""
        with self._lock:
            drop = slot.held.pop
            for seq in numbers:
                drop(seq, None)

    def settled(self, deliveries: Iterable[Delivery]) -> None:
        """Note that deliveries are no longer held, settled or lost.

        A task that the same slot has taken again since stays: that is another delivery.
        """
        with self._lock:
            for delivery in deliveries:
                if delivery.receipt is not None:
                    seq, consumer_no, number = delivery.receipt
                    slot = self._by_number.get(consumer_no)
                    if slot is not None and slot.held.get(seq) == (delivery.id, number):
                        del slot.held[seq]

    def empty(self) -> list[Slot]:
        """Take out the slots that hold nothing, or nothing that anybody was given, for closing."""
        with self._lock:
            found = [slot for slot in self._by_number.values() if slot.held.keys() <= slot.unreadable.keys()]
            for slot in found:
                del self._by_number[slot.consumer_no]
                if slot in self._free:
                    self._free.remove(slot)
            return found

    def forked(self) -> None:
        """The parent goes on using its consumers; the child opens its own."""
        self._lock = threading.Lock()
        self._free = []
        self._by_number = {}


class Core:
    """State shared by the components of one broker for one queue.

    Parameters
    ----------
    queue_name : str
    prefix : str
        Table prefix, checked.
    max_payload_bytes : int
    compress : bool
        Store new payloads compressed.
    lease_secs : int
        Seconds of silence after which this process's consumers count as dead.
    record_history : bool
        Write one history row for each change of a task's state.
    database : str
        Name of the database, part of the names of the wake-up's locks.
    wake_up : bool
        Ring idle consumers behind commits that place tasks.
    """

    def __init__(
        self,
        queue_name: str,
        prefix: str,
        *,
        max_payload_bytes: int,
        compress: bool,
        lease_secs: int,
        record_history: bool = False,
        database: str = "",
        wake_up: bool = True,
    ) -> None:
        self.queue_name = queue_name
        self.prefix = prefix
        self.max_payload_bytes = max_payload_bytes
        self.compress = compress
        self.lease_secs = lease_secs
        self.record_history = record_history
        self.sql = Statements(prefix)
        self.slots = Slots()
        self.hooks = TaskHooks()
        self.database = database
        self.wake_up = wake_up
        self.slot_names = slot_names(database, prefix, queue_name)
        self.ring: Ring | None = None
        self.was_idle = True
        """Did the last claim find nothing? The next one that leaves work behind then wakes another consumer."""
        if wake_up:
            placing = tuple(f"INSERT INTO {self.sql.table(name)} ".encode() for name in ("ready", "scheduled"))
            self.ring = Ring(ring_statement(self.slot_names), placing, self.sql("wakeup", "unheard", name=queue_name))
        self.server: ServerInfo | None = None
        self.worker_numbers: dict[str, int] = {}
        self.meters: dict[str, deque[float]] = {name: deque(maxlen=METERED_CALLS) for name in ("enqueue", "dequeue")}
        """Seconds that the last calls took, for `get_performance_metrics`."""
        self.next_sample = 0.0
        """When `celers.components.throughput` writes again, by the monotonic clock."""
        self._queue_id: int | None = None
        self._next_due: float | None = None
        self._average_bytes: float | None = None

    def for_queue(self, queue_name: str) -> Core:
        """Make the core of another queue with the settings, the hooks and the server of this one."""
        other = Core(
            queue_name,
            self.prefix,
            max_payload_bytes=self.max_payload_bytes,
            compress=self.compress,
            lease_secs=self.lease_secs,
            record_history=self.record_history,
            database=self.database,
            wake_up=self.wake_up,
        )
        other.server = self.server
        other.hooks = self.hooks
        return other

    @property
    def has_queue_id(self) -> bool:
        """Is the queue's number known?"""
        return self._queue_id is not None

    @property
    def queue_id(self) -> int:
        """The queue's number in the database."""
        if self._queue_id is None:
            raise QueueUnknown
        return self._queue_id

    def set_queue_id(self, queue_id: int) -> None:
        """Remember the queue's number."""
        self._queue_id = queue_id

    @property
    def packet_bytes(self) -> int:
        """Largest packet to send: the server's `max_allowed_packet` less a margin."""
        allowed = self.server.max_allowed_packet if self.server is not None else 1024 * 1024
        return allowed - PACKET_MARGIN

    # When something scheduled becomes due, by this process's monotonic clock. None: not asked yet.

    def promotion_is_due(self) -> bool:
        """Should the next claim promote scheduled tasks first?"""
        return self._next_due is None or self._next_due <= time.monotonic()

    def due_in(self, microseconds: int | None) -> None:
        """Note what the server said about the next due time."""
        self._next_due = float("inf") if microseconds is None else time.monotonic() + microseconds / 1e6

    def scheduled_here(self, delay_secs: float) -> None:
        """Note that this process scheduled a task, perhaps earlier than any known one."""
        if self._next_due is not None:
            self._next_due = min(self._next_due, time.monotonic() + max(delay_secs, 0.0))

    def due_unknown(self) -> None:
        """Let the next claim look for due tasks."""
        self._next_due = None

    @property
    def next_due_secs(self) -> float | None:
        """Seconds until the next scheduled task is due, as far as known; None when unknown or without any."""
        due = self._next_due
        return None if due is None or due == float("inf") else max(0.0, due - time.monotonic())

    # How many rows a claim may take so that its answer stays within bounds.

    def claim_rows(self, count: int) -> int:
        """Bound a claim by the average stored size seen so far."""
        if self._average_bytes is None:
            return min(count, FIRST_CLAIM_ROWS)
        return min(count, max(1, int(CLAIM_BYTES / max(self._average_bytes, 1.0))))

    def claimed(self, rows: int, size: int) -> None:
        """Take the size of a claim into the average."""
        if rows:
            average = size / rows
            known = self._average_bytes
            self._average_bytes = average if known is None else max(average, known * 0.9 + average * 0.1)
