"""The bytes on the wire: one frame for all messages, tables by client id, sets as bitmaps [SPEC 2, 4].

    frame  = version (1) | kind (1) | client id (4) | digest (32) | body
    table  = count (2) | count times: client id (4), ascending | record (fixed length of its kind)
    set    = a bit for each participant, in order

Integers are little-endian and the client id is that of the message's only client, be it the sender or
the receiver. A decoder knows the exact length before it reads: nothing is allocated by a length that the
message claims, and trailing bytes are refused. Everything that does not decode raises `ProtocolError`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import compress
from typing import NamedTuple

import numpy as np

from fedsec.errors import InvalidTypeError, ProtocolError
from fedsec.secagg.config import VERSION, Config
from fedsec.secagg.keys import SIGNATURE_BYTES, TAG_BYTES
from fedsec.secagg.primitives import merkle

_HEADER = struct.Struct("<BBI32s")
_COUNT = struct.Struct("<H")
_ID = struct.Struct("<I")
_FIRST = struct.Struct("<Q")
_ADVERTISEMENT = struct.Struct("32s32s32s64s")
HASH_BYTES = 32
SHARE_BYTES = 32
SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES
ADVERTISEMENT_BYTES = _ADVERTISEMENT.size


class Kind(enum.IntEnum):
    """The type byte: what a message is. Odd ones go to the server, even ones come from it."""

    ADVERTISE = 1
    COMMITTEE = 2
    REVEAL = 3
    ROSTER = 4
    SHARE = 5
    DELIVERY = 6
    UPLOAD = 7
    SURVIVORS = 8
    AGREE = 9
    QUORUM = 10
    UNMASK = 11


class ShareOf(enum.IntEnum):
    """Which of a peer's two secrets a share is of."""

    SELF_MASK = 1
    MASK_KEY = 2


_KINDS_OF_SHARE: dict[int, ShareOf] = {of.value: of for of in ShareOf}


class Advertisement(NamedTuple):
    """What a client advertises: keys for sealing and for masks, a commitment to its nonce, its signature."""

    sealing: bytes
    masking: bytes
    commitment: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """All of it."""
        return b"".join(self)

    @property
    def signed(self) -> bytes:
        """What the signature is over, besides configuration and client id."""
        return self.sealing + self.masking + self.commitment


class Proven(NamedTuple):
    """An advertisement and the path that proves that it is one of those under the root."""

    advertisement: Advertisement
    path: bytes


class Reveal(NamedTuple):
    """A committee member's nonce, signed over the root that it saw before."""

    nonce: bytes
    signature: bytes


class Roster(NamedTuple):
    """What a client learns of the others' keys before it shares."""

    root: bytes
    committee: dict[int, tuple[Proven, Reveal]]
    peers: dict[int, Proven]


class SealedPair(NamedTuple):
    """One peer's two shares for another: commitments to both, and both under a seal."""

    commitments: bytes
    sealed: bytes


@dataclass(frozen=True)
class Unmasking:
    """One share of one of a peer's secrets."""

    of: ShareOf
    share: bytes | bytearray = field(repr=False)


class _Reader:
    """Takes a body apart, exactly."""

    def __init__(self, what: str, body: bytes) -> None:
        self._what, self._body, self._at = what, body, 0

    def take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._body):
            raise ProtocolError(f"{self._what} must take at least {end} bytes, got {len(self._body)}")
        self._at, start = end, self._at
        return self._body[start:end]

    def table(self, record_bytes: int) -> dict[int, bytes]:
        (count,) = _COUNT.unpack(self.take(_COUNT.size))
        rows = self.take(count * (_ID.size + record_bytes))
        records: dict[int, bytes] = {}
        previous = -1
        for start in range(0, len(rows), _ID.size + record_bytes):
            (client,) = _ID.unpack_from(rows, start)
            if client <= previous:
                raise ProtocolError(f"client ids must be ascending, got {client} after {previous}")
            records[client] = rows[start + _ID.size : start + _ID.size + record_bytes]
            previous = client
        return records

    def end(self) -> None:
        if self._at != len(self._body):
            raise ProtocolError(f"{self._what} must take {self._at} bytes, got {len(self._body)}")


