"""What integer noise on vectors costs, in any dimension: Gaussian differential privacy and Renyi bounds.

It stands between `events` and both engines: `gdp_mu` says which Gaussian mechanism costs at least as much,
`rdp` bounds Renyi divergences directly, sometimes better. Where neighbours differ by Delta in l2 norm,
mu = slope * Delta, whatever the dimension. All is proved in docs/accounting.md.

The slope (`_slope`) comes from the curvature where that is at most 1/4, otherwise from enumerating the steps
x(m) - x(m-1), x(m) = Phi^-1(F(m)), up to m = 4096, with a bound on the steps beyond.

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
_WIDEST = 1e140  # wider noise is taken for this: its bound is above, and nothing overflows
_STEPS = 4096  # enumerated: 129 standard deviations or more
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
    stddev, shares = min(stddev, _WIDEST), min(shares, MAX_COUNT)
    root = _root_curvature(stddev, shares)
    if root <= _SMOOTH:
        return slope_of_curvature(root)
    total, log_theta = stddev * math.sqrt(shares), _log_theta(stddev, shares)
    m: Array = np.arange(_STEPS + _MARGIN, dtype=np.float64)
    log_p = -0.5 * (m / total) ** 2 + np.resize(log_theta, m.size)
    return _largest_step(log_p, _far_step(total, float(np.ptp(log_theta))))


def _root_curvature(stddev: float, shares: int) -> float:
    """The root of the curvature of a sum, from above: 1 / (s sqrt(n)) and what Theta adds."""
    bend = _smooth(stddev, shares)[1] * shares * stddev * stddev
    if bend <= _FLAT:
        return math.sqrt(1.0 + bend) / (stddev * math.sqrt(shares)) * _UP
    return math.sqrt(_doubled_curvature(stddev, shares)) * _UP


def _smooth(stddev: float, shares: int) -> tuple[float, float]:
    """Bounds on the first and second differences of -ln Theta; infinite where Theta is too uneven.

    Poisson's summation makes of Theta 1 + sum q_j cos(2 pi j m / n), with sum |q_j| j^2 <= `total` (docs).
    """
    if shares == 1:
        return 0.0, 0.0
    x = 2.0 * (math.pi * stddev) ** 2
    rate = max(math.log(3.0 * math.e * shares) - x + x / shares, math.log(6.0 * math.e) - 0.5 * x)
    if rate > -1.5:
        return math.inf, math.inf
    z, step = math.exp(rate), 2.0 * math.pi / shares
    total, least = z * (1.0 + z) / (1.0 - z) ** 3, 1.0 - z / (1.0 - z)
    second = (step / least) ** 2 * total
    return step * total / least * _UP, -math.log1p(-second) * _UP if second < 0.5 else math.inf


def _steepest(stddev: float, shares: int) -> float:
    """The largest first difference of ln Theta, from above; infinite for too many shares of small noise."""
    bound = _smooth(stddev, shares)[0]
    if shares > _BLOCK or bound <= _FLAT / shares:
        return bound
    log_theta = _log_theta(stddev, shares)
    return float(np.max(np.abs(log_theta - np.roll(log_theta, 1)))) + 2.0**-42 * shares


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

    Tails are summed in logarithms from the far end. A logarithm is off by 2^-42 of itself and 2^-42 at most,
    and its quantile x by 1 / h(x) <= min(1.26, 1 / x) times that, with h the hazard rate.
    """
    tail = np.logaddexp.accumulate(log_p[:0:-1])[::-1]
    total = np.logaddexp(log_p[0], math.log(2.0) + tail[0])
    log_q = (tail - total)[: _STEPS + 1]
    x = _upper_quantile(log_q)
    error = 2.0**-42 * ((1.0 - log_q) / np.maximum(x, 0.79) + x)
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


def rdp(event: IntegerNoise, relation: NeighboringRelation, alpha: Array) -> Array:
    """Return bounds on the Renyi divergences, rounded up; alpha * gdp_mu^2 / 2 is another bound.

    Parameters
    ----------
    event, relation
        As for `gdp_mu`; a known `dimension` can lower the bound.
    alpha : ndarray of float64, shape (n,)
        Orders above 1, finite.

    Returns
    -------
    ndarray of float64, shape (n,)
        Infinite where only `gdp_mu` says something.

    Raises
    ------
    UnsupportedError
        Shares of a sum with a standard deviation below 1/2.
    """
    units = 2.0 if relation is NeighboringRelation.REPLACE_ONE else 1.0
    root = math.inf if event.dimension is None else math.sqrt(event.dimension)
    l1 = units * event.l2_sensitivity * min(root, event.l2_sensitivity)  # the vectors are of integers
    with np.errstate(over="ignore", invalid="ignore"):
        bound = _renyi(event, units * event.l2_sensitivity, l1, alpha) * _UP
    return np.where(np.isnan(bound), np.inf, np.nextafter(bound, np.inf))  # nan: infinity times zero


@singledispatch
def _renyi(event: IntegerNoise, l2: float, l1: float, alpha: Array) -> Array:
    """Bound the divergences between neighbours at these distances from each other."""
    raise UnsupportedError(f"there is no bound on the Renyi divergence of {event!r}")


@_renyi.register
def _discrete_gaussian_renyi(event: DiscreteGaussian, l2: float, l1: float, alpha: Array) -> Array:
    """As for Gaussian noise [CKS20]."""
    scaled = l2 / event.stddev
    return alpha * (0.5 * scaled * scaled)


@_renyi.register
def _sum_renyi(event: DiscreteGaussianSum, l2: float, l1: float, alpha: Array) -> Array:
    """As for Gaussian noise, and what Theta varies by, from step to step, for each step (docs)."""
    _check_share(event)
    shares = min(event.num_shares, MAX_COUNT)
    scaled = l2 / event.stddev
    return alpha * (0.5 * scaled * scaled / shares) + l1 * _steepest(min(event.stddev, _WIDEST), shares)


@_renyi.register
def _skellam_renyi(event: Skellam, l2: float, l1: float, alpha: Array) -> Array:
    """A theorem for whole orders [AKL21]; (alpha - 1) times the divergence is convex in between."""
    low = np.floor(alpha)
    share = alpha - low
    below, above = (_skellam_at(event.variance, l2, l1, order) for order in (low, low + 1.0))
    return np.asarray(((1.0 - share) * (low - 1.0) * below + share * low * above) / (alpha - 1.0))


def _skellam_at(variance: float, l2: float, l1: float, order: Array) -> Array:
    rest = np.minimum(((2.0 * order - 1.0) * l2 * l2 + 6.0 * l1) / variance, 6.0 * l1)
    return np.asarray((0.5 * order * l2 * l2 + 0.25 * rest) / variance)
