"""Gaussian noise exactly: delta of N(0, 1) against N(mu, 1), with a bound on every rounding error.

Gaussian mechanisms of any mix compose to one: the losses are normal, so only the sum of their variances
matters and mu = sqrt(sum count / z^2). [BW18]: with a = epsilon / mu - mu / 2 and b = a + mu,

    delta = Phi(-a) - e^epsilon Phi(-b) = phi(a) (R(a) - R(b)),   R(x) = Phi(-x) / phi(x).

References
----------
[BW18] Balle, Wang, Improving the Gaussian Mechanism for Differential Privacy, ICML 2018 (arXiv 1805.06530).
"""

from __future__ import annotations

import math

_UNIT = 2.0**-52
_STEPS = 200  # of bisection at most: enough to reach neighbouring doubles


def log_delta(mu: float, epsilon: float, side: int) -> float:
    """Bound log(delta) from above (side +1) or below (side -1)."""
    from scipy.special import erfcx, ndtr

    a, b = epsilon / mu - 0.5 * mu, epsilon / mu + 0.5 * mu
    if a < 0.0:
        first, second = float(ndtr(-a)), math.exp(-0.5 * a * a) * _mills(float(erfcx(b / math.sqrt(2.0))))
        exponent = 0.0
    else:
        first, second = (_mills(float(erfcx(x / math.sqrt(2.0)))) for x in (a, b))
        exponent = -0.5 * a * a
    size = 1.0 + (abs(a) + abs(epsilon / mu) + mu) * abs(a) + b * b * (a < 0.0)
    digits = 1.0 + min(abs(a), 40.0) ** 2 * (a < 0.0)
    value = first - second + side * 16.0 * _UNIT * digits * (first + second)
    if value <= 0.0:
        return -math.inf
    return min(0.0, exponent + math.log(value) + side * 8.0 * _UNIT * (size + abs(exponent)))


def _mills(erfcx: float) -> float:
    return 0.5 * erfcx


def delta(mu: float, epsilon: float, side: int) -> float:
    """Bound delta from above (side +1) or below (side -1)."""
    value = math.exp(log_delta(mu, epsilon, side))
    return min(1.0, value + side * value * 4.0 * _UNIT + (5e-324 if side > 0 else 0.0))


def epsilon(mu: float, target: float, side: int) -> float:
    """Bound epsilon at delta = target from above (side +1) or below (side -1); never negative.

    Bisection on log(delta); the end that is returned was checked, and the other end is its neighbour.
    """
    aim = math.log(target) * (1.0 + side * 4.0 * _UNIT)
    if log_delta(mu, 0.0, side) <= aim:
        return 0.0
    low, high = 0.0, mu * (0.5 * mu + math.sqrt(-2.0 * aim)) * (1.0 + 1e-9) + 1e-300
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if log_delta(mu, middle, side) > aim:
            low = middle
        else:
            high = middle
    return high if side > 0 else low
