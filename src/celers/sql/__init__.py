"""The statements, one `.sql` file for each topic.

Each statement stands under a line ``-- name: some_name`` with its purpose in a comment. ``:name`` marks a value,
which is written by our own literal builder (fuzzed against the driver's escaping); a list gives its members with
commas, `celers_fast.params.Raw` goes in as it is. Tables are written with the default prefix.

MariaDB may answer a single-table UPDATE or DELETE that KILL QUERY met early with OK and no rows, and goes on with the
packet to its COMMIT. The multi-table forms give an error, so rows are changed by ``UPDATE celers_x x FORCE INDEX (...)
STRAIGHT_JOIN (SELECT 1) one SET`` and ``DELETE x FROM celers_x x FORCE INDEX (...)``, unless something later notices
that nothing was changed (docs/adr/0008). The index is named because without one they scan a small table, and lock it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files

from celers_fast.params import Raw, literal, literals

__all__ = ["DEFAULT_PREFIX", "Raw", "Statements", "apply_prefix"]

DEFAULT_PREFIX = "celers_"

_HEADER = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_SPACE = re.compile(r"\s+")
_PLACEHOLDER = re.compile(r":([a-z][a-z_]*)")
_TABLE = re.compile(r"(?<![@\w])celers_(?=\w)")

Template = tuple[tuple[bytes, ...], tuple[str, ...]]


def apply_prefix(text: str, prefix: str) -> str:
    """Replace the default prefix of table names; user variables (``@celers_...``) stay."""
    return text if prefix == DEFAULT_PREFIX else _TABLE.sub(prefix, text)


@lru_cache(maxsize=64)
def _topic(topic: str, prefix: str) -> dict[str, Template]:
    """Read one file and cut each statement at its placeholders."""
    text = files("celers.sql").joinpath(f"{topic}.sql").read_text("utf-8")
    parts = _HEADER.split(text)
    statements: dict[str, Template] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        plain = _SPACE.sub(" ", _COMMENT.sub("", body)).strip().rstrip(";")
        pieces = _PLACEHOLDER.split(apply_prefix(plain, prefix))
        statements[name] = (tuple(piece.encode() for piece in pieces[::2]), tuple(pieces[1::2]))
    return statements


class Statements:
    """The statements of one table prefix.

    Examples
    --------
    >>> Statements("celers_")("queues", "find", name="mail")
    b"SELECT queue_id FROM celers_queues WHERE name = 'mail'"
    """

    __slots__ = ("_topics", "prefix")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._topics: dict[str, dict[str, Template]] = {}

    def __call__(self, topic: str, statement: str, /, **values: object) -> bytes:
        """Return the statement with its values written in."""
        found = self._topics.get(topic)
        if found is None:
            found = self._topics[topic] = _topic(topic, self.prefix)
        pieces, names = found[statement]
        if not names:
            return pieces[0]
        parts = [pieces[0]]
        for name, piece in zip(names, pieces[1:], strict=True):
            value = values[name]
            parts.append(literals(value) if type(value) in (list, tuple) else literal(value))  # type: ignore[arg-type]
            parts.append(piece)
        return b"".join(parts)

    def names(self, topic: str) -> list[str]:
        """Return the names of a topic's statements."""
        return list(_topic(topic, self.prefix))

    def table(self, name: str) -> str:
        """Return a table's full name."""
        return self.prefix + name
