"""How private integer noise is: a proved upper bound on its slope.

Adding integer noise with a symmetric log-concave law to each coordinate of an integer vector, where
neighbours differ by k in l2 norm, is Gaussian differential privacy with mu = slope * k, in any dimension and
under adaptive composition, for

    slope = max over m of Phi^-1(F(m)) - Phi^-1(F(m - 1))

with F the noise's distribution function. With curvature = max over m of 2 ln p(m) - ln p(m-1) - ln p(m+1),
p the mass function, slope^2 (1 - slope^2 / 12) <= curvature. Both are proved in docs/accounting.md; the
curvature of a discrete Gaussian is 1 / stddev^2. `fedsec.noise` scales its integer noise by it, and
`accounting.integer_noise` prices noise of other laws.

References
----------
[DRS22] Dong, Roth, Su. Gaussian Differential Privacy. JRSS B 84(1), 2022.
[CKS20] Canonne, Kamath, Steinke. The Discrete Gaussian for Differential Privacy. NeurIPS 2020.
"""

from __future__ import annotations

import math

from fedsec._checks import real
from fedsec.errors import InvalidArgumentError

MIN_STDDEV = 2.0

# Each formula below takes at most ten correctly rounded operations, none of which cancels: their relative
# error is below 2^-49. The second margin is wider so that slope(stddev_for(x)) * x <= 1 as computed, too.
_ROUND_UP = 1.0 + 2.0**-49
_ROUND_UP_INVERSE = 1.0 + 2.0**-47


def slope_of_curvature(root: float) -> float:
    """The bound on the slope, rounded up, where `root`, in [0, 1/2], bounds the root of the curvature."""
    return math.sqrt(2.0 / (1.0 + math.sqrt(1.0 - root * root / 3.0))) * root * _ROUND_UP


def discrete_gaussian_slope(stddev: float) -> float:
    """An upper bound on the slope of discrete Gaussian noise of `stddev` (in integer steps), at least 2.

    Never below the truth (proved), and above it by a relative 0.003 / stddev^4 at most (by enumeration).
    Raises InvalidArgumentError below 2, where the proof ends, and for infinity.
    """
    return slope_of_curvature(1.0 / _at_least_two("stddev", stddev))


def stddev_for_inverse_slope(inverse_slope: float) -> float:
    """The smallest stddev, rounded up, whose bounded slope is at most 1 / `inverse_slope`, at least 2."""
    r = _at_least_two("inverse_slope", inverse_slope)
    return r / math.sqrt(1.0 - 1.0 / (12.0 * r * r)) * _ROUND_UP_INVERSE


def _at_least_two(name: str, value: object) -> float:
    number = real(name, value)
    if not MIN_STDDEV <= number < math.inf:
        raise InvalidArgumentError(f"{name} must be finite and at least {MIN_STDDEV}, got {number!r}")
    return number
