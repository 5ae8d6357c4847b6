"""Talk between a client and the supervisor: one JSON line each way over a unix socket.

Who answers at the control socket is the supervisor, so no process number from a file has to be trusted:
after a crash or a power cut the number may belong to anybody.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

Message = dict[str, Any]

_LIMIT = 65536


def listen(path: Path) -> socket.socket:
    """Open the control socket; the caller holds the lock, so a file that is there already is a leftover."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(512)
    listener.setblocking(False)
    return listener


def ask(path: str, request: Message, timeout: float) -> Message | None:
    """Send a request and wait for the answer.

    Returns
    -------
    dict or None
        The answer; None when nobody listens there, or the supervisor ended before it answered.

    Raises
    ------
    TimeoutError
        When there is a supervisor, but no answer in time.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        try:
            _connect(channel, path, deadline)
            send(channel, request)
            return receive(channel, max(0.001, deadline - time.monotonic()))
        except TimeoutError:
            raise
        except OSError:
            return None


def _connect(channel: socket.socket, path: str, deadline: float) -> None:
    while True:
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            channel.connect(path)
        except BlockingIOError:  # many are waiting there already
            if time.monotonic() >= deadline:
                raise TimeoutError from None
            time.sleep(0.01)
        else:
            return


def send(channel: socket.socket, message: Message) -> None:
    """Write one message."""
    channel.sendall(json.dumps(message).encode() + b"\n")


def receive(channel: socket.socket, timeout: float) -> Message | None:
    """Read one message; None when the other side closed before it was whole."""
    deadline = time.monotonic() + timeout
    buffer = b""
    while not buffer.endswith(b"\n") and len(buffer) < _LIMIT:
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        part = channel.recv(4096)
        if not part:
            return None
        buffer += part
    with contextlib.suppress(ValueError):
        value = json.loads(buffer)
        if isinstance(value, dict):
            return value
    return None
