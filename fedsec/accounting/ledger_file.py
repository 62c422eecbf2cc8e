"""The file of a ledger: records in SQLite, in transactions that are all or nothing.

Each transaction has its own connection. So nothing is carried across a fork or between threads, and as the
last connection closes, SQLite folds its write-ahead log into the file, which can then be copied. A commit
returns when the disk has the data (`synchronous=FULL`); a process killed before it leaves nothing behind.

This module knows nothing of what the records mean: `chain` reads them, `ledger` decides.

References
----------
[WAL]   SQLite, Write-Ahead Logging, https://sqlite.org/wal.html
[H2C]   SQLite, How To Corrupt An SQLite Database File, https://sqlite.org/howtocorrupt.html
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedsec.accounting.codec import canonical, parse
from fedsec.errors import InvalidArgumentError, InvalidTypeError, LedgerError

_COLUMNS = ("number", "time", "event", "count", "purpose", "hash")
_SCHEMA = (
    "CREATE TABLE entries (number INTEGER PRIMARY KEY, time TEXT NOT NULL, event TEXT NOT NULL, "
    "count INTEGER NOT NULL, purpose TEXT NOT NULL, hash TEXT NOT NULL)",
    "CREATE TABLE terms (text TEXT NOT NULL)",
)
_APPLICATION = 0x66534C67  # "fSLg", in the header of the file
_FORMAT = 1
_PATIENCE = 60.0  # seconds to wait for other processes
_OPENING = (
    threading.Lock()
)  # closing a file drops its locks in all of a process [H2C]: never while opening it


class LedgerFile:
    """A path, and the transactions on it.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Not a path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self.path = Path(path).absolute()
        except TypeError:
            raise InvalidTypeError(f"path must be a string or a path, got {path!r}") from None
        if "\0" in str(path):
            raise InvalidArgumentError(f"path must hold no null character, got {path!r}")

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """One state of the file, whatever others write meanwhile; `LedgerError` if it holds no ledger."""
        with self._transaction("BEGIN") as connection:
            yield Transaction(connection)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        """One state of the file that nobody else can change until the block ends, which commits."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield Transaction(connection)

    def create(self, terms: Mapping[str, object]) -> None:
        """Write the terms of a new ledger, unless there is one by now; a file that is new is mode 0600."""
        with self._errors_named():
            with _OPENING, contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            with self._connection() as connection:
                connection.execute("BEGIN EXCLUSIVE")
                if _is_blank(connection):
                    _initialize(connection, terms)
                connection.execute("COMMIT")

    def is_blank(self) -> bool:
        """Whether there is no file, or one without anything in it."""
        if not os.path.lexists(self.path):
            return True
        with self._errors_named(), self._connection() as connection:
            return _is_blank(connection)

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._errors_named(), self._connection() as connection:
            _refuse_strangers(connection)
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise LedgerError(f"the file system has no room for a write-ahead log (mode {mode!r})")
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Connect to a regular file that is there, by its only name: another would have its own log [H2C]."""
        status = self.path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise LedgerError("no regular file, or one with several names (hard links)")
        uri = f"{self.path.as_uri()}?mode=rw"
        with _OPENING:
            connection = sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None)
        with contextlib.closing(connection):
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA trusted_schema=OFF")
            yield connection

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Turn errors of the file into a `LedgerError` that names it."""
        try:
            yield
        except (sqlite3.Error, OSError, LedgerError) as error:
            raise LedgerError(f"{self.path}: {error}") from error


class Transaction:
    """What can be read and written in a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def terms(self) -> object:
        """Return the text of the terms."""
        rows = self._connection.execute("SELECT text FROM terms LIMIT 2").fetchall()
        if len(rows) != 1:
            raise LedgerError(f"it must have one record of terms, and has {len(rows) or 'none'}")
        return rows[0][0]

    def records(self, first: int = -(2**63)) -> list[dict[str, Any]]:
        """Return the entries from number `first` on as plain values; by default really all."""
        query = f"SELECT {', '.join(_COLUMNS)} FROM entries WHERE number >= ? ORDER BY number"  # noqa: S608
        rows = [dict(zip(_COLUMNS, row, strict=True)) for row in self._connection.execute(query, (first,))]
        return [row | {"event": _parsed(f"entry {row['number']}", row["event"])} for row in rows]

    def add(self, record: dict[str, Any]) -> None:
        """Write one entry."""
        row = record | {"event": canonical(record["event"])}
        places = ", ".join(f":{column}" for column in _COLUMNS)
        self._connection.execute(f"INSERT INTO entries VALUES ({places})", row)  # noqa: S608

    def check_pages(self) -> None:
        """Raise `LedgerError` if SQLite finds its own structures damaged."""
        (found,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise LedgerError(f"the file is damaged: {found}")


def _is_blank(connection: sqlite3.Connection) -> bool:
    return _identity(connection) == (0, 0, [])


def _refuse_strangers(connection: sqlite3.Connection) -> None:
    application, version, schema = _identity(connection)
    if application != _APPLICATION or version != _FORMAT or schema != sorted(_SCHEMA):
        raise LedgerError("it holds no ledger, or one of a format that this version does not know")


def _identity(connection: sqlite3.Connection) -> tuple[int, int, list[str]]:
    """What tells a ledger from other files of SQLite; with a trigger more, say, it is another one."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return (
        application,
        version,
        sorted(str(sql) for (sql,) in connection.execute("SELECT sql FROM sqlite_master")),
    )


def _initialize(connection: sqlite3.Connection, terms: Mapping[str, object]) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO terms VALUES (?)", (canonical(terms),))
    connection.execute(f"PRAGMA application_id={_APPLICATION}")
    connection.execute(f"PRAGMA user_version={_FORMAT}")


def _parsed(name: str, text: object) -> object:
    try:
        return parse(text)
    except (InvalidArgumentError, InvalidTypeError) as error:
        raise LedgerError(f"{name} is not as it was recorded: {error}") from None
