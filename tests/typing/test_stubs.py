"""The compiled modules are what their stubs say: names, parameters and defaults."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUBS = sorted((ROOT / "src" / "celers_fast").glob("*_c.pyi"))
MODULES = [f"celers_fast.{stub.stem}" for stub in STUBS]


def stubtest(*modules: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", *modules], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
@pytest.mark.skipif(not all(map(find_spec, MODULES)), reason="the compiled modules are not built")
def test_the_stubs_of_the_compiled_modules():
    assert len(MODULES) == 6
    done = stubtest(*MODULES)
    assert done.returncode == 0, done.stdout + done.stderr
