"""A client at rest between two messages: for transports that may lose a process, or start one for each.

`Client` lives in memory, and its protocol delivers every message once. Transports deliver some twice, and
processes end. A `Participant` keeps the session in a folder, sealed, together with the last answer: what was
answered before is answered with the same bytes, and a session goes on in whichever process asks next.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec._kernels import fresh_bytes
from fedsec.errors import InvalidTypeError, ProtocolError, StoreError
from fedsec.secagg import snapshot
from fedsec.secagg._machine import Phase
from fedsec.secagg.client import Budget, Client
from fedsec.secagg.config import Config, Policy
from fedsec.secagg.identity import _files
from fedsec.secagg.identity.identities import Identity
from fedsec.secagg.messages import require_bytes
from fedsec.secagg.store import SessionStore

_HEADER = struct.Struct("<32s32s12sQ")  # session id, digest of the last message, phase, length of the answer
_NOTHING = bytes(32)


@dataclass(frozen=True)
class _Rest:
    """What lies in the folder: the answer to the last message, and the session behind it, sealed."""

    session_id: bytes
    answered: bytes
    phase: Phase
    answer: bytes = field(repr=False)
    sealed: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        phase = self.phase.value.encode("ascii")
        header = _HEADER.pack(self.session_id, self.answered, phase, len(self.answer))
        return header + self.answer + self.sealed

    @classmethod
    def from_bytes(cls, data: bytes) -> _Rest:
        session_id, answered, phase, length = _HEADER.unpack_from(data)
        end = _HEADER.size + length
        if end > len(data):
            raise ValueError(f"it must take at least {end} bytes, it has {len(data)}")
        name = phase.rstrip(b"\0").decode("ascii")
        return cls(session_id, answered, Phase(name), data[_HEADER.size : end], data[end:])


class Participant:
    """One client in a folder of its own.

    ``message = participant.join(config)`` and then, for each message of the server,
    ``message = participant.answer(session_id, message, vector)``, from any number of processes, one after
    the other or at once.

    Parameters
    ----------
    folder : str or path
        Made if it is not there, for the owner alone, on a local disk. It holds the `SessionStore`, the key
        under which sessions rest, and the session that is under way. It must never be put back to an earlier
        state (see `SessionStore`); a record of sessions that is gone, or older than the session beside it, is
        refused.
    client_id : int
    identity : Identity, optional
    policy : Policy, optional
    budget : Budget, optional
        As for `Client`; the first two are for authenticated configurations, which take nothing less.

    Raises
    ------
    IdentityError, StoreError
        At any time: the folder cannot be read or written, or is not what it was; then nothing leaves.

    Guarantees: those of `Client`. The same message gets the same answer, byte for byte, and any other one
    that is not due ends the session. A process killed between the record of an answer and the answer itself
    leaves a client that has dropped out. There is one session at a time: to join another one forgets the
    secrets of the one before.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        client_id: int,
        identity: Identity | None = None,
        *,
        policy: Policy | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._folder = _files.path_of(folder)
        with _files.errors_named(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._client_id, self._identity = client_id, identity
        # The key is made after the record, so that a folder with a key has had one.
        opened = SessionStore.open if self._key_path.exists() else SessionStore
        self._store = opened(self._folder / "sessions")
        self._own: dict[str, Any] = {"policy": policy, "store": self._store, "budget": budget}
        with _files.alone_in(self._folder):
            self._key = self._own_key()

    def __repr__(self) -> str:
        return f"<secagg.Participant {self._client_id} in {str(self._folder)!r}>"

    @property
    def phase(self) -> Phase | None:
        """The message that this client owes next, `DONE`, `ABORTED`, or None before it joined a session."""
        rest = self._rest()
        return rest.phase if rest else None

    def join(self, config: Config) -> bytes:
        """Starts a session, or goes on with it: the last message that left this client.

        The configuration is one that the caller holds against its own directory (`Config.from_bytes`).

        Raises
        ------
        ProtocolError
            The policy or the session store refuses the configuration, or the session was aborted.
        """
        if not isinstance(config, Config):
            raise InvalidTypeError(f"config must be a Config, got {type(config).__name__}")
        with _files.alone_in(self._folder):
            rest = self._rest()
            if rest and rest.session_id == config.session_id:
                return _answer_of(rest)
            if rest and not self._store.has_started(rest.session_id):
                raise StoreError(
                    f"{self._folder / 'sessions'}: it knows nothing of the session beside it, and so was put "
                    "back to an earlier state"
                )
            with closing(Client(config, self._client_id, self._identity, **self._own)) as client:
                message = client.start()
                self._keep(config.session_id, _NOTHING, client, message)
                return message

    def answer(
        self,
        session_id: bytes,
        message: bytes,
        vector: Callable[[Config], npt.NDArray[np.integer[Any]]],
    ) -> bytes:
        """The answer to a message of the server.

        `vector` is called with the configuration when the upload is due, and returns what `Client.submit`
        takes; an error of it leaves the session as it was.

        Raises
        ------
        ProtocolError, AggregationAborted
            As for `Client.receive`: the session is over. For a session that this client is not in, nothing
            has changed.
        """
        received = require_bytes(message)
        digest = hashlib.sha256(received).digest()
        with _files.alone_in(self._folder):
            rest = self._rest()
            if rest is None or rest.session_id != session_id:
                raise ProtocolError("the message is of a session that this client is not in")
            if rest.answered == digest or not rest.sealed:
                return _answer_of(rest, digest)
            return self._step(rest, received, digest, vector)

    def _step(
        self,
        rest: _Rest,
        message: bytes,
        digest: bytes,
        vector: Callable[[Config], npt.NDArray[np.integer[Any]]],
    ) -> bytes:
        with closing(Client.from_bytes(rest.sealed, self._key, self._identity, **self._own)) as client:
            if client.phase is Phase.UPLOAD:
                client.submit(vector(client.config))
            try:
                answer = client.receive(message)
            except BaseException:
                if client.phase is Phase.ABORTED:
                    self._write(_Rest(rest.session_id, digest, Phase.ABORTED, b"", b""))
                raise
            if answer is None:
                raise AssertionError("a client with its vector answers every message")
            self._keep(rest.session_id, digest, client, answer)
            return answer

    def _keep(self, session_id: bytes, digest: bytes, client: Client, answer: bytes) -> None:
        """Before the answer leaves, so that whoever asks again gets the same."""
        phase = client.phase
        sealed = b"" if phase is Phase.DONE else client.to_bytes(self._key)
        self._write(_Rest(session_id, digest, phase, answer, sealed))

    def _write(self, rest: _Rest) -> None:
        _files.replace(self._path, rest.to_bytes(), 0o600)

    def _rest(self) -> _Rest | None:
        if not self._path.exists():
            return None
        data = _files.read(self._path, sys.maxsize, private=True)
        try:
            return _Rest.from_bytes(data)
        except (struct.error, ValueError) as error:
            raise StoreError(f"{self._path}: it holds no session: {error}") from error

    @property
    def _path(self) -> Path:
        return self._folder / "session"

    @property
    def _key_path(self) -> Path:
        return self._folder / "session.key"

    def _own_key(self) -> bytes:
        if not self._key_path.exists():
            _files.replace(self._key_path, fresh_bytes(snapshot.KEY_BYTES), 0o600)
        return _files.read(self._key_path, snapshot.KEY_BYTES, private=True)


def _answer_of(rest: _Rest, digest: bytes | None = None) -> bytes:
    """The answer that has left already; refused for another message than it answered."""
    if rest.phase is Phase.ABORTED:
        raise ProtocolError("the session was aborted")
    if digest not in (None, rest.answered):
        raise ProtocolError("the session is over: nothing is answered twice")
    return rest.answer
