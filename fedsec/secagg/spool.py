"""An upload on its way to the server: kept apart, and added to the sum only when all of it is there.

A client that is lost in the middle of its upload leaves nothing in the sum. What is kept is masked, and so
no secret; small uploads stay in memory, large ones go to a temporary file.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy.typing as npt

from fedsec import masks
from fedsec.errors import ProtocolError

_IN_MEMORY = 2**18  # bytes
_PIECE = 2**18  # elements added at a time; a multiple of 8, so that pieces are whole bytes


class Spool:
    """The packed elements of one vector, in order [SPEC 7.4]."""

    def __init__(self, vector_length: int, modulus_bits: int) -> None:
        self._length, self._bits, self._next = vector_length, modulus_bits, 0
        self._whole: memoryview | None = None
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (it outlives this call)

    @property
    def is_complete(self) -> bool:
        """Whether all elements are there."""
        return self._next == self._length

    def append(self, first: int, packed: memoryview) -> None:
        """The elements from `first` on; they must follow the ones before, and end on a whole byte."""
        if first != self._next or self.is_complete:
            raise ProtocolError(f"an upload must go on at element {self._next}, got {first}")
        count = _count(packed, self._length - first, self._bits)
        if count == self._length:
            self._whole = packed
        else:
            self._file.write(packed)
        self._next += count

    def add_to(self, total: npt.NDArray[Any]) -> None:
        """Adds the whole vector, and lets go of it."""
        if self._whole is not None:
            masks.add_packed(total, self._whole, self._bits)
            return self.close()
        self._file.seek(0)
        for first in range(0, self._length, _PIECE):
            piece = total[first : first + _PIECE]
            masks.add_packed(piece, self._file.read(masks.packed_bytes(len(piece), self._bits)), self._bits)
        self.close()

    def plain(self) -> tuple[int, bytes]:
        """How many elements are there, and they, for a snapshot."""
        self._file.seek(0)
        return self._next, self._file.read()

    @classmethod
    def from_plain(cls, vector_length: int, modulus_bits: int, count: int, packed: bytes) -> Spool:
        """Back from `plain`."""
        spool = cls(vector_length, modulus_bits)
        spool._next = count
        spool._file.write(packed)
        return spool

    def close(self) -> None:
        """Lets go of what is there."""
        self._whole = None
        self._file.close()


def _count(packed: memoryview, left: int, bits: int) -> int:
    """How many elements these bytes hold: all that are left, or fewer, a multiple of eight."""
    if len(packed) == masks.packed_bytes(left, bits):
        spare = 8 * len(packed) - left * bits
        if packed[-1] >> (8 - spare):
            raise ProtocolError("bits beyond the end of an upload must be zero")
        return left
    count, rest = divmod(8 * len(packed), bits)
    if rest or count % 8 or not 0 < count < left:
        raise ProtocolError(
            f"a part of an upload must hold a multiple of 8 elements of {bits} bits, fewer than the {left} "
            f"that are left, or all in {masks.packed_bytes(left, bits)} bytes; got {len(packed)} bytes"
        )
    return count
