"""How wide the ring must be: the probability that a noisy sum leaves it, by Chernoff's bound.

A sum that leaves the ring wraps around: a wrong number, whose privacy is the same. So the ring is made wide
enough for all but a small probability, which is shown.

References
----------
[AKL21] Agarwal, Kairouz, Liu. The Skellam Mechanism for Differentially Private Federated Learning. NeurIPS
        2021 (arXiv 2110.04995).
[KLS21] Kairouz, Liu, Steinke. The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
        Aggregation. ICML 2021 (arXiv 2102.06387).
"""

from __future__ import annotations

import math
from collections.abc import Callable

MAX_PROBABILITY = 1e-3
MAX_BITS = 64

_DRAW_TAIL = 2.0**-40
_ITERATIONS = 200


def tail(log_moment: Callable[[float], float], distance: float, coordinates: int) -> float:
    """P[some |X_j| >= distance], X_j symmetric with log E[exp(t X_j)] <= log_moment(t), by Chernoff's bound.

    Any t > 0 gives a bound; the best is found by golden sections over log t, as the exponent is convex.
    """
    if distance <= 0.0:
        return 1.0

    def exponent(log_t: float) -> float:
        t = math.exp(log_t)
        return log_moment(t) - t * distance

    best = min(0.0, _least(exponent, -80.0, 5.0))
    log_bound = math.log(2.0 * coordinates) + best * (1.0 - 2.0**-40)
    return min(1.0, math.exp(log_bound) * (1.0 + 2.0**-40))


def most_drawn(population: int, sampling_probability: float) -> tuple[int, float]:
    """A number of units that a Poisson sample hardly ever exceeds, and with what probability it does.

    Chernoff: P[K >= k] <= exp(-n KL(k/n, q)).
    """
    if sampling_probability >= 1.0:
        return population, 0.0

    def rare(count: int) -> bool:
        return population * _divergence(count / population, sampling_probability) >= -math.log(_DRAW_TAIL)

    low, high = math.ceil(population * sampling_probability), population
    if not rare(high):
        return population, 0.0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rare(middle) else (middle, high)
    return high, _DRAW_TAIL


def _divergence(share: float, q: float) -> float:
    if share <= q:
        return 0.0
    rest = (1.0 - share) * math.log((1.0 - share) / (1.0 - q)) if share < 1.0 else 0.0
    return share * math.log(share / q) + rest


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """The least value of a function with one valley, by golden sections; where it overflows it is large."""

    def value(x: float) -> float:
        try:
            return function(x)
        except OverflowError:
            return math.inf

    ratio = 0.5 * (math.sqrt(5.0) - 1.0)
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = value(a), value(b)
    for _ in range(_ITERATIONS):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = value(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = value(b)
    return min(at_a, at_b)
