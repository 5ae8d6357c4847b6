"""Decide once, at import, which implementation of the hot functions is used.

``CELERS_IMPL=c`` or ``CELERS_IMPL=python`` forces one and raises when it cannot be had. Unset: the compiled
modules when they were built, the Python twins otherwise. Compiled modules that are there but do not load are
an error even then: falling back in silence would be a loss of speed that nobody sees.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from typing import Final, Literal

__all__ = ["COMPILED_COMPRESSION", "IMPL"]

Impl = Literal["c", "python"]

# One module stands for all: they are built together or not at all.
_PROBE = "celers_fast._backoff_c"


def choose(wanted: str | None) -> Impl:
    """Return the implementation to use, for the value of ``CELERS_IMPL``.

    Raises
    ------
    ImportError
        For an unknown value, for ``c`` without compiled modules, and when compiled modules fail to load.
    """
    if wanted == "python":
        return "python"
    if wanted not in (None, "", "c"):
        raise ImportError(f"CELERS_IMPL={wanted!r}: expected 'c', 'python', or nothing")
    if PathFinder.find_spec(_PROBE, sys.modules["celers_fast"].__path__) is None:
        if wanted == "c":
            raise ImportError(
                "CELERS_IMPL=c, but the compiled modules of celers_fast were not built for this Python "
                f"({sys.version.split()[0]}): reinstall celers with a C compiler and zlib's headers present "
                "and without CELERS_NO_EXTENSIONS, or set CELERS_IMPL=python"
            )
        return "python"
    try:
        import_module(_PROBE)
    except ImportError as error:
        raise ImportError(
            f"the compiled modules of celers_fast cannot be loaded ({error}): reinstall celers, "
            "or set CELERS_IMPL=python to run without them"
        ) from error
    return "c"


IMPL: Final[Impl] = choose(os.environ.get("CELERS_IMPL"))
"""Which implementation is in use: ``"c"`` or ``"python"``."""

COMPILED_COMPRESSION: Final[bool] = IMPL == "c" and sys.platform != "win32"
"""Whether compression is compiled too; on Windows, without a system zlib, it is not built."""
