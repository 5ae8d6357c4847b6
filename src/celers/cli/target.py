"""Which database and which application a command line means."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from celers.db.url import parse_url

if TYPE_CHECKING:
    from celers.app import App
    from celers.broker import MysqlBroker

__all__ = ["find_app", "is_embedded", "open_broker", "resolve"]


def find_app(args: argparse.Namespace) -> App | None:
    """Import the application of -A or CELERS_APP; None when neither is given."""
    name = args.app or os.environ.get("CELERS_APP", "").strip()
    if not name:
        return None
    from celers.app import load_app

    return load_app(name)


def resolve(args: argparse.Namespace, app: App | None = None) -> str:
    """The URL of the database: --url, that of the application, CELERS_URL, else the embedded server.

    The last is said on standard error, because a server that nobody named can surprise.
    """
    url: str | None = args.url or (app and app.url) or os.environ.get("CELERS_URL", "").strip()
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


def open_broker(url: str, queue: str = "default") -> MysqlBroker:
    """Open a broker; the database of an embedded server gets its tables before."""
    from celers.broker import MysqlBroker

    broker = MysqlBroker(url, queue, heartbeat=False)
    if is_embedded(url):
        try:
            broker.migrate()
        except BaseException:
            broker.close()
            raise
    return broker
