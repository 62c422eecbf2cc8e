"""One client's folder: who it is, whom it trusts, what it asks of a session, and the session under way.

    node.toml           client_id, authority (hex), min_serial, max_corrupt, min_survivors
    identity.pem        its key (`fedsec identity new`); encrypted if FEDSEC_PASSPHRASE is set
    clients.directory   whose key is whose, signed by the authority (`fedsec directory`)
    state/              of `secagg.Participant`; never to be put back to an earlier state

None of it comes from the server, and none of it leaves the machine but by what the protocol lets out.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsec.errors import IdentityError, ProtocolError
from fedsec.secagg import Config, Directory, Enrolment, Identity, Participant, Policy
from fedsec.secagg.identities import require_public_key, verify

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_DAY = 24 * 60 * 60 * 10**9
_CHALLENGE_BYTES = 32


@dataclass(frozen=True)
class Node:
    """A client at rest, loaded from its folder.

    Attributes
    ----------
    client_id : int
    directory : Directory
    participant : Participant
    identity : Identity
    """

    client_id: int
    directory: Directory = field(repr=False)
    participant: Participant = field(repr=False)
    identity: Identity = field(repr=False)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Node:
        """From its folder; `IdentityError` names what is missing or not as it should be."""
        place = Path(folder)
        said = _read(place / "node.toml")
        directory = Directory.load(
            place / "clients.directory", said["authority"], min_serial=said["min_serial"]
        )
        passphrase = os.environ.get("FEDSEC_PASSPHRASE")
        identity = Identity.load(place / "identity.pem", passphrase.encode() if passphrase else None)
        policy = Policy(max_corrupt=said["max_corrupt"], min_survivors=said["min_survivors"])
        client_id = said["client_id"]
        participant = Participant(place / "state", client_id, identity, policy=policy)
        return cls(client_id, directory, participant, identity)

    def introduce(self, challenge: bytes) -> bytes:
        """A signature over 32 random bytes of the server's: that this client is the one it says."""
        return self.identity.sign(_introduction(self.client_id, challenge))

    def accept(self, data: bytes) -> Config:
        """A configuration that the server proposes, with the keys of this client's own directory.

        Its round must be a time in nanoseconds within a day of this machine's clock: a round far ahead would
        lock the client out of all later ones.
        """
        config = Config.from_bytes(data, participants=self.directory)
        if not config.authenticated:
            raise ProtocolError("a node takes authenticated configurations, got semi_honest")
        if abs(config.round_id - time.time_ns()) > _DAY:
            raise ProtocolError(f"a round must be within a day of this clock, got {config.round_id}")
        return config


def is_introduced(directory: Directory, client_id: int, challenge: bytes, signature: bytes) -> bool:
    """Whether whoever made this signature is that client of the directory."""
    key = directory.get(client_id)
    return key is not None and verify(key, _introduction(client_id, challenge), signature)


def _introduction(client_id: int, challenge: bytes) -> bytes:
    if len(challenge) != _CHALLENGE_BYTES:
        raise ProtocolError(f"a challenge must be {_CHALLENGE_BYTES} bytes, got {len(challenge)}")
    return b"fedsec introduction 1\0" + client_id.to_bytes(4, "little") + challenge


def enrol(folder: str | os.PathLike[str], num_nodes: int, *, max_corrupt: int, min_survivors: int) -> bytes:
    """Folders 0, 1, ... of nodes on this machine, for simulations and tests: the authority's public key.

    A real study makes each identity on its own machine; see docs/identities.md. The directory lies beside
    the folders, in `clients.directory`, and so does the authority's key, in `authority.pem`.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    authority = Identity.new()
    authority.save(root / "authority.pem")
    directory = Directory.new(authority.public_key)
    for number in range(num_nodes):
        identity = Identity.new()
        (root / str(number)).mkdir(mode=0o700)
        identity.save(root / str(number) / "identity.pem")
        directory = directory.add(
            Enrolment.new(identity, client_id=number, name=f"Node {number}", authority=authority.public_key)
        )
    for place in (root, *(root / str(number) for number in range(num_nodes))):
        directory.save(place / "clients.directory", authority)
    for number in range(num_nodes):
        said = {
            "client_id": number,
            "authority": f'"{authority.public_key.hex()}"',
            "min_serial": directory.serial,
            "max_corrupt": max_corrupt,
            "min_survivors": min_survivors,
        }
        text = "".join(f"{name} = {value}\n" for name, value in said.items())
        (root / str(number) / "node.toml").write_text(text)
    return authority.public_key


_MEMBERS = {"client_id": int, "authority": str, "min_serial": int, "max_corrupt": int, "min_survivors": int}


def _read(path: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IdentityError(f"{path}: {error}") from None
    if {name: type(value) for name, value in said.items()} != _MEMBERS:
        names = ", ".join(f"{name} ({kind.__name__})" for name, kind in _MEMBERS.items())
        raise IdentityError(f"{path}: it must hold {names}, and nothing else")
    try:
        return said | {"authority": require_public_key("authority", bytes.fromhex(said["authority"]))}
    except ValueError as error:
        raise IdentityError(f"{path}: authority must be a key in hexadecimal digits: {error}") from None
