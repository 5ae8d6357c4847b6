"""Percentiles by one definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celers_fast._select import IMPL

if TYPE_CHECKING or IMPL == "python":
    from celers_fast._percentiles_py import percentile, percentiles
else:
    from celers_fast._percentiles_c import percentile, percentiles

__all__ = ["percentile", "percentiles"]
