"""What all parties of one aggregation agree on beforehand: a frozen value with canonical bytes.

Its digest stands in every message, every key derivation and every sealed share, so that parties with
different configurations never complete a session together.

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import cast

from fedsec import masks
from fedsec._checks import whole
from fedsec.errors import InvalidArgumentError, InvalidTypeError
from fedsec.secagg.shamir import MAX_SHARES

VERSION = 1
SESSION_BYTES = 32
MAX_CLIENT_ID = 2**32 - 1
# The keystream of a seed ends after 2^38 bytes: 2^32 elements of the widest lane fit many times over.
MAX_VECTOR_LENGTH = 2**32 - 1

# version, session id, round, vector length, modulus bits, threshold, generator, number of participants
_FIXED = struct.Struct("<B32sQIBBBB")


def default_threshold(num_participants: int) -> int:
    """floor(2n/3) + 1 [BIK+17, sec. 6.2]; see `Config`."""
    return 2 * num_participants // 3 + 1


@dataclass(frozen=True, init=False)
class Config:
    """The parameters of one session of secure aggregation.

    Parameters
    ----------
    session_id : 32 bytes
        Fresh and random for every session; never used twice.
    round_id : int in [0, 2**64 - 1]
    participants : 2 to 255 distinct ints in [0, 2**32 - 1]
        Client ids; kept in ascending order. More than 255 would not fit the field of the shares.
    vector_length : int in [1, 2**32 - 1]
    modulus_bits : int in [1, 64]
        The sum is taken mod 2**modulus_bits.
    threshold : int in (n/2, n], optional
        t: this many shares open a secret, and with fewer clients left the session aborts. A server that
        follows the protocol learns nothing more by colluding with up to t - 1 clients; n - t may drop
        out. The default floor(2n/3) + 1 is the one that stays right once the server may lie and a third
        of the clients with it [BIK+17, sec. 6.2]. With at most n/2, two halves of the clients could be
        played off against each other.
    prg : "chacha20"

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Naming the parameter, its value and the allowed range.
    """

    session_id: bytes
    round_id: int
    participants: tuple[int, ...]
    vector_length: int
    modulus_bits: int
    threshold: int
    prg: str

    def __init__(
        self,
        session_id: bytes,
        round_id: int,
        participants: Iterable[int],
        vector_length: int,
        modulus_bits: int = 32,
        threshold: int | None = None,
        prg: str = "chacha20",
    ) -> None:
        ids = _participants(participants)
        n = len(ids)
        t = default_threshold(n) if threshold is None else threshold
        fields = {
            "session_id": _session_id(session_id),
            "round_id": whole("round_id", round_id, minimum=0, maximum=2**64 - 1),
            "participants": ids,
            "vector_length": whole("vector_length", vector_length, minimum=1, maximum=MAX_VECTOR_LENGTH),
            "modulus_bits": whole("modulus_bits", modulus_bits, minimum=1, maximum=64),
            "threshold": whole(f"threshold of {n} clients", t, minimum=n // 2 + 1, maximum=n),
            "prg": _prg(prg),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def to_bytes(self) -> bytes:
        """Canonical bytes: equal configurations, and only they, have equal bytes."""
        fixed = _FIXED.pack(
            VERSION,
            self.session_id,
            self.round_id,
            self.vector_length,
            self.modulus_bits,
            self.threshold,
            masks.PRGS.index(self.prg),
            len(self.participants),
        )
        return fixed + struct.pack(f"<{len(self.participants)}I", *self.participants)

    @classmethod
    def from_bytes(cls, data: bytes) -> Config:
        """Back from `to_bytes`; anything but canonical bytes raises `InvalidArgumentError`."""
        if not isinstance(cast(object, data), (bytes, bytearray)):
            raise InvalidTypeError(f"a config must be bytes, got {type(data).__name__}")
        if len(data) < _FIXED.size:
            raise InvalidArgumentError(f"a config must take at least {_FIXED.size} bytes, got {len(data)}")
        version, session, round_id, length, bits, threshold, prg, n = _FIXED.unpack_from(data)
        if version != VERSION or prg >= len(masks.PRGS) or len(data) != _FIXED.size + 4 * n:
            raise InvalidArgumentError(
                f"a config must be of version {VERSION}, a known generator and exact length, "
                f"got version {version}, generator {prg}, {len(data)} bytes for {n} participants"
            )
        ids = struct.unpack_from(f"<{n}I", data, _FIXED.size)
        config = cls(session, round_id, ids, length, bits, threshold, masks.PRGS[prg])
        if config.participants != ids:
            raise InvalidArgumentError(f"participants of a config must be in ascending order, got {ids}")
        return config

    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes under a label: 32 bytes that name session and parameters."""
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        return hashlib.sha256(b"fedsec secagg 1 config" + self.to_bytes()).digest()

    def abscissa(self, client_id: int) -> int:
        """Where this client's shares are taken: 1 + its position among the participants."""
        return self._abscissas[client_id]

    @cached_property
    def _abscissas(self) -> dict[int, int]:
        return {client_id: x for x, client_id in enumerate(self.participants, start=1)}


def _session_id(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise InvalidTypeError(f"session_id must be {SESSION_BYTES} bytes, got {type(value).__name__}")
    if len(value) != SESSION_BYTES:
        raise InvalidArgumentError(f"session_id must be {SESSION_BYTES} bytes, got {len(value)}")
    return value


def _participants(values: object) -> tuple[int, ...]:
    if not isinstance(values, Iterable):
        raise InvalidTypeError(f"participants must be client ids, got {values!r}")
    ids = tuple(sorted(whole("participant", value, minimum=0, maximum=MAX_CLIENT_ID) for value in values))
    whole("the number of participants", len(ids), minimum=2, maximum=MAX_SHARES)
    for before, after in pairwise(ids):
        if before == after:
            raise InvalidArgumentError(f"participants must be distinct, got {before} twice")
    return ids


def _prg(value: object) -> str:
    if value not in masks.PRGS:
        raise InvalidArgumentError(f"prg must be one of {', '.join(masks.PRGS)}, got {value!r}")
    return str(value)
