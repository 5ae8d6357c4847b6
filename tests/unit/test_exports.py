"""The names that `celers` offers: loaded on first use, and known to type checkers under the same places."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import celers


def typed() -> dict[str, str]:
    """What a type checker reads: names and the modules that they are imported from."""
    tree = ast.parse(Path(celers.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or "": node.module or "" for node in imports for alias in node.names}


def test_each_name_comes_from_where_type_checkers_look_for_it():
    assert typed() == celers._PLACE_OF
    assert sorted(celers.__all__) == sorted([*typed(), "acceleration_enabled"])


@pytest.mark.parametrize("name", celers.__all__)
def test_each_name_can_be_had(name):
    assert getattr(celers, name) is not None
    assert name in dir(celers)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'Nothing'"):
        _ = celers.Nothing


def test_nothing_is_loaded_before_its_use():
    code = "import sys, celers; print([name for name in sys.modules if name.startswith('celers')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['celers']"


def test_the_rules_of_a_workers_upkeep_are_offered():
    assert celers.Upkeep(keep_finished=60).keep_finished == 60.0
