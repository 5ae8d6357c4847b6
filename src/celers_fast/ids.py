"""Time-ordered task ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celers_fast._select import IMPL

if TYPE_CHECKING or IMPL == "python":
    from celers_fast._ids_py import uuid7, uuid7_many
else:
    from celers_fast._ids_c import uuid7, uuid7_many

__all__ = ["uuid7", "uuid7_many"]
