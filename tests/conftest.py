"""Fixtures for all tests; those about the database are in `tests.fixtures`."""

from __future__ import annotations

import pytest

# Their asserts are part of the tests.
pytest.register_assert_rewrite("tests.fixtures.cuts", "tests.fixtures.driven", "tests.fixtures.forks")

# In the order in which they import each other.
pytest_plugins = [
    "tests.fixtures.brokers",
    "tests.fixtures.packets",
    "tests.fixtures.server",
    "tests.fixtures.tables",
    "tests.fixtures.crowd",
    "tests.fixtures.proxy",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--spec", action="append", metavar="ID", help="run only tests of this requirement, such as DLQ-04")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = set(config.getoption("--spec") or ())
    if wanted:
        chosen = [item for item in items if any(wanted.intersection(mark.args) for mark in item.iter_markers("spec"))]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
