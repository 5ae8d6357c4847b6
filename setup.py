"""Extension modules and build switches; everything else is in pyproject.toml.

CELERS_NO_EXTENSIONS=1  build without compiled modules (the Python twins do the work)
CELERS_DEBUG_BUILD=1    bounds checks and debug symbols in the compiled modules
"""

from __future__ import annotations

import os
import sys

from setuptools import Extension, find_packages, setup

TOPICS = ("backoff", "compression", "ids", "params", "percentiles", "rows")


def switched_on(name: str) -> bool:
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"{name}={value!r}: expected 1 or 0")
    return value == "1"


def extensions() -> list[Extension]:
    if switched_on("CELERS_NO_EXTENSIONS"):
        return []
    # Imported here: a build without extensions must not need Cython.
    from Cython.Build import cythonize

    debug = switched_on("CELERS_DEBUG_BUILD")
    windows = sys.platform == "win32"
    if windows:
        flags = ["/Od", "/Zi"] if debug else ["/O2"]
    else:
        flags = ["-O0", "-g"] if debug else ["-O3", "-g0"]
        # No fused multiply-add: the Python twins round after each step, and results must be equal.
        flags.append("-ffp-contract=off")
    modules = [
        Extension(
            f"celers_fast._{topic}_c",
            [f"src/celers_fast/_{topic}_c.pyx"],
            # Large batches are compressed by several threads; C libraries before glibc 2.34 keep those apart.
            extra_compile_args=[*flags, "-pthread"] if topic == "compression" else flags,
            extra_link_args=["-pthread"] if topic == "compression" else [],
            libraries=["z"] if topic == "compression" else [],
        )
        for topic in TOPICS
        # Windows has no system zlib to link with: there compression stays with Python's own.
        if not (windows and topic == "compression")
    ]
    return cythonize(
        modules,
        compiler_directives={
            "language_level": 3,
            "freethreading_compatible": True,
            "boundscheck": debug,
            "wraparound": False,
            "cdivision": not debug,
            "initializedcheck": debug,
            "auto_pickle": False,
        },
    )


setup(
    # The SQL files stay at the top of the repository, where people look for them, and are installed as a data
    # package, which pyproject.toml alone cannot say together with automatic discovery under src.
    package_dir={"": "src", "celers.migrations": "migrations"},
    packages=[*find_packages("src"), "celers.migrations"],
    ext_modules=extensions(),
    zip_safe=False,
)
