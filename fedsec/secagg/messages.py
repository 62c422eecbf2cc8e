"""The bytes on the wire: one frame for all messages, and one table of fixed-length records by client id.

    frame  = version (1) | kind (1) | client id (4) | config digest (32) | body
    table  = count (2) | count times: client id (4), ascending | record (fixed length of its kind)

Integers are little-endian and the client id is that of the message's only client, be it the sender or
the receiver. A decoder knows the exact length before it reads: nothing is allocated by a length that the
message claims, and trailing bytes are refused. Everything that does not decode raises `ProtocolError`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fedsec.errors import InvalidTypeError, ProtocolError
from fedsec.secagg.config import VERSION, Config
from fedsec.secagg.keys import KEY_BYTES, TAG_BYTES

_HEADER = struct.Struct("<BBI32s")
_COUNT = struct.Struct("<H")
_ID = struct.Struct("<I")
SHARE_BYTES = 32
SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES
COMMITMENT_BYTES = 32


class Kind(enum.IntEnum):
    """The type byte: what a message is. Odd ones go to the server, even ones come from it."""

    ADVERTISE = 1
    ROSTER = 2
    SHARE = 3
    DELIVERY = 4
    UPLOAD = 5
    SURVIVORS = 6
    UNMASK = 7


class ShareOf(enum.IntEnum):
    """Which of a peer's two secrets a share in an unmask message is of."""

    SELF_MASK = 1
    MASK_KEY = 2


class PublicKeys(NamedTuple):
    """What a client advertises: the key for sealing shares and the key for masks, fresh in each session."""

    sealing: bytes
    masking: bytes


@dataclass(frozen=True)
class Unmasking:
    """One share of one of a peer's secrets."""

    of: ShareOf
    share: bytes | bytearray = field(repr=False)


def frame(kind: Kind, config: Config, client_id: int, body: bytes) -> bytes:
    """A whole message."""
    return _HEADER.pack(VERSION, kind, client_id, config.digest()) + body


def require_bytes(message: object) -> bytes:
    """Whatever else a message is, it is bytes."""
    if not isinstance(message, (bytes, bytearray)):
        raise InvalidTypeError(f"message must be bytes, got {type(message).__name__}")
    return bytes(message)


def unframe(message: bytes, kind: Kind, config: Config, client_id: int) -> bytes:
    """The body of a message of this kind, of this session, from or to this client."""
    if len(message) < _HEADER.size:
        raise ProtocolError(f"a message must take at least {_HEADER.size} bytes, got {len(message)}")
    version, number, named, digest = _HEADER.unpack_from(message)
    if version != VERSION:
        raise ProtocolError(f"a message must have version {VERSION}, got {version}")
    if digest != config.digest():
        raise ProtocolError("the message belongs to another session or configuration")
    if named != client_id:
        raise ProtocolError(f"the message names client {named} where {client_id} is expected")
    if number != kind:
        raise ProtocolError(f"a message of kind {kind.name} ({kind}) is expected, got kind {number}")
    return message[_HEADER.size :]


def encode_advertise(keys: PublicKeys) -> bytes:
    """A client's two public keys, one after the other."""
    return keys.sealing + keys.masking


def decode_advertise(body: bytes) -> PublicKeys:
    """Back from `encode_advertise`."""
    _require_length("an advertisement", body, 2 * KEY_BYTES)
    return PublicKeys(body[:KEY_BYTES], body[KEY_BYTES:])


def encode_roster(roster: Mapping[int, PublicKeys]) -> bytes:
    """The public keys of all that advertised."""
    return _encode_table({client: encode_advertise(keys) for client, keys in roster.items()})


def decode_roster(body: bytes) -> dict[int, PublicKeys]:
    """Back from `encode_roster`."""
    return {client: decode_advertise(row) for client, row in _decode_table(body, 2 * KEY_BYTES).items()}


def encode_share(commitment: bytes, sealed: Mapping[int, bytes]) -> bytes:
    """A client's commitment to its self mask, and its sealed shares by receiver."""
    return commitment + _encode_table(sealed)


def decode_share(body: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Back from `encode_share`."""
    return body[:COMMITMENT_BYTES], _decode_table(body[COMMITMENT_BYTES:], SEALED_BYTES)


def encode_delivery(sealed: Mapping[int, bytes]) -> bytes:
    """The sealed shares for one client, by sender."""
    return _encode_table(sealed)


def decode_delivery(body: bytes) -> dict[int, bytes]:
    """Back from `encode_delivery`."""
    return _decode_table(body, SEALED_BYTES)


def encode_survivors(survivors: Iterable[int]) -> bytes:
    """The ids of all that uploaded: one list, so that no client can stand on two."""
    return _encode_table(dict.fromkeys(survivors, b""))


def decode_survivors(body: bytes) -> tuple[int, ...]:
    """Back from `encode_survivors`."""
    return tuple(_decode_table(body, 0))


def encode_unmask(shares: Mapping[int, Unmasking]) -> bytes:
    """One share a peer."""
    return _encode_table({peer: bytes([entry.of]) + entry.share for peer, entry in shares.items()})


def decode_unmask(body: bytes) -> dict[int, Unmasking]:
    """Back from `encode_unmask`."""
    table = _decode_table(body, 1 + SHARE_BYTES)
    return {peer: Unmasking(_share_of(row[0]), row[1:]) for peer, row in table.items()}


def _share_of(number: int) -> ShareOf:
    try:
        return ShareOf(number)
    except ValueError:
        raise ProtocolError(f"a share must be of kind 1 or 2, got {number}") from None


def _encode_table(records: Mapping[int, bytes]) -> bytes:
    rows = (_ID.pack(client) + records[client] for client in sorted(records))
    return _COUNT.pack(len(records)) + b"".join(rows)


def _decode_table(body: bytes, record_bytes: int) -> dict[int, bytes]:
    if len(body) < _COUNT.size:
        raise ProtocolError(f"a table must take at least {_COUNT.size} bytes, got {len(body)}")
    (count,) = _COUNT.unpack_from(body)
    row_bytes = _ID.size + record_bytes
    _require_length(f"a table of {count} rows", body, _COUNT.size + count * row_bytes)
    records: dict[int, bytes] = {}
    previous = -1
    for start in range(_COUNT.size, len(body), row_bytes):
        (client,) = _ID.unpack_from(body, start)
        if client <= previous:
            raise ProtocolError(f"client ids must be ascending, got {client} after {previous}")
        records[client] = body[start + _ID.size : start + row_bytes]
        previous = client
    return records


def _require_length(what: str, body: bytes, length: int) -> None:
    if len(body) != length:
        raise ProtocolError(f"{what} must take {length} bytes, got {len(body)}")
