"""What integer noise on vectors costs, in any dimension: Gaussian differential privacy and Renyi bounds.

It stands between `events` and both engines: `gdp_mu` says which Gaussian mechanism costs at least as much,
`rdp` gives the bounds published for these mechanisms. With slope(noise) from `_slope`, l2 norm Delta of the
difference between neighbours, mu = slope * Delta, whatever the dimension.

The slope comes from the curvature where that is at most 1/4 (a theorem, docs/noise.md), otherwise from
enumerating the steps x(m) - x(m-1), x(m) = Phi^-1(F(m)), up to m = 4096, with a bound on the steps beyond.

- Discrete Gaussian: curvature 1 / stddev^2.
- Skellam: the curvature is largest at 0, 2 ln(I_0(v) / I_1(v)).
- The sum of n discrete Gaussians of standard deviation s has the mass function exp(-m^2 / (2 n s^2)) Theta(m)
  up to a constant, and Theta has period n: the curvature is 1 / (n s^2) plus that of -ln Theta.

References
----------
[CKS20] Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, 2020 (arXiv 2004.00010).
[KLS21] Kairouz, Liu, Steinke, The Distributed Discrete Gaussian Mechanism for Federated Learning with
        Secure Aggregation, ICML 2021 (arXiv 2102.06387).
[AKL21] Agarwal, Kairouz, Liu, The Skellam Mechanism for Differentially Private Federated Learning, 2021
        (arXiv 2110.04995).
[Amo74] Amos, Computation of Modified Bessel Functions and Their Ratios, Math. Comp. 28, 1974.
"""

from __future__ import annotations

import math
from functools import lru_cache, singledispatch

import numpy as np

from fedsec._slope import slope_of_curvature
from fedsec.accounting.events import (
    MAX_COUNT,
    DiscreteGaussian,
    DiscreteGaussianSum,
    NeighboringRelation,
    Skellam,
)
from fedsec.accounting.numbers import Array
from fedsec.accounting.pairs.integers import bessel_falls
from fedsec.errors import UnsupportedError

IntegerNoise = DiscreteGaussian | DiscreteGaussianSum | Skellam

MIN_SHARE = 0.5  # stddev of one share: below it a sum of discrete Gaussians is hardly one [KLS21]

_NARROWEST = 1e-100  # noise below it protects nothing, and its squares overflow
_STEPS = 4096  # enumerated; what is enumerated has a standard deviation of 5/2 at most
_MARGIN = 64  # terms beyond the last step, which leave nothing of its tail
_WIDE = 1000.0  # variance of Skellam noise beyond which its curvature says enough
_UP = 1.0 + 2.0**-46
_SMOOTH = 0.5 * (1.0 + 2.0**-40)  # root of the curvature up to which it bounds the slope
_FLAT = 2.0**-13  # excess of the curvature over 1 / (n s^2) that is not worth an enumeration
_BLOCK = 2047  # shares at most whose sum is enumerated; one less than a power of two


def gdp_mu(event: IntegerNoise, relation: NeighboringRelation) -> float:
    """Return mu, rounded up, such that integer noise is mu-Gaussian differentially private.

    Parameters
    ----------
    event : DiscreteGaussian, Skellam or DiscreteGaussianSum
        `dimension` does not matter: the bound holds in any.
    relation : NeighboringRelation
        Under REPLACE_ONE neighbours differ by two sensitivities.

    Raises
    ------
    UnsupportedError
        Shares of a sum with a standard deviation below 1/2; a standard deviation below 1e-100.
    """
    units = 2.0 if relation is NeighboringRelation.REPLACE_ONE else 1.0
    return math.nextafter(slope(event) * units * event.l2_sensitivity * _UP, math.inf)


@singledispatch
def slope(event: IntegerNoise) -> float:
    """Return an upper bound on the largest step of the noise's normal quantiles (module docstring)."""
    raise UnsupportedError(f"there is no bound on the slope of {event!r}")


@slope.register
def _discrete_gaussian(event: DiscreteGaussian) -> float:
    return _sum_slope(event.stddev, 1)


