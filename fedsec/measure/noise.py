"""Noise samplers beside numpy's and torch's generators, which are neither exact nor cryptographic."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from fedsec import _kernels, noise
from fedsec.measure.timing import medians


def samplers(length: int = 200_000, stddev: float = 1000.0, repeats: int = 7) -> dict[str, Any]:
    """Seconds for `length` samples of each sampler, and ratios to the peers' speed in the same run.

    Peers: `numpy.random.Generator.standard_normal` (PCG64, float32) and, where it is installed,
    `torch.randn` (Mersenne Twister, float32).
    """
    ours, peers = _ours(length, stddev), _peers(length)
    seconds = medians({**ours, **peers}, repeats)
    return {
        "what": f"{length} samples a call, stddev {stddev:g}",
        "backend": _kernels.best_backend.name,
        "seconds": seconds,
        "samples_a_second": {name: length / taken for name, taken in seconds.items()},
        "speed_over": {name: {peer: seconds[peer] / seconds[name] for peer in peers} for name in ours},
    }


def _ours(length: int, stddev: float) -> dict[str, Callable[[], object]]:
    vector = np.zeros(length, np.float32)
    return {
        "discrete_gaussian, int64": lambda: noise.discrete_gaussian(length, stddev),
        "discrete_gaussian, int32": lambda: noise.discrete_gaussian(length, stddev, np.int32),
        "release, float32": lambda: noise.release(vector, 1.0, 1.1),
        "gaussian, float32": lambda: noise.gaussian(length),
        "gaussian, float64": lambda: noise.gaussian(length, dtype=np.float64),
    }


def _peers(length: int) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    peers: dict[str, Callable[[], object]] = {
        "numpy standard_normal": lambda: rng.standard_normal(length, np.float32)
    }
    if find_spec("torch"):
        import torch

        peers["torch.randn"] = lambda: torch.randn(length)
    return peers


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    lines = [f"{result['what']} ({result['backend']})"]
    for name, rate in result["samples_a_second"].items():
        ratios = result["speed_over"].get(name, {}).items()
        beside = ", ".join(f"{ratio:.3f} times {peer}" for peer, ratio in ratios)
        lines.append(f"  {name}: {rate / 1e6:.2f} million a second" + (f" ({beside})" if beside else ""))
    return lines
