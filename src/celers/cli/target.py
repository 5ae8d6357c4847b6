"""Which database and which application a command line means."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celers.db.url import parse_url
from celers.errors import ConfigurationError

if TYPE_CHECKING:
    from celers import MysqlBroker

__all__ = ["app_name", "is_embedded", "load_app", "open_broker", "resolve"]


def app_name(args: argparse.Namespace) -> str | None:
    """The application's name from -A or CELERS_APP."""
    return args.app or os.environ.get("CELERS_APP", "").strip() or None


def load_app(name: str) -> Any:
    """Import an application.

    Parameters
    ----------
    name : str
        ``module:variable``; the variable is ``app`` when left out. Also looked for in the working directory.

    Raises
    ------
    ConfigurationError
        When there is no such module or variable, or it is not an application.
    """
    from celers import App

    module_name, _, variable = name.partition(":")
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise  # the application exists; what it imports does not
        raise ConfigurationError(
            f"no module {module_name!r} (from -A {name}); looked in {directory} and the Python path"
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"-A {name!r}: expected MODULE or MODULE:NAME, for example tasks:app"
        ) from error
    value: Any = module
    for part in (variable or "app").split("."):
        value = getattr(value, part, None)
    if not isinstance(value, App):
        raise ConfigurationError(f"-A {name}: {variable or 'app'} in {module_name} is not a celers.App")
    return value


def resolve(args: argparse.Namespace, app: Any = None) -> str:
    """The URL of the database: --url, that of the application, CELERS_URL, else the embedded server.

    The last is said on standard error, because a server that nobody named can surprise.
    """
    url: str | None = args.url or getattr(app, "url", None) or os.environ.get("CELERS_URL", "").strip()
    if url:
        return url
    from celers.embedded import EmbeddedServer

    server = EmbeddedServer()
    if not args.json:
        print(
            f"celers: using the private server in {server.directory}; name another with --url or CELERS_URL",
            file=sys.stderr,
        )
    return server.url


def is_embedded(url: str) -> bool:
    """Is it a server that celers starts by itself?"""
    return parse_url(url).embedded_dir is not None


def open_broker(args: argparse.Namespace, queue: str = "default", *, url: str | None = None) -> MysqlBroker:
    """Open a broker for the database that the arguments name; an embedded one has its tables then."""
    from celers import MysqlBroker

    url = resolve(args) if url is None else url
    broker = MysqlBroker(url, queue, heartbeat=False)
    if is_embedded(url):
        try:
            broker.migrate()
        except BaseException:
            broker.close()
            raise
    return broker
