"""Exit statuses of every command; they are part of the interface."""

from __future__ import annotations

OK = 0
FAILED = 1
"""Something went wrong; standard error says what."""

USAGE = 2
"""The arguments are wrong."""

NOT_READY = 3
"""The server does not run, or the database lacks tables."""

INTERRUPTED = 130
"""Ended by Ctrl-C."""
