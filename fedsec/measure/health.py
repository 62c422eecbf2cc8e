"""Is this installation sound: known answers on every backend, whole rounds, bounds around known truths.

Each check runs the real thing on this machine and says in a few words what it found. Published vectors come
from the documents named beside them; nothing is compared with an earlier run of this package.

References
----------
[RFC8439] Nir, Langley. ChaCha20 and Poly1305 for IETF Protocols. 2018.
[GCM] McGrew, Viega. The Galois/Counter Mode of Operation: test cases 1 and 13, whose hash key is AES of a
    block of zeros under a key of zeros, for 128 and 256 bits.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import numpy as np

from fedsec import _kernels, masks, noise

# The first 16 bytes of keystream under a key, nonce and counter of zeros.
_KNOWN = {
    "chacha20": "76b8e0ada0f13d90405d6ae55386bd28",  # [RFC8439, appendix A.1, #1]
    "aes128ctr": "66e94bd4ef8a2c3b884cfa59ca342b2e",  # [GCM, test case 1]
    "aes256ctr": "dc95c078a2408989ad48a21492842087",  # [GCM, test case 13]
}
_LENGTH = 1031  # words: several chunks of every backend, and a rest
_PACKAGES = ("numpy", "scipy", "cffi", "cryptography", "torch")


class Check(NamedTuple):
    """What was looked at, whether it holds, and what was found."""

    name: str
    passed: bool
    found: str


def checks() -> Iterator[Check]:
    """All checks, one after another; a check that raises has failed."""
    named: dict[str, Callable[[], str]] = {
        "entropy": _entropy,
        "known answers": _known_answers,
        "backends agree": _backends_agree,
        "exact noise": _exact_noise,
        "accounting": _accounting,
        "secure aggregation": _secure_aggregation,
    }
    for name, look in named.items():
        yield _tried(name, look)


def _tried(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except Exception as error:  # whatever goes wrong is what the check found
        return Check(name, False, f"{type(error).__name__}: {error}")


def machine() -> dict[str, str]:
    """Versions, the backends that run here, and the one in use."""
    runs = [backend.name for backend in _kernels.backends()]
    others = [backend.name for backend in _kernels.all_backends() if backend.name not in runs]
    return {
        "fedsec": version("fedsec"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: _version(name) for name in _PACKAGES},
        "backend": _kernels.best_backend.name,
        "runs here": ", ".join(runs),
        "does not run here": ", ".join(others) or "none",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ArithmeticError(message)


def _entropy() -> str:
    """The generator of the operating system answers, at once, and not with the same bytes."""
    draws = {os.urandom(32) for _ in range(16)}
    _require(len(draws) == 16, "os.urandom repeats itself")
    if not hasattr(os, "getrandom"):
        return "os.urandom"
    os.getrandom(32, os.GRND_NONBLOCK)  # BlockingIOError: the pool was never filled
    return "os.urandom, from a kernel pool that is ready"


def _mask(prg: str, backend: _kernels.Backend, seed: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    out = np.zeros(_LENGTH, np.uint32)
    rows = np.frombuffer(seed, np.uint8).reshape(1, -1)
    _kernels.masked_sum(out, rows, np.ones(1, np.int8), 32, prg, backend=backend)
    return out


def _known_answers() -> str:
    backends = _kernels.backends()
    for prg, expected in _KNOWN.items():
        for backend in backends:
            got = _mask(prg, backend, bytes(_kernels.SEED_BYTES)).astype("<u4").tobytes()[:16].hex()
            _require(got == expected, f"{prg} on {backend.name} begins with {got}, not {expected}")
    return f"{', '.join(_KNOWN)} on {len(backends)} backends"


def _backends_agree() -> str:
    *others, portable = _kernels.backends()
    seed = os.urandom(_kernels.SEED_BYTES)
    for prg in masks.PRGS:
        expected = _mask(prg, portable, seed)
        for backend in others:
            same = np.array_equal(_mask(prg, backend, seed), expected)
            _require(same, f"{prg} on {backend.name} differs from {portable.name}")
    return f"{len(others) + 1} backends, the same masks under a fresh key"


def _exact_noise() -> str:
    """Mean and variance within eight standard errors: a healthy sampler fails once in 10^14 runs."""
    size, stddev = 20_000, 10.0
    drawn = noise.discrete_gaussian(size, stddev=stddev).astype(np.float64)
    mean_error = abs(drawn.mean()) / (stddev / size**0.5)
    variance_error = abs(drawn.var() / stddev**2 - 1.0) / (2.0 / size) ** 0.5
    _require(max(mean_error, variance_error) < 8.0, f"mean {drawn.mean():g}, variance {drawn.var():g}")
    return f"{size} variates with the mean and the variance that they should have"


def _accounting() -> str:
    """The truth is Phi(1/2 - e) - exp(e) Phi(-1/2 - e) = 1e-5, solved to 20 digits by mpmath."""
    from fedsec.accounting import Gaussian, PLDAccountant

    truth = 4.377178095681224628
    lower, upper = PLDAccountant().compose(Gaussian(1.0)).epsilon_interval(1e-5)
    _require(lower <= truth <= upper, f"({lower}, {upper}) does not hold {truth}")
    return f"epsilon {truth:.6f} lies between both bounds, {upper - lower:.1e} apart"


def _secure_aggregation() -> str:
    """A round of four clients, one of them lost after its upload."""
    from fedsec import secagg

    vectors = {client: np.arange(7, dtype=np.uint32) * (client + 1) for client in range(4)}
    outcome = secagg.aggregate(vectors, modulus_bits=32, dropped={2: "unmask"})
    expected = sum(vectors[client] for client in outcome.survivors)
    _require(np.array_equal(outcome.sum, expected), "the sum is wrong")
    return f"the sum of {len(outcome.survivors)} clients, one of them lost at the end"