def frame(kind: Kind, digest: bytes, client_id: int, *body: bytes | memoryview) -> bytes:
    """A whole message, of a body in one piece or several."""
    return b"".join((_HEADER.pack(VERSION, kind, client_id, digest), *body))


def require_bytes(message: object) -> bytes:
    """Whatever else a message is, it is bytes."""
    if not isinstance(message, (bytes, bytearray)):
        raise InvalidTypeError(f"message must be bytes, got {type(message).__name__}")
    return bytes(message)


def unframe(message: bytes, kind: Kind, digest: bytes, client_id: int) -> bytes:
    """The body of a message of this kind, of this session, from or to this client."""
    if len(message) < _HEADER.size:
        raise ProtocolError(f"a message must take at least {_HEADER.size} bytes, got {len(message)}")
    version, number, named, found = _HEADER.unpack_from(message)
    if version != VERSION:
        raise ProtocolError(f"a message must have version {VERSION}, got {version}")
    if named != client_id:
        raise ProtocolError(f"the message names client {named} where {client_id} is expected")
    if number != kind:
        raise ProtocolError(f"a message of kind {kind.name} ({kind.value}) is expected, got kind {number}")
    if found != digest:
        raise ProtocolError("the message belongs to another session, configuration, roster or model")
    return message[_HEADER.size :]


def decode_advertise(body: bytes) -> Advertisement:
    """Back from `Advertisement.to_bytes`."""
    if len(body) != _ADVERTISEMENT.size:
        raise ProtocolError(f"an advertisement must take {_ADVERTISEMENT.size} bytes, got {len(body)}")
    return Advertisement(*_ADVERTISEMENT.unpack(body))


def encode_committee(root: bytes, members: Mapping[int, Proven]) -> bytes:
    """What the committee's members advertised."""
    return root + _encode_table({client: _encode_proven(proven) for client, proven in members.items()})


def decode_committee(config: Config, body: bytes) -> tuple[bytes, dict[int, Proven]]:
    """Back from `encode_committee`."""
    reader = _Reader("a committee", body)
    root, members = reader.take(HASH_BYTES), reader.table(_proven_bytes(config))
    reader.end()
    return root, {client: _decode_proven(row) for client, row in members.items()}


def encode_reveal(reveal: Reveal) -> bytes:
    """Nonce and signature."""
    return reveal.nonce + reveal.signature


def decode_reveal(body: bytes) -> Reveal:
    """Back from `encode_reveal`."""
    reader = _Reader("a reveal", body)
    reveal = Reveal(reader.take(HASH_BYTES), reader.take(SIGNATURE_BYTES))
    reader.end()
    return reveal


def encode_roster(config: Config, roster: Roster) -> bytes:
    """The keys that one client needs, and how the graph came about."""
    committee = {
        client: _encode_proven(proven) + encode_reveal(reveal)
        for client, (proven, reveal) in roster.committee.items()
    }
    peers = {client: _encode_proven(proven) for client, proven in roster.peers.items()}
    return roster.root + (_encode_table(committee) if config.reveals else b"") + _encode_table(peers)


def decode_roster(config: Config, body: bytes) -> Roster:
    """Back from `encode_roster`."""
    reader, size = _Reader("a roster", body), _proven_bytes(config)
    root = reader.take(HASH_BYTES)
    committee = reader.table(size + HASH_BYTES + SIGNATURE_BYTES) if config.reveals else {}
    peers = reader.table(size)
    reader.end()
    return Roster(
        root,
        {
            client: (_decode_proven(row[:size]), decode_reveal(row[size:]))
            for client, row in committee.items()
        },
        {client: _decode_proven(row) for client, row in peers.items()},
    )


def encode_share(commitment: bytes, sealed: Mapping[int, SealedPair]) -> bytes:
    """A client's commitment to its self mask, and its sealed shares by receiver."""
    return commitment + encode_delivery(sealed)


def decode_share(body: bytes) -> tuple[bytes, dict[int, SealedPair]]:
    """Back from `encode_share`."""
    return body[:HASH_BYTES], decode_delivery(body[HASH_BYTES:])


