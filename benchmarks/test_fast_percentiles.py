"""Both twins of `celers_fast.percentiles`, one group per case."""

from __future__ import annotations

import pytest

from benchmarks.fast_cases import parameters

CASES = parameters("percentiles")


@pytest.mark.parametrize(("group", "implementation", "call"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_percentiles(benchmark, group, implementation, call):
    benchmark.group = f"percentiles: {group}"
    benchmark(call)
