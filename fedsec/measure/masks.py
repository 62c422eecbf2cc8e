"""The masked sum of many seeds with each backend, beside its ceiling, numpy, OpenSSL and Flower in one run.

The ceiling is a loop of AES rounds alone, on registers, as many as the masks take. numpy adds vectors that
are in memory already, without any generator. OpenSSL (through `cryptography`) and Flower (where it is
installed) make a mask a seed, which numpy or Flower then adds; numpy's PCG64 and torch's Mersenne Twister are
generators without cryptography, with their own library's addition.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedsec import _kernels, masks
from fedsec.measure.timing import turns

THREADS = ("1", "2")
ROUNDS = {"aes128ctr": 10, "aes256ctr": 14}
CEILING, READY, OPENSSL = "AES rounds alone", "numpy adding ready vectors", "OpenSSL and numpy"
FLOWER, PCG64, TWISTER = "Flower", "numpy PCG64", "torch Mersenne Twister"


class Candidate(NamedTuple):
    """A call that makes or adds so many masks; what is slow is given fewer."""

    call: Callable[[], object]
    num_masks: int


def masked_sum(
    num_seeds: int = 100, lengths: Sequence[int] = (1_000_000, 1_000), repeats: int = 9
) -> dict[str, Any]:
    """Gigabytes of mask a second and ratios to peers, for `num_seeds` seeds and vectors of 32-bit words.

    All take turns; speeds are medians, and ratios are medians of the ratios within a turn. One thread, but
    for the rows that say otherwise; key schedules and calls from Python are part of every figure. Short
    vectors take twenty times as many turns.
    """
    tables = [_table(num_seeds, length, repeats if length > 10_000 else 20 * repeats) for length in lengths]
    return {
        "what": f"masked sum, {num_seeds} seeds, words of 32 bits",
        "backend": _kernels.best_backend.name,
        "rows": [row for table in tables for row in table],
        "passes": _passes(max(lengths), repeats),
    }


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    lines = [f"{result['what']} (best backend here: {result['backend']})"]
    for row in result["rows"]:
        ratios = [f"{ratio:.2f} x {peer}" for peer, ratio in row["speed_over"].items()]
        name = f"  {row['length']:>9} words {row['prg']:9} {row['backend']:11}"
        threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ' '}"
        lines.append(f"{name} {threads} {row['gigabytes_a_second']:6.2f} GB/s; {', '.join(ratios)}")
    lines.append("what vectors pass through besides masks, one thread, in time of the processor")
    for row in result["passes"]:
        ratios = [f"{ratio:.2f} x {peer}" for peer, ratio in row["speed_over"].items()]
        name = f"  {row['length']:>9} elements, {row['what']:28}"
        lines.append(f"{name} {row['milliseconds']:6.2f} ms; {', '.join(ratios)}")
    return lines


def _passes(length: int, repeats: int) -> list[dict[str, Any]]:
    """What vectors pass through besides masks, into memory that is ready, ours as the package lays it out.

    The peers are a copy of as many float32, and numpy's clip, scale, round and cast: to the nearest, and at
    random as ours do it, by a uniform number (of PCG64, without cryptography) and floor.
    """
    bits, block, step = 20, 2**12, 1e-4
    rng = np.random.default_rng(2)
    singles = rng.uniform(-1, 1, length).astype(np.float32)
    doubles, copy = singles.astype(np.float64), np.empty_like(singles)
    rotated = np.resize(singles, -(-length // block) * block)
    residues, total, integers, real = (_ready(length, dtype) for dtype in ("u4", "u4", "i8", "f8"))
    packed = np.zeros(masks.packed_bytes(length, bits), np.uint8)

    def rounded(values: npt.NDArray[Any], out: npt.NDArray[Any], modulus_bits: int | None) -> object:
        return _kernels.quantize(values, step, 1.0, modulus_bits=modulus_bits, out=out)

    ours: dict[str, Callable[[], object]] = {
        "quantise float32 to residues": lambda: rounded(singles, residues, bits),
        "quantise float64 to residues": lambda: rounded(doubles, residues, bits),
        "quantise float32 to int64": lambda: rounded(singles, integers, None),
        "dequantise to float32": lambda: _kernels.dequantize(residues, bits, step, 2**bits, out=copy),
        "dequantise to float64": lambda: _kernels.dequantize(residues, bits, step, 2**bits, out=real),
        f"pack {bits} bits": lambda: _kernels.pack_bits(packed, residues, bits),
        f"unpack {bits} bits": lambda: _kernels.unpack_bits(total, packed, bits),
        f"add packed, {bits} bits": lambda: _kernels.add_packed(total, packed, bits),
        f"rotate, blocks of {block}": lambda: _kernels.rotate(rotated, block, bytes(32)),
    }
    peers: dict[str, Callable[[], object]] = {
        "numpy at random, float32": _numpy_rounding(singles, 1 / step, rng),
        "numpy at random, float64": _numpy_rounding(doubles, 1 / step, rng),
        "numpy to the nearest, float32": _numpy_rounding(singles, 1 / step),
        "numpy to the nearest, float64": _numpy_rounding(doubles, 1 / step),
        "a copy": lambda: np.copyto(copy, singles),
    }
    # Of the processor: they are short beside the turns that a busy machine gives other processes.
    taken = turns({**ours, **peers}, repeats, time.thread_time)
    return [
        {
            "what": name,
            "length": length,
            "milliseconds": 1e3 * statistics.median(taken[name]),
            "speed_over": {
                peer: statistics.median(p / t for p, t in zip(taken[peer], taken[name], strict=True))
                for peer in peers
                if peer == "a copy" or "quantise" in name
            },
        }
        for name in ours
    ]


def _ready(length: int, dtype: str) -> npt.NDArray[Any]:
    """An array like those that the package gives, whose pages the system has laid out."""
    array = _kernels.room(length, np.dtype(dtype))
    array.fill(0)
    return array


def _numpy_rounding(
    values: npt.NDArray[Any], steps: float, rng: np.random.Generator | None = None
) -> Callable[[], object]:
    """Clip, scale, round to the nearest or at random, and cast; unchecked."""
    buffer, levels, uniform = np.empty_like(values), np.empty(values.size, np.int32), np.empty_like(values)

    def call() -> None:
        np.clip(values, -1, 1, out=buffer)
        np.multiply(buffer, values.dtype.type(steps), out=buffer)
        if rng is None:
            np.rint(buffer, out=buffer)
        else:
            rng.random(dtype=values.dtype.type, out=uniform)
            np.add(buffer, uniform, out=buffer)
            np.floor(buffer, out=buffer)
        np.copyto(levels, buffer, casting="unsafe")

    return call


def _table(num_seeds: int, length: int, repeats: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 256, (num_seeds, 32), dtype=np.uint8)
    out = np.zeros(length, np.uint32)
    candidates = dict(_ours(out, seeds)) | dict(_peers(out, seeds))
    taken = turns({name: candidate.call for name, candidate in candidates.items()}, repeats)
    a_mask = {name: [t / candidates[name].num_masks for t in times] for name, times in taken.items()}

    def ratio(peer: tuple[str, ...], name: tuple[str, ...]) -> float:
        return statistics.median(p / t for p, t in zip(a_mask[peer], a_mask[name], strict=True))

    rows = []
    for name in candidates:
        if name[-1] not in THREADS:
            continue
        backend, prg, threads = name
        beside = {
            CEILING: (CEILING, backend, prg),
            READY: (READY,),
            OPENSSL: (OPENSSL, prg),
            **{label: (label,) for label in (FLOWER, PCG64, TWISTER)},
        }
        rows.append(
            {
                "backend": backend,
                "prg": prg,
                "threads": int(threads),
                "length": length,
                "gigabytes_a_second": 4e-9 * length / statistics.median(a_mask[name]),
                "speed_over": {label: ratio(peer, name) for label, peer in beside.items() if peer in a_mask},
            }
        )
    return rows


Named = Iterator[tuple[tuple[str, ...], Candidate]]
Words = npt.NDArray[np.uint32]


def _ours(out: Words, seeds: npt.NDArray[np.uint8]) -> Named:
    """(backend, generator, threads), and the call; right before it, to be paired with it, its ceiling."""
    signs = np.where(np.arange(len(seeds)) % 3, 1, -1).astype(np.int8)
    best = _kernels.best_backend
    total = max(512, len(seeds) * out.nbytes // 512 * 512)
    for backend in _kernels.backends():
        n = _few(seeds) if backend.name == "generic" else len(seeds)
        for prg in masks.PRGS:
            call = partial(_kernels.masked_sum, out, seeds[:n], signs[:n], 32, prg, backend=backend)
            if backend is best:
                call = partial(masks.accumulate, out, seeds[:n], signs[:n], 32, prg, num_threads=1)
            if _kernels.aes_rounds(512, 1, backend) and prg in ROUNDS:
                ceiling = partial(_kernels.aes_rounds, total, ROUNDS[prg], backend)
                yield (CEILING, backend.name, prg), Candidate(ceiling, len(seeds))
            yield (backend.name, prg, "1"), Candidate(call, n)
    if out.nbytes * len(seeds) >= _kernels.MIN_PIECES * _kernels.THREAD_BYTES:
        for prg in masks.PRGS:
            call = partial(masks.accumulate, out, seeds, signs, 32, prg, num_threads=2)
            yield (best.name, prg, "2"), Candidate(call, len(seeds))


def _peers(out: Words, seeds: npt.NDArray[np.uint8]) -> Named:
    rng, d, n = np.random.default_rng(1), out.size, _few(seeds)
    ready = rng.integers(0, 2**32, (len(seeds), d), dtype=np.uint32)
    yield (READY,), Candidate(partial(_add_all, out, lambda row: row, ready), len(seeds))
    keys = [seed.tobytes() for seed in seeds[:n]]
    for prg in masks.PRGS:
        yield (OPENSSL, prg), Candidate(partial(_add_all, out, partial(_openssl, prg, bytes(4 * d)), keys), n)

    def pcg64(_: bytes) -> Words:
        return rng.integers(0, 2**32, d, dtype=np.uint32)

    yield (PCG64,), Candidate(partial(_add_all, out, pcg64, keys), n)
    if find_spec("flwr"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition
            from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

        def add_with_flower() -> None:
            vectors: list[npt.NDArray[Any]] = [np.zeros(d, np.int64)]
            for key in keys:
                vectors = parameters_addition(vectors, pseudo_rand_gen(key, 2**32, [(d,)]))

        yield (FLOWER,), Candidate(add_with_flower, n)
    if find_spec("torch"):
        import torch

        total_of = torch.zeros(d, dtype=torch.int32)

        def add_with_torch() -> None:
            for _ in keys:
                total_of.add_(torch.randint(-(2**31), 2**31, (d,), dtype=torch.int32))

        yield (TWISTER,), Candidate(add_with_torch, n)


def _few(seeds: npt.NDArray[np.uint8]) -> int:
    """How many masks are enough for what is slow."""
    return max(1, len(seeds) // 10)


def _add_all(out: npt.NDArray[Any], mask: Callable[[Any], npt.NDArray[Any]], keys: Iterable[Any]) -> None:
    for key in keys:
        np.add(out, mask(key), out=out)


def _openssl(prg: str, zeros: bytes, seed: bytes) -> Words:
    if prg == "chacha20":
        cipher: Cipher[Any] = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None)
    else:
        key = seed[:16] if prg == "aes128ctr" else seed
        cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16)))
    return np.frombuffer(cipher.encryptor().update(zeros), np.uint32)
