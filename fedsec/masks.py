"""Masks and masked sums in the ring of integers mod 2^b: the kernel under secure aggregation.

A mask is the keystream of a pseudo-random generator under a 32-byte seed, read as little-endian words
of one lane (16, 32 or 64 bits) and reduced mod 2^modulus_bits. Element j depends on the seed and on j
alone, so that long vectors can be processed in chunks, through `offset`. Generators, all of them with block
counters from 0:

- `chacha20`: the seed is the key, the nonce is zero [RFC8439, sec. 2.4]. In constant time everywhere: the
  choice for cohorts with devices that have no AES instructions.
- `aes128ctr`: seed[:16] is the key and seed[16:28] the nonce; counter blocks are the nonce and 32 bits of
  counter, big-endian [SP800-38A, sec. 6.5]. The fastest on CPUs with AES instructions; bitsliced on others.
- `aes256ctr`: the seed is the key, the nonce is zero.

Whoever is to cancel a mask must use the same lane: that of `lane_dtype(modulus_bits)` unless all
parties agree on a wider one.

References
----------
[RFC8439] Nir, Langley. ChaCha20 and Poly1305 for IETF Protocols. 2018.
[SP800-38A] Dworkin. Recommendation for Block Cipher Modes of Operation. NIST, 2001.
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import _kernels
from fedsec._checks import whole
from fedsec.errors import InvalidArgumentError, InvalidTypeError

__all__ = [
    "PRGS",
    "accumulate",
    "add",
    "add_packed",
    "expand",
    "lane_dtype",
    "pack",
    "packed_bytes",
    "unpack",
]

PRGS = _kernels.PRGS

Packed = bytes | bytearray | memoryview

# A multiple of 8, so that pieces begin at whole bytes.
_PACK_AT_ONCE = 2**15
_PADDING = "packed must have zeros behind its last residue, got bits that are set"
_LANE_DTYPES = tuple(np.dtype(f"uint{lane}") for lane in _kernels.LANES)


def lane_dtype(modulus_bits: int) -> np.dtype[Any]:
    """The smallest of uint16, uint32 and uint64 that holds residues mod 2^modulus_bits (1 to 64)."""
    bits = whole("modulus_bits", modulus_bits, minimum=1, maximum=64)
    return next(dtype for dtype in _LANE_DTYPES if bits <= 8 * dtype.itemsize)


def accumulate(
    out: npt.NDArray[Any],
    seeds: npt.NDArray[np.uint8],
    signs: npt.NDArray[np.int8],
    modulus_bits: int = 32,
    prg: str = "chacha20",
    offset: int = 0,
    num_threads: int | None = None,
) -> None:
    """Adds or subtracts many masks in one pass, in place [BIK+17, sec. 4].

    ``out[j] = (out[j] + sum_i signs[i] * mask_i[offset + j]) mod 2**modulus_bits``

    Parameters
    ----------
    out : (d,) uint16, uint32 or uint64
        Changed in place. Its dtype is the lane; it must hold `modulus_bits`.
    seeds : (n, 32) uint8
        One row a mask; secret.
    signs : (n,) int8
        +1 or -1 a mask.
    modulus_bits : int in [1, 64]
    prg : "chacha20", "aes128ctr" or "aes256ctr"
    offset : int
        Index of out[0] within the masks, in elements. A seed has 2^38 bytes of mask with ChaCha20 and 2^36
        with AES.
    num_threads : int, optional
        At most so many threads, and only as many as have tens of megabytes of mask each to add; by default
        two, or one where only one CPU is there.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Before `out` is touched.

    Guarantees: exact, whatever the grouping of seeds or chunks; time and memory access do not depend
    on seeds, signs or values.
    """
    lane = _require_lane(out, modulus_bits)
    _kernels.require_array("seeds", seeds, (np.uint8,), ndim=2)
    _kernels.require_array("signs", signs, (np.int8,))
    if seeds.shape != (len(signs), _kernels.SEED_BYTES):
        raise InvalidTypeError(f"seeds must have shape ({len(signs)}, 32) like signs, got {seeds.shape}")
    if others := signs.tobytes().translate(None, b"\x01\xff"):
        raise InvalidArgumentError(f"signs must be +1 or -1, got {np.frombuffer(others, np.int8)[0]}")
    _require_prg(prg)
    _require_offset(offset, out.size, lane, prg)
    if num_threads is not None:
        whole("num_threads", num_threads, minimum=1)
    _kernels.masked_sum(out, seeds, signs, modulus_bits, prg, offset, num_threads)


def expand(
    seed: bytes | bytearray | npt.NDArray[np.uint8],
    length: int,
    modulus_bits: int = 32,
    prg: str = "chacha20",
    offset: int = 0,
) -> npt.NDArray[Any]:
    """One mask as `lane_dtype(modulus_bits)`: elements offset to offset + length - 1 under a 32-byte seed."""
    if not isinstance(seed, (bytes, bytearray, np.ndarray)):
        raise InvalidTypeError(f"seed must be 32 bytes, got {type(seed).__name__}")
    row = seed if isinstance(seed, np.ndarray) else np.frombuffer(seed, np.uint8)
    if row.shape != (_kernels.SEED_BYTES,):
        raise InvalidTypeError(f"seed must be 32 bytes, got shape {row.shape}")
    dtype = lane_dtype(modulus_bits)
    _require_prg(prg)
    longest = _kernels.KEYSTREAM_BYTES[prg] // dtype.itemsize
    out = np.zeros(whole("length", length, minimum=0, maximum=longest), dtype)
    accumulate(out, row[np.newaxis], np.ones(1, np.int8), modulus_bits, prg, offset)
    return out


def add(out: npt.NDArray[Any], vectors: npt.NDArray[Any], modulus_bits: int = 32) -> None:
    """Adds one vector (d,) or many (n, d), of out's dtype, to `out` mod 2^modulus_bits, in place."""
    _require_lane(out, modulus_bits)
    _kernels.require_array("vectors", vectors, (out.dtype,), ndim=None)
    if vectors.ndim not in (1, 2) or vectors.shape[-1] != out.size:
        raise InvalidTypeError(
            f"vectors must have shape ({out.size},) or (n, {out.size}), got {vectors.shape}"
        )
    if np.may_share_memory(out, vectors):
        raise InvalidArgumentError("vectors must not share memory with out")
    _kernels.vector_sum(out, np.atleast_2d(vectors), modulus_bits)


