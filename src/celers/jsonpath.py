"""Paths into a task's metadata: ``$.customer.tags[0]``.

A path is ``$`` and steps: ``.name`` (ASCII letters, digits and underscores, not beginning with a digit),
``."any text"`` (with the escapes of JSON strings) and ``[n]``. Wildcards, ranges, blanks and everything else that the
servers' own path languages know are refused. The server gets a path that was written anew from its steps, in the one
form that MySQL and MariaDB read alike.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeAlias

from celers import validate
from celers.errors import ValidationError

__all__ = ["Path", "parse", "put", "render"]

Path: TypeAlias = tuple[str | int, ...]
"""Names of members and numbers of elements, from the outside in."""

MAX_STEPS = 100
"""Deeper documents than this cannot be stored on MySQL (nor deeper than 32 on MariaDB)."""

MAX_CHARACTERS = 10_000
LARGEST_INDEX = 2**31 - 1
"""No array is that long; the servers' own numbers overflow beyond it."""

_STEP = re.compile(
    r"""\.(?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | \.(?P<quoted>"(?:[^"\\]|\\.)*")
      | \[(?P<index>[0-9]+)\]""",
    re.ASCII | re.DOTALL | re.VERBOSE,
)


def _refuse(path: object, reason: str) -> ValidationError:
    return ValidationError(f"json_path={validate.shown(path)} {reason}", parameter="json_path")


def parse(path: object) -> Path:
    """Return the steps of a path.

    Raises
    ------
    ValidationError
        For anything that is not such a path.
    """
    if not isinstance(path, str) or not path.startswith("$"):
        raise _refuse(path, "must be text that begins with $")
    if len(path) > MAX_CHARACTERS:
        raise _refuse(path, f"is longer than {MAX_CHARACTERS} characters")
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None:
            raise _refuse(path, f'has no step .name, ."text" or [number] at character {at + 1}')
        at = found.end()
        if found["index"] is not None:
            digits = found["index"].lstrip("0") or "0"
            steps.append(min(int(digits), LARGEST_INDEX) if len(digits) <= 10 else LARGEST_INDEX)
        elif found["name"] is not None:
            steps.append(found["name"])
        else:
            steps.append(_unquoted(path, found["quoted"]))
        if len(steps) > MAX_STEPS:
            raise _refuse(path, f"has more than {MAX_STEPS} steps")
    return tuple(steps)


def _unquoted(path: str, text: str) -> str:
    try:
        # Not strict: control characters may stand in a name as they are.
        name = json.loads(text, strict=False)
        name.encode("utf-8")
    except ValueError:  # a bad escape, or half of a surrogate pair
        raise _refuse(path, "has a quoted step that is no JSON string") from None
    return str(name)


def render(path: Path) -> str:
    """Return the text of a path for both servers: every name quoted."""
    return "$" + "".join(
        f"[{step}]" if isinstance(step, int) else "." + json.dumps(step, ensure_ascii=False) for step in path
    )


def put(document: dict[str, Any], path: Path, value: Any) -> None:
    """Set the value at a path of at least one step; missing parents are made.

    An index may be one past the end of its array, which then grows.

    Raises
    ------
    ValidationError
        A step leads below a scalar, asks a member of an array or an element of an object, or an index lies more than
        one past the end. The document may have been changed then: throw it away.
    """
    shown = render(path)
    at: Any = document
    for number, step in enumerate(path):
        last = number == len(path) - 1
        fresh: Any = value if last else [] if isinstance(path[number + 1], int) else {}
        if isinstance(step, str):
            if not isinstance(at, dict):
                raise _refuse(shown, f"has the step {step!r} where the metadata has no object")
            if last or step not in at:
                at[step] = fresh
        else:
            if not isinstance(at, list):
                raise _refuse(shown, f"has the step [{step}] where the metadata has no array")
            if step > len(at):
                raise _refuse(shown, f"has the step [{step}] where the metadata has {len(at)} elements")
            if step == len(at):
                at.append(fresh)
            elif last:
                at[step] = fresh
        at = at[step]
