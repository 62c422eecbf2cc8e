"""The one importer of the compiled core: arrays and bytes in, arrays and bytes out.

Everything that C takes on trust is checked here: dtypes, shapes, contiguity and lengths. cffi releases
the GIL around every call. A backend is a value [docs/architecture.md]; `best_backend` is the default.

References
----------
[RFC8439] Nir, Langley. ChaCha20 and Poly1305 for IETF Protocols. 2018.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fedsec import _core
from fedsec._checks import whole
from fedsec.errors import FedsecError, InvalidArgumentError, InvalidTypeError

SEED_BYTES = 32
LANES = (16, 32, 64)
# The 32-bit block counter of [RFC8439] ends a seed's keystream after 2^32 blocks of 64 bytes.
KEYSTREAM_BYTES = 2**38

Buffer = bytes | bytearray

_ffi = _core.ffi
_lib = _core.lib


class Backend(NamedTuple):
    """A table of kernels for one instruction set."""

    name: str
    table: Any


def backends() -> tuple[Backend, ...]:
    """All backends that this CPU can run, best first; each gives the same bytes."""
    found: list[Backend] = []
    while (table := _lib.fs_backend_at(len(found))) != _ffi.NULL:
        found.append(Backend(_ffi.string(_lib.fs_backend_name(table)).decode("ascii"), table))
    return tuple(found)


best_backend = backends()[0]


def fresh_key() -> bytearray:
    """32 bytes from the operating system, for one call; the caller wipes it."""
    return bytearray(os.urandom(SEED_BYTES))


def wipe(secret: bytearray) -> None:
    """Overwrites a secret of ours with zeros."""
    _lib.fs_wipe(_ffi.from_buffer(secret), len(secret))


def require_array(
    name: str, array: object, dtypes: tuple[npt.DTypeLike, ...], ndim: int | None = 1, writable: bool = False
) -> npt.NDArray[Any]:
    """An ndarray of one of `dtypes`, `ndim` dimensions, C-contiguous and aligned; refuses, never converts."""
    allowed = " or ".join(str(np.dtype(dtype)) for dtype in dtypes)
    # A subclass may hide elements (masked arrays): only plain arrays mean what they hold.
    if type(array) is not np.ndarray:
        raise InvalidTypeError(f"{name} must be a plain numpy array of {allowed}, got {type(array).__name__}")
    if array.dtype not in [np.dtype(dtype) for dtype in dtypes]:
        raise InvalidTypeError(f"{name} must have dtype {allowed}, got {array.dtype}")
    if ndim is not None and array.ndim != ndim:
        raise InvalidTypeError(f"{name} must have {ndim} dimension(s), got shape {array.shape}")
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise InvalidTypeError(f"{name} must be C-contiguous and aligned, got strides {array.strides}")
    if writable and not array.flags.writeable:
        raise InvalidTypeError(f"{name} must be writable, got a read-only array")
    return array


def pointer(array: npt.NDArray[Any]) -> Any:
    """The C pointer to a contiguous array's data, typed after its dtype."""
    kind = {"u": "uint", "i": "int"}.get(array.dtype.kind)
    ctype = f"{kind}{8 * array.itemsize}_t" if kind else {4: "float", 8: "double"}[array.itemsize]
    return _ffi.cast(f"{ctype} *", array.ctypes.data)


def chacha20(key: bytes, nonce: bytes, counter: int, n_blocks: int, backend: Backend = best_backend) -> bytes:
    """`n_blocks` blocks of keystream from block `counter` [RFC8439, sec. 2.4]."""
    if len(key) != SEED_BYTES or len(nonce) != 12:
        raise InvalidArgumentError(f"key must be 32 bytes and nonce 12, got {len(key)} and {len(nonce)}")
    whole("counter + n_blocks", whole("counter", counter, minimum=0) + n_blocks, minimum=0, maximum=2**32)
    out = np.empty(64 * n_blocks, np.uint8)
    _lib.fs_chacha20(backend.table, pointer(out), n_blocks, key, nonce, counter)
    return out.tobytes()


def masked_sum(
    out: npt.NDArray[Any],
    seeds: npt.NDArray[np.uint8],
    signs: npt.NDArray[np.int8],
    modulus_bits: int,
    offset: int,
    backend: Backend = best_backend,
) -> None:
    """out[j] += sum_i signs[i] * word(offset + j of seed i), mod 2^modulus_bits, in place."""
    lane = 8 * out.itemsize
    kernel = getattr(_lib, f"fs_masked_sum{lane}")
    mask = 2**modulus_bits - 1
    kernel(backend.table, pointer(out), out.size, pointer(seeds), pointer(signs), len(seeds), offset, mask)


def vector_sum(out: npt.NDArray[Any], vectors: npt.NDArray[Any], modulus_bits: int) -> None:
    """out[j] += sum_i vectors[i, j], mod 2^modulus_bits, in place."""
    kernel = getattr(_lib, f"fs_vector_sum{8 * out.itemsize}")
    kernel(pointer(out), pointer(vectors), len(vectors), out.size, 2**modulus_bits - 1)


def pack_bits(packed: npt.NDArray[np.uint8], residues: npt.NDArray[Any], modulus_bits: int) -> bool:
    """Residues as a string of bits, into ceil(d * modulus_bits / 8) bytes; False when one is too large."""
    kernel = getattr(_lib, f"fs_pack{8 * residues.itemsize}")
    return bool(kernel(pointer(packed), pointer(residues), residues.size, modulus_bits))


