"""What a client must not forget: which sessions it started, and which of its messages it let out.

A session id used twice, or one step answered twice, would let out both kinds of share about one peer, or
one vector under masks that are used up. So a client claims each message here before a byte of it leaves; the
claim is on the disk when `claim` returns, and is granted once, whoever asks: another thread, another process,
the same client after a crash. What was claimed and then lost in a crash stays claimed: the session goes on
without that message, as if the client had dropped out.

What no file can do: notice that it was put back to an earlier state. Whoever restores a store from a backup,
or runs two copies of one machine, gives a client the right to answer twice. Rolling the store back is outside
the model; start a client whose store was lost or restored under a new identity.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from fedsec._checks import whole
from fedsec._sqlite import Layout, RecordFile
from fedsec.errors import InvalidArgumentError, InvalidTypeError, ProtocolError, StoreError

SESSION_BYTES = 32
MAX_IDENTITY_BYTES = 64
MAX_ROUND_ID = 2**64 - 1
MAX_STEPS = 64  # in one session; the protocol has a handful
_STEP = re.compile(r"[a-z][a-z0-9_]{0,31}")

_LAYOUT = Layout(
    what="session store",
    application=0x66535374,  # "fSSt"
    version=1,
    # The round is 8 bytes, big-endian: SQLite's integers end at 2^63, and bytes compare in the same order.
    schema=(
        "CREATE TABLE sessions (identity BLOB NOT NULL, session BLOB NOT NULL, round BLOB NOT NULL, "
        "steps TEXT NOT NULL, ended INTEGER NOT NULL, PRIMARY KEY (identity, session)) WITHOUT ROWID",
        "CREATE INDEX rounds ON sessions (identity, round)",
    ),
    error=StoreError,
)


@dataclass(frozen=True)
class _Session:
    """One session of one identity: the steps that were claimed, in their order, and whether it is over."""

    round_id: int
    steps: tuple[str, ...] = ()
    ended: bool = False


class _Rows(Protocol):
    """The sessions on record, within one transaction."""

    def get(self, identity: bytes, session_id: bytes) -> _Session | None:
        """One session."""

    def put(self, identity: bytes, session_id: bytes, session: _Session) -> None:
        """Writes one session over what was there."""

    def latest(self, identity: bytes) -> tuple[int, int]:
        """The highest round that this identity started, and how many sessions it had; (-1, 0) for none."""

    def claimed(self, identity: bytes, round_id: int, step: str) -> bool:
        """Whether any session of a round has had this step."""

    def ever_claimed(self, step: str) -> bool:
        """Whether any session has had this step."""

    def started(self, session_id: bytes) -> bool:
        """Whether any identity has started this session."""


class _Table(Protocol):
    """Where the rows are kept."""

    def writing(self) -> contextlib.AbstractContextManager[_Rows]:
        """A transaction that nobody gets between; as durable as the table is, once the block has ended."""


class SessionStore:
    """The memory that a client's promise "once" rests on.

    Parameters
    ----------
    path : str or path
        A file of its own, on a local disk (network file systems do not lock reliably); made if it is not
        there, with mode 0600, and opened only if it is a store and nobody else can write it. One file serves
        any number of identities, processes and threads. It keeps a row of some 200 bytes for every session,
        for good.

    Raises
    ------
    StoreError
        At any time: the file is foreign, damaged, gone, locked for a minute, or cannot be written. Then
        nothing is granted, though the disk may hold the claim: do not try the same claim again.
    InvalidTypeError, InvalidArgumentError
        A path that is none.

    Guarantees
    ----------
    A claim that has returned is on the disk and is never granted again, after a kill at any instant too. Of
    any number of threads and processes that claim the same step of the same session, exactly one is granted
    it. Nothing is carried across a fork. Not covered: a file that is put back to an earlier state.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        table = _FileTable(path)
        table.prepare()
        self._table: _Table = table

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SessionStore:
        """A store that must be there already; `StoreError` if it is gone, or empty.

        A new one in its place would allow again what it forbids.
        """
        table = _FileTable(path)
        table.require_made()
        return cls(path)

    @classmethod
    def in_memory(cls) -> SessionStore:
        """A store that ends with the process, for simulations and tests: the same rules without a file.

        It grants nothing in a forked process and can be neither pickled nor copied. A client of a real
        deployment needs a file: after a crash this store has forgotten all.
        """
        store = cls.__new__(cls)
        store._table = _MemoryTable()
        return store

    def __repr__(self) -> str:
        return f"SessionStore({self._table!r})"

    def open_session(self, identity: bytes, session_id: bytes, round_id: int, max_attempts: int) -> None:
        """Records that an identity starts a session; on the disk when this returns.

        Parameters
        ----------
        identity : 1 to 64 bytes
            Whose session it is, such as its Ed25519 public key. Identities do not share sessions.
        session_id : 32 bytes
        round_id : int in [0, 2**64 - 1]
        max_attempts : int of at least 1
            How many sessions one round may have: the first, and its restarts.

        Raises
        ------
        ProtocolError
            The identity has used this session id before, in whatever round; or it has started a later round;
            or the round has had `max_attempts` sessions. Nothing has changed.
        StoreError, InvalidTypeError, InvalidArgumentError
        """
        _require_key(identity, session_id)
        number = whole("round_id", round_id, minimum=0, maximum=MAX_ROUND_ID)
        allowed = whole("max_attempts", max_attempts, minimum=1)
        with self._table.writing() as rows:
            if rows.get(identity, session_id) is not None:
                raise ProtocolError(f"session {session_id.hex()} was started before; an id is used once")
            latest, attempts = rows.latest(identity)
            if number < latest:
                raise ProtocolError(f"round {number} is over: this identity has started round {latest}")
            if number == latest and attempts >= allowed:
                raise ProtocolError(f"round {number} has had {attempts} sessions of at most {allowed}")
            rows.put(identity, session_id, _Session(number))

    def claim(self, identity: bytes, session_id: bytes, step: str, *, once_per_round: bool = False) -> None:
        """Records that the message of a step is about to leave; on the disk when this returns.

        Parameters
        ----------
        identity, session_id : bytes
            As for `open_session`.
        step : str
            1 to 32 lower-case letters, digits and underscores, a letter first.
        once_per_round : bool
            Whether no other session of the same round may have had this step: an upload in each of two
            sessions would tell two sums.

        Raises
        ------
        ProtocolError
            The step was claimed before, or the session was never started, or is over. Nothing has changed;
            the message must not leave.
        StoreError
            The disk may hold the claim or not; the message must not leave either.
        InvalidTypeError, InvalidArgumentError
        """
        _require_key(identity, session_id)
        word = _require_step(step)
        with self._table.writing() as rows:
            session = rows.get(identity, session_id)
            if session is None:
                raise ProtocolError(f"session {session_id.hex()} was never started")
            if session.ended:
                raise ProtocolError(f"session {session_id.hex()} is over")
            if word in session.steps:
                raise ProtocolError(f"the {word} message of session {session_id.hex()} was let out before")
            if once_per_round and rows.claimed(identity, session.round_id, word):
                raise ProtocolError(f"the {word} message of round {session.round_id} was let out before")
            if len(session.steps) >= MAX_STEPS:
                raise ProtocolError(f"session {session_id.hex()} has had {MAX_STEPS} steps, the most allowed")
            rows.put(identity, session_id, _Session(session.round_id, (*session.steps, word)))

    def has_claimed(self, step: str) -> bool:
        """Whether any session has ever had this step, whoever's: an identity may have had keys before."""
        with self._table.writing() as rows:
            return rows.ever_claimed(_require_step(step))

    def has_started(self, session_id: bytes) -> bool:
        """Whether any identity has started this session (32 bytes)."""
        _require_bytes("session_id", session_id, SESSION_BYTES, SESSION_BYTES)
        with self._table.writing() as rows:
            return rows.started(session_id)

    def end_session(self, identity: bytes, session_id: bytes) -> None:
        """Lets no further claims into a session, which is done or aborted; its id stays used.

        A session that is over, or was never started, is left as it is.
        """
        _require_key(identity, session_id)
        with self._table.writing() as rows:
            session = rows.get(identity, session_id)
            if session is not None and not session.ended:
                rows.put(identity, session_id, _Session(session.round_id, session.steps, ended=True))


