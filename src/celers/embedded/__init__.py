"""A private database server in a directory: started on demand, for its owner, on a unix socket only.

The server stands under a small supervisor process (`celers.embedded.supervisor`) in a session of its own,
so it outlives whoever started it. It ends on `EmbeddedServer.stop` or after a time without connections.

Importing this package costs nothing: the parts are loaded when they are used, and need a POSIX system.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celers.errors import ConfigurationError

if TYPE_CHECKING:
    from celers.db.url import ConnectOptions
    from celers.embedded.binary import ServerBinary, find_server
    from celers.embedded.paths import default_directory
    from celers.embedded.server import EmbeddedServer, ServerStatus

__all__ = ["EmbeddedServer", "ServerBinary", "ServerStatus", "default_directory", "ensure", "find_server"]

_HOMES = {
    "EmbeddedServer": "celers.embedded.server",
    "ServerBinary": "celers.embedded.binary",
    "ServerStatus": "celers.embedded.server",
    "default_directory": "celers.embedded.paths",
    "find_server": "celers.embedded.binary",
}


def ensure(options: ConnectOptions) -> ConnectOptions:
    """Start the embedded server that `options` names, when it names one and it does not run yet.

    Parameters
    ----------
    options
        What was parsed from the URL.

    Returns
    -------
    ConnectOptions
        Options for a plain connection to the server's socket; `options` itself when it names another server.

    Raises
    ------
    ConfigurationError
        When there is no server to start on this machine, or the directory cannot be used.
    BrokerConnectionError
        When the server does not come up.
    """
    if options.embedded_dir is None:
        return options
    if os.name != "posix":
        raise ConfigurationError("the embedded server needs a POSIX system such as Linux or macOS")
    from celers.embedded.server import connect_options

    return connect_options(options)


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    from importlib import import_module

    return getattr(import_module(home), name)
