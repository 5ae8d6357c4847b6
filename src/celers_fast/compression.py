"""Payload compression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celers_fast._select import COMPILED_COMPRESSION

if TYPE_CHECKING or not COMPILED_COMPRESSION:
    from celers_fast._compression_py import compress_payload, compress_payloads, decompress_payload
else:
    from celers_fast._compression_c import compress_payload, compress_payloads, decompress_payload

__all__ = ["compress_payload", "compress_payloads", "decompress_payload"]
