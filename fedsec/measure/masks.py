"""The masked sum of many seeds, beside numpy's sum of vectors that are in memory already."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from fedsec import _kernels, masks
from fedsec.measure.timing import medians


def masked_sum(num_seeds: int = 100, length: int = 100_000, repeats: int = 7) -> dict[str, Any]:
    """Seconds for `num_seeds` masks of `length` 32-bit words, and ratios to two peers in the same run.

    Peers: numpy adding as many ready uint32 vectors (no generator at all); OpenSSL's ChaCha20 through
    `cryptography` with numpy's addition; and generators that are not cryptographic, numpy's PCG64 and, where
    it is installed, torch's Mersenne Twister, each with its library's addition.
    """
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 256, (num_seeds, 32), dtype=np.uint8)
    signs = rng.choice(np.array([-1, 1], np.int8), num_seeds)
    ready = rng.integers(0, 2**32, (num_seeds, length), dtype=np.uint32)
    zeros = bytes(4 * length)
    out = np.zeros(length, np.uint32)

    def with_numpy() -> None:
        for row in ready:
            np.add(out, row, out=out)

    def with_openssl() -> None:
        for seed in seeds:
            cipher = Cipher(algorithms.ChaCha20(seed.tobytes(), bytes(16)), mode=None)
            np.add(out, np.frombuffer(cipher.encryptor().update(zeros), np.uint32), out=out)

    def with_pcg64() -> None:
        for _ in range(num_seeds):
            np.add(out, rng.integers(0, 2**32, length, dtype=np.uint32), out=out)

    peers = {
        "numpy, ready vectors": with_numpy,
        "OpenSSL ChaCha20 and numpy": with_openssl,
        "numpy PCG64": with_pcg64,
        **_torch_peer(num_seeds, length),
    }
    seconds = medians({"fedsec": lambda: masks.accumulate(out, seeds, signs), **peers}, repeats)
    return {
        "what": f"masked sum, {num_seeds} seeds, {length} words of 32 bits, chacha20",
        "backend": _kernels.best_backend.name,
        "seconds": seconds,
        "gigabytes_a_second": 4e-9 * num_seeds * length / seconds["fedsec"],
        "speed_over": {name: t / seconds["fedsec"] for name, t in seconds.items() if name != "fedsec"},
    }


def _torch_peer(num_seeds: int, length: int) -> dict[str, Callable[[], None]]:
    if not find_spec("torch"):
        return {}
    import torch

    out = torch.zeros(length, dtype=torch.int32)

    def with_torch() -> None:
        for _ in range(num_seeds):
            out.add_(torch.randint(-(2**31), 2**31, (length,), dtype=torch.int32))

    return {"torch Mersenne Twister": with_torch}


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    lines = [f"{result['what']} ({result['backend']}): {result['gigabytes_a_second']:.2f} GB/s of mask"]
    return lines + [
        f"  {ratio:.2f} times the speed of {peer}" for peer, ratio in result["speed_over"].items()
    ]
