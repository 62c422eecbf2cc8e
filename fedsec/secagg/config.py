"""What all parties of one aggregation agree on beforehand: a frozen value with canonical bytes [SPEC 3].

Its digest h0 stands in every message, signature, key derivation and seal, so that parties with different
configurations never complete a session together. A client judges it by a `Policy` of its own.

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedsec import masks
from fedsec._checks import whole
from fedsec.errors import InvalidArgumentError, InvalidTypeError, PolicyError
from fedsec.secagg.encoding.quantizer import Quantizer
from fedsec.secagg.identity.identities import require_public_key
from fedsec.secagg.parameters import Parameters

VERSION = 2
SESSION_BYTES = 32
DIGEST_BYTES = 32
MAX_CLIENT_ID = 2**32 - 1
# The keystream of a seed ends after 2^36 bytes at the least: 2^32 elements of the widest lane fit.
MAX_VECTOR_LENGTH = 2**32 - 1
PROFILES = ("semi_honest", "authenticated")

_KEY_BYTES = 32


class _Fixed(NamedTuple):
    """The part of the canonical bytes before the participants [SPEC 3.1]."""

    version: int
    profile: int
    session_id: bytes
    round_id: int
    vector_length: int
    modulus_bits: int
    prg: int
    max_corrupt: int
    max_dropped: int
    num_neighbors: int
    threshold: int
    min_survivors: int
    privacy_bits: int
    correctness_bits: int
    granularity: float
    max_abs: float
    summands: int
    num_participants: int


_LAYOUT = struct.Struct("<BB32sQIBBIIIIIHHddII")


@dataclass(frozen=True, init=False)
class Config:
    """The parameters of one session of secure aggregation.

    Parameters
    ----------
    session_id : 32 bytes
        Fresh and random for every session; never used twice.
    round_id : int in [0, 2**64 - 1]
        Never falls from one session of a client to the next.
    participants : mapping of client ids (ints in [0, 2**32 - 1]) to Ed25519 public keys
        As 32 bytes or objects of `cryptography`; from the caller's own trust store, such as a `Directory`,
        never from the other side. With ``profile="semi_honest"`` just the ids.
    vector_length : int in [1, 2**32 - 1]
    parameters : Parameters
        How many may be corrupt and how many lost, and what follows from it; see `recommend`.
    modulus_bits : int in [1, 64]
        The sum is taken mod 2**modulus_bits.
    prg : "chacha20", "aes128ctr" or "aes256ctr"
        Expands masks; the same for all parties.
    model_digest : 32 bytes, optional
        Of the model that is trained (`model_digest`). May follow later (`Client.bind_model`), but before
        the upload.
    quantizer : Quantizer, optional
        The grid that everybody's integers stand for.
    profile : "authenticated" or "semi_honest"
        The latter, for servers that are trusted to follow the protocol, drops identities, signatures and
        the agreement on survivors.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Naming the parameter, its value and the allowed range.
    """

    session_id: bytes
    round_id: int
    participants: Mapping[int, bytes] = field(repr=False)
    vector_length: int
    parameters: Parameters
    modulus_bits: int
    prg: str
    model_digest: bytes | None
    quantizer: Quantizer | None
    profile: str

    def __init__(
        self,
        session_id: bytes,
        round_id: int,
        participants: Mapping[int, bytes | Ed25519PublicKey] | Iterable[int],
        vector_length: int,
        parameters: Parameters,
        modulus_bits: int = 32,
        prg: str = "chacha20",
        model_digest: bytes | None = None,
        quantizer: Quantizer | None = None,
        profile: str = "authenticated",
    ) -> None:
        kind = _one_of("profile", profile, PROFILES)
        members = _identities(participants) if kind == "authenticated" else _strangers(participants)
        bits = whole("modulus_bits", modulus_bits, minimum=1, maximum=64)
        fields = {
            "session_id": require_digest("session_id", session_id),
            "round_id": whole("round_id", round_id, minimum=0, maximum=2**64 - 1),
            "participants": members,
            "vector_length": whole("vector_length", vector_length, minimum=1, maximum=MAX_VECTOR_LENGTH),
            "parameters": _parameters(parameters, len(members)),
            "modulus_bits": bits,
            "prg": _one_of("prg", prg, masks.PRGS),
            "model_digest": None if model_digest is None else require_digest("model_digest", model_digest),
            "quantizer": _quantizer(quantizer, bits, len(members)),
            "profile": kind,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        return hash((self.h0, self.model_digest))

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """The client ids, ascending."""
        return tuple(self.participants)

    @property
    def authenticated(self) -> bool:
        """Whether clients have identities and sign."""
        return self.profile == "authenticated"

    @property
    def is_complete(self) -> bool:
        """Whether every client exchanges shares with every other."""
        return self.parameters.is_complete

    @property
    def reveals(self) -> bool:
        """Whether a committee reveals nonces, from which the graph follows."""
        return self.authenticated and not self.is_complete

    @property
    def agrees(self) -> bool:
        """Whether clients agree on the survivors by signatures."""
        return self.authenticated

    @cached_property
    def h0(self) -> bytes:
        """The digest of everything but the model [SPEC 3.2]."""
        return hashlib.sha256(b"fedsec secagg 2 configuration\0" + self._canonical()).digest()

    def position(self, client_id: int) -> int:
        """A client's place among the participants, from 0."""
        return self._positions[client_id]

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {client_id: position for position, client_id in enumerate(self.participants)}

    def with_model(self, model_digest: bytes) -> Config:
        """The same session, for this model (32 bytes)."""
        return dataclasses.replace(self, model_digest=model_digest)

    def to_bytes(self) -> bytes:
        """Canonical bytes: equal configurations, and only they, have equal bytes [SPEC 3.1, 3.6]."""
        return self._canonical() + (b"\0" if self.model_digest is None else b"\x01" + self.model_digest)

    def _canonical(self) -> bytes:
        grid, p = self.quantizer, self.parameters
        fixed = _Fixed(
            VERSION,
            PROFILES.index(self.profile),
            self.session_id,
            self.round_id,
            self.vector_length,
            self.modulus_bits,
            masks.PRGS.index(self.prg),
            *(p.max_corrupt, p.max_dropped, p.num_neighbors, p.threshold, p.min_survivors),
            *(p.privacy_bits, p.correctness_bits),
            grid.granularity if grid else 0.0,
            grid.max_abs if grid else 0.0,
            grid.num_clients if grid else 0,
            len(self.participants),
        )
        rows = (struct.pack("<I", client) + key for client, key in self.participants.items())
        return _LAYOUT.pack(*fixed) + b"".join(rows)

    @classmethod
    def from_bytes(cls, data: bytes, participants: Mapping[int, bytes] | None = None) -> Config:
        """Back from `to_bytes`.

        `participants` is the caller's trust store: an authenticated configuration is taken only if it holds
        the same key for each of its clients [SPEC 3.3].

        Raises `InvalidArgumentError` for anything but canonical bytes and for an untrusted key,
        `InvalidTypeError` for an authenticated configuration without a trust store.
        """
        config = decode_config(data)
        if config.authenticated:
            if not isinstance(participants, Mapping):
                raise InvalidTypeError(
                    "participants must be the trust store that the configuration's keys are held against, "
                    f"got {participants!r}"
                )
            for client, key in config.participants.items():
                if participants.get(client) != key:
                    raise InvalidArgumentError(
                        f"the key of client {client} is not the one of the trust store: {key.hex()}"
                    )
        return config


