"""Delta of a composition between two bounds that need no theory: losses rounded up, and rounded down.

delta(epsilon) = E_P[(1 - e^(epsilon - X))_+] grows with every loss, so moving each run's losses up to a
grid bounds it from above and moving them down bounds it from below; what leaves the grid at the top is
charged in full or dropped. Sums on the grid are direct convolutions of positive numbers. All rounding
errors together are below count points 2^-51 of the total mass 1, which is charged as well.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

Above = Callable[[np.ndarray], np.ndarray]  # P(loss > x), for any x


def bracket(above: Above, count: int, epsilon: float, reach: float, half: int = 2000) -> tuple[float, float]:
    """Bounds on delta(epsilon) for `count` runs of one loss, on 2 half + 1 points over [-reach, reach]."""
    grid = np.linspace(-reach, reach, 2 * half + 1)
    tails = above(grid)
    cells = np.maximum(-np.diff(tails), 0.0)
    up = _power(np.concatenate(([1.0 - tails[0]], cells)), count, clamp=True)
    down = _power(np.concatenate((cells, [tails[-1]])), count, clamp=False)
    gain = -np.expm1(np.minimum(epsilon - grid, 0.0))
    slack = count * grid.size * 2.0**-51
    return float(down @ gain) - slack, float(up @ gain) + max(0.0, 1.0 - math.fsum(up)) + slack


def _power(mass: np.ndarray, count: int, *, clamp: bool) -> np.ndarray:
    """Sums of `count` losses, one at a time; what falls below the grid moves up to its end, or is dropped."""
    half, total = mass.size // 2, mass
    for _ in range(count - 1):
        longer = np.convolve(total, mass)
        total = longer[half : half + mass.size].copy()
        if clamp:
            total[0] += longer[:half].sum()
    return total


def sampled_gaussian(sigma: float, q: float, sign: int) -> Above:
    """P = (1 - q) N(0) + q N(1 / sigma) against Q = N(0), or Q against P."""
    t = 1.0 / sigma

    def above(x: np.ndarray) -> np.ndarray:
        odds = 1.0 + np.expm1(np.minimum(sign * x, 700.0)) / q
        with np.errstate(divide="ignore"):
            z = np.log(np.maximum(odds, 0.0)) / t + 0.5 * t
        return (1.0 - q) * ndtr(-z) + q * ndtr(t - z) if sign > 0 else ndtr(z)

    return above


def laplace(scale: float) -> Above:
    """P = Laplace(1 / scale, 1) against Q = Laplace(0, 1)."""
    t = 1.0 / scale
    return lambda x: np.where(x >= t, 0.0, np.where(x < -t, 1.0, 1.0 - 0.5 * np.exp(0.5 * (x - t))))
