"""An upload on its way to the server: kept apart, and added to the sum only when all of it is there.

A client that is lost in the middle of its upload leaves nothing in the sum. What is kept is masked, and so
no secret; small uploads stay in memory, large ones go to a temporary file.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy.typing as npt

from fedsec import masks
from fedsec.errors import ProtocolError, StoreError

_IN_MEMORY = 2**18  # bytes
_PIECE = 2**18  # elements added at a time; a multiple of 8, so that pieces are whole bytes


class Spool:
    """The packed elements of one vector, in order [SPEC 7.4]."""

    def __init__(self, vector_length: int, modulus_bits: int) -> None:
        self._length, self._bits, self._next = vector_length, modulus_bits, 0
        self._whole: memoryview | None = None
        self._bytes = 0
        self._file: io.RawIOBase | io.BytesIO = io.BytesIO()

    @property
    def is_complete(self) -> bool:
        """Whether all elements are there."""
        return self._next == self._length

    def append(self, first: int, packed: memoryview) -> None:
        """The elements from `first` on; they must follow the ones before, and end on a whole byte.

        If the disk refuses them with `StoreError`, they may come again.
        """
        if first != self._next or self.is_complete:
            raise ProtocolError(f"an upload must go on at element {self._next}, got {first}")
        count = _count(packed, self._length - first, self._bits)
        if count == self._length:
            self._whole = packed
        else:
            self._keep(packed)
        self._next += count

    def _keep(self, packed: memoryview | bytes) -> None:
        with _named():
            if isinstance(self._file, io.BytesIO) and self._bytes + len(packed) > _IN_MEMORY:
                self._file = _on_disk(self._file.getvalue())
            # Behind what was kept: a part that the disk refused may have been written halfway.
            self._file.seek(self._bytes)
            _write(self._file, packed)
        self._bytes += len(packed)

    def add_to(self, total: npt.NDArray[Any]) -> None:
        """Adds the whole vector, and lets go of it; after an error the sum is of no use."""
        with contextlib.closing(self), _named():
            if self._whole is not None:
                return masks.add_packed(total, self._whole, self._bits)
            self._file.seek(0)
            for first in range(0, self._length, _PIECE):
                piece = total[first : first + _PIECE]
                masks.add_packed(piece, self._read(masks.packed_bytes(len(piece), self._bits)), self._bits)

    def _read(self, length: int) -> bytes:
        packed = self._file.read(length) or b""
        if len(packed) != length:
            raise StoreError(f"the temporary file of an upload has lost {length - len(packed)} bytes")
        return packed

    def plain(self) -> tuple[int, bytes]:
        """How many elements are there, and they, for a snapshot."""
        with _named():
            self._file.seek(0)
            return self._next, self._read(self._bytes)

    @classmethod
    def from_plain(cls, vector_length: int, modulus_bits: int, count: int, packed: bytes) -> Spool:
        """Back from `plain`."""
        spool = cls(vector_length, modulus_bits)
        spool._next = count
        spool._keep(packed)
        return spool

    def close(self) -> None:
        """Lets go of what is there."""
        self._whole = None
        self._file.close()


def _on_disk(contents: bytes) -> io.RawIOBase:
    file: io.RawIOBase = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it outlives this call)
    try:
        _write(file, contents)
    except BaseException:
        file.close()
        raise
    return file


def _write(file: io.RawIOBase | io.BytesIO, contents: memoryview | bytes) -> None:
    left = memoryview(contents)
    while left:
        left = left[file.write(left) or 0 :]


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"the temporary file of an upload: {error.strerror}") from error


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