def encode_delivery(sealed: Mapping[int, SealedPair]) -> bytes:
    """The sealed shares for one client, by sender."""
    return _encode_table({peer: pair.commitments + pair.sealed for peer, pair in sealed.items()})


def decode_delivery(body: bytes) -> dict[int, SealedPair]:
    """Back from `encode_delivery`."""
    reader = _Reader("sealed shares", body)
    table = reader.table(2 * HASH_BYTES + SEALED_BYTES)
    reader.end()
    return {peer: SealedPair(row[: 2 * HASH_BYTES], row[2 * HASH_BYTES :]) for peer, row in table.items()}


def encode_upload(first: int, packed: bytes) -> bytes:
    """Packed elements of a masked vector, from one position on."""
    return _FIRST.pack(first) + packed


def decode_upload(body: bytes) -> tuple[int, memoryview]:
    """Back from `encode_upload`; the elements are a view of the message."""
    _Reader("an upload", body).take(_FIRST.size)
    return int(_FIRST.unpack_from(body)[0]), memoryview(body)[_FIRST.size :]


def encode_set(config: Config, members: Collection[int]) -> bytes:
    """A set of participants."""
    bits = np.zeros(len(config.ids), np.uint8)
    bits[[*map(config.position, members)]] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def decode_set(config: Config, body: bytes) -> tuple[int, ...]:
    """Back from `encode_set`, ascending."""
    reader = _Reader("a set of participants", body)
    members = _take_set(config, reader)
    reader.end()
    return members


def encode_quorum(config: Config, signatures: Mapping[int, bytes]) -> bytes:
    """Who signed the survivors, and the signatures."""
    return encode_set(config, signatures) + b"".join(signatures[client] for client in sorted(signatures))


def decode_quorum(config: Config, body: bytes) -> dict[int, bytes]:
    """Back from `encode_quorum`."""
    reader = _Reader("a quorum", body)
    signatures = {client: reader.take(SIGNATURE_BYTES) for client in _take_set(config, reader)}
    reader.end()
    return signatures


def encode_unmask(shares: Mapping[int, Unmasking]) -> bytes:
    """One share a peer."""
    return _encode_table({peer: bytes([entry.of]) + entry.share for peer, entry in shares.items()})


def decode_unmask(body: bytes) -> dict[int, Unmasking]:
    """Back from `encode_unmask`."""
    reader = _Reader("an unmasking", body)
    table = reader.table(1 + SHARE_BYTES)
    reader.end()
    return {peer: Unmasking(_share_of(row[0]), row[1:]) for peer, row in table.items()}


def decode_signature(body: bytes) -> bytes:
    """A body that is a signature."""
    reader = _Reader("a signature", body)
    signature = reader.take(SIGNATURE_BYTES)
    reader.end()
    return signature


def _share_of(number: int) -> ShareOf:
    if number not in _KINDS_OF_SHARE:
        raise ProtocolError(f"a share must be of kind 1 or 2, got {number}")
    return _KINDS_OF_SHARE[number]


def _take_set(config: Config, reader: _Reader) -> tuple[int, ...]:
    packed = np.frombuffer(reader.take(-(-len(config.ids) // 8)), np.uint8)
    bits = np.unpackbits(packed, bitorder="little").tolist()
    if any(bits[len(config.ids) :]):
        raise ProtocolError(f"a set must hold no bits beyond the {len(config.ids)} participants")
    return tuple(compress(config.ids, bits))


def _proven_bytes(config: Config) -> int:
    path = 0 if config.is_complete else merkle.HASH_BYTES * merkle.depth(len(config.ids))
    return ADVERTISEMENT_BYTES + path


def _encode_proven(proven: Proven) -> bytes:
    return proven.advertisement.to_bytes() + proven.path


def _decode_proven(row: bytes) -> Proven:
    return Proven(decode_advertise(row[:ADVERTISEMENT_BYTES]), row[ADVERTISEMENT_BYTES:])


def _encode_table(records: Mapping[int, bytes]) -> bytes:
    rows = (_ID.pack(client) + records[client] for client in sorted(records))
    return _COUNT.pack(len(records)) + b"".join(rows)
