"""What installing and importing celers brings along."""

from __future__ import annotations

import importlib.resources
import subprocess
import sys
from importlib.metadata import metadata, requires

import pytest


@pytest.mark.spec("ARCH-03")
def test_import_is_light():
    code = "import sys, celers; print([m for m in ('numpy', 'prometheus_client', 'rich') if m in sys.modules])"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert outcome.stdout.strip() == "[]", outcome.stderr


def test_required_dependencies_are_two():
    needed = [text for text in requires("celers") or [] if "extra ==" not in text]
    assert sorted(text.split(">")[0] for text in needed) == ["mysqlclient", "numpy"]
    assert metadata("celers")["License-Expression"] == "Apache-2.0"


def test_migrations_are_a_data_package():
    names = {entry.name for entry in importlib.resources.files("celers.migrations").iterdir()}
    assert any(name.startswith("001") and name.endswith(".sql") for name in names)


@pytest.mark.parametrize("package", ["celers", "celers_fast"])
def test_packages_are_typed(package):
    assert importlib.resources.files(package).joinpath("py.typed").is_file()
