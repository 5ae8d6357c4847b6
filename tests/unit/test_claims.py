"""What a claim makes of its answers: stepped by hand, without a server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celers.components import cycle as cycles
from celers.components.acks import Item
from celers.components.claims import _take_over
from celers.core import Core, Slot
from celers.db.outcome import Result
from celers.operation import Restart
from celers_fast.ids import uuid7

DELIVERIES = 11
COLUMNS = 17


def claimed(seq, deliveries):
    row = [b"x"] * COLUMNS
    row[0], row[DELIVERIES] = b"%d" % seq, b"%d" % deliveries
    return tuple(row)


def look(slot, *rows, meanwhile=lambda: None):
    core = Core("q", "celers_", max_payload_bytes=1, compress=False, lease_secs=1)
    core.set_queue_id(1)
    steps = _take_over(SimpleNamespace(core=core), slot, 10)
    next(steps)
    meanwhile()
    with pytest.raises(StopIteration) as end:
        steps.send([Result(((b"[]",),), 1, 0), Result(rows, len(rows), 0)])
    return end.value.value


@pytest.mark.spec("ARCH-12", "CORE-08")
def test_a_delivery_acknowledged_during_the_look_is_not_handed_out_again():
    slot = Slot(7)
    slot.held = {1: (uuid7(), 1), 2: (uuid7(), 1)}
    # The row was read as processing just before the acknowledgement's commit.
    assert look(slot, claimed(1, 1), claimed(2, 1), meanwhile=lambda: slot.held.pop(1)) == ()


@pytest.mark.spec("ARCH-12")
def test_what_the_consumer_did_not_know_is_the_claims_result():
    slot = Slot(7)
    slot.held = {1: (uuid7(), 1), 2: (uuid7(), 1)}
    again, fresh = claimed(2, 2), claimed(3, 1)
    assert look(slot, claimed(1, 1), again, fresh) == (again, fresh)


@pytest.mark.spec("CORE-07", "CORE-15")
def test_a_cycle_hands_out_what_it_claimed_when_its_acknowledgements_have_to_begin_again(monkeypatch):
    """The claim is committed: to begin anew would leave its tasks with a consumer that never runs them."""

    def claim(*_):
        return ["message"]
        yield

    def ack_items(*_, **__):
        raise Restart
        yield

    monkeypatch.setattr(cycles, "claim", claim)
    monkeypatch.setattr(cycles, "ack_items", ack_items)
    component = SimpleNamespace(core=SimpleNamespace(hooks=SimpleNamespace(any=lambda *_: False)))
    item = Item(uuid7(), "", (1, 1, 1))
    with pytest.raises(StopIteration) as ended:
        next(cycles.cycle(component, [item], 1, None))
    assert ended.value.value == ([], [item], ["message"])
