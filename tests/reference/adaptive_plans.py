"""Plans whose next step depends on earlier outcomes, followed to the end of every branch.

A mechanism is a pair of arrays: the probability of each outcome under P and under Q. Nothing here is a
bound: hockey sticks are sums over all outcomes, Rényi divergences are sums over all outcomes.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

Mechanism = tuple[np.ndarray, np.ndarray]
Allows = Callable[[tuple[int, ...]], bool]  # by the sorted numbers of the mechanisms of a branch

_BETAS = np.exp2(np.arange(-4.0, 9.0, 1.0 / 8.0))


def sampled_response(epsilon: float, probability: float = 1.0) -> Mechanism:
    """Randomized response on a Poisson sample: P holds the unit with this probability, Q never."""
    low = 1.0 / (1.0 + math.exp(epsilon))
    told = low + probability * (1.0 - 2.0 * low)
    return np.array([told, 1.0 - told]), np.array([low, 1.0 - low])


def product(mechanisms: Sequence[Mechanism]) -> Mechanism:
    p = functools.reduce(np.multiply.outer, [m[0] for m in mechanisms], np.ones(()))
    q = functools.reduce(np.multiply.outer, [m[1] for m in mechanisms], np.ones(()))
    return p.ravel(), q.ravel()


def delta(mechanism: Mechanism, epsilon: float) -> float:
    p, q = mechanism
    e = math.exp(epsilon)
    return float(max(np.maximum(p - e * q, 0.0).sum(), np.maximum(q - e * p, 0.0).sum()))


def exact_epsilon(mechanisms: Sequence[Mechanism], target_delta: float) -> float:
    """By bisection on the delta of a fixed schedule."""
    whole = product(mechanisms)
    low, high = 0.0, 64.0
    for _ in range(64):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if delta(whole, middle) <= target_delta else (middle, high)
    return high


def renyi_epsilon(mechanisms: Sequence[Mechanism], target_delta: float) -> float:
    """At the order that is best for a fixed schedule: Proposition 12 of Canonne, Kamath, Steinke (2020)."""
    cumulants = sum(np.maximum(_cumulants(p, q), _cumulants(q, p)) for p, q in mechanisms)
    gain = np.log1p(_BETAS) + _BETAS * np.log1p(1.0 / _BETAS)
    return float(((cumulants - gain - math.log(target_delta)) / _BETAS).min())


def _cumulants(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    terms = np.log(p)[:, None] + np.outer(np.log(p / q), _BETAS)
    return np.asarray(np.logaddexp.reduce(terms, axis=0))


def worst_delta(menu: Sequence[Mechanism], allows: Allows, epsilon: float, rounds: int) -> float:
    """Largest delta at epsilon of all plans that run only what is allowed, in the worse direction."""
    allows, e = functools.cache(allows), math.exp(epsilon)

    def worst(menu: Sequence[Mechanism], p: float, q: float, done: tuple[int, ...]) -> float:
        best = max(p - e * q, 0.0)
        for i, outcomes in enumerate(menu if len(done) < rounds else ()):
            after = tuple(sorted((*done, i)))
            if allows(after):
                branches = zip(*outcomes, strict=True)
                best = max(best, sum(worst(menu, p * x, q * y, after) for x, y in branches))
        return best

    return max(worst(way, 1.0, 1.0, ()) for way in (menu, [(q, p) for p, q in menu]))
