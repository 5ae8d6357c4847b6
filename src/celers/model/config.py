"""Configuration of the broker's parts.

Durations are given as `timedelta` or seconds and kept as float seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from celers import validate
from celers.model.base import Record

__all__ = ["CircuitBreakerConfig", "IdempotencyConfig", "PoolConfig"]


class _Default(int):
    """A default that can be told from the same number given by the caller."""


_TWO = _Default(2)


@dataclass(frozen=True, slots=True)
class PoolConfig(Record):
    """Limits of the connection pool.

    Parameters
    ----------
    max_connections : int
        Never more are open at once; at least 1.
    min_connections : int
        So many are kept open; 0 to `max_connections`. By default 2, or 1 when no more are allowed.
    acquire_timeout_secs : float
        Seconds to wait for a free connection; above 0.
    max_lifetime_secs : float or None
        An older connection is closed; above 0, None for no limit.
    idle_timeout_secs : float or None
        A connection unused for longer is closed; above 0, None for no limit.
    """

    max_connections: int = 20
    min_connections: int = _TWO
    acquire_timeout_secs: float = 5.0
    max_lifetime_secs: float | None = 1800.0
    idle_timeout_secs: float | None = 600.0

    def __post_init__(self) -> None:
        """Check the values and turn durations into seconds."""
        validate.integer(self.max_connections, "max_connections", 1)
        if self.min_connections is _TWO:
            object.__setattr__(self, "min_connections", min(2, self.max_connections))
        validate.integer(self.min_connections, "min_connections", 0, self.max_connections)
        for name in ("acquire_timeout_secs", "max_lifetime_secs", "idle_timeout_secs"):
            value: object = getattr(self, name)
            if value is not None or name == "acquire_timeout_secs":
                object.__setattr__(self, name, validate.duration(value, name, positive=True))


@dataclass(frozen=True, slots=True)
class CircuitBreakerConfig(Record):
    """When the circuit breaker opens and closes.

    Parameters
    ----------
    failure_threshold : int
        Consecutive failures that open it; at least 1.
    timeout_secs : float
        Seconds until an open breaker lets a call through; above 0.
    success_threshold : int
        Successes that close a half-open breaker; at least 1.
    half_open_max_calls : int
        Calls at once while it is half open; at least 1.
    """

    failure_threshold: int = 5
    timeout_secs: float = 60.0
    success_threshold: int = 2
    half_open_max_calls: int = 1

    def __post_init__(self) -> None:
        """Check the values and turn the duration into seconds."""
        for name in ("failure_threshold", "success_threshold", "half_open_max_calls"):
            validate.integer(getattr(self, name), name, 1)
        seconds = validate.duration(self.timeout_secs, "timeout_secs", positive=True)
        object.__setattr__(self, "timeout_secs", seconds)


@dataclass(frozen=True, slots=True)
class IdempotencyConfig(Record):
    """How long idempotency keys are kept.

    Parameters
    ----------
    default_ttl_secs : float
        Life of a key in seconds when the call names none; at least 1.
    auto_cleanup : bool
        Whether expired keys are removed along the way.
    """

    default_ttl_secs: float = 86_400.0
    auto_cleanup: bool = True

    def __post_init__(self) -> None:
        """Check the values and turn the duration into seconds."""
        seconds = validate.duration(self.default_ttl_secs, "default_ttl_secs", minimum=1)
        object.__setattr__(self, "default_ttl_secs", seconds)
        validate.boolean(self.auto_cleanup, "auto_cleanup")
