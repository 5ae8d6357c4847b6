"""Documents lead to what exists, and name what exists."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from celers.cli.main import COMMANDS, build_parser
from celers.components.maintenance import Maintenance
from celers.flat import FlatNames
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
        "0 * (9223372036854775807 + queue.draining)",
        "SELECT 9223372036854775807 + (ROW_COUNT() <> ",
        "SELECT 9223372036854775807 + (COUNT(*) <> 1), (SELECT paused FROM celers_queues WHERE ",
        "INTO @celers_guard, @celers_paused",
        "INTO @celers_keys, @celers_seqs",
        "FOR UPDATE SKIP LOCKED) picked",
        "DELETE celers_ready FROM JSON_TABLE(@celers_keys",
    ):
        assert head in known
        assert head in ARCHITECTURE


# Commands and names


@functools.cache
def parser_of(command: str) -> argparse.ArgumentParser:
    return below(build_parser([command]))[command]


def below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands or actions, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def shown_commands(text: str) -> list[list[str]]:
    """Every `celers ...` of a document, in its text and behind the prompts of its blocks, as words."""
    found = re.findall(r"^\$ (celers .*)$", text, re.MULTILINE) + re.findall(r"`(celers [^`$]*)`", plain(text))
    return [shlex.split(line, comments=True)[1:] for line in found]


@pytest.mark.spec("DOC-04", "TEST-06")
@pytest.mark.parametrize(
    "path", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_documents_show_commands_that_exist(path):
    for words in shown_commands(path.read_text("utf-8")):
        if words[0].startswith("-") or words[0].isupper():
            continue  # an option of all commands, or a word that stands for a command
        assert words[0] in COMMANDS, words
        parsers = [parser_of(words[0])]
        if len(words) > 1 and (actions := below(parsers[0])):
            assert set(words[1].split("|")) <= actions.keys(), words
            parsers = [actions[name] for name in words[1].split("|")]
        for word in words[1:]:
            if word.startswith("-"):
                assert all(word.partition("=")[0] in parser._option_string_actions for parser in parsers), words


@pytest.mark.spec("DOC-04")
def test_the_readme_lists_actions_that_exist():
    """The first column of its table: a command with an action, and then further actions or commands."""
    table = (ROOT / "README.md").read_text("utf-8").partition("| Command | For |")[2].partition("\n\n")[0]
    listed: set[str] = set()
    for line in table.split("\n")[2:]:
        command = ""
        for name in re.findall(r"`([^`]+)`", line.split("|")[1]):
            words = name.split()
            if words[0] == "celers":
                command, *words = words[1:]
                listed.add(command)
            assert not words or words[0] in below(parser_of(command)), line
    assert len(listed) > 10


@pytest.mark.spec("DOC-04")
def test_documents_show_programs_and_settings_that_exist():
    text = "\n".join(path.read_text("utf-8") for path in [*DOCUMENTS, ROOT / "benchmarks" / "README.md"])
    for module in set(re.findall(r"python -m ([\w.]+)", text)):
        assert importlib.util.find_spec(module), module
    read = "\n".join(
        path.read_text("utf-8")
        for folder in ("src", "tests", "benchmarks", "scripts")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", "") and path.is_file()
    ) + (ROOT / "setup.py").read_text("utf-8")
    for setting in set(re.findall(r"\bCELERS_[A-Z_]*[A-Z]", text)):
        assert setting in read, setting


@pytest.mark.spec("DOC-04")
def test_the_page_about_upkeep_names_operations_that_exist():
    table = (ROOT / "docs" / "upkeep.md").read_text("utf-8").partition("| Operation of a broker |")[2]
    names = re.findall(r"`([\w.]+)(?:\([^`]*\))?`", table.partition("\n\n")[0])
    assert len(names) > 10
    for name in names:
        holder = Maintenance if name.startswith("maintenance.") else FlatNames
        assert hasattr(holder, name.removeprefix("maintenance.")), name
