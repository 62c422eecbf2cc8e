"""The one importer of the compiled core: arrays and bytes in, arrays and bytes out.

Everything that C takes on trust is checked here: dtypes, shapes, contiguity and lengths. cffi releases
the GIL around every call. A backend is a value [docs/architecture.md]; `best_backend` is the default: the
best that this CPU runs, or the one that the environment variable FEDSEC_BACKEND names.

References
----------
[RFC8439] Nir, Langley. ChaCha20 and Poly1305 for IETF Protocols. 2018.
[KLS21] Kairouz, Liu, Steinke. The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation. ICML 2021.
[SP800-38A] Dworkin. Recommendation for Block Cipher Modes of Operation. NIST, 2001.
"""

from __future__ import annotations

import _thread
import hashlib
import math
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fedsec import _core
from fedsec._checks import whole
from fedsec.errors import EntropyError, InvalidArgumentError, InvalidTypeError

SEED_BYTES = 32
_TELLING_BYTES = 16
_last_draw = [b""]
LANES = (16, 32, 64)
# Generators of masks, in the order of the enum in csrc/core.cdef; the index is on the wire of secagg. Their
# 32-bit block counters [RFC8439, sec. 2.3] end a seed's keystream after 2^32 blocks of 64 or 16 bytes.
KEYSTREAM_BYTES = {"chacha20": 2**38, "aes128ctr": 2**36, "aes256ctr": 2**36}
PRGS = tuple(KEYSTREAM_BYTES)
# A piece of work for a thread; fewer than MIN_PIECES are not shared out, as others may run too late. They are
# cut at multiples of the largest of all kernels' chunks, so that no chunk is made twice.
THREAD_BYTES = 2**23
MIN_PIECES = 4
MAX_THREADS = 2
PIECES_A_THREAD = 8
PIECE_BYTES = 1024

Buffer = bytes | bytearray

_ffi = _core.ffi
_lib = _core.lib


class Backend(NamedTuple):
    """A table of kernels for one instruction set."""

    name: str
    table: Any


def all_backends() -> tuple[Backend, ...]:
    """All backends of this build, best first, whether or not this CPU can run them."""
    found: list[Backend] = []
    while (table := _lib.fs_backend_at(len(found))) != _ffi.NULL:
        found.append(Backend(_ffi.string(_lib.fs_backend_name(table)).decode("ascii"), table))
    return tuple(found)


def backends() -> tuple[Backend, ...]:
    """All backends that this CPU can run, best first; each gives the same bytes."""
    return tuple(backend for backend in all_backends() if _lib.fs_backend_runs(backend.table))


def chosen_backend(name: str | None) -> Backend:
    """The backend of that name, or the best that this CPU runs."""
    able = backends()
    if not name:
        return able[0]
    for backend in able:
        if backend.name == name:
            return backend
    runs = ", ".join(backend.name for backend in able)
    if name in [backend.name for backend in all_backends()]:
        raise InvalidArgumentError(
            f"FEDSEC_BACKEND names {name!r}, which this CPU cannot run; it runs {runs}"
        )
    raise InvalidArgumentError(f"FEDSEC_BACKEND must name a backend of this build ({runs}), got {name!r}")


best_backend = chosen_backend(os.environ.get("FEDSEC_BACKEND"))


def fresh_bytes(length: int) -> bytes:
    """Bytes from the operating system.

    `EntropyError` if there are none, or fewer. Sixteen and more must not all be equal, nor the same as the
    last time: a source that is stuck is seen, at a chance of 2^-120 to refuse a sound one. Others are not.
    """
    try:
        drawn = os.urandom(length)
    except (OSError, NotImplementedError) as error:
        raise EntropyError(f"the operating system gives no randomness: {error}") from error
    if len(drawn) != length:
        raise EntropyError(f"the operating system gives {len(drawn)} random bytes instead of {length}")
    if length >= _TELLING_BYTES:
        print_of_it = hashlib.blake2b(drawn).digest()  # and not the bytes themselves
        if drawn.count(drawn[0]) == length or print_of_it == _last_draw[0]:
            raise EntropyError("the operating system gives the same bytes again and again, no randomness")
        _last_draw[0] = print_of_it
    return drawn


def fresh_seed() -> int:
    """63 bits from the operating system, for a generator that is seeded by a whole number."""
    return int.from_bytes(fresh_bytes(_TELLING_BYTES), "little") >> (8 * _TELLING_BYTES - 63)


