"""Fixtures for all tests; those about the database are in `tests.fixtures`."""

from __future__ import annotations

# In the order in which they import each other.
pytest_plugins = [
    "tests.fixtures.brokers",
    "tests.fixtures.packets",
    "tests.fixtures.server",
    "tests.fixtures.tables",
    "tests.fixtures.crowd",
    "tests.fixtures.proxy",
]
