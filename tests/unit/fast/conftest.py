"""One fixture per topic of celers_fast, parametrised over its implementations."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest

SUFFIX = {"c": "_c", "python": "_py"}


def implementations(topic: str) -> list[str]:
    if os.environ.get("CELERS_IMPL") == "python" or find_spec(f"celers_fast._{topic}_c") is None:
        return ["python"]
    return ["c", "python"]


def twin(topic: str, implementation: str) -> ModuleType:
    return import_module(f"celers_fast._{topic}{SUFFIX[implementation]}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `backoff`, `params`, ... runs once per implementation."""
    for topic in ("backoff", "compression", "ids", "params", "percentiles", "rows"):
        if topic in metafunc.fixturenames:
            names = implementations(topic)
            metafunc.parametrize(topic, [twin(topic, name) for name in names], ids=names)


@pytest.fixture
def both():
    """Call one function of both twins and compare what comes out, values, types and errors; return it."""

    def compare(topic, function, *args, **kwargs):
        outcomes = []
        for name in implementations(topic):
            call = getattr(twin(topic, name), function)
            try:
                outcomes.append(("value", call(*args, **kwargs)))
            except Exception as error:  # noqa: BLE001 - whatever it is, both must raise it
                outcomes.append(("error", type(error), str(error), vars(error)))
        if len(outcomes) == 1:
            pytest.skip("the compiled modules are not there")
        assert outcomes[0] == outcomes[1]
        assert same_types(outcomes[0], outcomes[1])
        return outcomes[0]

    return compare


def same_types(left, right):
    """Whether equal values have equal types all the way down (1 == 1.0 == True is not enough)."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return all(map(same_types, left, right))
    if isinstance(left, dict):
        return all(same_types(left[key], right[key]) for key in left)
    if isinstance(left, float):
        return repr(left) == repr(right)
    return True