@dataclass(frozen=True)
class Policy:
    """The least that a client accepts of a configuration, whoever proposes it [SPEC 3.4].

    Parameters
    ----------
    max_corrupt : int, at least 0
        So many clients at least may deviate together with the server. The server picks the cohort, so count
        the corrupt ones of the whole directory, not a share of them.
    min_survivors : int, at least 3
        So many vectors at least are in any sum.
    privacy_bits : int, at least 1
        The chance of an unlucky graph is at most 2**-privacy_bits.
    """

    max_corrupt: int
    min_survivors: int
    privacy_bits: int = 40

    def __post_init__(self) -> None:
        whole("max_corrupt", self.max_corrupt, minimum=0)
        whole("min_survivors", self.min_survivors, minimum=3)
        whole("privacy_bits", self.privacy_bits, minimum=1)

    def require(self, config: Config) -> None:
        """Raises `PolicyError` if the configuration is weaker than this policy."""
        if not config.authenticated:
            raise PolicyError("the policy of a client takes authenticated configurations, got semi_honest")
        for name in ("max_corrupt", "min_survivors", "privacy_bits"):
            least, got = getattr(self, name), getattr(config.parameters, name)
            if got < least:
                raise PolicyError(f"the policy of this client wants {name} of at least {least}, got {got}")


def decode_config(data: bytes) -> Config:
    """Back from `Config.to_bytes`, whoever it comes from: for bytes that are trusted already."""
    if not isinstance(cast(object, data), (bytes, bytearray)):
        raise InvalidTypeError(f"a config must be bytes, got {type(data).__name__}")
    if len(data) < _LAYOUT.size:
        raise InvalidArgumentError(f"a config must take at least {_LAYOUT.size} bytes, got {len(data)}")
    fixed = _Fixed(*_LAYOUT.unpack_from(data))
    if fixed.version != VERSION or fixed.profile >= len(PROFILES) or fixed.prg >= len(masks.PRGS):
        raise InvalidArgumentError(
            f"a config must be of version {VERSION}, a known profile and a known generator, "
            f"got {fixed.version}, {fixed.profile} and {fixed.prg}"
        )
    row = 4 + (_KEY_BYTES if fixed.profile else 0)
    end = _LAYOUT.size + fixed.num_participants * row
    if len(data) not in (end + 1, end + 1 + DIGEST_BYTES):
        raise InvalidArgumentError(
            f"a config of {fixed.num_participants} participants must take {end + 1} or "
            f"{end + 1 + DIGEST_BYTES} bytes, got {len(data)}"
        )
    rows = [data[start : start + row] for start in range(_LAYOUT.size, end, row)]
    config = _from_fixed(fixed, rows, bytes(data[end + 1 :]) or None)
    if config.to_bytes() != data:
        raise InvalidArgumentError("a config must be in canonical bytes, participants in ascending order")
    return config


