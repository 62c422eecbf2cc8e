"""Rényi differential privacy of single mechanisms: the price list of `RDPAccountant`.

For output distributions P and Q of neighbouring inputs and an order alpha > 1, the Rényi divergence is
D_alpha(P || Q) = log(A_alpha) / (alpha - 1) with A_alpha = E_Q[(P/Q)^alpha] [Mir17]. This module works
with beta = alpha - 1 and the *cumulant* log A_alpha = beta D_alpha, which adds up under composition, and
keeps all its digits as alpha -> 1. Each function takes all orders at once and returns, up to rounding,
the larger of D(P || Q) and D(Q || P).

One identity carries the module. With loss l = log(P/Q) and phi(x) = e^x - 1 - x >= 0,

    A_alpha - 1 = E_P[e^(beta l) - 1] = E_P[phi(beta l) + beta phi(-l)],                              (*)

since E_P[e^-l - 1] = 0. Nothing in (*) cancels, however close A_alpha is to 1.

References
----------
[Mir17] Mironov, Rényi Differential Privacy, CSF 2017 (arXiv 1702.07476).
[MTZ19] Mironov, Talwar, Zhang, Rényi Differential Privacy of the Sampled Gaussian Mechanism, 2019
        (arXiv 1908.10530).
[TW14]  Trefethen, Weideman, The Exponentially Convergent Trapezoidal Rule, SIAM Review 56, 2014.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedsec.accounting.events import Event, Gaussian, Laplace, NeighboringRelation, NonPrivate, PoissonSampled
from fedsec.errors import UnsupportedError

Array: TypeAlias = npt.NDArray[np.float64]

ROUNDING = 2.0**-50  # eight times the unit round-off: charged for each term of a short sum
SLACK = 1e-10  # relative enlargement of every cumulant: far above quadrature and rounding errors (1e-12)
_REACH = 8.5  # standard deviations around a peak; what lies beyond is below e^-31 of it
_LOWEST = -690.0  # logarithm of an integral that is as good as zero
_DEPTH = 34.0  # a window may end where the integrand has fallen to e^-34 of its peak


@singledispatch
def cumulant(event: Event, beta: Array, relation: NeighboringRelation) -> Array:
    """Return beta times the Rényi divergence of order 1 + beta of one mechanism.

    Parameters
    ----------
    event : Event
        One mechanism, as `events.leaves` yields them.
    beta : float64 array (m,)
        Orders minus one, positive.
    relation : NeighboringRelation
        Between the data sets that must not be told apart.

    Returns
    -------
    float64 array (m,)
        Accurate to 1e-12 relative, infinite where it exceeds the range of doubles.

    Raises
    ------
    UnsupportedError
        No valid analysis of this mechanism under this relation.
    """
    raise UnsupportedError(f"RDPAccountant has no analysis of {event!r}")


def _shift(relation: NeighboringRelation) -> float:
    """By how many sensitivities the outputs of unsampled noise differ: a replaced unit leaves and enters."""
    return 2.0 if relation is NeighboringRelation.REPLACE_ONE else 1.0


@cumulant.register
def _gaussian(event: Gaussian, beta: Array, relation: NeighboringRelation) -> Array:
    """[Mir17, Prop. 7]: D_alpha = alpha mu^2 / 2 for a shift by mu standard deviations."""
    mu = _shift(relation) / event.noise_multiplier
    return beta * (0.5 * (beta + 1.0) * mu * mu)


@cumulant.register
def _laplace(event: Laplace, beta: Array, relation: NeighboringRelation) -> Array:
    """[Mir17, Prop. 6]: A = (alpha e^(beta s) + beta e^(-alpha s)) / (2 alpha - 1), regrouped as in (*).

    The cumulant is a log-sum-exp of functions linear in the shift s, hence convex in s and zero at 0:
    coordinates that share an L1 shift never cost more than one coordinate that carries all of it.
    """
    s = _shift(relation) / event.noise_multiplier
    alpha = beta + 1.0
    excess = alpha * _remainder(beta * s) + beta * _remainder(-alpha * s) * np.exp(-beta * s)
    return np.asarray(np.logaddexp(0.0, beta * s + np.log(excess / (2.0 * beta + 1.0))))


@cumulant.register
def _non_private(event: NonPrivate, beta: Array, relation: NeighboringRelation) -> Array:
    return np.full_like(beta, np.inf)


@cumulant.register
def _poisson_sampled(event: PoissonSampled, beta: Array, relation: NeighboringRelation) -> Array:
    """Price a sampled mechanism; zero-out costs what add-or-remove costs.

    A zeroed unit may be drawn but adds nothing, and other units are drawn independently of it: the
    output without the unit's contribution has the same law under both relations.
    """
    if relation is NeighboringRelation.REPLACE_ONE:
        raise UnsupportedError(
            f"RDPAccountant has no analysis of {event!r} under REPLACE_ONE; "
            "use ADD_OR_REMOVE_ONE or REPLACE_SPECIAL for Poisson sampling"
        )
    if isinstance(event.event, NonPrivate):
        return cumulant(event.event, beta, relation)
    if not isinstance(event.event, Gaussian):
        raise UnsupportedError(
            f"RDPAccountant analyses Poisson sampling of Gaussian noise only, got {event!r}"
        )
    return _sampled_gaussian(event.sampling_probability, 1.0 / event.event.noise_multiplier, beta)


def _remainder(x: Array) -> Array:
    """e^(-max(x, 0)) phi(x) with phi(x) = e^x - 1 - x, to full relative accuracy; never overflows."""
    decay = np.exp(-np.abs(x))
    value = np.where(x > 0.0, 1.0 - (1.0 + x) * decay, decay - 1.0 - x)
    near = np.abs(x) < 0.3
    y = x[near]
    series = np.full_like(y, 1.0 / math.factorial(12))
    for k in range(11, 1, -1):
        series = series * y + 1.0 / math.factorial(k)
    value[near] = series * y * y * np.where(y > 0.0, decay[near], 1.0)
    return value


def _sampled_gaussian(q: float, t: float, beta: Array) -> Array:
    """Cumulants of P = (1 - q) N(0, 1) + q N(t, 1) against Q = N(0, 1), for 0 < q < 1 and t = 1/sigma > 0.

    This pair is the worst one, in this direction: [MTZ19, Thm. 4] (the pair), [MTZ19, Thm. 5, Cor. 7]
    (D(P || Q) >= D(Q || P) at all orders). Integer and fractional orders go the same way: the trapezoidal
    rule on (*), in windows around the one or two peaks of the integrand.

    Where squares of z would drown its unit width in rounding, A_alpha <= 1 - q + q e^(alpha beta t^2 / 2)
    steps in, from the convexity of x^alpha: within 1e-8 of the truth for t > 1e5 and q > 1e-10, and of no
    use to anyone at orders above 1e7 / t.
    """
    bound = _mixed(q, beta * (0.5 * (beta + 1.0) * t * t))
    precise = (beta + 1.0) * t < 1e7
    if t < 1e5 and precise.any():
        bound[precise] = _Mixture(q, t).cumulant(beta[precise])
    return bound


def _mixed(q: float, y: Array) -> Array:
    """log(1 - q + q e^y), to full relative accuracy near 0."""
    mixed: Array = np.log1p(q * np.expm1(np.minimum(y, 600.0)))
    large = y > 600.0
    if large.any():
        mixed[large] = y[large] + np.log(q + (1.0 - q) * np.exp(-y[large]))
    return mixed


class _Mixture:
    """The integral (*) for the mixture pair of `_sampled_gaussian`, over z ~ Q."""

    def __init__(self, q: float, t: float) -> None:
        self.q, self.t = q, t
        self.log_odds = math.log(q) - math.log1p(-q)
        self.kink = 0.5 * t - self.log_odds / t  # where a draw is as likely sampled as not
        clearance = 0.5 * t - abs(self.log_odds) / t
        self.split = clearance > 9.0  # the kink lies so deep between the peaks at 0 and t that it is nothing
        self.step = 0.5 if self.split else _step(t)

    def cumulant(self, beta: Array) -> Array:
        """Return log(1 + integral), one value for each beta."""
        left, right = self._windows(beta)
        sizes = np.ceil(np.maximum(right - left, -self.step) / self.step).astype(np.int64) + 1
        points = sizes.sum(axis=1)
        starts = np.cumsum(points) - points
        z = _grid(left.ravel(), sizes.ravel(), self.step)
        exponent, factor = self._integrand(z, np.repeat(beta, points))
        top = np.maximum.reduceat(exponent, starts)
        total = np.add.reduceat(np.exp(exponent - np.repeat(top, points)) * factor, starts)
        excess = top + np.log(total * (self.step / math.sqrt(2.0 * math.pi)))
        return np.asarray(np.logaddexp(0.0, excess))

    def _integrand(self, z: Array, beta: Array) -> tuple[Array, Array]:
        """Return exponent and factor of the integrand, e^exponent factor / sqrt(2 pi).

        Each exponent is raised by a bound on its own rounding error.
        """
        loss = _mixed(self.q, self.t * (z - 0.5 * self.t))
        tilt = np.maximum(beta * loss, 0.0)
        square = 0.5 * z * z
        error = ROUNDING * ((beta + 1.0) * (self.t * np.abs(z) + np.abs(loss)) + square)
        factor = _remainder(beta * loss) + beta * _remainder(-loss) * np.exp(np.maximum(-loss, 0.0) - tilt)
        return loss + tilt - square + error, factor

    def _height(self, z: Array, beta: Array) -> Array:
        exponent, factor = self._integrand(z, beta)
        with np.errstate(divide="ignore"):  # the integrand has a zero at t/2
            return np.asarray(exponent + np.log(factor))

    def _peak(self, z: Array, beta: Array) -> Array:
        """The stationary point z = alpha t s(z) next to the start z, s the posterior of being sampled.

        Newton's method from 0 climbs to the lowest one, from alpha t it falls to the highest one, both
        monotonely [s is convex below the kink and concave above]. Where the slope is flat plain iteration
        crawls instead; then the integrand is flat too, and `_outwards` widens the window.
        """
        pull = (beta + 1.0) * self.t
        for _ in range(8):
            s = _logistic(self.t * (z - self.kink))
            slope = 1.0 - pull * self.t * s * (1.0 - s)
            z = np.clip(z - (z - pull * s) / np.where(slope > 0.1, slope, 1.0), 0.0, pull)
        return z

    def _windows(self, beta: Array) -> tuple[Array, Array]:
        """Left and right ends, each (m, 3): a window around 0, one up to t and the low peak, the high peak's.

        Between the windows the integrand has no maximum and is below e^-34 of its height at the peak.
        Windows that touch are merged; one that is not needed ends before it begins.
        """
        low, high = self._peak(np.zeros_like(beta), beta), self._peak((beta + 1.0) * self.t, beta)
        middle = np.full_like(beta, max(self.t, min(2.0 * self.t, self.kink)))
        probes = np.stack([np.full_like(beta, -1.0), middle + 1.0, low, high])
        floor = np.maximum(self._height(probes, beta).max(axis=0), _LOWEST) - _DEPTH
        lone = high - low < _REACH  # the window of the high peak sees to the low one
        ends = np.stack(
            [np.where(lone, middle, np.maximum(middle, low)) + _REACH, high - _REACH, high + _REACH]
        )
        middle_end, high_start, high_end = _outwards(ends, lambda z: self._height(z, beta) > floor)
        merged = high_start <= middle_end
        middle_end = np.where(merged, np.maximum(middle_end, high_end), middle_end)
        high_end = np.where(merged, -np.inf, high_end)
        zero_end, middle_start = (_REACH, self.t - _REACH) if self.split else (-np.inf, -_REACH)
        left = np.stack([np.full_like(beta, -_REACH), np.full_like(beta, middle_start), high_start], axis=1)
        right = np.stack([np.full_like(beta, zero_end), middle_end, high_end], axis=1)
        return left, right


def _outwards(ends: Array, inside: Callable[[Array], npt.NDArray[np.bool_]]) -> Array:
    """Move right, left and right ends (3, m) outwards in doubling strides until none is inside any more."""
    stride = np.array([[_REACH], [-_REACH], [_REACH]])
    while (short := inside(ends)).any():
        ends = np.where(short, ends + stride, ends)
        stride = 2.0 * stride
    return ends


def _grid(left: Array, sizes: npt.NDArray[np.int64], step: float) -> Array:
    """One after the other, the points left, left + step, ... of each window."""
    firsts = np.cumsum(sizes) - sizes
    points: Array = np.repeat(left, sizes) + step * (np.arange(sizes.sum()) - np.repeat(firsts, sizes))
    return points


def _step(t: float) -> float:
    """Step of the trapezoidal rule at which its relative error is below 2 e^-34.

    On the line shifted by i a, |integrand| is at most e^(a^2/2) times what it is on the real line, and the
    first singularity lies at a = pi/t (where P/Q = 0): the error is at most 2 e^(a^2/2 - 2 pi a/h) of the
    integral of (P/Q)^alpha [TW14, Thm. 5.1]. For t <= 0.38 the best a is 2 pi/h, and h = 0.75 will do.
    """
    return 0.75 if t < 0.38 else 2.0 / (34.0 * t / math.pi**2 + 0.5 / t)


def _logistic(x: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * x)
