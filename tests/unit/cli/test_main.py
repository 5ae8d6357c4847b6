"""The command line without a database: arguments, errors, exit statuses, imports."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest

from celers.cli import codes, main
from celers.errors import BrokerConnectionError, BrokerError, ConfigurationError, ValidationError


def parse(*arguments: str) -> argparse.Namespace:
    return main.build_parser(list(main.COMMANDS)).parse_args(list(arguments))


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main.main([command, "--help"])
    assert end.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "mysql://h/d", "--json", "--debug", "-A", "m:app", "status"],
        ["status", "--url", "mysql://h/d", "--json", "--debug", "-A", "m:app"],
        ["--url", "mysql://h/d", "status", "--json", "--app", "m:app", "--debug"],
    ],
)
def test_common_options_stand_before_or_after_the_command(arguments):
    args = parse(*arguments)
    assert (args.url, args.json, args.debug, args.app) == ("mysql://h/d", True, True, "m:app")


def test_common_options_reach_commands_of_commands():
    assert parse("--json", "server", "status").json is True
    assert parse("server", "status", "--json").json is True
    assert parse("server", "status", "--debug").debug is True
    assert parse("server", "status").json is False


def test_without_a_command_help_is_printed(capsys):
    assert main.main([]) == codes.USAGE
    assert "COMMAND" in capsys.readouterr().err


def test_version(capsys):
    assert main.main(["--version"]) == codes.OK
    assert capsys.readouterr().out.startswith("celers ")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValidationError("bad"), codes.USAGE),
        (BrokerConnectionError("away"), codes.NOT_READY),
        (BrokerError("refused"), codes.FAILED),
        (ConfigurationError("bad URL"), codes.FAILED),
        (KeyError("missing"), codes.FAILED),
        (KeyboardInterrupt(), codes.INTERRUPTED),
    ],
)
def test_errors_become_one_line_and_a_status(error, status, capsys):
    def fail(_args):
        raise error

    args = argparse.Namespace(run=fail, json=False, debug=False)
    assert main.run(args) == status
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.splitlines()) == (0 if status == codes.INTERRUPTED else 1)


def test_errors_as_json(capsys):
    def fail(_args):
        raise BrokerError("refused")

    assert main.run(argparse.Namespace(run=fail, json=True, debug=False)) == codes.FAILED
    assert json.loads(capsys.readouterr().out) == {"error": "refused", "type": "BrokerError"}


def test_debug_shows_the_traceback():
    def fail(_args):
        raise BrokerError("refused")

    with pytest.raises(BrokerError):
        main.run(argparse.Namespace(run=fail, json=False, debug=True))


@pytest.mark.parametrize(
    "arguments",
    [
        ["enqueue"],
        ["enqueue", "t", "--args", "{}"],
        ["enqueue", "t", "--args", "[1"],
        ["enqueue", "t", "--args", "[NaN]"],
        ["enqueue", "t", "--kwargs", "[]"],
        ["enqueue", "t", "--delay", "-1"],
        ["enqueue", "t", "--delay", "inf"],
        ["enqueue", "t", "--count", "0"],
        ["enqueue", "t", "--priority", "x"],
        ["migrate", "--with", "nothing"],
        ["migrate", "--list", "--verify"],
        ["demo", "--processes", "0"],
        ["unknown"],
    ],
)
def test_wrong_arguments_end_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main.main(arguments)
    assert end.value.code == codes.USAGE
    assert "error:" in capsys.readouterr().err


def test_a_bad_url_is_said_without_a_traceback(capsys):
    assert main.main(["status", "--url", "postgres://user:secret@host/db"]) == codes.FAILED
    said = capsys.readouterr().err
    assert "bad database URL" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no_such_module_of_anybody:app", "no module"),
        ("json:app", "is no celers.App"),
        (":app", "names no module"),
    ],
)
def test_an_application_that_cannot_be_had(name, expected, capsys):
    assert main.main(["status", "-A", name]) == codes.FAILED
    assert expected in capsys.readouterr().err


def test_help_imports_neither_the_driver_nor_numpy():
    program = (
        "import sys\n"
        "from celers.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'MySQLdb', 'numpy', 'rich', 'asyncio', 'celers.broker'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
