"""Hot functions of celers, each in C (Cython) and in Python with equal results.

`IMPL` says which is in use; the environment variable ``CELERS_IMPL`` (``c`` or ``python``) forces one.
"""

from __future__ import annotations

from celers_fast._select import IMPL
from celers_fast.backoff import delay, delays
from celers_fast.compression import compress_payload, compress_payloads, decompress_payload
from celers_fast.ids import uuid7, uuid7_many
from celers_fast.params import Raw, build_values, literal, literals
from celers_fast.percentiles import percentile, percentiles
from celers_fast.rows import CLAIM_COLUMNS, decode_claims, make_receipt, parse_datetime, parse_receipt

__all__ = [
    "CLAIM_COLUMNS",
    "IMPL",
    "Raw",
    "build_values",
    "compress_payload",
    "compress_payloads",
    "decode_claims",
    "decompress_payload",
    "delay",
    "delays",
    "literal",
    "literals",
    "make_receipt",
    "parse_datetime",
    "parse_receipt",
    "percentile",
    "percentiles",
    "uuid7",
    "uuid7_many",
]
