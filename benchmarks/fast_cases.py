"""What is measured of celers_fast: the same calls for both twins, on inputs made once."""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from uuid import UUID

from celers.errors import DeserializationError
from celers.model.task import BrokerMessage, SerializedTask, TaskMetadata
from celers_fast.compression import compress_payload

SUFFIX = {"c": "_c", "python": "_py"}


@dataclass(frozen=True)
class Case:
    """One measured call: `function` of `topic` with these arguments."""

    topic: str
    function: str
    about: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        """How the case is called in tables."""
        return f"{self.function} ({self.about})" if self.about else self.function

    def call(self, module: ModuleType) -> Callable[[], object]:
        """Return the call without arguments, for one implementation."""
        function = getattr(module, self.function)
        args, kwargs = self.args, self.kwargs
        if kwargs:
            return lambda: function(*args, **kwargs)
        return lambda: function(*args)


def implementations(topic: str) -> dict[str, ModuleType]:
    """Return the implementations that are there, the compiled one first."""
    return {
        name: import_module(f"celers_fast._{topic}{suffix}")
        for name, suffix in SUFFIX.items()
        if find_spec(f"celers_fast._{topic}{suffix}")
    }


_rng = random.Random(7)
_now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
_payload = bytes(_rng.randrange(256) for _ in range(100))
_json = json.dumps([[{"order": n, "customer": f"customer {n % 17}", "total": n * 1.25} for n in range(60)], {}])
_args = json.dumps([["a path to something", 12345], {"retries": 3}])


def _row(number: int, **changes: bytes | None) -> tuple[bytes | None, ...]:
    values = {
        "seq": str(1_000_000 + number).encode(),
        "id": _rng.randbytes(16),
        "task_name": b"shop.orders.send_confirmation",
        "payload": _payload,
        "payload_encoding": b"raw",
        "priority": b"0",
        "retry_count": b"0",
        "max_retries": b"3",
        "timeout_secs": None,
        "created_at": f"2026-01-02 03:04:05.{number:06}".encode(),
        "started_at": b"2026-01-02 03:04:06.123456",
        "deliveries": b"1",
        "group_id": None,
        "chord_id": None,
        "parent_task_id": None,
        "metadata": None,
        "isolated": b"0",
        **changes,
    }
    return tuple(values.values())


_types = (TaskMetadata, SerializedTask, BrokerMessage, DeserializationError)
_rows = [_row(n) for n in range(100)]
_rows_with_metadata = [_row(n, metadata=b'{"customer_id": 5}', group_id=b"g", timeout_secs=b"60") for n in range(100)]
_tasks = [
    (UUID(int=_rng.getrandbits(128)), 1, "shop.orders.send", _payload, "raw", 0, 0, 3, None, _now, None)
    for _ in range(1000)
]
_alike = ([task[0] for task in _tasks], b",1,'shop.orders.send',", [_payload] * 1000, b",UTC_TIMESTAMP(6)")
_large = [(1, _rng.randbytes(100_000)) for _ in range(5)]
_floats = array("d", [_rng.expovariate(1.0) for _ in range(10_000)])
_few = [_rng.random() for _ in range(20)]
_attempts = [n % 12 for n in range(1000)]
_us = [_rng.random() for _ in range(1000)]
_text = _json.encode()
_texts = [_text] * 100
_packed = compress_payload(_text)


def _case(topic: str, function: str, about: str, *args: Any, **kwargs: Any) -> Case:
    return Case(topic, function, about, args, kwargs)


_INSERT = b"INSERT INTO celers_tasks (a, b, c) VALUES "

CASES = [
    _case("params", "literal", "100 bytes", _payload),
    _case("params", "literals", "1000 ints", list(range(10**6, 10**6 + 1000))),
    _case("params", "build_values", "1000 tasks of 100 bytes", _INSERT, _tasks, max_bytes=1 << 24),
    _case("params", "build_tasks", "1000 tasks of 100 bytes", _INSERT, *_alike, max_bytes=1 << 24),
    _case("params", "build_values", "5 payloads of 100 kB", _INSERT, _large, max_bytes=1 << 24),
    _case("params", "build_values", "the same, escaped", _INSERT, _large, max_bytes=1 << 24, escaped=True),
    _case("rows", "decode_claims", "1 row", _rows[:1], 7, _types),
    _case("rows", "decode_claims", "100 rows", _rows, 7, _types),
    _case("rows", "decode_claims", "100 rows with metadata", _rows_with_metadata, 7, _types),
    _case("rows", "make_receipt", "", 1_000_000, 7, 1),
    _case("rows", "parse_receipt", "", "00000000000f42400000000700000001"),
    _case("rows", "parse_datetime", "", b"2026-01-02 03:04:05.123456"),
    _case("ids", "uuid7", ""),
    _case("ids", "uuid7_many", "1000", 1000),
    _case("backoff", "delay", "", 3, 4, 1.0, 2.0, 300.0, 0.5),
    _case("backoff", "delays", "1000", 3, _attempts, 1.0, 2.0, 300.0, _us),
    _case("percentiles", "percentile", "20 values", _few, 95),
    _case("percentiles", "percentile", "10,000 doubles", _floats, 95),
    _case("percentiles", "percentiles", "3 of 10,000 doubles", _floats, (50, 95, 99)),
    _case("compression", "compress_payload", "100 bytes, stored raw", _payload),
    _case("compression", "compress_payload", f"{len(_text)} bytes of JSON", _text),
    _case("compression", "compress_payloads", f"100 of {len(_text)} bytes", _texts),
    _case("compression", "decompress_payload", f"{len(_text)} bytes", _packed),
]

EXEMPT = {"compress_payload", "compress_payloads", "decompress_payload"}
"""Functions whose time is zlib's own, the same in both twins."""


def parameters(topic: str) -> list[tuple[str, str, Callable[[], object]]]:
    """Return (group, implementation, call) of every case of a topic."""
    return [
        (case.name, implementation, case.call(module))
        for case in CASES
        if case.topic == topic
        for implementation, module in implementations(topic).items()
    ]
