"""The key schedule: X25519 agreement, HKDF-SHA256 with labels, and the sealing of shares.

Every key is derived for one purpose, in one direction, in one session: HKDF's salt is a digest of the
configuration (session, round, all parameters) and of the roster of advertised keys; its info names
version, purpose, session, round, both parties in order, and both public keys. Two keys differ as soon as
one of these does, so that clients that were given different rosters cannot open each other's shares.

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
[RFC5869] Krawczyk, Eronen. HMAC-based Extract-and-Expand Key Derivation Function. 2010.
[RFC7748] Langley, Hamburg, Turner. Elliptic Curves for Security (X25519). 2016.
[RFC8439] Nir, Langley. ChaCha20 and Poly1305 for IETF Protocols. 2018.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedsec._kernels import Buffer
from fedsec.errors import ProtocolError
from fedsec.secagg._secrets import wiping
from fedsec.secagg.config import Config

KEY_BYTES = 32
TAG_BYTES = 16

_PROTOCOL = b"fedsec secagg 1 "
_PARTIES = struct.Struct("<32sQII32s32s")
# A sealing key seals one message, ever, so its nonce need not change.
_NONCE = bytes(12)


class Party(NamedTuple):
    """A client and the public key of it that a derivation binds."""

    client_id: int
    public_key: bytes


@dataclass(frozen=True)
class Binding:
    """What all keys of a session are bound to: its configuration, and the roster of advertised keys."""

    config: Config
    digest: bytes


def bind(config: Config, roster: bytes) -> Binding:
    """The binding to a roster in its canonical bytes."""
    return Binding(config, hashlib.sha256(_PROTOCOL + b"roster\0" + config.digest() + roster).digest())


def public_key(secret: Buffer) -> bytes:
    """The X25519 public key of 32 secret bytes [RFC7748]."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: Buffer, peer: Party) -> bytearray:
    """The X25519 shared secret; an all-zero one, from a public key of small order, is refused."""
    try:
        private = X25519PrivateKey.from_private_bytes(secret)
        return bytearray(private.exchange(X25519PublicKey.from_public_bytes(peer.public_key)))
    except ValueError:
        raise ProtocolError(f"client {peer.client_id} advertised a public key of small order") from None


def require_usable(peer: Party) -> None:
    """Refuses a public key of small order: with those, and only those, every agreement is all zero."""
    agree(bytes(KEY_BYTES), peer)


def pair_seed(binding: Binding, secret: Buffer, mine: Party, other: Party) -> bytearray:
    """The seed of the mask that two clients share, from one's mask key and the other's public one: s_uv."""
    with wiping(agree(secret, other)) as shared:
        return _derive(shared, binding, _context(binding, b"pairwise mask", *sorted((mine, other))))


def self_seed(binding: Binding, self_mask: Buffer, owner: Party) -> bytearray:
    """The seed of a client's self mask, from the secret b_u that it shares among all."""
    return _derive(self_mask, binding, _context(binding, b"self mask", owner, owner))


def commitment(binding: Binding, self_mask: Buffer, owner: Party) -> bytes:
    """Hides b_u and binds to it, so that the server can tell whether it combined the right shares."""
    context = _context(binding, b"commitment", owner, owner)
    return hashlib.sha256(context + binding.digest + self_mask).digest()


def sealing_key(binding: Binding, shared: Buffer, sender: Party, receiver: Party) -> bytearray:
    """The key under which `sender` seals its shares for `receiver`; the way back has another."""
    return _derive(shared, binding, _context(binding, b"sealing", sender, receiver))


def seal(binding: Binding, key: Buffer, shares: Buffer, sender: Party, receiver: Party) -> bytes:
    """Two shares under an AEAD [RFC8439], bound to session, round, sender and receiver."""
    associated = binding.digest + _context(binding, b"sealed shares", sender, receiver)
    return ChaCha20Poly1305(key).encrypt(_NONCE, shares, associated)


def unseal(binding: Binding, key: Buffer, sealed: bytes, sender: Party, receiver: Party) -> bytearray:
    """Back from `seal`; `ProtocolError` names the sender of what does not authenticate."""
    associated = binding.digest + _context(binding, b"sealed shares", sender, receiver)
    try:
        return bytearray(ChaCha20Poly1305(key).decrypt(_NONCE, sealed, associated))
    except InvalidTag:
        raise ProtocolError(
            f"the shares of client {sender.client_id} for client {receiver.client_id} are not authentic"
        ) from None


def _context(binding: Binding, purpose: bytes, first: Party, second: Party) -> bytes:
    parties = _PARTIES.pack(
        binding.config.session_id,
        binding.config.round_id,
        first.client_id,
        second.client_id,
        first.public_key,
        second.public_key,
    )
    return _PROTOCOL + purpose + b"\0" + parties


def _derive(secret: Buffer, binding: Binding, context: bytes) -> bytearray:
    return bytearray(HKDF(SHA256(), KEY_BYTES, salt=binding.digest, info=context).derive(secret))