class _FileTable:
    """Rows in a file of SQLite."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = RecordFile(path, _LAYOUT)

    def __repr__(self) -> str:
        return repr(str(self._file.path))

    def require_made(self) -> None:
        """Raises if there is nothing in the file, or no file."""
        if self._file.is_blank():
            raise StoreError(f"{self._file.path}: the record of sessions that was here is gone")

    def prepare(self) -> None:
        """Makes the file if there is none, and refuses one that is no store."""
        if self._file.is_blank():
            self._file.create()
        with self.writing():
            pass

    @contextlib.contextmanager
    def writing(self) -> Iterator[_Rows]:
        with self._file.writing() as connection:
            self._require_private()
            yield _FileRows(connection)

    def _require_private(self) -> None:
        if os.name == "posix" and (mode := self._file.path.stat().st_mode & 0o777) & 0o022:
            raise StoreError(f"others must not be able to write it, its mode is {mode:03o}")


class _FileRows:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def get(self, identity: bytes, session_id: bytes) -> _Session | None:
        query = "SELECT round, steps, ended FROM sessions WHERE identity = ? AND session = ?"
        row = self._connection.execute(query, (identity, session_id)).fetchone()
        return None if row is None else _session(*row)

    def put(self, identity: bytes, session_id: bytes, session: _Session) -> None:
        row = (identity, session_id, _encode(session.round_id), " ".join(session.steps), int(session.ended))
        self._connection.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?)", row)

    def latest(self, identity: bytes) -> tuple[int, int]:
        query = (
            "SELECT round, count(*) FROM sessions WHERE identity = ? "
            "GROUP BY round ORDER BY round DESC LIMIT 1"
        )
        row = self._connection.execute(query, (identity,)).fetchone()
        return (-1, 0) if row is None else (_decode(row[0]), row[1])

    def claimed(self, identity: bytes, round_id: int, step: str) -> bool:
        query = (
            "SELECT 1 FROM sessions WHERE identity = ? AND round = ? "
            "AND instr(' ' || steps || ' ', ' ' || ? || ' ') LIMIT 1"
        )
        return self._connection.execute(query, (identity, _encode(round_id), step)).fetchone() is not None

    def ever_claimed(self, step: str) -> bool:
        query = "SELECT 1 FROM sessions WHERE instr(' ' || steps || ' ', ' ' || ? || ' ') LIMIT 1"
        return self._connection.execute(query, (step,)).fetchone() is not None

    def started(self, session_id: bytes) -> bool:
        query = "SELECT 1 FROM sessions WHERE session = ? LIMIT 1"
        return self._connection.execute(query, (session_id,)).fetchone() is not None


@dataclass(repr=False)
class _MemoryTable:
    """Rows in dictionaries under a lock; each block writes once, at its end, and so is a transaction."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    sessions: dict[tuple[bytes, bytes], _Session] = field(default_factory=dict)
    rounds: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    claims: set[tuple[bytes, int, str]] = field(default_factory=set)
    process: int = field(default_factory=os.getpid)

    def __repr__(self) -> str:
        return "in memory"

    def __reduce__(self) -> NoReturn:
        raise InvalidTypeError("a SessionStore in memory cannot be pickled or copied: a copy grants again")

    @contextlib.contextmanager
    def writing(self) -> Iterator[_Rows]:
        # Before the lock, which another thread may have held while the process forked.
        if os.getpid() != self.process:
            raise ProtocolError("a SessionStore in memory grants nothing in a forked process")
        with self.lock:
            yield self

    def get(self, identity: bytes, session_id: bytes) -> _Session | None:
        return self.sessions.get((identity, session_id))

    def put(self, identity: bytes, session_id: bytes, session: _Session) -> None:
        if (identity, session_id) not in self.sessions:
            latest, attempts = self.latest(identity)
            attempts = attempts + 1 if session.round_id == latest else 1
            self.rounds[identity] = (session.round_id, attempts)
        self.sessions[identity, session_id] = session
        self.claims.update((identity, session.round_id, step) for step in session.steps[-1:])

    def latest(self, identity: bytes) -> tuple[int, int]:
        return self.rounds.get(identity, (-1, 0))

    def claimed(self, identity: bytes, round_id: int, step: str) -> bool:
        return (identity, round_id, step) in self.claims

    def ever_claimed(self, step: str) -> bool:
        return any(claimed == step for _, _, claimed in self.claims)

    def started(self, session_id: bytes) -> bool:
        return any(one == session_id for _, one in self.sessions)