@slope.register
def _discrete_gaussian_sum(event: DiscreteGaussianSum) -> float:
    _check_share(event)
    return _sum_slope(event.stddev, event.num_shares)


@slope.register
def _skellam(event: Skellam) -> float:
    return _skellam_slope(event.variance)


def _check_share(event: DiscreteGaussianSum) -> None:
    if event.stddev < MIN_SHARE and event.num_shares > 1:
        raise UnsupportedError(
            f"DiscreteGaussianSum is analysed for shares with stddev at least {MIN_SHARE}, got {event!r}"
        )


@lru_cache(maxsize=256)
def _sum_slope(stddev: float, shares: int) -> float:
    if stddev < _NARROWEST:
        raise UnsupportedError(f"integer noise with stddev {stddev!r} (below {_NARROWEST}) protects nothing")
    root = _root_curvature(stddev, min(shares, MAX_COUNT))
    if root <= _SMOOTH:
        return slope_of_curvature(root)
    total, log_theta = stddev * math.sqrt(shares), _log_theta(stddev, shares)
    m: Array = np.arange(_STEPS + _MARGIN, dtype=np.float64)
    log_p = -0.5 * (m / total) ** 2 + np.resize(log_theta, m.size)
    return _largest_step(log_p, _far_step(total, float(np.ptp(log_theta))))


def _root_curvature(stddev: float, shares: int) -> float:
    """The root of the curvature of a sum, from above: 1 / (s sqrt(n)) and what Theta adds."""
    bend = _smooth_bend(stddev, shares)
    if bend * shares * stddev * stddev <= _FLAT:
        return math.sqrt(1.0 + bend * shares * stddev * stddev) / (stddev * math.sqrt(shares)) * _UP
    return math.sqrt(_doubled_curvature(stddev, shares)) * _UP


def _smooth_bend(stddev: float, shares: int) -> float:
    """The curvature of -ln Theta through Poisson's summation, infinite where that says nothing."""
    if shares == 1:
        return 0.0
    x = 2.0 * (math.pi * stddev) ** 2
    rate = max(math.log(3.0 * math.e * shares) - x + x / shares, math.log(6.0 * math.e) - 0.5 * x)
    if rate > -1.5:
        return math.inf
    z = math.exp(rate)
    swing = z / (1.0 - z)
    second = (2.0 * math.pi / shares) ** 2 * z * (1.0 + z) / (1.0 - z) ** 3
    return -math.log1p(-second / (1.0 - swing) ** 2) * _UP


def _doubled_curvature(stddev: float, shares: int) -> float:
    """The curvature of a sum: of a block of shares enumerated, of twice as many by e -> e/2 + e^2/4.

    e^curvature - 1 is at most e; shares that fill no block are left out, as more noise hides no less.
    """
    doublings = max(shares.bit_length() - _BLOCK.bit_length(), 0)
    block = shares >> doublings
    e = math.expm1(1.0 / (block * stddev * stddev) + _bend(_log_theta(stddev, block)))
    for _ in range(doublings):
        e = 0.5 * e * (1.0 + 0.5 * e)
    return math.log1p(e)


def _bend(log_theta: Array) -> float:
    """The curvature of -ln Theta, with what rounding adds: at most 2^-44 for each share."""
    bends = 2.0 * log_theta - np.roll(log_theta, 1) - np.roll(log_theta, -1)
    return float(np.max(bends)) + 2.0**-42 * log_theta.size


@lru_cache(maxsize=32)
def _log_theta(stddev: float, shares: int) -> Array:
    """The logarithm of Theta at 0, ..., n - 1 up to a constant, by doubling and adding shares."""
    if shares == 1:
        return np.zeros(1)
    half = shares // 2
    log_theta = _combined(stddev, _log_theta(stddev, half), _log_theta(stddev, half))
    return _combined(stddev, log_theta, np.zeros(1)) if shares % 2 else log_theta


