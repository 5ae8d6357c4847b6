"""Other task queues, each measured in an environment of its own: see `benchmarks.peers.__main__`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PEERS", "Peer", "cache_directory"]


@dataclass(frozen=True)
class Peer:
    """A contender that is not ours.

    Attributes
    ----------
    environment
        Name of its virtual environment; two contenders may share one.
    module
        What measures it.
    server
        Kind of server that it runs on; ``sql`` for the MariaDB or MySQL that celers is measured on.
    requirements
        What is installed into the environment.
    slow
        How many tasks it is given, as a share of a fast one's.
    settings
        What its driver is told beside the place of its server.
    """

    name: str
    environment: str
    module: str
    server: str
    requirements: tuple[str, ...]
    slow: float = 1.0
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return cache_directory() / self.environment / "bin" / "python"

    @property
    def installed(self) -> bool:
        """Is its environment there?"""
        return (cache_directory() / self.environment / "complete").exists() and self.python.exists()


def cache_directory() -> Path:
    """Where the environments are: ``CELERS_BENCHMARK_CACHE``, or a directory in the user's cache."""
    chosen = os.environ.get("CELERS_BENCHMARK_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "celers-benchmarks"


_CELERY = ("celery[redis,sqlalchemy]", "mysqlclient")

PEERS = {
    peer.name: peer
    for peer in (
        Peer("celery-sql", "celery", "benchmarks.peers.celery_peer", "sql", _CELERY, 0.02),
        Peer("celery-redis", "celery", "benchmarks.peers.celery_peer", "redis", _CELERY, 0.08),
        Peer("huey", "huey", "benchmarks.peers.huey_peer", "sql", ("huey", "peewee", "mysqlclient"), 0.04),
        Peer("dramatiq", "dramatiq", "benchmarks.peers.dramatiq_peer", "redis", ("dramatiq[redis]",), 0.3),
        Peer("rq", "rq", "benchmarks.peers.rq_peer", "redis", ("rq",), 0.03),
        Peer(
            "procrastinate",
            "procrastinate",
            "benchmarks.peers.procrastinate_peer",
            "postgresql",
            ("procrastinate", "psycopg[binary]"),
            0.05,
        ),
        *(
            Peer(
                name,
                "pgqueuer",
                "benchmarks.peers.pgqueuer_peer",
                "postgresql",
                ("pgqueuer", "asyncpg", "uvloop"),
                settings=(("batch", batch),),
            )
            for name, batch in (("pgqueuer", 100), ("pgqueuer-500", 500))
        ),
    )
}
