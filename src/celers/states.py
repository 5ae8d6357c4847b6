"""The states of a task and the moves between them: the only table of what is allowed.

Statements repeat it as conditions on the state; a test compares both. "Dead letter" is no state of a stored
task but the move of the task into the dead letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from uuid import UUID

from celers.errors import InvalidStateTransitionError
from celers.model.enums import DbTaskState

__all__ = ["ADMINISTRATIVE_TRANSITIONS", "DEAD_LETTER", "TRANSITIONS", "check", "is_allowed", "sources"]

DEAD_LETTER: Final = "dead_letter"

_P, _R, _C, _F, _X = (
    DbTaskState.PENDING,
    DbTaskState.PROCESSING,
    DbTaskState.COMPLETED,
    DbTaskState.FAILED,
    DbTaskState.CANCELLED,
)

TRANSITIONS: Final[Mapping[DbTaskState, frozenset[str]]] = MappingProxyType(
    {
        _P: frozenset({_R, _X, _F}),
        _R: frozenset({_C, _F, _X, _P, DEAD_LETTER}),
        _C: frozenset(),
        _F: frozenset(),
        _X: frozenset(),
    }
)
"""Moves that deliveries, acknowledgements, rejections, cancellation and recovery make."""

ADMINISTRATIVE_TRANSITIONS: Final[Mapping[DbTaskState, frozenset[str]]] = MappingProxyType(
    {
        _P: frozenset({_R, _C, _F, _X}),
        _R: frozenset({_C, _F, _X, _P, DEAD_LETTER}),
        _C: frozenset(),
        _F: frozenset({_P}),
        _X: frozenset({_P}),
    }
)
"""Moves that an administrator may make as well, by changing the state of tasks directly."""


def is_allowed(from_state: DbTaskState, to_state: DbTaskState | str, *, administrative: bool = False) -> bool:
    """Return whether a task may move from one state to the other; staying is no move."""
    table = ADMINISTRATIVE_TRANSITIONS if administrative else TRANSITIONS
    return to_state in table[from_state]


def sources(to_state: DbTaskState | str, *, administrative: bool = False) -> tuple[DbTaskState, ...]:
    """Return the states from which a task may move to `to_state`, in the order of the enumeration."""
    return tuple(state for state in DbTaskState if is_allowed(state, to_state, administrative=administrative))


def check(
    from_state: DbTaskState,
    to_state: DbTaskState | str,
    *,
    administrative: bool = False,
    task_id: UUID | None = None,
) -> None:
    """Refuse a move that is not allowed.

    Raises
    ------
    InvalidStateTransitionError
        With both states and the task's id as attributes.
    """
    if not is_allowed(from_state, to_state, administrative=administrative):
        task = "a task" if task_id is None else f"task {task_id}"
        raise InvalidStateTransitionError(
            f"{task} cannot go from {from_state} to {to_state}",
            from_state=from_state,
            to_state=to_state,
            task_id=task_id,
        )