def _combined(stddev: float, first: Array, second: Array) -> Array:
    """The same for a + b shares, from a sum over the part x that a of them have in m = 0, ..., (a + b) // 2.

    Theta_{a+b}(m) = sum over x of exp(-(x - a m / n)^2 n / (2 a b s^2)) Theta_a(x) Theta_b(m - x).
    """
    a, b = first.size, second.size
    spread = stddev * math.sqrt(a * b / (a + b))
    reach = math.ceil(11.0 * spread) + 1
    m = np.arange((a + b) // 2 + 1)[:, None]
    x = a * m // (a + b) + np.arange(-reach, reach + 1)
    terms = -0.5 * ((x - a * m / (a + b)) / spread) ** 2 + first[x % a] + second[(m - x) % b]
    top = terms.max(axis=1, keepdims=True)
    half = np.log(np.sum(np.exp(terms - top), axis=1)) + top[:, 0]
    whole = np.concatenate((half, half[1 : a + b - half.size + 1][::-1]))
    return np.asarray(whole - whole[0])


@lru_cache(maxsize=256)
def _skellam_slope(variance: float) -> float:
    if variance < _NARROWEST:
        raise UnsupportedError(
            f"Skellam noise with variance {variance!r} (below {_NARROWEST}) protects nothing"
        )
    if variance > _WIDE:
        return slope_of_curvature(math.sqrt(_skellam_curvature(variance)) * _UP)
    falls = bessel_falls(variance, _STEPS + _MARGIN)
    log_p = -np.concatenate(([0.0], np.cumsum(np.log1p(falls))))
    return _largest_step(log_p, _far_skellam_step(variance))


def _skellam_curvature(variance: float) -> float:
    """2 ln(I_0(v) / I_1(v)), from above, through a bound on the ratio [Amo74]; for large v."""
    far = 2.25 / variance / variance
    return 2.0 * math.log1p(0.5 / variance + far / (1.0 + math.sqrt(1.0 + far))) * _UP


def _far_skellam_step(variance: float) -> float:
    """A bound on the steps beyond _STEPS, by Chernoff's; for variances up to 1000."""
    ratio = _STEPS / variance
    depth = _STEPS * math.asinh(ratio) - _STEPS * ratio / (1.0 + math.hypot(1.0, ratio))
    hazard = math.sqrt(2.0 / math.pi * (2.0 * depth + 1.0 - 2.0 * math.log(2.0)))
    return math.log(2.0 + 2.0 * ratio + 2.0 / variance) / hazard * _UP


def _largest_step(log_p: Array, far: float) -> float:
    """The largest step of symmetric noise up to _STEPS, from unscaled ln p(m) for m >= 0; or `far`, beyond.

    Tails are summed in logarithms from the far end. A logarithm is off by 2^-44 of itself and 2^-46 at most,
    and its quantile x by 1 / h(x) <= min(1.26, 1 / x) times that, with h the hazard rate.
    """
    tail = np.logaddexp.accumulate(log_p[:0:-1])[::-1]
    total = np.logaddexp(log_p[0], math.log(2.0) + tail[0])
    log_q = (tail - total)[: _STEPS + 1]
    x = _upper_quantile(log_q)
    error = 2.0**-44 * ((0.25 - log_q) / np.maximum(x, 0.79) + x)
    steps = np.diff(x) + error[1:] + error[:-1]
    return max(float(np.max(steps)), 2.0 * float(x[0] + error[0]), far)


def _upper_quantile(log_q: Array) -> Array:
    """Where ln Pr[N(0, 1) > x] = log_q; ndtri_exp is off by 1e-12, so one step of Newton's is added."""
    from scipy.special import log_ndtr, ndtri_exp

    x = -ndtri_exp(log_q)
    hazard = 0.5 * (x + np.hypot(x, 2.0))
    return np.asarray(x + (log_ndtr(-x) - log_q) / hazard)


def _far_step(total: float, swing: float) -> float:
    """A bound on the steps beyond _STEPS for exp(-m^2 / (2 total^2)) Theta(m), ln Theta within `swing`."""
    u = _STEPS / total
    shortfall = (swing + 1.0 + math.log(3.0 * u)) / u / u
    return (1.0 + (0.5 + (swing + 1e-9) * total * total) / _STEPS) / (1.0 - shortfall) / total * _UP
