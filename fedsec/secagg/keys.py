"""Hashes, keys, signatures and seals, each for one purpose in one session [SPEC 2, 6, 7].

Everything that is hashed, derived, signed or sealed begins with a tag that names protocol, version and
purpose, and goes on with all that it must be bound to, in parts of fixed length. Shares are bound to the
configuration, the advertised keys and the graph (`binding`); masks and signatures to the model as well
(`h1`). So whatever was made for another session, client, model, roster, direction or purpose never fits.

References
----------
[RFC5869] HKDF. [RFC7748] X25519. [RFC8032] Ed25519. [RFC8439] ChaCha20 and Poly1305.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedsec._kernels import Buffer
from fedsec.errors import ProtocolError
from fedsec.secagg.identity import identities
from fedsec.secagg.primitives._secrets import Unpicklable

KEY_BYTES = 32
TAG_BYTES = 16
SIGNATURE_BYTES = 64

_PROTOCOL = b"fedsec secagg 2 "
_ID = struct.Struct("<I")
_TWO_IDS = struct.Struct("<II")
_DEALT = struct.Struct("<BII")
# A sealing key seals one message, ever, so its nonce need not change.
_NONCE = bytes(12)


class Party(NamedTuple):
    """A client and the public key of it that a derivation binds."""

    client_id: int
    public_key: bytes


class KeyPair(Unpicklable):
    """An X25519 key that agrees with many peers; made of its 32 secret bytes, which stay the caller's."""

    def __init__(self, secret: Buffer) -> None:
        self._private = X25519PrivateKey.from_private_bytes(secret)

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def agree(self, peer: Party) -> bytearray:
        """The shared secret; an all-zero one, from a public key of small order, is refused."""
        try:
            return bytearray(self._private.exchange(X25519PublicKey.from_public_bytes(peer.public_key)))
        except ValueError:
            raise ProtocolError(f"client {peer.client_id} advertised a public key of small order") from None


def require_usable(party: Party) -> None:
    """Refuses a public key of small order, whose agreements with anybody are zero."""
    _probe().agree(party)


@lru_cache(maxsize=1)
def _probe() -> KeyPair:
    """No secret: it only shows what a public key does to whoever agrees with it."""
    return KeyPair(b"\1" * KEY_BYTES)


def tag(word: bytes) -> bytes:
    """What everything that is hashed, derived, signed or sealed begins with."""
    return _PROTOCOL + word + b"\0"


def hashed(word: bytes, *parts: Buffer) -> bytes:
    """SHA-256 of a tag and parts."""
    return hashlib.sha256(b"".join((tag(word), *parts))).digest()


def binding(h0: bytes, root: bytes, graph_seed: bytes) -> bytes:
    """What shares are bound to [SPEC 6.2]."""
    return hashed(b"binding", h0, root, graph_seed)


def session_digest(bound: bytes, model_digest: bytes) -> bytes:
    """h1: what masks and signatures are bound to [SPEC 7.2]."""
    return hashed(b"session", bound, model_digest)


def nonce_commitment(h0: bytes, client_id: int, nonce: Buffer) -> bytes:
    """What a member of the committee advertises of its nonce."""
    return hashed(b"nonce", h0, _ID.pack(client_id), nonce)


def mask_commitment(bound: bytes, owner: int, self_mask: Buffer) -> bytes:
    """Hides b_u and binds to it, so that the server can tell whether it combined the right shares."""
    return hashed(b"self mask", bound, _ID.pack(owner), self_mask)


def share_commitment(bound: bytes, kind: int, dealer: int, holder: int, share: Buffer) -> bytes:
    """Hides a share and binds to it, so that a bad dealer and a bad holder can be told apart."""
    return hashed(b"share", bound, _DEALT.pack(kind, dealer, holder), share)


def advertise_text(h0: bytes, client_id: int, advertised: bytes) -> bytes:
    """What a client signs of its keys and its nonce commitment."""
    return tag(b"advertise") + h0 + _ID.pack(client_id) + advertised


def reveal_text(h0: bytes, root: bytes, client_id: int, nonce: Buffer) -> bytes:
    """What a member of the committee signs with its nonce: that it saw the root before."""
    return tag(b"reveal") + h0 + root + _ID.pack(client_id) + nonce


def agree_text(h1: bytes, root: bytes, survivors: bytes) -> bytes:
    """What a client signs of the survivors, given as a bitmap."""
    return tag(b"agree") + h1 + root + hashlib.sha256(survivors).digest()


@lru_cache(maxsize=4096)
def is_signed(public_key: bytes, text: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature is valid.

    A function of public bytes, remembered: where a process plays many clients, all check the same ones.
    """
    return identities.verify(public_key, text, signature)


def sealing_key(shared: Buffer, bound: bytes, sender: Party, receiver: Party) -> bytearray:
    """The key under which `sender` seals its shares for `receiver`; the way back has another."""
    return _derive(shared, bound, _context(b"seal", sender, receiver))


def seal(
    key: Buffer, bound: bytes, pair: Buffer, commitments: bytes, sender: Party, receiver: Party
) -> bytes:
    """Two shares under an AEAD [RFC8439], bound to session, sender, receiver and commitments."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, pair, _sealed_with(bound, commitments, sender, receiver))


def unseal(
    key: Buffer, bound: bytes, sealed: bytes, commitments: bytes, sender: Party, receiver: Party
) -> bytearray:
    """Back from `seal`; `ProtocolError` names the sender of what does not authenticate."""
    associated = _sealed_with(bound, commitments, sender, receiver)
    try:
        return bytearray(ChaCha20Poly1305(key).decrypt(_NONCE, sealed, associated))
    except InvalidTag:
        raise ProtocolError(
            f"the shares of client {sender.client_id} for client {receiver.client_id} are not authentic"
        ) from None


def self_seed(self_mask: Buffer, h1: bytes, owner: Party) -> bytearray:
    """The seed of PRG(b_u)."""
    return _derive(self_mask, h1, _context(b"self mask", owner, owner))


def pair_seed(shared: Buffer, h1: bytes, one: Party, other: Party) -> bytearray:
    """The seed of the mask that two clients share; the same for both."""
    first, second = sorted((one, other))
    return _derive(shared, h1, _context(b"pair mask", first, second))


def _sealed_with(bound: bytes, commitments: bytes, sender: Party, receiver: Party) -> bytes:
    return _context(b"sealed pair", sender, receiver) + bound + commitments


def _context(word: bytes, first: Party, second: Party) -> bytes:
    ids = _TWO_IDS.pack(first.client_id, second.client_id)
    return tag(word) + ids + first.public_key + second.public_key


def _derive(secret: Buffer, salt: bytes, info: bytes) -> bytearray:
    return bytearray(HKDF(SHA256(), KEY_BYTES, salt=salt, info=info).derive(secret))
