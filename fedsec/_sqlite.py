"""Files of records in SQLite: transactions that are all or nothing, on files that are certainly ours.

Each transaction has its own connection. So nothing is carried across a fork or between threads, and as the
last connection closes, SQLite folds its write-ahead log into the file, which can then be copied. A commit
returns when the disk has the data (`synchronous=FULL`); a process killed before it leaves nothing behind.

This module knows nothing of what the records mean.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedsec.errors import FedsecError, InvalidArgumentError, InvalidTypeError

_PATIENCE = 60.0  # seconds to wait for other processes


class _Gate:
    """Who of this process has files open: one thread opens at a time, and nobody forks meanwhile.

    Closing a file drops its locks in all of a process [H2C], so nothing else may happen while one is opened;
    and a child would inherit what SQLite remembers of the locks of threads that it does not have.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._shut, after_in_parent=self._reopen, after_in_child=self._renew)

    @contextlib.contextmanager
    def connected(self, connect: Callable[[], sqlite3.Connection]) -> Iterator[sqlite3.Connection]:
        """A connection, closed at the end of the block."""
        with self.changed:
            self.changed.wait_for(lambda: not self.forks, timeout=_PATIENCE)
            connection = connect()
            self.open += 1
        try:
            with contextlib.closing(connection):
                yield connection
        finally:
            with self.changed:
                self.open -= 1
                self.changed.notify_all()

    def _shut(self) -> None:
        self.changed.acquire()
        self.forks += 1
        # Not for ever: a thread that forks within its own transaction waits for itself.
        self.changed.wait_for(lambda: self.open == 0, timeout=_PATIENCE)

    def _reopen(self) -> None:
        self.forks -= 1
        self.changed.notify_all()
        self.changed.release()

    def _renew(self) -> None:
        self.changed = threading.Condition()
        self.open = self.forks = 0


_GATE = _Gate()


@dataclass(frozen=True)
class Layout:
    """What tells a kind of file from all others.

    Parameters
    ----------
    what : str
        The word for it in error messages.
    application, version : int
        In the header of the file.
    schema : tuple of str
        The statements that make its tables; with a trigger more, say, it is another file.
    error : class
        What is raised for whatever is wrong with the file.
    """

    what: str
    application: int
    version: int
    schema: tuple[str, ...]
    error: type[FedsecError]


class RecordFile:
    """A path, and the transactions on it.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Not a path.
    """

    def __init__(self, path: str | os.PathLike[str], layout: Layout) -> None:
        self._layout = layout
        try:
            self.path = Path(path).absolute()
        except TypeError:
            raise InvalidTypeError(f"path must be a string or a path, got {path!r}") from None
        if "\0" in str(path):
            raise InvalidArgumentError(f"path must hold no null character, got {path!r}")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One state of the file, whatever others write meanwhile; the layout's error if it is a stranger."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One state of the file that nobody else can change until the block ends, which commits."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def create(self, fill: Callable[[sqlite3.Connection], object] | None = None) -> None:
        """Make the tables and fill them, unless they are there by now; a file that is new is mode 0600."""
        with self._errors_named():
            self._touch()
            with self._connection() as connection:
                connection.execute("BEGIN EXCLUSIVE")
                if _is_blank(connection):
                    self._initialize(connection, fill)
                connection.execute("COMMIT")

    def is_blank(self) -> bool:
        """Whether there is no file, or one without anything in it."""
        if not os.path.lexists(self.path):
            return True
        with self._errors_named(), self._connection() as connection:
            return _is_blank(connection)

    def _touch(self) -> None:
        with _GATE.changed, contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            if os.name == "posix":  # what a commit promises to keep must also keep its name
                folder = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def _initialize(
        self, connection: sqlite3.Connection, fill: Callable[[sqlite3.Connection], object] | None
    ) -> None:
        for statement in self._layout.schema:
            connection.execute(statement)
        if fill is not None:
            fill(connection)
        connection.execute(f"PRAGMA application_id={self._layout.application}")
        connection.execute(f"PRAGMA user_version={self._layout.version}")

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._errors_named(), self._connection() as connection:
            self._refuse_strangers(connection)
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise self._error(f"the file system has no room for a write-ahead log (mode {mode!r})")
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Connect to a regular file that is there, by its only name: another would have its own log [H2C]."""
        status = self.path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise self._error("no regular file, or one with several names (hard links)")
        uri = f"{self.path.as_uri()}?mode=rw"
        with _GATE.connected(
            lambda: sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA trusted_schema=OFF")
            yield connection

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Turn errors of the file into the layout's error, with the path."""
        try:
            yield
        # SQLite quotes damaged text in its errors, which then may be no UTF-8.
        except (sqlite3.Error, OSError, UnicodeDecodeError, self._layout.error) as error:
            raise self._error(f"{self.path}: {error}") from error

    def _refuse_strangers(self, connection: sqlite3.Connection) -> None:
        layout = self._layout
        if _identity(connection) != (layout.application, layout.version, sorted(layout.schema)):
            raise self._error(
                f"it holds no {layout.what}, or one of a format that this version does not know"
            )

    def _error(self, message: str) -> FedsecError:
        return self._layout.error(message)


def _is_blank(connection: sqlite3.Connection) -> bool:
    return _identity(connection) == (0, 0, [])


def _identity(connection: sqlite3.Connection) -> tuple[int, int, list[str]]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    statements = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
    return application, version, sorted(str(sql) for (sql,) in statements)