def fresh_key() -> bytearray:
    """32 bytes from the operating system, for one call; the caller wipes it."""
    return bytearray(fresh_bytes(SEED_BYTES))


def wipe(secret: bytearray) -> None:
    """Overwrites a secret of ours with zeros."""
    _lib.fs_wipe(_ffi.from_buffer(secret), len(secret))


def require_array(
    name: str, array: object, dtypes: tuple[npt.DTypeLike, ...], ndim: int | None = 1, writable: bool = False
) -> npt.NDArray[Any]:
    """An ndarray of one of `dtypes`, `ndim` dimensions, C-contiguous and aligned; refuses, never converts."""
    # A subclass may hide elements (masked arrays): only plain arrays mean what they hold.
    if type(array) is not np.ndarray:
        raise InvalidTypeError(
            f"{name} must be a plain numpy array of {_names(dtypes)}, got {type(array).__name__}"
        )
    if array.dtype not in dtypes:
        raise InvalidTypeError(f"{name} must have dtype {_names(dtypes)}, got {array.dtype}")
    if ndim is not None and array.ndim != ndim:
        raise InvalidTypeError(f"{name} must have {ndim} dimension(s), got shape {array.shape}")
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned):
        raise InvalidTypeError(f"{name} must be C-contiguous and aligned, got strides {array.strides}")
    if writable and not flags.writeable:
        raise InvalidTypeError(f"{name} must be writable, got a read-only array")
    return array


def _names(dtypes: tuple[npt.DTypeLike, ...]) -> str:
    return " or ".join(str(np.dtype(dtype)) for dtype in dtypes)


_C_TYPES = {
    **{
        np.dtype(f"{kind}{bits}"): _ffi.typeof(f"{kind}{bits}_t[]")
        for kind in ("uint", "int")
        for bits in (8, 16, 32, 64)
    },
    np.dtype(np.float32): _ffi.typeof("float[]"),
    np.dtype(np.float64): _ffi.typeof("double[]"),
}
_BYTES = _C_TYPES[np.dtype(np.uint8)]


def pointer(array: npt.NDArray[Any]) -> Any:
    """A contiguous array's data for C, typed after its dtype; keeps the array alive."""
    return _ffi.from_buffer(_C_TYPES[array.dtype], array)


