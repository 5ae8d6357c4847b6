"""Retry delays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celers_fast._select import IMPL

if TYPE_CHECKING or IMPL == "python":
    from celers_fast._backoff_py import delay, delays
else:
    from celers_fast._backoff_c import delay, delays

__all__ = ["delay", "delays"]
