"""Versions of the schema."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from celers.model.base import Record

__all__ = ["MigrationInfo", "MigrationVerification"]


@dataclass(frozen=True, slots=True)
class MigrationInfo(Record):
    """One applied migration; `checksum` is the SHA-256 of its text in 64 hex digits."""

    version: str
    name: str
    applied_at: datetime
    checksum: str


@dataclass(frozen=True, slots=True)
class MigrationVerification(Record):
    """Comparison of the database with the migrations of this version.

    Parameters
    ----------
    is_complete : bool
        True when no required migration is missing.
    applied_count, missing_count : int
        Numbers of the next two.
    applied_migrations, missing_migrations : tuple of str
        Versions.
    schema_valid : bool
        True when the tables and columns are what the migrations say.
    problems : tuple of str
        What differs, one text each.
    """

    is_complete: bool
    applied_count: int
    missing_count: int
    applied_migrations: tuple[str, ...] = ()
    missing_migrations: tuple[str, ...] = ()
    schema_valid: bool = True
    problems: tuple[str, ...] = ()