def _encode(round_id: int) -> bytes:
    return round_id.to_bytes(8, "big")


def _decode(data: object) -> int:
    if not isinstance(data, bytes) or len(data) != 8:
        raise StoreError(f"a round must be 8 bytes, it holds {data!r}")
    return int.from_bytes(data, "big")


def _session(round_id: object, steps: object, ended: object) -> _Session:
    """A row, read as strictly as it was written: what was damaged grants nothing."""
    words = tuple(steps.split(" ")) if isinstance(steps, str) and steps else ()
    if not isinstance(steps, str) or not all(map(_STEP.fullmatch, words)) or ended not in (0, 1):
        raise StoreError(f"a session is not as it was recorded: steps {steps!r}, ended {ended!r}")
    return _Session(_decode(round_id), words, ended == 1)


def _require_key(identity: object, session_id: object) -> None:
    _require_bytes("identity", identity, 1, MAX_IDENTITY_BYTES)
    _require_bytes("session_id", session_id, SESSION_BYTES, SESSION_BYTES)


def _require_bytes(name: str, value: object, minimum: int, maximum: int) -> None:
    allowed = f"{minimum} to {maximum} bytes" if minimum < maximum else f"{minimum} bytes"
    if not isinstance(value, bytes):
        raise InvalidTypeError(f"{name} must be {allowed}, got {type(value).__name__}")
    if not minimum <= len(value) <= maximum:
        raise InvalidArgumentError(f"{name} must be {allowed}, got {len(value)}")


def _require_step(step: object) -> str:
    if not isinstance(step, str):
        raise InvalidTypeError(f"step must be a word, got {type(step).__name__}")
    if not _STEP.fullmatch(step):
        raise InvalidArgumentError(f"step must be 1 to 32 of a-z, 0-9 and _, a letter first, got {step!r}")
    return step
