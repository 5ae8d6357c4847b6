"""Forms: the SQL that tasks of one name, priority and limits have in common, made once and filled with each of them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from celers_fast.params import literal

if TYPE_CHECKING:
    from celers.core import Core

__all__ = ["Form", "Forms", "places"]

_COLUMNS = "id, queue_id, task_name, payload, created_at, scheduled_at"
_TIMES = b",UTC_TIMESTAMP(6),UTC_TIMESTAMP(6)"
_MAX_RETRIES = 3  # the column's default
_KEPT = 100


class Form(NamedTuple):
    """SQL that tasks of one name, priority, retry limit and run time limit have in common."""

    prefix: bytes
    middle: bytes
    ending: bytes
    place: bytes
    """Of a single one."""
    rank: int
    single: bytes
    """The packet of a single one, with places for its id and its payload."""


class Forms:
    """The forms of one queue."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._kept: dict[tuple[str, int, int, int | None], Form] = {}

    def of(self, name: str, priority: int, max_retries: int, timeout_secs: int | None) -> Form:
        """Return what the statements about such tasks have in common; kept for the next of them."""
        key = name, priority, max_retries, timeout_secs
        form = self._kept.get(key)
        if form is not None:
            return form
        core = self._core
        columns, middle, ending = _COLUMNS, f",{core.queue_id},".encode() + literal(name) + b",", _TIMES
        if priority:
            columns += ", priority"
            ending += b",%d" % priority
        if max_retries != _MAX_RETRIES:
            columns += ", max_retries"
            ending += b",%d" % max_retries
        if timeout_secs is not None:
            columns += ", timeout_secs"
            ending += b",%d" % timeout_secs
        prefix = f"INSERT INTO {core.sql.table('tasks')} ({columns}) VALUES ".encode()
        place = core.sql("producer", "ready_one", queue_id=core.queue_id, sort_rank=-priority)
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        packet = b"START TRANSACTION;%b(X'%%032x'%bX'%%b'%b);%b;COMMIT" % tuple(
            part.replace(b"%", b"%%") for part in (prefix, middle, ending, place)
        )
        if core.ring is not None:
            packet += b";" + core.ring.statement.replace(b"%", b"%%")
        form = self._kept[key] = Form(prefix, middle, ending, place, -priority, packet)
        return form


@lru_cache(maxsize=8)
def places(count: int) -> str:
    """Return a JSON array of so many elements, from which the statement `ready_numbered` counts."""
    return "[" + ",".join(["0"] * count) + "]"
