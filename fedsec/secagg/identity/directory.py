"""The clients' trust store: whose key is whose, as one authority says, in a signed file.

A client must know the others' keys from somewhere that the server cannot write to. Somebody whom all trust
for that, the authority, checks who asks (by telephone, say), lists them, and signs the list; clients get the
file by whatever way and check it against the authority's public key, which they were given once, by hand.

Every change gives a new value with a serial number higher by one. Ids and keys are never used again: a
revoked client stays in the file, and so do the keys that it had before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedsec._checks import whole
from fedsec.errors import IdentityError, InvalidArgumentError, InvalidTypeError
from fedsec.secagg.identity import _files, _statements
from fedsec.secagg.identity.enrolment import Enrolment, Rotation, in_json, require_client_id
from fedsec.secagg.identity.identities import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    Identity,
    fingerprint,
    require_public_key,
    verify,
)

MAX_CLIENTS = 1 << 16
MAX_FORMER_KEYS = 1000
MAX_SERIAL = 2**63 - 1
MAX_BYTES = 1 << 25

_KIND = "fedsec directory 1"
_MEMBERS = {"authority", "clients", "serial", "signature"}
_CLIENT_MEMBERS = {"client_id", "enrolled", "former_keys", "name", "public_key", "reason", "revoked"}


@dataclass(frozen=True)
class Entry:
    """One client of a directory.

    Parameters
    ----------
    client_id : int in [0, 2**32 - 1]
    name : str
        Who this is, for people.
    public_key : 32 bytes
    enrolled : str
        When the authority let it in, in UTC, such as 2026-01-31T12:00:00Z.
    former_keys : tuple of 32 bytes each
        The keys before it, oldest first.
    reason : str
        Why it was revoked; empty if it was not.
    """

    client_id: int
    name: str
    public_key: bytes
    enrolled: str
    former_keys: tuple[bytes, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "client_id", require_client_id(self.client_id))
        _statements.line("name", self.name)
        _statements.time("enrolled", self.enrolled)
        _statements.line("reason", self.reason, minimum=0)
        if not isinstance(self.former_keys, tuple):
            raise InvalidTypeError(f"former_keys must be a tuple, got {type(self.former_keys).__name__}")
        whole("the number of former keys", len(self.former_keys), minimum=0, maximum=MAX_FORMER_KEYS)
        for key in self.keys:
            require_public_key(f"public_key of client {self.client_id}", key)

    @property
    def revoked(self) -> bool:
        """Whether it may not take part any more."""
        return bool(self.reason)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All keys it ever had, the present one last."""
        return (*self.former_keys, self.public_key)

    def _members(self) -> dict[str, Any]:
        former = [key.hex() for key in self.former_keys]
        return in_json(vars(self)) | {"former_keys": former, "revoked": self.revoked}

    @classmethod
    def _of(cls, members: object) -> Entry:
        if not isinstance(members, dict) or members.keys() != _CLIENT_MEMBERS:
            raise InvalidArgumentError(f"a client must have the members {sorted(_CLIENT_MEMBERS)}")
        values = dict(members)
        revoked, former = values.pop("revoked"), values.pop("former_keys")
        if not isinstance(former, list):
            raise InvalidTypeError(f"former_keys must be a list, got {type(former).__name__}")
        values["former_keys"] = tuple(_statements.from_hex("former key", key, KEY_BYTES) for key in former)
        values["public_key"] = _statements.from_hex("public_key", values["public_key"], KEY_BYTES)
        entry = cls(**values)
        if revoked is not entry.revoked:
            raise InvalidArgumentError(
                f"client {entry.client_id} must be revoked for a reason or not at all, got {revoked!r}"
            )
        return entry


