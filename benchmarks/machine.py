"""What a figure depends on: the machine, and what is installed on it."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["describe", "fsync_seconds", "load"]


def _first(path: str, key: str) -> str | None:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return None


def fsync_seconds(directory: str | None = None, rounds: int = 100) -> float:
    """Return the median time of a small write that is forced to the disk where servers keep their data."""
    times: list[float] = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(rounds):
            started = time.perf_counter()
            os.write(file.fileno(), b"x" * 512)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def load() -> float | None:
    """Return how many processes wanted to run, on average, in the last minute; None where it is not known."""
    with contextlib.suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 2)
    return None


def describe(directory: str | None = None) -> dict[str, Any]:
    """Return the facts about this machine that figures depend on."""
    memory = _first("/proc/meminfo", "MemTotal")
    return {
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(int(memory.split()[0]) / 1e6, 1) if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "fsync_us": round(fsync_seconds(directory) * 1e6, 1),
        "load": load(),
    }
