"""Both twins of `celers_fast.rows`, one group per case."""

from __future__ import annotations

import pytest

from benchmarks.fast_cases import parameters

CASES = parameters("rows")


@pytest.mark.parametrize(("group", "implementation", "call"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_rows(benchmark, group, implementation, call):
    benchmark.group = f"rows: {group}"
    benchmark(call)
