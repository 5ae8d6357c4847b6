"""Fixtures for all tests; those about the database are in `tests.fixtures.server`."""

from __future__ import annotations

pytest_plugins = ["tests.fixtures.server"]
