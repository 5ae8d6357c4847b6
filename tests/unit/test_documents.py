"""Documents lead to what exists, and name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.reference.operations import TABLES

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def plain(text: str) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


@pytest.mark.spec("DOC-04", "TEST-06")
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", plain(path.read_text("utf-8"))):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (path.parent / target).exists(), target


@pytest.mark.spec("DOC-04", "SCHEMA-01")
def test_the_architecture_names_tables_that_exist():
    assert (
        set(re.findall(r"\bcelers_(\w+)", ARCHITECTURE)) - {"fast"} - {"now", "guard", "paused", "keys", "seqs"}
        <= TABLES
    )
    assert {"tasks", "ready", "scheduled", "blocked", "consumers"} <= TABLES


@pytest.mark.spec("DOC-04", "ARCH-01")
def test_the_architecture_names_modules_that_exist():
    table = ARCHITECTURE.partition("| Place | Holds |")[2].partition("\n\n")[0]
    places = [name for line in table.split("\n")[2:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])]
    assert len(places) > 20
    for place in places:
        found = [
            path
            for base in (ROOT / "src" / "celers", ROOT / "src")
            for path in (base / place, base / f"{place}.py")
            if "*" not in place
        ]
        assert "*" in place or any(path.exists() for path in found), place


@pytest.mark.spec("DOC-04")
def test_the_architecture_shows_statements_that_are_sent():
    """The head of each statement in its packets stands in a file of statements."""
    known = " ".join(path.read_text("utf-8") for path in sorted((ROOT / "src" / "celers" / "sql").glob("*.sql")))
    known = re.sub(r"--.*", "", known)
    known = re.sub(r"\s+", " ", known)
    for head in (
        "9223372036854775807 + draining INTO @celers_now, @celers_guard FROM celers_queues",
        "SELECT 9223372036854775807 + (COUNT(*) <> 1) INTO @celers_guard",
        "SELECT paused INTO @celers_paused FROM celers_queues",
        "INTO @celers_keys, @celers_seqs",
        "FOR UPDATE SKIP LOCKED) picked",
        "DELETE celers_ready FROM JSON_TABLE(@celers_keys",
    ):
        assert head in known
        assert head in ARCHITECTURE
