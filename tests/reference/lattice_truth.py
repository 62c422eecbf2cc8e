"""Exact deltas of mechanisms with countably many outcomes: binomial sums, convolutions, enumeration.

Nothing here is shared with the package: every probability is built from its definition, in mpmath where
it can be and in sums of positive doubles (no subtraction, so no digits lost) where convolutions are long.
"""

import itertools
import math
from collections.abc import Sequence

import mpmath
import numpy as np


def guarantees(steps: Sequence[tuple[float, float, int]], epsilon: float) -> mpmath.mpf:
    """Delta of any composition of (epsilon, delta) guarantees, each (epsilon_i, delta_i, count_i).

    The worst mechanism with such a guarantee gives itself away with probability delta_i and is randomised
    response otherwise (Kairouz, Oh, Viswanath: The Composition Theorem for Differential Privacy).
    """
    with mpmath.workdps(60):
        kept = mpmath.mpf(1)
        laws = [{mpmath.mpf(0): mpmath.mpf(1)}]
        for epsilon_i, delta_i, count in steps:
            e = mpmath.mpf(epsilon_i)
            kept *= (1 - mpmath.mpf(delta_i)) ** count
            yes = 1 / (1 + mpmath.exp(-e))
            laws.append(
                {
                    (2 * k - count) * e: mpmath.binomial(count, k) * yes**k * (1 - yes) ** (count - k)
                    for k in range(count + 1)
                }
            )
        total = mpmath.mpf(0)
        for outcome in itertools.product(*(law.items() for law in laws)):
            loss, mass = sum(x for x, _ in outcome), mpmath.fprod(p for _, p in outcome)
            total += mass * max(mpmath.mpf(0), 1 - mpmath.exp(mpmath.mpf(epsilon) - loss))
        return 1 - kept + kept * total


def guaranteed_epsilon(steps: Sequence[tuple[float, float, int]], delta: float) -> float:
    """The least epsilon for which `guarantees` is at most delta, by bisection."""
    low, high = 0.0, sum(epsilon * count for epsilon, _, count in steps)
    if guarantees(steps, 0.0) <= delta:
        return 0.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if guarantees(steps, middle) > delta else (low, middle)
    return high


def sampled_guarantees(epsilon_0: float, q: float, count: int, epsilon: float, sign: int) -> mpmath.mpf:
    """Poisson samples of randomised response: two losses, so a binomial sum again."""
    with mpmath.workdps(60):
        e0, q, epsilon = mpmath.mpf(epsilon_0), mpmath.mpf(q), mpmath.mpf(epsilon)
        absent = (1 / (1 + mpmath.exp(e0)), 1 / (1 + mpmath.exp(-e0)))
        present = tuple((1 - q) * a + q * b for a, b in zip(absent, absent[::-1], strict=True))
        p, other = (present, absent) if sign > 0 else (absent, present)
        total = mpmath.mpf(0)
        for k in range(count + 1):
            mass = mpmath.binomial(count, k) * p[0] ** k * p[1] ** (count - k)
            rival = mpmath.binomial(count, k) * other[0] ** k * other[1] ** (count - k)
            total += max(mpmath.mpf(0), mass - mpmath.exp(epsilon) * rival)
        return total


def enumerated(p: np.ndarray, q: np.ndarray, count: int, epsilon: float) -> float:
    """Delta of `count` runs with outcome probabilities p, q (m,), by all m^count outcomes."""
    joint_p, joint_q = np.ones(1), np.ones(1)
    for _ in range(count):
        joint_p, joint_q = np.outer(joint_p, p).ravel(), np.outer(joint_q, q).ravel()
    return math.fsum(np.maximum(0.0, joint_p - math.exp(epsilon) * joint_q))


def convolved(p: np.ndarray, first: float, step: float, count: int, epsilon: float) -> float:
    """Delta of `count` runs whose losses first, first + step, ... have the masses p of P."""
    total, power, times = np.ones(1), p, count
    while times:
        if times & 1:
            total = np.convolve(total, power)
        times >>= 1
        power = np.convolve(power, power) if times else power
    loss = count * first + step * np.arange(total.size)
    return math.fsum(total * -np.expm1(np.minimum(epsilon - loss, 0.0)))


def discrete_gaussian(stddev: float, shift: int, tail: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Masses at whole numbers of noise around the shift and around 0."""
    reach = int(tail * stddev) + shift + 1
    k = np.arange(-reach, reach + shift + 1, dtype=float)
    weights = [np.exp(-((k - centre) ** 2) / (2.0 * stddev**2)) for centre in (shift, 0)]
    return tuple(weight / math.fsum(weight) for weight in weights)


def discrete_gaussian_delta(stddev: float, shift: int, count: int, epsilon: float) -> float:
    """Its losses shift (2 k - shift) / (2 sigma^2) lie on a lattice."""
    p, _ = discrete_gaussian(stddev, shift)
    reach = int(40 * stddev) + shift + 1
    step = shift / stddev**2
    return convolved(p, shift * (-2 * reach - shift) / (2.0 * stddev**2), step, count, epsilon)


def discrete_laplace_delta(scale: float, shift: int, count: int, epsilon: float) -> float:
    """Noise k has probability tanh(1 / 2 b) e^(-|k| / b); losses -shift, ..., shift in steps of 2, over b."""
    a = math.exp(-1.0 / scale)
    inner = [(1.0 - a) / (1.0 + a) * a ** (shift - k) for k in range(1, shift)]
    ends = a**shift / (1.0 + a), 1.0 / (1.0 + a)
    return convolved(np.array([ends[0], *inner, ends[1]]), -shift / scale, 2.0 / scale, count, epsilon)


def skellam(variance: float, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Masses of noise around the shift and around 0, from Bessel functions in mpmath."""
    with mpmath.workdps(40):
        reach = int(12 * math.sqrt(variance)) + 30 + shift
        noise = [mpmath.besseli(k, variance) * mpmath.exp(-mpmath.mpf(variance)) for k in range(2 * reach)]
        k = range(-reach, reach + shift + 1)
        return tuple(np.array([float(noise[abs(j - centre)]) for j in k]) for centre in (shift, 0))
