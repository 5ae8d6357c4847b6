"""The fused cycle of a busy worker: settle what is done and claim what is next in one packet with one commit.

The lease that the packet writes still names the tasks that it settles: a lease may name too much but never too little,
and one of them may need the longer way (`celers.components.acks`). The next claim leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celers.components.acks import FRAME_BYTES, Item, ack_items, own_statements
from celers.components.base import Component
from celers.components.claims import ACKED, claim
from celers.core import Slot
from celers.db.driver import Result
from celers.errors import BrokerError
from celers.model.enums import TaskHook
from celers.model.task import BrokerMessage
from celers.operation import Restart, Steps

__all__ = ["cycle"]


class _Fused:
    """The acknowledgements that travel with a claim."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.left = list(items)
        self.done: list[Item] = []
        self._groups: list[tuple[int, list[Item]]] = []
        self._slot: Slot | None = None

    def statements(self, component: Component[Any], slot: Slot) -> list[bytes]:
        """Acknowledge what this slot holds; everything else stays in `left`."""
        self._groups = []
        if component.core.record_history:
            return []
        self._slot = slot
        own: dict[int, list[Item]] = {}
        consumer_no, held = slot.consumer_no, slot.held.get
        for item in self.left:
            if item.receipt is not None:
                seq, claimed_by, number = item.receipt
                if claimed_by == consumer_no and held(seq) == (item.id, number):
                    if number in own:
                        own[number].append(item)
                    else:
                        own[number] = [item]
        statements: list[bytes] = []
        room = component.core.packet_bytes - FRAME_BYTES
        for deliveries, items in own.items():
            note = component.core.sql("consumer", "note_acked", so_far=ACKED if statements else 0)
            group = own_statements(component, slot.consumer_no, deliveries, items, note)
            room -= sum(len(text) + 1 for text in group)
            if room < 0:
                break
            self._groups.append((1 + len(statements), items))
            statements += group
        return statements

    @property
    def count(self) -> int:
        """How many tasks the statements acknowledge."""
        return sum(len(items) for _, items in self._groups)

    def answered(self, component: Component[Any], results: list[Result]) -> None:
        """Note which groups were acknowledged as a whole."""
        settled: list[Item] = []
        for index, items in self._groups:
            if results[index].affected == len(items) and self._slot is not None:
                settled += items
                # The slot was taken for this very claim, so that it has taken none of these tasks again.
                component.core.slots.release(self._slot, [item.receipt[0] for item in items if item.receipt])
        self.done += settled
        if len(settled) == len(self.left):  # as a rule; the sets cost more than all of the above
            self.left = []
        else:
            gone = {item.handle for item in settled}
            self.left = [item for item in self.left if item.handle not in gone]


def cycle(
    component: Component[Any], items: Sequence[Item], count: int, worker_id: str | None
) -> Steps[tuple[Sequence[Item], Sequence[Item], list[BrokerMessage]]]:
    """Acknowledge and claim.

    Returns
    -------
    done : sequence of Item
        Completed by these receipts.
    unknown : sequence of Item
        Not settled yet, because the database became unreachable on the way: to be settled again.
    messages : list of BrokerMessage
    """
    if items and component.core.hooks.any(TaskHook.BEFORE_ACK, TaskHook.AFTER_ACK, TaskHook.BEFORE_DEQUEUE):
        # A hook may stop the claim, and must not stop the acknowledgements with it.
        acked = yield from ack_items(component, items, all_or_nothing=False)
        return acked, (), (yield from claim(component, count, worker_id))
    fused = _Fused(items)
    messages = yield from claim(component, count, worker_id, fused)
    if not fused.left:
        return fused.done, (), messages
    try:
        done = fused.done + (yield from ack_items(component, fused.left, all_or_nothing=False))
    except (BrokerError, Restart):
        if not messages:
            raise
        # The claimed tasks must reach the caller; these are settled by its next call.
        return fused.done, fused.left, messages
    return done, (), messages
