"""The choice between the implementations."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import celers_fast
from celers_fast import _select


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "CELERS_IMPL"}
    return subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, timeout=60
    )


@pytest.mark.spec("ARCH-03")
def test_forced_python():
    code = "import celers_fast, celers_fast.params as p; print(celers_fast.IMPL, p.build_values.__module__)"
    outcome = run(code, CELERS_IMPL="python")
    assert outcome.stdout.split() == ["python", "celers_fast._params_py"]


@pytest.mark.spec("ARCH-03")
def test_unset_takes_the_compiled_modules_when_they_are_there():
    outcome = run("import celers_fast; print(celers_fast.IMPL)")
    built = _select.PathFinder.find_spec(_select._PROBE, celers_fast.__path__) is not None
    assert outcome.stdout.strip() == ("c" if built else "python")


def test_unknown_value():
    outcome = run("import celers_fast", CELERS_IMPL="rust")
    assert outcome.returncode == 1
    assert "CELERS_IMPL='rust'" in outcome.stderr


def test_forced_c_without_compiled_modules(monkeypatch):
    monkeypatch.setattr(_select, "_PROBE", "celers_fast._missing_c")
    with pytest.raises(ImportError, match="CELERS_IMPL=c, but"):
        _select.choose("c")
    assert _select.choose(None) == "python"
    assert _select.choose("") == "python"


def test_compiled_modules_that_do_not_load_are_an_error(monkeypatch):
    def broken(name: str) -> None:
        raise ImportError("undefined symbol")

    monkeypatch.setattr(_select, "_PROBE", "celers_fast._backoff_py")
    monkeypatch.setattr(_select, "import_module", broken)
    with pytest.raises(ImportError, match=r"undefined symbol.*CELERS_IMPL=python"):
        _select.choose(None)


def test_public_names():
    for name in celers_fast.__all__:
        assert hasattr(celers_fast, name)
    outcome = run("import sys, celers_fast; print('numpy' in sys.modules)")
    assert outcome.stdout.strip() == "False"
