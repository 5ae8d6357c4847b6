"""The version of the schema: apply, list and verify migrations.

Statements of DDL commit by themselves and cannot be rolled back. Therefore every statement of a migration
file is repeatable: tables are created if they do not exist, views and procedures are replaced, and an index
that exists is left out. A migration is recorded after its last statement, so a run that was interrupted is
completed by the next one. All of it happens under a named lock of the server; each packet first makes sure
that its connection still holds the lock, because a connection that was lost in between has lost the lock
with it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TypeVar

from celers.components.base import Component
from celers.errors import BrokerError, CelersError, MigrationError
from celers.model.migration import MigrationInfo, MigrationVerification
from celers.operation import Async, Packet, Steps, Sync, operation
from celers.sql import Raw
from celers.sql.ddl import DropProcedure, Index, Procedure, SchemaObject, Table, View, describe
from celers.sql.migration_files import MigrationFile, Role, packaged
from celers.sql.splitter import Statement
from celers_fast.rows import parse_datetime

__all__ = ["Migrations"]

M = TypeVar("M", Sync, Async)

_log = logging.getLogger("celers.migrations")

LOCK_WAIT_SECS = 60.0
"""How long `migrate` waits for another one."""

# One look at the lock takes less than the read timeout of a connection.
_LOCK_STEP_SECS = 1

_PRIVILEGES: Mapping[type[SchemaObject], str] = {
    Table: "CREATE",
    Index: "INDEX",
    View: "CREATE VIEW and DROP",
    Procedure: "CREATE ROUTINE",
    DropProcedure: "ALTER ROUTINE",
}

# Access denied: to the database, to a table, to an operation, to a routine.
_DENIED = frozenset({1044, 1142, 1227, 1370})
_NOT_HELD = 1690


def _text(value: bytes | None) -> str:
    return (value or b"").decode()


class Migrations(Component[M]):
    """Schema version."""

    attribute = "migrations"

    @operation("plain", needs_queue=False, slow=True)
    def migrate(self, *, reporting_indexes: bool | None = None) -> Steps[list[str]]:
        """Bring the schema to this version and return the versions that were applied.

        Safe to call at any time, also by several processes at once, and again after an interruption.

        Parameters
        ----------
        reporting_indexes : bool, optional
            True adds the optional indexes of migration 003, False removes them, None leaves them as they are.
            They make reports faster, and enqueue and claims much slower.

        Returns
        -------
        list of str
            Versions in order; empty when nothing was missing.

        Raises
        ------
        MigrationError
            A statement failed (with version and number of the statement), or another process holds the lock
            for longer than 60 seconds.
        """
        lock = yield from self._lock()
        try:
            versions = yield from self._apply(lock, reporting_indexes)
        except Exception:
            with suppress(CelersError):
                yield Packet(self.core.sql("migrations", "unlock", name=lock))
            raise
        yield Packet(self.core.sql("migrations", "unlock", name=lock))
        return versions

    @operation("read", needs_queue=False)
    def applied(self) -> Steps[list[MigrationInfo]]:
        """Return the recorded migrations by version; none when the schema does not exist."""
        recorded = yield from self._recorded()
        return list(recorded.values())

    @operation("read", needs_queue=False)
    def verify(self) -> Steps[MigrationVerification]:
        """Compare the database with the migration files of this version.

        Finds missing tables, columns, indexes, views and procedures, and migrations that were changed after
        they had been applied. The optional indexes of migration 003 are compared only when they are recorded.
        """
        recorded = yield from self._recorded()
        files = packaged()
        expected = [
            file
            for file in files
            if file.role in (Role.BOOTSTRAP, Role.REQUIRED) or (file.role is Role.OPTIONAL and file.version in recorded)
        ]
        problems = [text for file in files if (text := _changed(file, recorded)) is not None]
        schema = yield from self._schema()
        for file in expected:
            for statement in file.statements(self.core.prefix):
                made = describe(statement.text)
                if made is not None:
                    problems += schema.problems(made)
        missing = tuple(
            file.version for file in expected if file.role is Role.REQUIRED and file.version not in recorded
        )
        return MigrationVerification(
            is_complete=not missing and not problems,
            applied_count=len(recorded),
            missing_count=len(missing),
            applied_migrations=tuple(recorded),
            missing_migrations=missing,
            schema_valid=not problems,
            problems=tuple(problems),
        )

    def _lock(self) -> Steps[str]:
        """Take the lock of this database and prefix and return its name."""
        found = yield Packet(self.core.sql("migrations", "database"))
        what = f"{_text(found[0].rows[0][0])}\0{self.core.prefix}"
        # Locks are server-wide, 64 characters at most, and blind to case on MySQL: hence the hash.
        lock = f"celers_migrate_{hashlib.sha256(what.encode()).hexdigest()[:40]}"
        deadline = time.monotonic() + LOCK_WAIT_SECS
        while True:
            answer = yield Packet(self.core.sql("migrations", "lock", name=lock, secs=_LOCK_STEP_SECS))
            if answer[0].rows[0][0] == b"1":
                return lock
            if time.monotonic() >= deadline:
                raise MigrationError(
                    f"another process has been migrating this database for {LOCK_WAIT_SECS:.0f} s:"
                    " wait until it has ended, then migrate again",
                    retryable=True,
                )

    def _apply(self, lock: str, reporting_indexes: bool | None) -> Steps[list[str]]:
        files = packaged()
        for file in files:
            if file.role is Role.BOOTSTRAP:
                yield from self._run(file, lock)
        recorded = yield from self._recorded()
        versions: list[str] = []
        for file in files:
            if file.role in (Role.BOOTSTRAP, Role.GUIDE):
                continue
            if file.version in recorded:
                changed = _changed(file, recorded)
                if changed is not None:
                    _log.warning("%s; nothing was applied again", changed)
            elif file.role is Role.REQUIRED or reporting_indexes:
                yield from self._run(file, lock)
                record = self.core.sql(
                    "migrations", "record", version=file.version, name=file.name, checksum=file.checksum
                )
                yield self._packet(lock, record)
                versions.append(file.version)
                _log.info("migration %s_%s was applied", file.version, file.name)
            if file.role is Role.OPTIONAL and reporting_indexes is False:
                yield from self._remove(file, lock)
        return versions

    def _packet(self, lock: str, statement: bytes) -> Packet:
        """Put a statement behind the check that the lock is still ours."""
        return Packet(
            self.core.sql("migrations", "held", name=lock),
            statement,
            errors={
                (0, _NOT_HELD): lambda: MigrationError(
                    "the connection was lost during a migration: migrate again to complete it", retryable=True
                )
            },
        )

    def _run(self, file: MigrationFile, lock: str) -> Steps[None]:
        """Run the statements of one file."""
        for statement in file.statements(self.core.prefix):
            made = describe(statement.text)
            try:
                if not (yield from self._left_out(made)):
                    yield self._packet(lock, statement.text.encode())
            except MigrationError:
                raise
            except CelersError as error:
                raise _failed(file, statement, made, error) from error

    def _left_out(self, made: SchemaObject | None) -> Steps[bool]:
        """Is a statement left out because of what exists?"""
        if isinstance(made, Index):
            return (yield from self._has_index(made))
        if isinstance(made, DropProcedure):
            # Dropping nothing would ask for ALTER ROUTINE, which an account that creates it gets with that.
            found = yield Packet(self.core.sql("migrations", "procedure_exists", name=made.name))
            return not found[0].rows
        return False

    def _has_index(self, index: Index) -> Steps[bool]:
        found = yield Packet(self.core.sql("migrations", "index_exists", table=index.table, name=index.name))
        return bool(found[0].rows)

    def _remove(self, file: MigrationFile, lock: str) -> Steps[None]:
        """Remove the indexes of an optional file and its record; the record goes first.

        An interruption leaves indexes that are not recorded, which the next call removes.
        """
        yield self._packet(lock, self.core.sql("migrations", "forget", version=file.version))
        for statement in file.statements(self.core.prefix):
            index = describe(statement.text)
            if isinstance(index, Index) and (yield from self._has_index(index)):
                drop = self.core.sql(
                    "migrations",
                    "drop_index",
                    name=Raw(index.name.encode()),
                    table=Raw(index.table.encode()),
                )
                try:
                    yield self._packet(lock, drop)
                except MigrationError:
                    raise
                except CelersError as error:
                    raise _failed(file, statement, index, error) from error

    def _recorded(self) -> Steps[dict[str, MigrationInfo]]:
        """Return the recorded migrations by version, in order."""
        found = yield Packet(self.core.sql("migrations", "tables", prefix=self.core.prefix))
        name = f"{self.core.prefix}migrations".lower()
        if not any(_text(row[0]) == name for row in found[0].rows):
            return {}
        found = yield Packet(self.core.sql("migrations", "recorded"))
        return {
            _text(version): MigrationInfo(
                version=_text(version),
                name=_text(name),
                applied_at=parse_datetime(applied_at or b""),
                checksum=_text(checksum),
            )
            for version, name, checksum, applied_at in found[0].rows
        }

    def _schema(self) -> Steps[_Schema]:
        prefix = self.core.prefix
        tables, columns, indexes, procedures = yield Packet(
            *(self.core.sql("migrations", name, prefix=prefix) for name in ("tables", "columns", "indexes")),
            self.core.sql("migrations", "procedures"),
        )
        schema = _Schema()
        schema.tables.update(_text(row[0]) for row in tables.rows)
        schema.columns.update((_text(row[0]), _text(row[1])) for row in columns.rows)
        schema.procedures.update(_text(row[0]) for row in procedures.rows)
        for row in indexes.rows:
            schema.indexes.setdefault((_text(row[0]), _text(row[1])), []).append(_text(row[2]))
        return schema


class _Schema:
    """What a database has: names of tables in lower case, see the statement `tables`."""

    def __init__(self) -> None:
        self.tables: set[str] = set()
        self.columns: set[tuple[str, str]] = set()
        self.indexes: dict[tuple[str, str], list[str]] = {}
        self.procedures: set[str] = set()

    def problems(self, made: SchemaObject) -> list[str]:
        """Compare with what a statement creates."""
        match made:
            case Table():
                table = made.name.lower()
                if table not in self.tables:
                    return [f"table {made.name} is missing"]
                return [
                    f"column {made.name}.{column} is missing"
                    for column in made.columns
                    if (table, column) not in self.columns
                ] + [
                    text
                    for name, columns in made.indexes.items()
                    if (text := self._index(Index(name, made.name, columns))) is not None
                ]
            case Index():
                if made.table.lower() not in self.tables:
                    return []
                text = self._index(made)
                return [] if text is None else [text]
            case View():
                return [] if made.name.lower() in self.tables else [f"view {made.name} is missing"]
            case DropProcedure():
                return []
            case Procedure():
                if made.name.lower() in self.procedures:
                    return []
                return [f"procedure {made.name} is missing, or this account has no right to see it"]

    def _index(self, index: Index) -> str | None:
        found = self.indexes.get((index.table.lower(), index.name))
        if found is None:
            return f"index {index.name} of {index.table} is missing"
        # Partitions need the column of the time at the end of every unique key.
        if tuple(found[: len(index.columns)]) != index.columns:
            return (
                f"index {index.name} of {index.table} is on ({', '.join(found)})"
                f" instead of ({', '.join(index.columns)})"
            )
        return None


def _changed(file: MigrationFile, recorded: Mapping[str, MigrationInfo]) -> str | None:
    """Say that a file differs from what was applied."""
    info = recorded.get(file.version)
    if info is None or info.checksum == file.checksum:
        return None
    return (
        f"migration {file.version}_{file.name} was changed after it had been applied:"
        f" checksum {info.checksum} is recorded, the file has {file.checksum}"
    )


def _failed(file: MigrationFile, statement: Statement, made: SchemaObject | None, error: CelersError) -> MigrationError:
    """Say which statement failed and what to do."""
    errno = getattr(error, "errno", None) or getattr(error.__cause__, "errno", None)
    if errno in _DENIED and made is not None:
        privilege = _PRIVILEGES[type(made)]
        advice = f"grant the privilege {privilege} on the database to this account, then migrate again"
    else:
        advice = "remove the cause, then migrate again to complete it"
    return MigrationError(
        f"migration {file.version}_{file.name}, statement {statement.number} (line {statement.line}) failed:"
        f" {error}; {advice}",
        version=file.version,
        statement=statement.number,
        errno=errno,
        outcome_unknown=isinstance(error, BrokerError) and error.outcome_unknown,
        retryable=error.retryable,
    )
