"""Every requirement says what it promises, and every test says what it shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.reference.requirements import TESTS, marks, sentences, without_test


def ours() -> dict[str, dict[str, set[str]]]:
    return {number: files for number, files in marks().items() if not number.startswith("DEF-")}


@pytest.mark.spec("DOC-04")
def test_every_id_in_the_tests_has_a_sentence():
    assert set(ours()) <= set(sentences())


@pytest.mark.spec("DOC-04")
def test_every_requirement_has_a_test_or_a_reason():
    untested = set(sentences()) - set(ours())
    assert untested == set(without_test()), "[open] in requirements.toml names those without a test, and no others"


@pytest.mark.spec("DOC-04")
def test_sentences_are_sentences():
    for number, text in sentences().items():
        assert text.endswith("."), number
        assert "|" not in text, number
    assert len(set(sentences().values())) == len(sentences())


@pytest.mark.spec("DOC-04")
def test_marks_are_found_wherever_they_stand():
    assert "DOC-04" in marks()
    found = marks()["DOC-04"]["unit/test_reference_requirements.py"]
    assert "test_marks_are_found_wherever_they_stand" in found
    assert all((TESTS / file).is_file() for files in marks().values() for file in files)


@pytest.mark.spec("DOC-04")
def test_tests_can_be_chosen_by_requirement():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", str(TESTS / "unit" / Path(__file__).name)]
    chosen = subprocess.run([*command, "--spec", "DOC-04"], cwd=TESTS.parent, capture_output=True, text=True)
    none = subprocess.run([*command, "--spec", "DLQ-04"], cwd=TESTS.parent, capture_output=True, text=True)
    assert "::test_sentences_are_sentences" in chosen.stdout
    assert "::" not in none.stdout