@dataclass(frozen=True, init=False)
class Directory(Mapping[int, bytes]):
    """The clients that an authority vouches for: a mapping of the active ones' ids to their public keys.

    ``secagg.Config(participants=directory, ...)`` takes it as it is; ``{i: directory[i] for i in cohort}`` is
    a part of it. Revoked clients are not in the mapping, but in `entries`.

    `Directory.load` is the way to one: it takes the authority's public key from its caller, and no value
    comes out of a file that this key has not signed. `Directory.new` is for the authority, and so are `add`,
    `rotate` and `revoke`, each of which returns a new value with the next serial number, and `save`.

    Parameters
    ----------
    authority : 32 bytes
        The Ed25519 public key of whoever vouches.
    serial : int in [0, 2**63 - 1]
        How many changes there were. A client should keep the highest it has seen, and load with it as
        `min_serial`: an old file is signed as well as a new one, and may list who was revoked since.
    entries : at most 65536 entries with distinct ids and distinct keys
        All clients, the revoked ones too; kept in ascending order of their ids.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
    """

    authority: bytes
    serial: int
    entries: tuple[Entry, ...] = field(repr=False)

    def __init__(self, authority: bytes, serial: int, entries: Iterable[Entry]) -> None:
        listed = _sorted(entries)
        whole("the number of clients", len(listed), minimum=0, maximum=MAX_CLIENTS)
        _require_distinct(listed)
        values = {
            "authority": require_public_key("authority", authority),
            "serial": whole("serial", serial, minimum=0, maximum=MAX_SERIAL),
            "entries": listed,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def new(cls, authority: bytes) -> Directory:
        """A directory without clients."""
        return cls(authority, 0, ())

    def __repr__(self) -> str:
        return (
            f"<secagg.Directory of {fingerprint(self.authority)}, serial {self.serial}, {len(self)} clients>"
        )

    def __getitem__(self, client_id: int) -> bytes:
        return self._active[client_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._active)

    def __len__(self) -> int:
        return len(self._active)

    @cached_property
    def _active(self) -> dict[int, bytes]:
        return {entry.client_id: entry.public_key for entry in self.entries if not entry.revoked}

    @cached_property
    def _by_id(self) -> dict[int, Entry]:
        return {entry.client_id: entry for entry in self.entries}

    @cached_property
    def _keys(self) -> dict[bytes, int]:
        return {key: entry.client_id for entry in self.entries for key in entry.keys}

    def entry(self, client_id: int) -> Entry:
        """What is known of a client, revoked or not; `IdentityError` if there is none."""
        number = require_client_id(client_id)
        if number not in self._by_id:
            raise IdentityError(f"there is no client {number} in the directory")
        return self._by_id[number]

    def add(self, enrolment: Enrolment) -> Directory:
        """With one client more.

        Raises
        ------
        IdentityError
            The request is for another authority, or its id or its key is in the directory, or was: revoked
            clients come back under a new id, with a new key.
        """
        self._require_own(enrolment)
        if enrolment.client_id in self._by_id:
            state = "revoked" if self._by_id[enrolment.client_id].revoked else "active"
            raise IdentityError(
                f"client {enrolment.client_id} is in the directory ({state}); ids are used once"
            )
        self._require_new(enrolment.public_key)
        return self._with(Entry(enrolment.client_id, enrolment.name, enrolment.public_key, _statements.now()))

    def rotate(self, rotation: Rotation) -> Directory:
        """With a new key for one client.

        Raises
        ------
        IdentityError
            The statement is for another authority, the client is unknown or revoked, its key is not the old
            one (any more), or the new key is in the directory, or was.
        """
        self._require_own(rotation)
        entry = self._active_entry(rotation.client_id)
        if entry.public_key != rotation.old_key:
            raise IdentityError(f"client {entry.client_id} does not go by the key {rotation.old_key.hex()}")
        self._require_new(rotation.new_key)
        with _statements.reading():
            return self._with(replace(entry, public_key=rotation.new_key, former_keys=entry.keys))

    def revoke(self, client_id: int, reason: str) -> Directory:
        """Without one client, for good; its id and its keys stay on record.

        Raises
        ------
        IdentityError
            The client is unknown, or was revoked before.
        InvalidTypeError, InvalidArgumentError
            The reason is not 1 to 200 printable characters.
        """
        why = _statements.line("reason", reason)
        return self._with(replace(self._active_entry(client_id), reason=why))

    def to_bytes(self, identity: Identity) -> bytes:
        """The directory as a text, canonical and signed by its authority; see docs/identities.md."""
        if identity.public_key != self.authority:
            raise IdentityError(
                f"the directory is {self.authority.hex()}'s to sign, not {identity.public_key.hex()}'s"
            )
        members = self._members()
        signature = identity.sign(_statements.to_sign(_KIND, members))
        return _statements.spell(_KIND, members | {"signature": signature.hex()})

    @classmethod
    def from_bytes(cls, data: bytes, authority: bytes, min_serial: int = 0) -> Directory:
        """Back from `to_bytes`, as `load` does."""
        require_public_key("authority", authority)
        least = whole("min_serial", min_serial, minimum=0, maximum=MAX_SERIAL)
        members = _statements.parse(_KIND, data, _MEMBERS)
        with _statements.reading():
            signature = _statements.from_hex("signature", members.pop("signature"), SIGNATURE_BYTES)
        if members["authority"] != authority.hex():
            raise IdentityError(f"it is not the directory of {authority.hex()}, but of somebody else")
        if not verify(authority, _statements.to_sign(_KIND, members), signature):
            raise IdentityError(f"it is not signed by its authority {authority.hex()}: changed, or damaged")
        directory = cls._of(members)
        if directory.serial < least:
            raise IdentityError(
                f"its serial number must be at least {least}, got {directory.serial}: it is old"
            )
        return directory

    @classmethod
    def load(cls, path: _files.Name, authority: bytes, min_serial: int = 0) -> Directory:
        """From a file, checked.

        Parameters
        ----------
        path : str or path
        authority : 32 bytes
            Whom the caller trusts. Never take it from where the file came from.
        min_serial : int
            The highest serial number seen so far; an older file is refused.

        Raises
        ------
        IdentityError
            There is no such file; it is not byte for byte what `save` writes; it is somebody else's, not
            signed by `authority`, or older than allowed. The message names the file.
        InvalidTypeError, InvalidArgumentError
        """
        place = _files.path_of(path)
        require_public_key("authority", authority)
        data = _files.read(place, MAX_BYTES)
        with _files.errors_named(place):
            return cls.from_bytes(data, authority, min_serial)

    def save(self, path: _files.Name, identity: Identity) -> None:
        """Signs, and puts the file in the place of an older one: readers see either whole.

        Raises
        ------
        IdentityError
            `identity` is not the authority; or what is there is no directory of this authority, or one whose
            serial number is not lower: somebody else changed it meanwhile. Then it is left alone.
        """
        place = _files.path_of(path)
        data = self.to_bytes(identity)
        with _files.alone_in(place.parent):
            if os.path.lexists(place):
                self._require_successor(place)
            _files.replace(place, data, 0o644)

    def _require_successor(self, place: Path) -> None:
        before = Directory.load(place, self.authority)
        if before.serial >= self.serial:
            raise IdentityError(
                f"{place}: its serial number is {before.serial}, so {self.serial} cannot follow; load it"
            )

    def _members(self) -> dict[str, Any]:
        clients = [entry._members() for entry in self.entries]
        return {"authority": self.authority.hex(), "serial": self.serial, "clients": clients}

    @classmethod
    def _of(cls, members: Mapping[str, Any]) -> Directory:
        with _statements.reading():
            clients = members["clients"]
            if not isinstance(clients, list):
                raise InvalidTypeError(f"clients must be a list, got {type(clients).__name__}")
            entries = tuple(Entry._of(client) for client in clients)
            directory = cls(bytes.fromhex(members["authority"]), members["serial"], entries)
        if directory.entries != entries:
            raise IdentityError("its clients must stand in ascending order of their ids")
        return directory

    def _require_own(self, statement: Enrolment | Rotation) -> None:
        if statement.authority != self.authority:
            raise IdentityError(f"the statement is meant for the directory of {statement.authority.hex()}")

    def _require_new(self, key: bytes) -> None:
        if key in self._keys:
            raise IdentityError(
                f"the key {key.hex()} is or was client {self._keys[key]}'s; keys are used once"
            )

    def _active_entry(self, client_id: int) -> Entry:
        entry = self.entry(client_id)
        if entry.revoked:
            raise IdentityError(f"client {entry.client_id} was revoked: {entry.reason}")
        return entry

    def _with(self, entry: Entry) -> Directory:
        others = (other for other in self.entries if other.client_id != entry.client_id)
        return Directory(self.authority, self.serial + 1, (*others, entry))


def _sorted(entries: Iterable[object]) -> tuple[Entry, ...]:
    listed = []
    for entry in entries:
        if not isinstance(entry, Entry):
            raise InvalidTypeError(f"entries must be of class Entry, got {type(entry).__name__}")
        listed.append(entry)
    return tuple(sorted(listed, key=lambda entry: entry.client_id))


def _require_distinct(entries: tuple[Entry, ...]) -> None:
    for before, after in pairwise(entries):
        if before.client_id == after.client_id:
            raise InvalidArgumentError(f"client ids must be distinct, got {before.client_id} twice")
    seen: set[bytes] = set()
    for entry in entries:
        for key in entry.keys:
            if key in seen:
                raise InvalidArgumentError(f"keys must be distinct, got {key.hex()} twice")
            seen.add(key)
