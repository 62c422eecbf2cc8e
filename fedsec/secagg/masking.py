"""The masks of an upload, put on by clients and taken off by the server, each in one fused pass.

    y_u = x_u + PRG(b_u) + sum over v < u of PRG(s_uv) - sum over v > u of PRG(s_uv)   mod 2^b

so that the pairwise masks of two clients cancel in the sum [BIK+17, sec. 4; SPEC 7.3].

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import masks
from fedsec.secagg import keys
from fedsec.secagg.config import Config
from fedsec.secagg.keys import KeyPair, Party
from fedsec.secagg.primitives._secrets import Unpicklable, wiping


@dataclass(frozen=True)
class Term:
    """One mask in an upload: its seed, and whether it is added or subtracted."""

    seed: bytearray = field(repr=False)
    sign: int


def pair_term(h1: bytes, pair: KeyPair, holder: Party, other: Party, uploader: Party) -> Term:
    """The mask of a pair as it stands in the upload of one of them; `pair` is the holder's mask key."""
    with wiping(pair.agree(other)) as agreed:
        return agreed_term(h1, agreed, holder, other, uploader)


def agreed_term(h1: bytes, agreed: bytearray, holder: Party, other: Party, uploader: Party) -> Term:
    """The same from the secret that the two have agreed upon."""
    higher = max(holder.client_id, other.client_id)
    return Term(keys.pair_seed(agreed, h1, holder, other), 1 if uploader.client_id == higher else -1)


@dataclass(frozen=True, repr=False)
class Masks(Unpicklable):
    """Many masks with their signs, to be put on or taken off a vector or parts of one."""

    config: Config
    seeds: npt.NDArray[np.uint8]
    signs: npt.NDArray[np.int8]

    def add(self, vector: npt.NDArray[Any], first: int = 0) -> None:
        """Adds the masks to residues, in place; `first` is the position of vector[0] in the whole."""
        masks.accumulate(vector, self.seeds, self.signs, self.config.modulus_bits, self.config.prg, first)

    def subtract(self, vector: npt.NDArray[Any]) -> None:
        """Takes the masks off again, in place."""
        masks.accumulate(vector, self.seeds, -self.signs, self.config.modulus_bits, self.config.prg)


def packed(residues: npt.NDArray[Any], modulus_bits: int) -> bytes | memoryview:
    """Residues as on the wire [SPEC 7.4]; where b bits fill the lane, they are that already."""
    if modulus_bits == 8 * residues.itemsize and sys.byteorder == "little":
        return residues.view(np.uint8).data
    return masks.pack(residues, modulus_bits)


@contextmanager
def collected(config: Config, terms: Iterable[Term]) -> Iterator[Masks]:
    """All terms side by side; every seed is wiped at the end."""
    taken: list[Term] = []
    with wiping(taken):
        # One by one into the list, so that those made before one fails are wiped as well.
        taken.extend(terms)
        with wiping(bytearray().join(term.seed for term in taken)) as joined:
            seeds = np.frombuffer(joined, np.uint8).reshape(len(taken), -1)
            yield Masks(config, seeds, np.array([term.sign for term in taken], np.int8))
