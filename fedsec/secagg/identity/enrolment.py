"""How a public key gets into a directory: a request by the key itself, or the word of the key before it.

Both are signed by whoever holds the private half of the new key, so nobody can enter somebody else's key as
their own; both name the authority they are meant for, so that they are worth nothing anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from fedsec._checks import whole
from fedsec.errors import IdentityError, InvalidArgumentError
from fedsec.secagg.identity import _files, _statements
from fedsec.secagg.identity.identities import KEY_BYTES, SIGNATURE_BYTES, Identity, require_public_key, verify

MAX_CLIENT_ID = 2**32 - 1

_ENROLMENT = "fedsec enrolment 1"
_ROTATION = "fedsec rotation 1"
_MAX_BYTES = 1 << 14

_Statement = TypeVar("_Statement", bound="Enrolment | Rotation")


@dataclass(frozen=True)
class Enrolment:
    """A request to be let into an authority's directory. One that exists is signed by the key it names.

    Parameters
    ----------
    client_id : int in [0, 2**32 - 1]
    name : str
        1 to 200 printable characters: who this is, for people.
    public_key, authority : 32 bytes
        The client's key, and that of the authority whose directory is meant.
    signature : 64 bytes
        By `public_key`, over the rest.

    Raises
    ------
    IdentityError
        The signature is not by that key.
    InvalidTypeError, InvalidArgumentError
    """

    client_id: int
    name: str
    public_key: bytes
    authority: bytes
    signature: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "client_id", require_client_id(self.client_id))
        _statements.line("name", self.name)
        require_public_key("public_key", self.public_key)
        require_public_key("authority", self.authority)
        text = _statements.to_sign(_ENROLMENT, _unsigned(self))
        _require_signature("enrolment", self.public_key, text, self.signature)

    @classmethod
    def new(cls, identity: Identity, client_id: int, name: str, authority: bytes) -> Enrolment:
        """The request of whoever holds `identity`."""
        number, key = require_client_id(client_id), identity.public_key
        require_public_key("authority", authority)
        members = in_json({"client_id": number, "name": name, "public_key": key, "authority": authority})
        return cls(number, name, key, authority, identity.sign(_statements.to_sign(_ENROLMENT, members)))

    def to_bytes(self) -> bytes:
        """The request as a text, canonical; see docs/identities.md."""
        return _statements.spell(_ENROLMENT, in_json(vars(self)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Enrolment:
        """Back from `to_bytes`; `IdentityError` for anything else."""
        return _parsed(_ENROLMENT, cls, data)

    def save(self, path: _files.Name) -> None:
        """Writes the request into a new file; `IdentityError` if something is there."""
        _files.create(_files.path_of(path), self.to_bytes(), 0o644)

    @classmethod
    def load(cls, path: _files.Name) -> Enrolment:
        """Back from `save`; `IdentityError` for anything else."""
        return _loaded(cls, path)


@dataclass(frozen=True)
class Rotation:
    """A client's word that it goes by a new key from now on. One that exists is signed by both keys.

    Parameters
    ----------
    client_id : int in [0, 2**32 - 1]
    old_key, new_key, authority : 32 bytes
        The two keys, which differ, and that of the authority whose directory is meant.
    old_signature, new_signature : 64 bytes
        By either key, over the rest: the consent of the old one, and the proof that the new one is held.

    Raises
    ------
    IdentityError
        A signature is not by its key.
    InvalidTypeError, InvalidArgumentError
    """

    client_id: int
    old_key: bytes
    new_key: bytes
    authority: bytes
    old_signature: bytes
    new_signature: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "client_id", require_client_id(self.client_id))
        for name in ("old_key", "new_key", "authority"):
            require_public_key(name, getattr(self, name))
        if self.old_key == self.new_key:
            raise InvalidArgumentError(f"new_key must differ from old_key, got {self.new_key.hex()} twice")
        text = _statements.to_sign(_ROTATION, _unsigned(self))
        _require_signature("rotation", self.old_key, text, self.old_signature)
        _require_signature("rotation", self.new_key, text, self.new_signature)

    @classmethod
    def new(cls, old: Identity, new: Identity, client_id: int, authority: bytes) -> Rotation:
        """The statement of whoever holds both identities."""
        number, keys = require_client_id(client_id), (old.public_key, new.public_key)
        require_public_key("authority", authority)
        members = {"client_id": number, "old_key": keys[0], "new_key": keys[1], "authority": authority}
        text = _statements.to_sign(_ROTATION, in_json(members))
        return cls(number, *keys, authority, old.sign(text), new.sign(text))

    def to_bytes(self) -> bytes:
        """The statement as a text, canonical; see docs/identities.md."""
        return _statements.spell(_ROTATION, in_json(vars(self)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Rotation:
        """Back from `to_bytes`; `IdentityError` for anything else."""
        return _parsed(_ROTATION, cls, data)

    def save(self, path: _files.Name) -> None:
        """Writes the statement into a new file; `IdentityError` if something is there."""
        _files.create(_files.path_of(path), self.to_bytes(), 0o644)

    @classmethod
    def load(cls, path: _files.Name) -> Rotation:
        """Back from `save`; `IdentityError` for anything else."""
        return _loaded(cls, path)


def require_client_id(value: object) -> int:
    """A client id, as everywhere in the protocol."""
    return whole("client_id", value, minimum=0, maximum=MAX_CLIENT_ID)


def in_json(values: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON has them: bytes in hexadecimal digits."""
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


def _unsigned(statement: Enrolment | Rotation) -> dict[str, Any]:
    return {name: value for name, value in in_json(vars(statement)).items() if not name.endswith("signature")}


def _require_signature(what: str, key: bytes, text: bytes, signature: bytes) -> None:
    if not verify(key, text, signature):
        raise IdentityError(f"the {what} is not signed by the key {key.hex()} that it names")


def _parsed(kind: str, statement: type[_Statement], data: bytes) -> _Statement:
    members = _statements.parse(kind, data, {field.name for field in fields(statement)})
    with _statements.reading():
        return statement(**{name: _from_json(name, value) for name, value in members.items()})


def _from_json(name: str, value: Any) -> Any:
    if name.endswith("signature"):
        return _statements.from_hex(name, value, SIGNATURE_BYTES)
    if name.endswith("key") or name == "authority":
        return _statements.from_hex(name, value, KEY_BYTES)
    return value


def _loaded(statement: type[_Statement], path: _files.Name) -> _Statement:
    place = _files.path_of(path)
    data = _files.read(place, _MAX_BYTES)
    with _files.errors_named(place):
        return statement.from_bytes(data)  # type: ignore[return-value]
