"""Database URLs.

``mysql://user:password@host:port/database?option=value`` (``mariadb://`` is a synonym) names a server,
``mysql+embedded:///path/to/directory`` a private server that is started on demand.

Rules where URLs in the wild differ: every part is percent-decoded as UTF-8; ``+`` is a plus sign; a ``/``,
``?``, ``#`` or ``@`` in the user, the password or an option has to be percent-encoded (an ``@`` in the
password alone is understood).

A URL holds a password, and a URL that is wrong may hold it anywhere. Error texts therefore show nothing of
what stands before the last ``@``, and nothing at all of a URL with an ``@`` where none may be.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from celers.errors import ConfigurationError

__all__ = ["SSL_MODES", "ConnectOptions", "parse_url"]

SSL_MODES: Final = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")

_EMBEDDED_SCHEME = "mysql+embedded"
_SCHEMES = ("mysql", "mariadb", _EMBEDDED_SCHEME)
_SECONDS = ("connect_timeout", "read_timeout", "write_timeout")
_SERVER_OPTIONS = ("unix_socket", "ssl_ca", "ssl_cert", "ssl_key", "ssl_mode", *_SECONDS, "charset")
# The option's name in the URL of an embedded server, and the field it goes to.
_EMBEDDED_OPTIONS = {"database": "database", "idle": "embedded_idle_secs", "charset": "charset"} | {
    name: name for name in _SECONDS
}
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OPTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_HOST = re.compile(r"[^\s/?#@\[\]:%]+")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[^\s/?#@\[\]%]+)?", re.ASCII)
_CHARSET = re.compile(r"[A-Za-z0-9_]{1,32}", re.ASCII)
_DATABASE_LENGTH = 64


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """Where and as whom to connect.

    Parameters
    ----------
    user, password : str
        Account; empty when the URL names none. The password is not shown by ``repr``.
    host : str
        Name or address, IPv6 without brackets.
    port : int
        1 to 65535.
    unix_socket : str or None
        Path of a socket, which takes the place of host and port.
    database : str
        Name of the database.
    ssl_ca, ssl_cert, ssl_key : str or None
        Paths of PEM files.
    ssl_mode : str or None
        One of `SSL_MODES`; None leaves it to the client library.
    connect_timeout, read_timeout, write_timeout : float
        Seconds, above 0.
    charset : str
        Character set of the connection.
    embedded_dir : str or None
        Directory of the embedded server; None for an ordinary server.
    embedded_idle_secs : float
        Seconds without a connection after which the embedded server stops.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    host: str = "localhost"
    port: int = 3306
    unix_socket: str | None = None
    database: str = ""
    ssl_ca: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None
    ssl_mode: str | None = None
    connect_timeout: float = 10.0
    read_timeout: float = 10.0
    write_timeout: float = 10.0
    charset: str = "utf8mb4"
    embedded_dir: str | None = None
    embedded_idle_secs: float = 1800.0

    def to_url(self) -> str:
        """Return the URL of these options, with the password: ``parse_url(options.to_url()) == options``."""
        return self._url(_encode(self.password))

    def safe_url(self) -> str:
        """Return the URL of these options for logs and error texts: ``***`` in place of the password."""
        return self._url("***")

    def __str__(self) -> str:
        """Return the URL without the password."""
        return self.safe_url()

    def _url(self, password: str) -> str:
        if self.embedded_dir is not None:
            options = self._changed({field: name for name, field in _EMBEDDED_OPTIONS.items()})
            return f"{_EMBEDDED_SCHEME}://{quote(self.embedded_dir, safe='/')}{options}"
        account = _encode(self.user)
        if self.password:
            account += f":{password}"
        if account:
            account += "@"
        host = f"[{self.host.replace('%', '%25')}]" if ":" in self.host else _encode(self.host)
        port = f":{self.port}" if self.port != _DEFAULTS["port"] else ""
        options = self._changed({name: name for name in _SERVER_OPTIONS})
        return f"mysql://{account}{host}{port}/{_encode(self.database)}{options}"

    def _changed(self, names: dict[str, str]) -> str:
        """Write the fields in `names` (field: option) that differ from their default as a query."""
        found = []
        for name, option in names.items():
            value = getattr(self, name)
            default = "celers" if option == "database" else _DEFAULTS[name]
            if value != default:
                text = f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
                found.append(f"{option}={quote(text, safe='/')}")
        return "?" + "&".join(found) if found else ""


_DEFAULTS = {item.name: item.default for item in fields(ConnectOptions)}