def packed_bytes(length: int, modulus_bits: int) -> int:
    """Bytes that `length` residues mod 2^modulus_bits take on the wire: ceil(length * modulus_bits / 8)."""
    bits = whole("modulus_bits", modulus_bits, minimum=1, maximum=64)
    return (whole("length", length, minimum=0) * bits + 7) // 8


def pack(residues: npt.NDArray[Any], modulus_bits: int) -> bytes:
    """Residues mod 2^modulus_bits (d,), of `lane_dtype(modulus_bits)`, without a spare bit between them.

    Element j takes bits j * modulus_bits on of one little-endian string of bits: bit i of it is bit i % 8 of
    byte i // 8. The bits behind the last element are zero. A residue of 2^modulus_bits or more raises
    `InvalidArgumentError`, which does not print it: it may be secret.
    """
    _kernels.require_array("residues", residues, (lane_dtype(modulus_bits),))
    # Through a buffer that stays in the cache: with a second copy of all bytes, the system's work on fresh
    # memory takes longer than the packing.
    string = io.BytesIO(bytes(packed_bytes(residues.size, modulus_bits)))
    buffer = np.empty(packed_bytes(min(residues.size, _PACK_AT_ONCE), modulus_bits), np.uint8)
    for start in range(0, residues.size, _PACK_AT_ONCE):
        piece = residues[start : start + _PACK_AT_ONCE]
        packed = buffer[: packed_bytes(piece.size, modulus_bits)]
        if not _kernels.pack_bits(packed, piece, modulus_bits):
            raise InvalidArgumentError(f"residues must be below 2**{modulus_bits}, got one that is not")
        string.write(packed.data)
    return string.getvalue()


def unpack(packed: Packed, length: int, modulus_bits: int) -> npt.NDArray[Any]:
    """Back from `pack`: `length` residues as `lane_dtype(modulus_bits)`.

    Raises `InvalidArgumentError` for another number of bytes than `packed_bytes(length, modulus_bits)`, and
    when bits behind the last element are set.
    """
    row = _require_packed(packed, length, modulus_bits)
    out = np.empty(length, lane_dtype(modulus_bits))
    if not _kernels.unpack_bits(out, row, modulus_bits):
        raise InvalidArgumentError(_PADDING)
    return out


def add_packed(out: npt.NDArray[Any], packed: Packed, modulus_bits: int) -> None:
    """Adds a packed vector of out's length to `out` mod 2^modulus_bits, in place, in one pass.

    Raises what `unpack` raises, before `out` is touched. Time does not depend on values.
    """
    _require_lane(out, modulus_bits)
    row = _require_packed(packed, out.size, modulus_bits)
    if np.may_share_memory(out, row):
        raise InvalidArgumentError("packed must not share memory with out")
    if not _kernels.add_packed(out, row, modulus_bits):
        raise InvalidArgumentError(_PADDING)


def _require_packed(packed: Packed, length: int, modulus_bits: int) -> npt.NDArray[np.uint8]:
    if not isinstance(packed, (bytes, bytearray, memoryview)):
        raise InvalidTypeError(f"packed must be bytes, got {type(packed).__name__}")
    if not memoryview(packed).c_contiguous:
        raise InvalidTypeError("packed must be contiguous, got a view with strides")
    row = np.frombuffer(packed, np.uint8)
    expected = packed_bytes(length, modulus_bits)
    if row.size != expected:
        raise InvalidArgumentError(
            f"packed must be {expected} bytes for {length} residues mod 2**{modulus_bits}, got {row.size}"
        )
    return row


def _require_lane(out: npt.NDArray[Any], modulus_bits: int) -> int:
    _kernels.require_array("out", out, _LANE_DTYPES, writable=True)
    lane = 8 * out.itemsize
    # The name of a dtype takes longer than all else here.
    if type(modulus_bits) is not int or not 1 <= modulus_bits <= lane:
        whole(f"modulus_bits of a {out.dtype} vector", modulus_bits, minimum=1, maximum=lane)
    return lane


def _require_prg(prg: str) -> None:
    if prg not in PRGS:
        raise InvalidArgumentError(f"prg must be one of {', '.join(PRGS)}, got {prg!r}")


def _require_offset(offset: int, length: int, lane: int, prg: str) -> None:
    longest = _kernels.KEYSTREAM_BYTES[prg] // (lane // 8)
    whole("offset", offset, minimum=0, maximum=longest - length)
