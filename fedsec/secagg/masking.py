"""The masks of an upload, put on by clients and taken off by the server, each in one fused pass.

    y_u = x_u + PRG(b_u) + sum over v < u of PRG(s_uv) - sum over v > u of PRG(s_uv)   mod 2^b

so that the pairwise masks of two clients cancel in the sum [BIK+17, sec. 4].

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import masks
from fedsec._kernels import Buffer
from fedsec.secagg import keys
from fedsec.secagg._secrets import wiping
from fedsec.secagg.config import Config
from fedsec.secagg.keys import Binding, Party


@dataclass(frozen=True)
class Term:
    """One mask in an upload: its seed, and whether it is added or subtracted."""

    seed: bytearray = field(repr=False)
    sign: int


def pair_term(binding: Binding, secret: Buffer, holder: Party, other: Party, uploader: Party) -> Term:
    """The mask of a pair as it stands in the upload of one of them; `secret` is the holder's mask key."""
    higher = max(holder.client_id, other.client_id)
    return Term(keys.pair_seed(binding, secret, holder, other), 1 if uploader.client_id == higher else -1)


def add(config: Config, vector: npt.NDArray[Any], terms: Iterable[Term]) -> None:
    """Adds masks to a vector of residues, in place, and wipes their seeds."""
    _accumulate(config, vector, terms, 1)


def subtract(config: Config, vector: npt.NDArray[Any], terms: Iterable[Term]) -> None:
    """Takes masks off again, in place, and wipes their seeds."""
    _accumulate(config, vector, terms, -1)


def _accumulate(config: Config, vector: npt.NDArray[Any], terms: Iterable[Term], factor: int) -> None:
    taken: list[Term] = []
    with wiping(taken):
        # One by one into the list, so that those made before one fails are wiped as well.
        taken.extend(terms)
        with wiping(bytearray().join(term.seed for term in taken)) as joined:
            seeds = np.frombuffer(joined, np.uint8).reshape(len(taken), -1)
            signs = np.array([factor * term.sign for term in taken], np.int8)
            masks.accumulate(vector, seeds, signs, config.modulus_bits, config.prg)
