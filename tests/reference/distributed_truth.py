"""What a noisy sum tells, exactly: summed laws by convolution, losses at all points of the lattice."""

import itertools
import math

import numpy as np
from scipy import optimize, special


def skellam(variance, reach):
    """Probabilities of -reach, ..., reach."""
    return special.ive(np.abs(np.arange(-reach, reach + 1)), variance)


def discrete_gaussian(stddev, reach):
    weights = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2.0 * stddev**2))
    return weights / weights.sum()


def summed(law, shares):
    """The law of a sum of independent shares, one convolution a share; cut back to what doubles see."""
    total = np.ones(1)
    for _ in range(shares):
        total = np.convolve(total, law)
        keep = np.flatnonzero(total > 1e-40)
        edge = min(keep[0], total.size - 1 - keep[-1])
        total = total[edge : total.size - edge]
    return total


def share_law(shares, reach=None):
    """Of one share of a plan."""
    reach = reach or math.ceil(14.0 * math.sqrt(shares.variance)) + 20
    if shares.law == "skellam":
        return skellam(shares.variance, reach)
    return discrete_gaussian(shares.stddev, reach)


def shifts(dimension, squared_bound):
    """Whole vectors up to signs and order, none of which another one exceeds in every coordinate."""
    most = math.isqrt(squared_bound)
    found = [
        shift
        for shift in itertools.combinations_with_replacement(range(most, -1, -1), dimension)
        if 0 < sum(k * k for k in shift) <= squared_bound
    ]
    return [
        a for a in found if not any(a != b and all(x <= y for x, y in zip(a, b, strict=True)) for b in found)
    ]


def losses(law, shift):
    """(loss, probability) of noise at 0 against noise at `shift`, for all outcomes.

    Hardly probable outcomes are left out, and beyond two coordinates losses are rounded down to a thousandth:
    the result is smaller than the truth, never larger.
    """
    pairs = [_coordinate(law, k) for k in shift if k]
    value, mass = pairs[0]
    for place, (other, weight) in enumerate(pairs[1:]):
        if place:
            value, mass = _merged(value, mass)
        value, mass = np.add.outer(value, other).ravel(), np.multiply.outer(mass, weight).ravel()
        keep = mass > 1e-13
        value, mass = value[keep], mass[keep]
    return value, mass


def _coordinate(law, k):
    first, second = law[k:], law[: law.size - k]  # the same outcomes, from 0 and from k
    keep = (first > 1e-12) & (second > 0.0)
    return np.log(first[keep] / second[keep]), first[keep]


def _merged(value, mass):
    cell = np.floor(value * 1e3).astype(np.int64)
    first = cell.min()
    total = np.bincount(cell - first, mass)
    keep = np.flatnonzero(total)
    return (keep + first) / 1e3, total[keep]


def delta(value, mass, epsilon):
    return float(mass @ np.maximum(-np.expm1(epsilon - value), 0.0))


def epsilon(value, mass, target_delta):
    """The epsilon at a delta; 0 where even that is private."""
    if delta(value, mass, 0.0) <= target_delta:
        return 0.0
    return optimize.brentq(lambda e: delta(value, mass, e) - target_delta, 0.0, float(value.max()) + 1.0)


def worst_epsilon(law, dimension, squared_bound, target_delta):
    """Over all shifts; noise is symmetric, so that one order of the two laws is enough."""
    return max(epsilon(*losses(law, shift), target_delta) for shift in shifts(dimension, squared_bound))


# --- published bounds


def published_skellam_rdp(variance, l1, l2, order):
    """[AKL21, Thm. 3.5], whole orders."""
    rest = min(((2 * order - 1) * l2 * l2 + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
    return order * l2 * l2 / (2 * variance) + rest


def published_sum_rdp(stddev, shares, dimension, l2, order):
    """[KLS21, Thm. 1]: concentrated privacy of the sum of discrete Gaussians."""
    tau = 10 * sum(math.exp(-2 * (math.pi * stddev) ** 2 * k / (k + 1)) for k in range(1, shares))
    total = stddev * math.sqrt(shares)
    e = min(math.sqrt((l2 / total) ** 2 + 0.5 * tau * dimension), l2 / total + tau * math.sqrt(dimension))
    return 0.5 * e * e * order


def epsilon_of_rdp(divergence, orders, target_delta):
    """[CKS20, Prop. 12]."""
    return min(
        divergence(a) + math.log1p(-1 / a) - (math.log(target_delta) + math.log(a)) / (a - 1) for a in orders
    )