def _from_fixed(fixed: _Fixed, rows: list[bytes], model_digest: bytes | None) -> Config:
    grid = (fixed.granularity, fixed.max_abs, fixed.summands)
    ids = [int.from_bytes(row[:4], "little") for row in rows]
    if len(set(ids)) < len(ids):
        raise InvalidArgumentError("participants of a config must be distinct")
    keys = {client: bytes(row[4:]) for client, row in zip(ids, rows, strict=True)}
    return Config(
        session_id=fixed.session_id,
        round_id=fixed.round_id,
        participants=keys if fixed.profile else ids,
        vector_length=fixed.vector_length,
        parameters=Parameters(
            num_clients=fixed.num_participants,
            max_corrupt=fixed.max_corrupt,
            max_dropped=fixed.max_dropped,
            num_neighbors=fixed.num_neighbors,
            threshold=fixed.threshold,
            min_survivors=fixed.min_survivors,
            privacy_bits=fixed.privacy_bits,
            correctness_bits=fixed.correctness_bits,
        ),
        modulus_bits=fixed.modulus_bits,
        prg=masks.PRGS[fixed.prg],
        model_digest=model_digest,
        quantizer=Quantizer(*grid) if any(grid) else None,
        profile=PROFILES[fixed.profile],
    )


def require_digest(name: str, value: object) -> bytes:
    """Exactly 32 bytes."""
    if not isinstance(value, bytes):
        raise InvalidTypeError(f"{name} must be {DIGEST_BYTES} bytes, got {type(value).__name__}")
    if len(value) != DIGEST_BYTES:
        raise InvalidArgumentError(f"{name} must be {DIGEST_BYTES} bytes, got {len(value)}")
    return value


def _identities(participants: object) -> dict[int, bytes]:
    if not isinstance(participants, Mapping):
        raise InvalidTypeError(
            "participants must be a mapping of client ids to Ed25519 public keys, such as a Directory, got "
            f"{type(participants).__name__}; ids alone are for profile='semi_honest'"
        )
    keys = {_client_id(client): _public_key(client, key) for client, key in participants.items()}
    if len(set(keys.values())) < len(keys):
        raise InvalidArgumentError(
            "participants must have distinct keys: whoever holds one would count twice"
        )
    return dict(sorted(keys.items()))


def _public_key(client: object, key: object) -> bytes:
    raw = key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else key
    return require_public_key(f"the key of client {client}", raw)


def _strangers(participants: object) -> dict[int, bytes]:
    if not isinstance(participants, Iterable):
        raise InvalidTypeError(f"participants must be client ids, got {participants!r}")
    ids = sorted(map(_client_id, participants))
    for before, following in pairwise(ids):
        if before == following:
            raise InvalidArgumentError(f"participants must be distinct, got {before} twice")
    return dict.fromkeys(ids, b"")


def _client_id(value: object) -> int:
    return whole("participant", value, minimum=0, maximum=MAX_CLIENT_ID)


def _parameters(value: object, num_participants: int) -> Parameters:
    if not isinstance(value, Parameters):
        raise InvalidTypeError(f"parameters must be Parameters, see recommend, got {type(value).__name__}")
    if value.num_clients != num_participants:
        raise InvalidArgumentError(
            f"parameters must be for the {num_participants} participants, got num_clients={value.num_clients}"
        )
    return value


def _quantizer(value: object, modulus_bits: int, num_participants: int) -> Quantizer | None:
    if value is None:
        return None
    if not isinstance(value, Quantizer):
        raise InvalidTypeError(f"quantizer must be a Quantizer, got {type(value).__name__}")
    if value.modulus_bits > modulus_bits:
        raise InvalidArgumentError(
            f"modulus_bits must be at least the {value.modulus_bits} of the quantizer, got {modulus_bits}"
        )
    summands = whole("num_clients of the quantizer", value.num_clients, minimum=1, maximum=2**32 - 1)
    if summands < num_participants:
        raise InvalidArgumentError(
            f"quantizer must be for at least the {num_participants} participants, or a sum might wrap, "
            f"got num_clients={summands}"
        )
    return value


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise InvalidArgumentError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return str(value)
