"""The commands are one family: they say what they do in one form, and what they share is named alike."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from celers.cli import main

# Commands that ask nothing of a queue, or of several.
WITHOUT_QUEUE = {"db", "demo", "doctor", "migrate", "server", "status", "worker"}


def choices(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Name, help and parser of what stands below a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for pseudo in action._choices_actions:
                yield pseudo.dest, str(pseudo.help), action.choices[pseudo.dest]


PARSER = main.build_parser(list(main.COMMANDS))
COMMANDS = {name: (text, parser) for name, text, parser in choices(PARSER)}
LEAVES = [
    (f"{name} {action}".strip(), text, parser)
    for name, (help_, top) in COMMANDS.items()
    for action, text, parser in (list(choices(top)) or [("", help_, top)])
]


def options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {option: action for action in parser._actions for option in action.option_strings}


def test_the_list_of_commands_is_in_order_and_says_what_they_say():
    assert list(main.COMMANDS) == sorted(main.COMMANDS)
    assert {name: text for name, (text, _) in COMMANDS.items()} == main.COMMANDS


@pytest.mark.parametrize(("name", "text", "parser"), LEAVES, ids=[leaf[0] for leaf in LEAVES])
def test_helps_have_one_form(name, text, parser):
    assert text
    assert text != "None"
    assert not text.endswith(".")
    assert text[0].islower()
    for action in parser._actions:
        if action.help is not argparse.SUPPRESS and action.option_strings:
            assert action.help, (name, action.option_strings)
            assert not action.help.endswith("."), (name, action.option_strings)
    for option in ("--url", "--json", "--debug"):
        assert option in options(parser), option


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_describe_themselves(name):
    _, parser = COMMANDS[name]
    assert parser.description
    assert parser.description.endswith(".")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert action.required
            assert action.metavar == "ACTION"


@pytest.mark.parametrize(("name", "text", "parser"), LEAVES, ids=[leaf[0] for leaf in LEAVES])
def test_what_is_shared_is_named_alike(name, text, parser):
    found = options(parser)
    if name.split()[0] not in WITHOUT_QUEUE and name != "queue list":
        assert found.get("-q") is found["--queue"]
        assert found["--queue"].metavar == "NAME"
    if {"delete", "purge"} & set(name.split()):
        assert found.get("-y") is found["--yes"]
    if name.endswith(" list") and name.split()[0] not in ("queue", "workers"):
        assert {"--limit", "--offset"} <= found.keys()