def parse_url(text: str) -> ConnectOptions:
    """Read a database URL.

    Parameters
    ----------
    text : str
        ``mysql://``, ``mariadb://`` or ``mysql+embedded://`` URL; white space at its ends is ignored.
        Options of a server are ``unix_socket``, ``ssl_ca``, ``ssl_cert``, ``ssl_key``, ``ssl_mode``,
        ``connect_timeout``, ``read_timeout``, ``write_timeout`` (seconds) and ``charset``; those of an
        embedded server the timeouts, ``charset``, ``database`` (default ``celers``) and ``idle`` (seconds,
        default 1800).

    Raises
    ------
    ConfigurationError
        For anything else. The text never shows the password.
    """
    if not isinstance(text, str):
        raise _bad(f"it must be text, not {type(text).__name__}")
    scheme, separator, rest = text.strip().partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        raise _bad("it must begin with mysql://, mariadb:// or mysql+embedded://")
    if _CONTROL.search(rest):
        raise _bad("it has a control character; percent-encode it")
    end = min((position for mark in "/?#" if (position := rest.find(mark)) >= 0), default=len(rest))
    authority, tail = rest[:end], rest[end:]
    if "@" in tail or "#" in tail:
        raise _bad("a '/', '?', '#' or '@' in the user, the password or an option must be percent-encoded")
    path, _, query = tail.partition("?")
    if scheme == _EMBEDDED_SCHEME:
        return _embedded(authority, path, query)
    account, _, address = authority.rpartition("@")
    user, _, password = account.partition(":")
    host, port = _host_and_port(address)
    database = _database(_decode(path[1:], "database"))
    values = _options(query, {name: name for name in _SERVER_OPTIONS})
    return ConnectOptions(
        user=_decode(user, "user"),
        password=_decode(password, "password"),
        host=host,
        port=port,
        database=database,
        **values,  # type: ignore[arg-type]
    )


def _embedded(authority: str, path: str, query: str) -> ConnectOptions:
    if authority:
        raise _bad("an embedded server has no host: write three slashes, mysql+embedded:///path/to/directory")
    directory = _decode(path, "directory")
    if directory in ("", "/"):
        # Only now: the module knows about locks and processes, and most programs use no embedded server.
        from celers.embedded.paths import default_directory

        directory = str(default_directory())
    values = {"database": "celers"} | _options(query, _EMBEDDED_OPTIONS)
    return ConnectOptions(embedded_dir=directory, **values)  # type: ignore[arg-type]


def _host_and_port(address: str) -> tuple[str, int]:
    """Split an address. What is wrong with it is not shown: without an ``@`` it may be a password."""
    default_host, default_port = "localhost", 3306
    if address.startswith("["):
        inside, bracket, after = address[1:].partition("]")
        host = _decode(inside, "host")
        if not bracket or not _IPV6.fullmatch(host) or (after and not after.startswith(":")):
            raise _bad("its host is no IPv6 address in brackets")
        port = after[1:]
    else:
        encoded, colon, port = address.partition(":")
        host = _decode(encoded, "host") or default_host
        if ":" in port:
            raise _bad("its host has several colons; an IPv6 address stands in brackets, as in [::1]")
        if not _HOST.fullmatch(host):
            raise _bad("its host has a character that no host name has")
        if not encoded and colon:
            raise _bad("it has a port but no host")
    if not port:
        return host, default_port
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise _bad("its port is not a number from 1 to 65535 (is an '@' before the host missing?)")
    return host, int(port)


def _options(query: str, known: dict[str, str]) -> dict[str, str | float]:
    """Read the query: option names to fields by `known`."""
    found: dict[str, str | float] = {}
    for part in query.split("&") if query else []:
        name, equals, encoded = part.partition("=")
        if name not in known:
            which = f" {name!r}" if _OPTION_NAME.fullmatch(name) else ""
            raise _bad(f"it has an unknown option{which}; known are {', '.join(known)}")
        if not equals or not encoded:
            raise _bad(f"option {name} has no value")
        field_name = known[name]
        if field_name in found:
            raise _bad(f"option {name} is there twice")
        found[field_name] = _checked(name, _decode(encoded, f"option {name}"))
    return found


def _checked(name: str, value: str) -> str | float:
    """Check the value of one option and bring it into the form of its field."""
    if name in (*_SECONDS, "idle"):
        seconds = float(value) if _NUMBER.fullmatch(value) else math.nan
        if not seconds > 0:
            raise _bad(f"option {name} must be a number of seconds above 0")
        return seconds
    if name == "ssl_mode":
        mode = value.upper().replace("-", "_")
        if mode not in SSL_MODES:
            raise _bad(f"option ssl_mode must be one of {', '.join(SSL_MODES)}")
        return mode
    if name == "charset" and not _CHARSET.fullmatch(value):
        raise _bad("option charset must be the name of a character set, such as utf8mb4")
    return _database(value) if name == "database" else value


def _database(name: str) -> str:
    if not name:
        raise _bad("it names no database; write mysql://user:password@host:port/database")
    if len(name) > _DATABASE_LENGTH or "/" in name or name != name.strip():
        raise _bad("the name of its database must have at most 64 characters, no '/' and no blank at its ends")
    return name


def _decode(text: str, part: str) -> str:
    if _BAD_PERCENT.search(text):
        raise _bad(f"the {part} has a '%' that is not followed by two hex digits; write %25 for the sign itself")
    try:
        decoded = unquote_to_bytes(text).decode("utf-8")
    except UnicodeError:
        raise _bad(f"the {part} is not UTF-8") from None
    if "\0" in decoded:
        raise _bad(f"the {part} has a zero character")
    return decoded


def _encode(text: str) -> str:
    return quote(text, safe="")


def _bad(reason: str) -> ConfigurationError:
    return ConfigurationError(f"bad database URL: {reason}")
