"""Decoding of claimed rows, receipts and stored times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celers_fast._rows_py import CLAIM_COLUMNS, RESERVED_KEYS
from celers_fast._select import IMPL

if TYPE_CHECKING or IMPL == "python":
    from celers_fast._rows_py import decode_claims, make_receipt, parse_datetime, parse_receipt
else:
    from celers_fast._rows_c import decode_claims, make_receipt, parse_datetime, parse_receipt

__all__ = ["CLAIM_COLUMNS", "RESERVED_KEYS", "decode_claims", "make_receipt", "parse_datetime", "parse_receipt"]
