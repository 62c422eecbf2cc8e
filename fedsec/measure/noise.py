"""Noise samplers beside a ceiling, and beside OpenDP's, and numpy's and torch's, which are not exact.

The ceiling of a sampler is the generator alone, as many bytes as its variates take at least.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from fedsec import _bell, _kernels, noise
from fedsec.measure.timing import turns

MEAN = 100.0  # of each of the two Poisson variables behind Skellam noise
TORCH32, TORCH64 = "torch.randn, float32", "torch.randn, float64"
NUMPY32, NUMPY64 = "numpy standard_normal, float32", "numpy standard_normal, float64"
POISSONS = "numpy's difference of two Poissons"
OPENDP = "OpenDP's discrete Gaussian"
OPENDP_PART = 100  # of the variates of a turn, OpenDP draws one in so many: its times count as often


class Sampler(NamedTuple):
    """A call, the bytes of keystream that a variate takes (0: no ceiling), and goals over peers."""

    call: Callable[[], object]
    bytes_a_variate: int
    goals: dict[str, float]


def samplers(length: int = 200_000, stddev: float = 1000.0, repeats: int = 15) -> dict[str, Any]:
    """Variates a second, ratios to peers and to the ceiling in the same run, and goals.

    All take turns, each of which is in another order: every call then finds caches that others have filled.
    Speeds are medians, and ratios are medians of the ratios within a turn. Goals are for pairs: a sampler and
    one peer, call by call. One thread.
    Peers: `numpy.random.Generator` (PCG64) and, where they are installed, `torch.randn` (Mersenne Twister)
    and OpenDP's `make_gaussian` on int64 vectors, exact as ours, for a hundredth of a turn's variates.
    """
    ours, peers = _ours(length, stddev), _peers(length, stddev)
    blocks = {name: length * sampler.bytes_a_variate // 64 for name, sampler in ours.items()}
    ceilings = {
        f"generator for {name}": partial(_keystream, np.empty(64 * n, np.uint8))
        for name, n in blocks.items()
        if n
    }
    backends = _backends(length)
    calls = {name: sampler.call for name, sampler in ours.items()} | ceilings | peers | backends
    taken = turns(calls, repeats)

    def ratio(peer: str, name: str, taken: dict[str, list[float]] = taken) -> float:
        part = OPENDP_PART if peer == OPENDP else 1
        return statistics.median(part * p / t for p, t in zip(taken[peer], taken[name], strict=True))

    def in_pairs(name: str) -> dict[str, float]:
        paired = [peer for peer in ours[name].goals if peer in peers]
        both = {peer: turns({name: calls[name], peer: peers[peer]}, repeats) for peer in paired}
        return {peer: ratio(peer, name, both[peer]) for peer in paired}

    return {
        "what": f"{length} variates a call, stddev {stddev:g}, Skellam of two Poissons of mean {MEAN:g}",
        "backend": _kernels.best_backend.name,
        "seconds": {name: statistics.median(times) for name, times in taken.items()},
        "variates_a_second": {
            name: _drawn(name, length) / statistics.median(taken[name]) for name in (*ours, *backends, *peers)
        },
        "speed_over": {name: {peer: ratio(peer, name) for peer in peers} for name in ours},
        "speed_over_in_pairs": {name: in_pairs(name) for name in ours},
        "share_of_ceiling": {
            name: ratio(f"generator for {name}", name) for name in ours if f"generator for {name}" in taken
        },
        "goals": {name: sampler.goals for name, sampler in ours.items() if sampler.goals},
    }


def _drawn(name: str, length: int) -> float:
    """How many variates a call draws."""
    return length // OPENDP_PART if name == OPENDP else length


def _ours(length: int, stddev: float) -> dict[str, Sampler]:
    vector = np.zeros(length, np.float32)
    variance = 2.0 * MEAN
    return {
        "discrete_gaussian, int64": Sampler(
            lambda: noise.discrete_gaussian(length, stddev), 6, {TORCH32: 2.0, OPENDP: 1e4}
        ),
        "discrete_gaussian, int32": Sampler(
            lambda: noise.discrete_gaussian(length, stddev, np.int32), 6, {TORCH32: 3.0, OPENDP: 1e4}
        ),
        "release, float32": Sampler(lambda: noise.release(vector, 1.0, 1.1), 0, {}),
        "skellam, int32": Sampler(lambda: noise.skellam(length, variance, np.int32), 6, {POISSONS: 30.0}),
        "skellam, int64": Sampler(lambda: noise.skellam(length, variance), 6, {POISSONS: 30.0}),
        "skellam of variance 1e7, int32": Sampler(lambda: noise.skellam(length, 1e7, np.int32), 6, {}),
        "poisson of mean 1e6": Sampler(lambda: noise.poisson(length, 1e6), 6, {}),
        "gaussian, float32": Sampler(lambda: noise.gaussian(length), 4, {TORCH32: 6.0, NUMPY32: 18.0}),
        "gaussian, float64": Sampler(
            lambda: noise.gaussian(length, dtype=np.float64), 8, {TORCH64: 20.0, NUMPY64: 8.0}
        ),
    }


def _backends(length: int) -> dict[str, Callable[[], object]]:
    """The vectorised ones with each backend of this CPU."""
    calls: dict[str, Callable[[], object]] = {}
    for backend in _kernels.backends():
        skellam, integers = np.empty(length, np.int32), np.empty(length, np.int32)
        calls[f"discrete_gaussian, int32, {backend.name}"] = partial(
            noise.draw_bells, integers, _bell.discrete_gaussian(1000.0), backend=backend
        )
        calls[f"skellam, int32, {backend.name}"] = partial(
            noise.draw_bells, skellam, _bell.skellam(2.0 * MEAN), backend=backend
        )
        for dtype in (np.float32, np.float64):
            calls[f"gaussian, {np.dtype(dtype)}, {backend.name}"] = partial(
                _kernels.gaussian, np.empty(length, dtype), 1.0, backend=backend
            )
    return calls


def _keystream(out: Any) -> None:
    _kernels.noise_keystream(out, bytes(32))


def _peers(length: int, stddev: float) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    peers: dict[str, Callable[[], object]] = {
        NUMPY32: lambda: rng.standard_normal(length, np.float32),
        NUMPY64: lambda: rng.standard_normal(length),
        POISSONS: lambda: rng.poisson(MEAN, length) - rng.poisson(MEAN, length),
    }
    if find_spec("torch"):
        import torch

        peers[TORCH32] = lambda: torch.randn(length)
        peers[TORCH64] = lambda: torch.randn(length, dtype=torch.float64)
    if find_spec("opendp"):
        peers[OPENDP] = _opendp(length // OPENDP_PART, stddev)
    return peers


def _opendp(length: int, stddev: float) -> Callable[[], object]:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T=float)
    return partial(dp.m.make_gaussian(*space, scale=stddev), [0] * length)


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    lines = [f"{result['what']} ({result['backend']})"]
    for name, rate in result["variates_a_second"].items():
        among, paired = result["speed_over"].get(name, {}), result["speed_over_in_pairs"].get(name, {})
        beside = [
            f"{ratio:.3g} times {peer}{_verdict(ratio, result['goals'][name][peer])}, "
            f"among all others {among[peer]:.3g}"
            for peer, ratio in paired.items()
        ]
        if name in result["share_of_ceiling"]:
            beside.append(f"{result['share_of_ceiling'][name]:.2f} of the generator alone")
        lines.append(
            f"  {name}: {rate / 1e6:.2f} million a second" + (f" ({'; '.join(beside)})" if beside else "")
        )
    return lines


def _verdict(ratio: float, goal: float) -> str:
    return f" [goal {goal:g}: {'met' if ratio >= goal else 'MISSED'}]"
