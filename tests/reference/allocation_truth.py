"""Random allocation by enumeration of all outcomes, and through an inversion integral: no grid of ratios.

With S the sum of t independent ratios R under Q and M(s) = E[e^(-s R)],

    E[(t c - S)_+] = 1 / (2 pi i) int M(s)^t e^(s t c) / s^2 ds

along a line with a positive real part, because int e^(s y) / s^2 ds / (2 pi i) = (y)_+. Hockey sticks follow:
Q against P is E[(1 - e^epsilon S / t)_+], and P against Q differs from its mirror image by means alone.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import ndtr

Moments = Callable[[np.ndarray], np.ndarray]
"""From complex s (m,) with a positive real part to log M(s)."""


def enumerated(
    step: Sequence[tuple[float, float]], steps: int, selected: int, epsilon: float, sign: int
) -> float:
    """Delta of one run; `step` holds the masses (p, q) of each outcome of one step."""
    subsets = list(itertools.combinations(range(steps), selected))
    total = 0.0
    for outcomes in itertools.product(step, repeat=steps):
        without = math.prod(q for _, q in outcomes)
        drawn = (math.prod(outcomes[i][i not in subset] for i in range(steps)) for subset in subsets)
        first, second = (sum(drawn) / len(subsets), without)[::sign]
        total += max(first - math.exp(epsilon) * second, 0.0)
    return total


def gaussian_moments(noise_multiplier: float) -> Moments:
    z, step = np.linspace(-12.0, 12.0, 1201, retstep=True)
    weight = np.exp(-0.5 * z * z) * step / math.sqrt(2.0 * math.pi)
    return _moments(np.exp(z / noise_multiplier - 0.5 / noise_multiplier**2), weight)


def laplace_moments(noise_multiplier: float) -> Moments:
    """Gauss-Legendre between the two atoms."""
    u, weight = np.polynomial.legendre.leggauss(200)
    shift = 1.0 / noise_multiplier
    u, weight = 0.5 * shift * (u + 1.0), 0.5 * shift * weight
    ratio = np.concatenate((np.exp(2.0 * u - shift), [math.exp(-shift), math.exp(shift)]))
    mass = np.concatenate((0.5 * weight * np.exp(-u), [0.5, 0.5 * math.exp(-shift)]))
    return _moments(ratio, mass)


def _moments(ratio: np.ndarray, mass: np.ndarray) -> Moments:
    return lambda s: np.log(np.exp(-np.multiply.outer(s, ratio)) @ mass)


def one_of_many(moments: Moments, steps: int, epsilon: float, sign: int) -> float:
    """Delta of one run with one step drawn: P against Q (+1) or Q against P (-1); about 1e-14 off."""
    if sign < 0:
        return math.exp(epsilon) * _shortfall(moments, steps, math.exp(-epsilon))
    return _shortfall(moments, steps, math.exp(epsilon)) + 1.0 - math.exp(epsilon)


def _shortfall(moments: Moments, steps: int, c: float) -> float:
    """E[(c - S / steps)_+] by the trapezoidal rule on a line through about the saddle point."""

    def exponent(s: np.ndarray) -> np.ndarray:
        return steps * (moments(s) + s * c) - 2.0 * np.log(s)

    line = np.geomspace(1e-3 / steps, 1e3, 300)
    with np.errstate(divide="ignore"):
        height = exponent(line.astype(complex)).real
    at = float(line[np.argmin(height)])
    around = exponent(at * np.array([0.99 + 0j, 1.0 + 0j, 1.01 + 0j])).real
    width = 0.01 * at / math.sqrt(around @ [1.0, -2.0, 1.0])
    s = at + 1j * np.arange(0.0, 400.0 * width, 0.2 * min(width, at))
    terms = np.concatenate([np.exp(exponent(block) - height.min()).real for block in np.array_split(s, 10)])
    integral = (terms.sum() - 0.5 * terms[0]) * (s[1] - s[0]).imag
    return float(integral / math.pi * math.exp(height.min())) / steps


def one_of_two_gaussians(noise_multiplier: float, epsilon: float, sign: int) -> float:
    """The same for two steps of Gaussian noise: one integral is closed, the other is a sum."""
    mu, c = 1.0 / noise_multiplier, 2.0 * math.exp(sign * epsilon)
    z, step = np.linspace(-12.0, 12.0 + mu, 20001, retstep=True)
    first = np.exp(mu * z - 0.5 * mu * mu)
    rest = np.maximum(c - first, 0.0)
    with np.errstate(divide="ignore"):
        at = np.log(rest) / mu + 0.5 * mu
    put = rest * ndtr(at) - ndtr(at - mu)  # E[(rest - R)_+]
    call = ndtr(mu - at) - rest * ndtr(-at) + np.maximum(first - c, 0.0)
    inner = call if sign > 0 else put * math.exp(epsilon)
    return float(np.exp(-0.5 * z * z) @ inner) * step / math.sqrt(2.0 * math.pi) / 2.0
