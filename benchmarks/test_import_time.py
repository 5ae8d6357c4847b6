"""How long `import celers` takes in a new interpreter, above the interpreter's own start."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


@pytest.mark.parametrize("code", ["pass", "import celers", "import celers_fast", "from celers import MysqlBroker"])
def test_import_time(benchmark, code):
    """Compare with the row ``pass``; the limit for `import celers` is 60 ms above it."""
    benchmark.group = "import time"
    benchmark.pedantic(seconds, (code,), rounds=10, warmup_rounds=2)


def test_import_stays_below_its_limit():
    base = min(seconds("pass") for _ in range(5))
    whole = min(seconds("import celers") for _ in range(5))
    assert whole - base < 0.060
