"""The file of a ledger: its tables, and records in and out of them.

This module knows nothing of what the records mean: `chain` reads them, `ledger` decides. What makes a
transaction all or nothing, and which files are ours, is `_sqlite`'s.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedsec._sqlite import Layout, RecordFile
from fedsec.accounting.codec import canonical, parse
from fedsec.errors import InvalidArgumentError, InvalidTypeError, LedgerError

_COLUMNS = ("number", "time", "event", "count", "purpose", "hash")
_LAYOUT = Layout(
    what="ledger",
    application=0x66534C67,  # "fSLg"
    version=1,
    schema=(
        "CREATE TABLE entries (number INTEGER PRIMARY KEY, time TEXT NOT NULL, event TEXT NOT NULL, "
        "count INTEGER NOT NULL, purpose TEXT NOT NULL, hash TEXT NOT NULL)",
        "CREATE TABLE terms (text TEXT NOT NULL)",
    ),
    error=LedgerError,
)


class LedgerFile:
    """A path, and the transactions on it.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Not a path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = RecordFile(path, _LAYOUT)

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._file.path

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """One state of the file, whatever others write meanwhile; `LedgerError` if it holds no ledger."""
        with self._file.reading() as connection:
            yield Transaction(connection)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        """One state of the file that nobody else can change until the block ends, which commits."""
        with self._file.writing() as connection:
            yield Transaction(connection)

    def create(self, terms: Mapping[str, object]) -> None:
        """Write the terms of a new ledger, unless there is one by now; a file that is new is mode 0600."""
        text = canonical(terms)
        self._file.create(lambda connection: connection.execute("INSERT INTO terms VALUES (?)", (text,)))

    def is_blank(self) -> bool:
        """Whether there is no file, or one without anything in it."""
        return self._file.is_blank()


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


def _parsed(name: str, text: object) -> object:
    try:
        return parse(text)
    except (InvalidArgumentError, InvalidTypeError) as error:
        raise LedgerError(f"{name} is not as it was recorded: {error}") from None