def unpack_bits(out: npt.NDArray[Any], packed: npt.NDArray[np.uint8], modulus_bits: int) -> bool:
    """Back from `pack_bits`; False, with `out` untouched, when bits behind the last element are set."""
    kernel = getattr(_lib, f"fs_unpack{8 * out.itemsize}")
    return bool(kernel(pointer(out), pointer(packed), out.size, modulus_bits))


def add_packed(out: npt.NDArray[Any], packed: npt.NDArray[np.uint8], modulus_bits: int) -> bool:
    """out[j] += element j of `packed`, mod 2^modulus_bits, in place; False like `unpack_bits`."""
    kernel = getattr(_lib, f"fs_add_packed{8 * out.itemsize}")
    return bool(kernel(pointer(out), pointer(packed), out.size, modulus_bits))


def shamir_split(secret: Buffer, coefficients: Buffer, num_shares: int) -> bytearray:
    """Shares of a 32-byte secret at x = 1 .. num_shares, one after the other.

    `coefficients` are (t - 1) * 32 random bytes for a threshold t.
    """
    out = bytearray(SEED_BYTES * num_shares)
    threshold = len(coefficients) // SEED_BYTES + 1
    _lib.fs_shamir_split(
        _ffi.from_buffer(out), _ffi.from_buffer(secret), _ffi.from_buffer(coefficients), threshold, num_shares
    )
    return out


def shamir_combine(abscissas: Buffer, shares: Buffer) -> bytearray:
    """The secret from the shares (32 bytes each, one after the other) at distinct, non-zero abscissas."""
    secret = bytearray(SEED_BYTES)
    _lib.fs_shamir_combine(
        _ffi.from_buffer(secret), _ffi.from_buffer(abscissas), _ffi.from_buffer(shares), len(abscissas)
    )
    return secret


@contextmanager
def _key_of_call(insecure_key: object) -> Iterator[Any]:
    """A fresh key, wiped at the end; or the explicit one of a known-answer test."""
    if insecure_key is not None:
        if not isinstance(insecure_key, bytes) or len(insecure_key) != SEED_BYTES:
            raise InvalidTypeError(f"insecure_key must be {SEED_BYTES} bytes, got {insecure_key!r}")
        yield insecure_key
        return
    key = fresh_key()
    try:
        yield _ffi.from_buffer("uint8_t[]", key)
    finally:
        wipe(key)


def gaussian(
    out: npt.NDArray[Any], stddev: float, insecure_key: bytes | None = None, backend: Backend = best_backend
) -> None:
    """Fills float32 or float64 `out` with normal variates."""
    kernel = getattr(_lib, f"fs_gaussian{8 * out.itemsize}")
    with _key_of_call(insecure_key) as key:
        kernel(backend.table, pointer(out), out.size, stddev, key)


def discrete_gaussian(
    out: npt.NDArray[Any],
    stddev: float,
    insecure_key: bytes | None = None,
    exact_only: bool = False,
    backend: Backend = best_backend,
) -> None:
    """Fills int32 or int64 `out` with discrete Gaussian variates, stddev in [0.1, 2^40]."""
    kernel = getattr(_lib, f"fs_discrete_gaussian{8 * out.itemsize}")
    with _key_of_call(insecure_key) as key:
        if kernel(backend.table, pointer(out), out.size, stddev, key, exact_only):
            raise FedsecError(f"a variate of stddev {stddev!r} does not fit {out.dtype}; nothing was kept")


def bernoulli(
    size: int, numerator: int, denominator: int, insecure_key: bytes, exact_only: bool = False
) -> npt.NDArray[np.uint8]:
    """Exact Bernoulli(numerator / denominator) draws: the decision under `discrete_gaussian`, for tests."""
    out = np.empty(size, np.uint8)
    fraction = (numerator.to_bytes(32, "little"), denominator.to_bytes(32, "little"))
    _lib.fs_bernoulli(best_backend.table, pointer(out), size, *fraction, insecure_key, exact_only)
    return out


Atoms = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def combined_cells(
    operation: Literal["sum", "product"],
    a: Atoms,
    b: Atoms | None,
    edges: npt.NDArray[np.float64],
    scales: npt.NDArray[np.float64],
    floor: float,
) -> Atoms:
    """Mass and scaled first moment, in cells from each edge on, of a sum or product of independent variables.

    `a` and `b` are values, which ascend, and their masses; None for b means another variable like `a`. No
    result may lie below the first edge. Products of masses below `floor` at both ends of a row are left out.
    """
    laws = (a,) if b is None else (a, b)
    given = (edges, scales, *(array for law in laws for array in law))
    for array in given:
        require_array("each array", array, (np.float64,))
    if not edges.size == scales.size > 0 or any(value.size != mass.size for value, mass in laws):
        raise InvalidTypeError(f"arrays must match in length, got {[array.size for array in given]}")
    mass, moment = np.zeros_like(edges), np.zeros_like(edges)
    cells = (*map(pointer, (mass, moment, edges, scales)), edges.size)
    atoms = [part for value, weight in laws for part in (pointer(value), pointer(weight), value.size)]
    kernel = getattr(_lib, f"fs_{operation}_{'own_' if b is None else ''}cells")
    kernel(*cells, *atoms, floor)
    return mass, moment


def sampled_cumulants(
    against: Literal["drawn", "replaced"], q: float, t: float, beta: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Logarithms of A at orders 1 + beta for Gaussian noise on a Poisson sample [csrc/renyi.c].

    `t` is the shift in standard deviations, above 0, `q` a probability inside (0, 1), and each beta is above
    0. Infinite where quadrature has no answer.
    """
    require_array("beta", beta, (np.float64,))
    out = np.empty_like(beta)
    getattr(_lib, f"fs_{against}_cumulants")(pointer(out), pointer(beta), beta.size, q, t)
    return out
