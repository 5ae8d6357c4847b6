"""`celers server`: start, stop and look at an embedded server."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from celers.db.url import parse_url
from celers.embedded import EmbeddedServer, ServerStatus
from celers.errors import CelersError, ConfigurationError

if TYPE_CHECKING:
    # The class is generic for type checkers only.
    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

OK, FAILED, NOT_RUNNING = 0, 1, 3


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `server` to a parser of commands; `run` does what it says."""
    parser = subparsers.add_parser(
        "server",
        help="the private database server: start, stop, status, url",
        description="Start, stop and look at the private MariaDB or MySQL server that celers runs for you.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("start", "start it unless it runs"),
        ("stop", "end it cleanly"),
        ("status", "tell whether it runs; exit status 3 when it does not"),
        ("url", "print the URL for --url or CELERS_URL"),
    ):
        action = actions.add_parser(name, help=text, description=f"The private database server: {text}.")
        action.add_argument(
            "-d",
            "--directory",
            help="where it keeps its data (default: the one in CELERS_URL, or your XDG data directory)",
        )
        action.add_argument("--json", action="store_true", help="print JSON")
        if name in ("start", "url"):
            action.add_argument("--database", help="name of the database to make (default: celers)")
            action.add_argument(
                "--idle",
                type=_seconds,
                metavar="SECONDS",
                help="end after this time without connections (default: 1800)",
            )
        if name == "stop":
            action.add_argument(
                "--timeout",
                type=_seconds,
                default=90.0,
                metavar="SECONDS",
                help="how long to wait for its end (default: 90)",
            )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `server` command.

    Returns
    -------
    int
        0; 1 after a failure, which is printed; 3 when `status` finds no running server.
    """
    try:
        server = _server(args)
        match args.action:
            case "start":
                return _start(server, args)
            case "stop":
                return _stop(server, args)
            case "status":
                return _status(server, args)
            case _:
                _print(args, {"url": server.url}, server.url)
                return OK
    except CelersError as error:
        if args.json:
            print(json.dumps({"error": str(error)}))
        else:
            print(f"celers: {error}", file=sys.stderr)
        return FAILED


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError(text)
    return value


def _server(args: argparse.Namespace) -> EmbeddedServer:
    """The server that the arguments name, else the URL given or in the environment, else the default."""
    settings: dict[str, Any] = {}
    directory = args.directory
    if directory is None:
        url = getattr(args, "url", None) or os.environ.get("CELERS_URL", "").strip()
        if url:
            options = parse_url(url)
            if options.embedded_dir is None:
                raise ConfigurationError(f"{options.safe_url()} is no embedded server; give --directory")
            directory = options.embedded_dir
            settings = {"idle_secs": options.embedded_idle_secs, "database": options.database}
    if getattr(args, "idle", None) is not None:
        settings["idle_secs"] = args.idle
    if getattr(args, "database", None) is not None:
        settings["database"] = args.database
    return EmbeddedServer(directory, **settings)


def _start(server: EmbeddedServer, args: argparse.Namespace) -> int:
    server.ensure_started()
    status = server.status()
    _print(
        args,
        {**status.to_dict(), "url": server.url},
        f"{status.server} runs in {status.directory}\nURL: {server.url}",
    )
    return OK


def _stop(server: EmbeddedServer, args: argparse.Namespace) -> int:
    stopped = server.stop(args.timeout)
    text = "the server has ended" if stopped else f"no server runs in {server.directory}"
    _print(args, {"directory": str(server.directory), "stopped": stopped}, text)
    return OK


def _status(server: EmbeddedServer, args: argparse.Namespace) -> int:
    status = server.status()
    _print(args, {**status.to_dict(), "url": server.url}, _describe(status))
    return OK if status.running else NOT_RUNNING


def _describe(status: ServerStatus) -> str:
    if not status.running:
        return f"no server runs in {status.directory}"
    age = max(0, round(time.time() - (status.started_at or 0.0)))
    idle = f"ends after {status.idle_secs:g} s without connections" if status.idle_secs else "does not end by itself"
    return "\n".join(
        (
            f"{status.server} runs in {status.directory}",
            f"socket:      {status.socket}",
            f"process:     {status.server_pid}, watched by {status.supervisor_pid}",
            f"running for: {age} s",
            f"connections: {status.connections}",
            f"idle:        {idle}",
        )
    )


def _print(args: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    print(json.dumps(value) if args.json else text)
