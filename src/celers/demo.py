"""The job of `celers demo`: index the files of a directory tree, one task for each file.

The module is an application like any other (`celers worker -A celers.demo`): a task, and the plain function
that does its work, with which the demonstration checks every result afterwards.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from celers import App

__all__ = ["FileIndex", "TimedIndex", "app", "default_tree", "find_files", "index_file", "measure"]

_CHUNK = 1 << 20
# Python writes here while it runs; other tools' caches change as well, but nobody puts those into a library.
_CHANGING = frozenset({"__pycache__"})
_OTHERS = frozenset({"site-packages", "dist-packages"})


class FileIndex(TypedDict):
    """What is found out about one file; `zlib_ratio` is compressed size by size, 1.0 for an empty file."""

    sha256: str
    size: int
    lines: int
    zlib_ratio: float


class TimedIndex(FileIndex):
    """The same, with the wall clock at the start of the task and the time the work took, in s."""

    started: float
    runtime: float


app = App()


def measure(path: str | os.PathLike[str]) -> FileIndex:
    """Read one file and compute its SHA-256, size, number of line ends and zlib ratio.

    Reads in pieces, so that a large file needs no more memory than a small one.
    """
    digest = hashlib.sha256()
    compressor = zlib.compressobj()
    size = lines = compressed = 0
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            lines += chunk.count(b"\n")
            compressed += len(compressor.compress(chunk))
    compressed += len(compressor.flush())
    return {
        "sha256": digest.hexdigest(),
        "size": size,
        "lines": lines,
        "zlib_ratio": round(compressed / size, 6) if size else 1.0,
    }


@app.task(name="celers.demo.index_file")
def index_file(path: str) -> TimedIndex:
    """The task: `measure`, and when."""
    started = time.time()
    begin = time.perf_counter()
    found = measure(path)
    return {**found, "started": started, "runtime": time.perf_counter() - begin}


def default_tree() -> Path:
    """The standard library of this interpreter."""
    return Path(sysconfig.get_path("stdlib"))


def find_files(tree: Path) -> Iterator[Path]:
    """Yield the regular files of a tree that can be read, in a fixed order.

    Symbolic links are not followed. Left out are `__pycache__`, which changes while Python runs, below the
    standard library also what other distributions installed there, and names that are not UTF-8.
    """
    skip = _CHANGING | _OTHERS if tree == default_tree() else _CHANGING
    for directory, below, names in os.walk(tree):
        below[:] = sorted(name for name in below if name not in skip)
        for name in sorted(names):
            path = Path(directory, name)
            if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                continue
            try:
                str(path).encode()
            except UnicodeEncodeError:
                continue
            yield path
