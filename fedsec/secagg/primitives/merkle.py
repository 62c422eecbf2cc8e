"""The root of the advertised keys: a Merkle tree over the participants' positions [SPEC 5.2].

In the reveal and share phases a client of a sparse graph is shown a few advertisements and a path for each,
and knows by the root that all others were shown the same ones.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

HASH_BYTES = 32

_LEAF, _NODE = b"\x00", b"\x01"
_POSITION = struct.Struct("<I")


def depth(num_participants: int) -> int:
    """How many hashes a path takes: ceil(log2(n))."""
    return (num_participants - 1).bit_length()


class Tree:
    """The tree over advertisements by position; b"" stands for a client that did not advertise."""

    def __init__(self, advertisements: Sequence[bytes]) -> None:
        width = 1 << depth(len(advertisements))
        padded = [*advertisements, *[b""] * (width - len(advertisements))]
        self._levels = [[leaf(position, body) for position, body in enumerate(padded)]]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            self._levels.append([_node(*below[i : i + 2]) for i in range(0, len(below), 2)])

    @property
    def root(self) -> bytes:
        """The hash that stands for all advertisements at their positions."""
        return self._levels[-1][0]

    def path(self, position: int) -> bytes:
        """The siblings from a leaf upwards, 32 bytes each."""
        return b"".join(level[(position >> i) ^ 1] for i, level in enumerate(self._levels[:-1]))


def leads_to(root: bytes, position: int, advertisement: bytes, path: bytes) -> bool:
    """Whether a path proves that this advertisement stands at this position under the root."""
    reached = leaf(position, advertisement)
    for start in range(0, len(path), HASH_BYTES):
        sibling = path[start : start + HASH_BYTES]
        reached = _node(sibling, reached) if position & 1 else _node(reached, sibling)
        position >>= 1
    return reached == root


def leaf(position: int, advertisement: bytes) -> bytes:
    """The hash of one position."""
    return hashlib.sha256(_LEAF + _POSITION.pack(position) + advertisement).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()
