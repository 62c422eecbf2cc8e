"""What the server rebuilds from shares in the end: the seeds of masks that are still on the sum [SPEC 9.2].

Shares fit their dealers' commitments by then, so a secret that does not fit is its dealer's fault.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields

from fedsec.errors import AggregationAborted
from fedsec.secagg import keys, masking
from fedsec.secagg.config import Config
from fedsec.secagg.keys import KeyPair, Party
from fedsec.secagg.masking import Term
from fedsec.secagg.messages import ShareOf, Unmasking
from fedsec.secagg.primitives import shamir
from fedsec.secagg.primitives._secrets import Unpicklable, wiping


@dataclass(frozen=True, repr=False)
class Dealt(Unpicklable):
    """What one client told the server of the secrets that it shared, and who holds shares of them."""

    mask_key: bytes
    mask_commitment: bytes
    share_commitments: dict[int, bytes]
    neighbors: tuple[int, ...]
    # By the abscissa of the client that handed it out.
    shares: dict[int, bytearray] = field(default_factory=dict)

    def fits(self, bound: bytes, dealer: int, holder: int, given: Unmasking) -> bool:
        """Whether a share is the one that was dealt to this holder."""
        start = keys.KEY_BYTES * (given.of - ShareOf.SELF_MASK)
        committed = self.share_commitments[holder][start : start + keys.KEY_BYTES]
        return committed == keys.share_commitment(bound, given.of, dealer, holder, given.share)

    def plain(self) -> tuple[object, ...]:
        """Its fields, for a snapshot."""
        return tuple(getattr(self, entry.name) for entry in fields(self))

    def keep(self, holder: int, share: bytes | bytearray) -> None:
        """Keeps a share that fits."""
        self.shares[1 + self.neighbors.index(holder)] = bytearray(share)


def remaining_masks(
    config: Config, h1: bytes, bound: bytes, dealt: Mapping[int, Dealt], survivors: Collection[int]
) -> Iterator[Term]:
    """The self masks of the survivors, and the pair masks that lost clients left on survivors' uploads."""
    alive = set(survivors)
    for owner in survivors:
        yield _self_term(config, h1, bound, owner, dealt[owner])
    for lost in dealt.keys() - alive:
        others = [client for client in dealt[lost].neighbors if client in alive]
        if others:
            yield from _pair_terms(config, h1, lost, dealt, others)


def _self_term(config: Config, h1: bytes, bound: bytes, owner: int, secret: Dealt) -> Term:
    with wiping(_combine(config, owner, secret)) as self_mask:
        if not hmac.compare_digest(keys.mask_commitment(bound, owner, self_mask), secret.mask_commitment):
            raise AggregationAborted(f"client {owner} dealt shares of its self mask that do not fit together")
        return Term(keys.self_seed(self_mask, h1, Party(owner, secret.mask_key)), 1)


def _pair_terms(
    config: Config, h1: bytes, lost: int, dealt: Mapping[int, Dealt], others: Collection[int]
) -> Iterator[Term]:
    with wiping(_combine(config, lost, dealt[lost])) as secret:
        pair, gone = KeyPair(secret), Party(lost, dealt[lost].mask_key)
        if pair.public != gone.public_key:
            raise AggregationAborted(f"client {lost} dealt shares of its mask key that do not fit together")
        for client in others:
            other = Party(client, dealt[client].mask_key)
            yield masking.pair_term(h1, pair, gone, other, uploader=other)


def _combine(config: Config, owner: int, secret: Dealt) -> bytearray:
    threshold = config.parameters.threshold
    if len(secret.shares) < threshold:
        raise AggregationAborted(
            f"{len(secret.shares)} neighbors gave shares of client {owner}, the threshold is {threshold}"
        )
    return shamir.combine(secret.shares, threshold)
