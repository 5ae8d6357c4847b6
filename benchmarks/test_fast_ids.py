"""Both twins of `celers_fast.ids`, one group per case."""

from __future__ import annotations

import pytest

from benchmarks.fast_cases import parameters

CASES = parameters("ids")


@pytest.mark.parametrize(("group", "implementation", "call"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_ids(benchmark, group, implementation, call):
    benchmark.group = f"ids: {group}"
    benchmark(call)