def room(length: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An array (length,) to be filled.

    From 4 MiB on numpy asks for huge pages. A vector of a few megabytes gets them too: a thousand page faults
    would take as long as ten masks.
    """
    huge = 2**22 // dtype.itemsize
    return np.empty(huge if huge // 4 < length < huge else length, dtype)[:length]


def chacha20(key: Any, nonce: bytes, counter: int, n_blocks: int, backend: Backend = best_backend) -> bytes:
    """`n_blocks` blocks of keystream from block `counter` [RFC8439, sec. 2.4]."""
    if len(key) != SEED_BYTES or len(nonce) != 12:
        raise InvalidArgumentError(f"key must be 32 bytes and nonce 12, got {len(key)} and {len(nonce)}")
    whole("counter + n_blocks", whole("counter", counter, minimum=0) + n_blocks, minimum=0, maximum=2**32)
    out = np.empty(64 * n_blocks, np.uint8)
    _lib.fs_chacha20(backend.table, pointer(out), n_blocks, key, nonce, counter)
    return out.tobytes()


def noise_keystream(
    out: npt.NDArray[Any],
    key: Any,
    stream: tuple[int, int, int] = (0, 0, 0),
    block: int = 0,
    backend: Backend = best_backend,
) -> None:
    """Fills whole blocks of 16 bytes from a key's stream for noise, from `block` on [csrc/core.cdef]."""
    if len(key) != SEED_BYTES or out.nbytes % 16:
        raise InvalidArgumentError(
            f"key must be 32 bytes and out whole blocks of 16, got {len(key)} and {out.nbytes}"
        )
    whole("block and blocks", block + out.nbytes // 16, minimum=0, maximum=2**32)
    _lib.fs_noise_keystream(
        backend.table, _ffi.from_buffer(_BYTES, out), out.nbytes // 16, key, stream, block
    )


def masked_sum(
    out: npt.NDArray[Any],
    seeds: npt.NDArray[np.uint8],
    signs: npt.NDArray[np.int8],
    modulus_bits: int,
    prg: str = "chacha20",
    offset: int = 0,
    num_threads: int | None = 1,
    backend: Backend = best_backend,
) -> None:
    """out[j] += sum_i signs[i] * word(offset + j of seed i), mod 2^modulus_bits, in place.

    Uses several threads where each has enough to do: at most num_threads, or MAX_THREADS for None.
    """
    row = _ffi.from_buffer(_BYTES, out)
    seed_rows, sign_row = pointer(seeds), pointer(signs)
    width, generator, mask = out.itemsize, PRGS.index(prg), 2**modulus_bits - 1

    def add(start: int, end: int) -> None:
        piece, at = row + start * width, offset + start
        job = (piece, end - start, seed_rows, sign_row, len(signs), at, mask)
        _lib.fs_masked_sum(backend.table, generator, 8 * width, *job)

    pieces = out.nbytes * len(signs) // THREAD_BYTES
    # For small sums the system is not asked about CPUs: it takes a microsecond or two to tell.
    threads = 1 if pieces < MIN_PIECES else num_threads or min(MAX_THREADS, _usable_cpus())
    if threads == 1 or (num_threads is None and pieces < _fewest_pieces()):
        add(0, out.size)
        return
    pieces = min(pieces, PIECES_A_THREAD * threads)
    cuts = [0, *_cuts(out.size, pieces, offset, PIECE_BYTES // width), out.size]
    _share_out(list(pairwise(cuts)), add, threads - 1)


def _share_out(pieces: list[tuple[int, int]], add: Callable[[int, int], None], num_helpers: int) -> None:
    """Adds all pieces, in this thread and in helpers: whoever is free takes the next one.

    A helper that the system does not run in time finds nothing left, and nobody waits for it.
    """
    turn, at_work = threading.Condition(), 0
    failed: list[BaseException] = []

    def work() -> None:
        nonlocal at_work
        while True:
            with turn:
                if not pieces or failed:
                    return
                piece, at_work = pieces.pop(), at_work + 1
            try:
                add(*piece)
            except BaseException as error:
                failed.append(error)
            finally:
                with turn:
                    at_work -= 1
                    turn.notify()

    with suppress(RuntimeError):  # no more threads to be had: this one does it all
        for _ in range(num_helpers):
            # Unlike threading.Thread, without waiting for the helper to run.
            _thread.start_new_thread(work, ())
    work()
    with turn:
        turn.wait_for(lambda: not at_work)
    if failed:
        raise failed[0]


def _fewest_pieces() -> int:
    """So many pieces at least are shared out: more where all cores are busy, and a helper may be put off."""
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > _usable_cpus()
    return 4 * MIN_PIECES if busy else MIN_PIECES


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cuts(length: int, pieces: int, offset: int, multiple: int) -> list[int]:
    """Where to cut `length` elements into about equal pieces, so that offset + cut is a multiple."""
    return [length * i // pieces - (offset + length * i // pieces) % multiple for i in range(1, pieces)]


def aes_rounds(n_bytes: int, rounds: int, backend: Backend = best_backend) -> bool:
    """For measurements: as many AES rounds as n_bytes of keystream take, and nothing else.

    n_bytes is a multiple of 512. False where the backend has no AES instructions.
    """
    state = np.zeros(512, np.uint8)
    return bool(_lib.fs_aes_rounds(backend.table, pointer(state), n_bytes, rounds))


def vector_sum(out: npt.NDArray[Any], vectors: npt.NDArray[Any], modulus_bits: int) -> None:
    """out[j] += sum_i vectors[i, j], mod 2^modulus_bits, in place."""
    kernel = getattr(_lib, f"fs_vector_sum{8 * out.itemsize}")
    kernel(pointer(out), pointer(vectors), len(vectors), out.size, 2**modulus_bits - 1)


def pack_bits(packed: npt.NDArray[np.uint8], residues: npt.NDArray[Any], modulus_bits: int) -> bool:
    """Residues as a string of bits, into ceil(d * modulus_bits / 8) bytes; False when one is too large."""
    kernel = getattr(_lib, f"fs_pack{8 * residues.itemsize}")
    return bool(kernel(pointer(packed), pointer(residues), residues.size, modulus_bits))


def unpack_bits(
    out: npt.NDArray[Any],
    packed: npt.NDArray[np.uint8],
    modulus_bits: int,
    backend: Backend = best_backend,
) -> bool:
    """Back from `pack_bits`; False, with `out` untouched, when bits behind the last element are set."""
    kernel = getattr(_lib, f"fs_unpack{8 * out.itemsize}")
    return bool(kernel(backend.table, pointer(out), pointer(packed), out.size, modulus_bits))


def add_packed(
    out: npt.NDArray[Any],
    packed: npt.NDArray[np.uint8],
    modulus_bits: int,
    backend: Backend = best_backend,
) -> bool:
    """out[j] += element j of `packed`, mod 2^modulus_bits, in place; False like `unpack_bits`."""
    kernel = getattr(_lib, f"fs_add_packed{8 * out.itemsize}")
    return bool(kernel(backend.table, pointer(out), pointer(packed), out.size, modulus_bits))


def quantize(
    values: npt.NDArray[np.floating[Any]],
    granularity: float,
    max_abs: float,
    dtype: npt.DTypeLike = np.int64,
    modulus_bits: int | None = None,
    insecure_key: bytes | None = None,
    backend: Backend = best_backend,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any] | None:
    """Levels of float32 or float64 values (d,) by stochastic rounding; None when one is refused.

    They come in an integer dtype of 16, 32 or 64 bits, which the caller knows to hold them, or as residues
    mod 2^modulus_bits; in a new array, or in `out`, whose dtype it then is.
    """
    whole("number of values", values.size, minimum=0, maximum=KEYSTREAM_BYTES["aes128ctr"] // 4)
    out = room(values.size, np.dtype(dtype)) if out is None else out
    lane = 8 * out.itemsize
    mask = 2 ** (modulus_bits or lane) - 1
    kernel = getattr(_lib, f"fs_quantize{8 * values.itemsize}")
    with key_of_call(insecure_key) as key:
        given = (pointer(values), values.size, granularity, max_abs, mask, key)
        done = kernel(backend.table, lane, _ffi.from_buffer(_BYTES, out), *given)
    return out if done else None


def truncate(
    values: npt.NDArray[np.float32], granularity: float, max_abs: float
) -> npt.NDArray[np.int32] | None:
    """Levels of float32 values (d,) rounded toward zero; None when one is refused. At most 2^30 steps."""
    out = room(values.size, np.dtype(np.int32))
    done = _lib.fs_truncate32(pointer(out), pointer(values), out.size, granularity, max_abs)
    return out if done else None


def dequantize(
    residues: npt.NDArray[Any],
    modulus_bits: int,
    granularity: float,
    bound: int,
    dtype: npt.DTypeLike = np.float64,
    backend: Backend = best_backend,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any] | None:
    """Signed levels within +-bound, from their residues, times the granularity; None when one is outside.

    The products are of double precision, rounded once more for float32; in a new array, or in `out`.
    """
    out = room(residues.size, np.dtype(dtype)) if out is None else out
    kernel = getattr(_lib, f"fs_dequantize{8 * out.itemsize}")
    given = (_ffi.from_buffer(_BYTES, residues), out.size, modulus_bits, granularity, bound)
    return out if kernel(backend.table, 8 * residues.itemsize, pointer(out), *given) else None


def l2_norm(values: npt.NDArray[np.float32], backend: Backend = best_backend) -> float:
    """The Euclidean norm of float32 values (d,), up to 2^-50 d of itself; not finite where a value is not."""
    return math.sqrt(_lib.fs_sum_of_squares(backend.table, pointer(values), values.size))


def squared_norm(levels: npt.NDArray[np.int32], backend: Backend = best_backend) -> int:
    """The squared Euclidean norm of int32 levels (d,), fewer than 2^32, exactly."""
    halves = _ffi.new("uint64_t[2]")
    _lib.fs_squared_norm(backend.table, halves, pointer(levels), levels.size)
    return int(halves[1]) << 64 | int(halves[0])


def round_conditionally(
    values: npt.NDArray[np.float32],
    granularity: float,
    max_squared_norm: int,
    max_attempts: int,
    backend: Backend = best_backend,
) -> npt.NDArray[np.int32] | None:
    """Levels of float32 values (d,) whose squared norm, in exact integers, is at most `max_squared_norm`.

    Stochastic rounding with fresh randomness until that holds, at most `max_attempts` times; then truncation
    toward zero [KLS21, Alg. 1]. None when a value is not finite, or when even truncation is too long.
    `max_squared_norm` is below 2^60.
    """
    whole("max_squared_norm", max_squared_norm, minimum=0, maximum=2**60 - 1)
    # Nothing longer can hold the bound, and levels stay within int32.
    max_abs = granularity * (math.isqrt(max_squared_norm) + 1)
    for attempt in range(max_attempts + 1):
        if attempt < max_attempts:
            levels = quantize(values, granularity, max_abs, np.int32, backend=backend)
        else:
            levels = truncate(values, granularity, max_abs)
        if levels is None or squared_norm(levels, backend) <= max_squared_norm:
            return levels
    return None


def add_noise(
    levels: npt.NDArray[np.int32], noise: npt.NDArray[np.integer[Any]], modulus_bits: int
) -> npt.NDArray[Any]:
    """(levels + noise) mod 2^modulus_bits in the smallest lane that holds them; noise is int32 or int64."""
    lane = next(lane for lane in LANES if modulus_bits <= lane)
    out = room(levels.size, np.dtype(f"uint{lane}"))
    kernel = getattr(_lib, f"fs_add_noise{lane}_{8 * noise.itemsize}")
    kernel(pointer(out), pointer(levels), pointer(noise), out.size, 2**modulus_bits - 1)
    return out


def rotate(
    values: npt.NDArray[np.float32],
    block: int,
    public_key: bytes,
    back: bool = False,
    scale: float = 1.0,
    backend: Backend = best_backend,
) -> None:
    """Scales float32 values (d,) and rotates each block at random, or back, in place [csrc/rotation.c].

    `block` is a power of two that divides d. Whoever has the 32-byte key can rotate back: it is no secret.
    """
    require_array("values", values, (np.float32,), writable=True)
    whole("block", block, minimum=1)
    if block & (block - 1) or values.size % block or len(public_key) != SEED_BYTES:
        raise InvalidArgumentError(
            f"block must be a power of two that divides {values.size}, with a key of {SEED_BYTES} bytes, "
            f"got {block} and {len(public_key)} bytes"
        )
    _lib.fs_rotate(backend.table, pointer(values), values.size, block, scale, public_key, back)


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


class key_of_call:  # noqa: N801 - used as a function; as a generator it would take ten times as long
    """A fresh key, wiped at the end; or the explicit one of a known-answer test."""

    __slots__ = ("_fresh", "_key")

    def __init__(self, insecure_key: object) -> None:
        self._fresh = insecure_key is None
        if self._fresh:
            self._key = _ffi.from_buffer(_BYTES, fresh_key())
        elif isinstance(insecure_key, bytes) and len(insecure_key) == SEED_BYTES:
            self._key = insecure_key
        else:
            raise InvalidTypeError(f"insecure_key must be {SEED_BYTES} bytes, got {insecure_key!r}")

    def __enter__(self) -> Any:
        return self._key

    def __exit__(self, *_: object) -> None:
        if self._fresh:
            _lib.fs_wipe(self._key, SEED_BYTES)


def gaussian(
    out: npt.NDArray[Any], stddev: float, insecure_key: bytes | None = None, backend: Backend = best_backend
) -> None:
    """Fills float32 or float64 `out` with normal variates."""
    kernel = _lib.fs_gaussian32 if out.itemsize == 4 else _lib.fs_gaussian64
    with key_of_call(insecure_key) as key:
        kernel(backend.table, pointer(out), out.size, stddev, key)


def weighted_sum(
    total: npt.NDArray[Any],
    values: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64],
    *,
    fresh: bool,
    backend: Backend = best_backend,
) -> None:
    """Adds weights (n,) times rows (n, ...) to a total (...), or puts them there, in double precision."""
    kernel = _lib.fs_weighted_sum32 if total.itemsize == 4 else _lib.fs_weighted_sum64
    kernel(backend.table, pointer(total), pointer(values), pointer(weights), len(values), total.size, fresh)


def sums_of_squares(
    values: npt.NDArray[np.float32], backend: Backend = best_backend
) -> npt.NDArray[np.float64]:
    """The sum of the squares of each of the rows (n, d), in double precision."""
    out = np.empty(len(values))
    _lib.fs_sums_of_squares(backend.table, pointer(out), pointer(values), *values.shape)
    return out


# So many terms are added up in single precision by `products`; a thread should have so many multiplications.
BLOCK: int = _lib.FS_BLOCK
_THREAD_PRODUCTS = 2**23


def products(
    total: npt.NDArray[Any],
    left: npt.NDArray[np.float32],
    right: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64],
    *,
    fresh: bool,
    num_threads: int = 1,
    backend: Backend = best_backend,
) -> None:
    """Adds to a total (m, n) the sum of weighted outer products of (rows, positions, m) and (..., n).

    Puts them there instead where it is fresh. Rows beyond those that have a weight have the weight 0. At most
    `BLOCK` terms are added up in single precision: of one record, or of several with one position each; all
    else in double precision, and once to the total. What comes out does not depend on the number of threads.
    """
    rows, positions, m = left.shape
    n = right.shape[2]
    kernel = _lib.fs_products32 if total.itemsize == 4 else _lib.fs_products64
    wanted = {"right": pointer(right), "weights": pointer(weights), "records": len(weights)}
    wanted |= {"stride": m, "terms": rows * positions, "positions": positions, "n": n}
    row, first = pointer(total), pointer(left)

    def add(start: int, end: int) -> None:
        scratch = _scratch.of(rows * positions)
        made = _ffi.new("fs_product *", {**wanted, "left": first + start, "m": end - start})
        kernel(backend.table, row + start * n, made, fresh, pointer(scratch))

    _shared_out(m, rows * positions * m * n, add, num_threads, multiple=_lib.FS_TILE)


class _Scratch(threading.local):
    """What `products` copies its sides to: kept for the next call of a thread, wiped by C after each."""

    numbers: npt.NDArray[np.float64] = np.empty(0)

    def of(self, terms: int) -> npt.NDArray[np.float64]:
        """Enough for a product of so many terms (csrc/core.cdef)."""
        panel = terms * int(_lib.FS_TILE)
        singles = panel + max(panel, int(_lib.FS_PANELS))
        wanted = int(_lib.FS_TALL * _lib.FS_TILE) + (singles + 1) // 2
        if len(self.numbers) < wanted:
            self.numbers = np.empty(wanted)
        return self.numbers


_scratch = _Scratch()


def _shared_out(
    length: int, work: int, add: Callable[[int, int], None], num_threads: int, multiple: int
) -> None:
    """`add` over all of the length, in pieces of about equal work, by several threads where it is enough."""
    pieces = min(work // _THREAD_PRODUCTS, PIECES_A_THREAD * num_threads)
    if num_threads == 1 or pieces < MIN_PIECES:
        add(0, length)
        return
    cuts = sorted({0, *_cuts(length, pieces, 0, multiple), length})
    _share_out(list(pairwise(cuts)), add, num_threads - 1)


def release(
    out: npt.NDArray[Any],
    values: npt.NDArray[Any],
    noise: npt.NDArray[np.int64],
    granularity: float,
    scale: float,
    backend: Backend = best_backend,
) -> bool:
    """Fills `out` with scale * granularity * (nearest(values / granularity) + noise); False if refused.

    float32 or float64 (d,) each, but not float64 from float32. The granularity is a power of two.
    """
    kernel = getattr(_lib, f"fs_release{8 * values.itemsize}_{8 * out.itemsize}")
    given = (pointer(values), pointer(noise), out.size, granularity, scale)
    return bool(kernel(backend.table, pointer(out), *given))


BELL_CHUNK = 2**20  # variates that share a stream of candidates


def bell_law(formula: Literal["gaussian", "skellam", "poisson"] | None, **fields: object) -> Any:
    """The structure fs_bell of csrc/core.cdef; where there is no formula, log_weights are a table."""
    named = getattr(_lib, f"FS_BELL_{(formula or 'table').upper()}")
    return _ffi.new("fs_bell *", {"formula": named, **fields})


class BellUndecided(NamedTuple):
    """A candidate that C leaves to exact arithmetic: see fs_bell_undecided in csrc/core.cdef."""

    position: int
    candidate: int
    cell: int
    value: int
    uniform: int
    gap: float


def bells(
    out: npt.NDArray[Any],
    law: Any,
    key: Any,
    chunk: int,
    refused: list[int],
    exact_only: bool = False,
    backend: Backend = best_backend,
) -> list[BellUndecided]:
    """Fills a chunk, int32 or int64, with variates; gives those left to the caller.

    `refused` are candidates that the caller has found not to stand, in ascending order.
    """
    kernel = _lib.fs_bells32 if out.itemsize == 4 else _lib.fs_bells64
    room, found = 0, _ffi.NULL  # hardly ever is one left
    while True:
        given = (chunk, refused, len(refused), exact_only, found, room)
        n = kernel(backend.table, law, pointer(out), out.size, key, *given)
        if n <= room:
            break
        room, found = n, _ffi.new("fs_bell_undecided[]", n)
    if n == 0:
        return []
    undecided = [
        BellUndecided(
            row.position,
            row.candidate,
            row.cell,
            row.value,
            row.uniform_high << 64 | row.uniform_low,
            row.gap,
        )
        for row in found[0:n]
    ]
    _lib.fs_wipe(found, _ffi.sizeof(found))
    return undecided


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
