"""The table of state transitions."""

from __future__ import annotations

from uuid import UUID

import pytest

from celers import states
from celers.errors import InvalidStateTransitionError
from celers.model.enums import DbTaskState

pytestmark = pytest.mark.spec("SCHEMA-03")

NORMAL = {
    "pending": {"processing", "cancelled", "failed"},
    "processing": {"completed", "failed", "cancelled", "pending", "dead_letter"},
    "completed": set(),
    "failed": set(),
    "cancelled": set(),
}
ADMINISTRATIVE = {
    "pending": {"completed"},
    "processing": set(),
    "completed": set(),
    "failed": {"pending"},
    "cancelled": {"pending"},
}
TARGETS = [*DbTaskState, states.DEAD_LETTER]


@pytest.mark.parametrize("to_state", TARGETS)
@pytest.mark.parametrize("from_state", list(DbTaskState))
def test_every_pair(from_state: DbTaskState, to_state: str) -> None:
    normal = to_state in NORMAL[from_state]
    administrative = normal or to_state in ADMINISTRATIVE[from_state]
    assert states.is_allowed(from_state, to_state) is normal
    assert states.is_allowed(from_state, to_state, administrative=True) is administrative
    for allowed, by_hand in ((normal, False), (administrative, True)):
        if allowed:
            states.check(from_state, to_state, administrative=by_hand)
        else:
            with pytest.raises(InvalidStateTransitionError, match=f"{from_state} to {to_state}") as caught:
                states.check(from_state, to_state, administrative=by_hand)
            assert (caught.value.from_state, caught.value.to_state) == (from_state, to_state)


def test_tables_name_every_state() -> None:
    assert set(states.TRANSITIONS) == set(states.ADMINISTRATIVE_TRANSITIONS) == set(DbTaskState)
    for state in DbTaskState:
        assert states.TRANSITIONS[state] <= states.ADMINISTRATIVE_TRANSITIONS[state]


@pytest.mark.spec("BATCH-06")
def test_sources_of_administrative_changes() -> None:
    pending, processing, completed, failed, cancelled = DbTaskState
    assert states.sources(pending, administrative=True) == (processing, failed, cancelled)
    assert states.sources(processing, administrative=True) == (pending,)
    for state in (completed, failed, cancelled):
        assert states.sources(state, administrative=True) == (pending, processing)
    assert states.sources(states.DEAD_LETTER) == (processing,)
    assert states.sources(completed) == (processing,)


def test_the_error_names_the_task() -> None:
    task_id = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    with pytest.raises(InvalidStateTransitionError, match=str(task_id)) as caught:
        states.check(DbTaskState.COMPLETED, DbTaskState.PENDING, task_id=task_id)
    assert caught.value.task_id == task_id
