"""SQL literals and multi-row statements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celers_fast._params_py import Raw
from celers_fast._select import IMPL

if TYPE_CHECKING or IMPL == "python":
    from celers_fast._params_py import build_tasks, build_values, literal, literals
else:
    from celers_fast._params_c import build_tasks, build_values, literal, literals

__all__ = ["Raw", "build_tasks", "build_values", "literal", "literals"]
