"""Rényi divergences of Gaussian noise on samples, by quadrature; `rdp` hands such mechanisms on to it.

`drawn` is for Poisson samples that a unit may join, `replaced` for Poisson samples in which a unit may stand
for another one, `fixed_size` for samples of fixed size. All hold for any Gaussian-DP mechanism (docs).

One identity carries the module. With loss l = log(P/Q), alpha = 1 + beta and phi(x) = e^x - 1 - x >= 0,

    A_alpha - 1 = E_Q[f(l)],   f(l) = e^l (phi(beta l) + beta phi(-l)),                                  (*)

for f(l) = e^(alpha l) - 1 - alpha (e^l - 1) and E_Q[e^l - 1] = 0. Nothing in (*) cancels, however close
A_alpha is to 1.

References
----------
[MTZ19] Mironov, Talwar, Zhang, Rényi Differential Privacy of the Sampled Gaussian Mechanism, 2019
        (arXiv 1908.10530).
[TW14]  Trefethen, Weideman, The Exponentially Convergent Trapezoidal Rule, SIAM Review 56, 2014.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fedsec.accounting.numbers import ROUNDING, Array

_REACH = 8.5  # standard deviations around a peak; what lies beyond is below e^-31 of it
_LOWEST = -690.0  # logarithm of an integral that is as good as zero
_DEPTH = 34.0  # a window may end where the integrand has fallen to e^-34 of its peak
_DISTINCT = 20.0  # shift beyond which `replaced` takes its bound: noise so small is of no use
_MOST_POINTS = 20_000  # of one order; beyond them `replaced` takes its bound
_PANEL = 16  # points of a Gauss-Legendre rule


def terms(loss: Array, beta: Array) -> tuple[Array, Array]:
    """Return exponent and factor of f(l) in (*), e^exponent factor; neither overflows."""
    tilt, back = np.maximum(beta * loss, 0.0), np.maximum(-loss, 0.0)
    top = np.maximum(tilt, back)
    factor = remainder(beta * loss) * np.exp(tilt - top) + beta * remainder(-loss) * np.exp(back - top)
    return loss + top, factor


def remainder(x: Array) -> Array:
    """e^(-max(x, 0)) phi(x) with phi(x) = e^x - 1 - x, to full relative accuracy; never overflows."""
    decay = np.exp(-np.abs(x))
    value = np.where(x > 0.0, 1.0 - (1.0 + x) * decay, decay - 1.0 - x)
    near = np.abs(x) < 0.3
    y = x[near]
    series = np.full_like(y, 1.0 / math.factorial(12))
    for k in range(11, 1, -1):
        series = series * y + 1.0 / math.factorial(k)
    value[near] = series * y * y * np.where(y > 0.0, decay[near], 1.0)
    return np.asarray(value)


def mixed(q: float, y: Array) -> Array:
    """log(1 - q + q e^y), to full relative accuracy near 0."""
    log: Array = np.log1p(q * np.expm1(np.minimum(y, 600.0)))
    large = y > 600.0
    if large.any():
        log[large] = y[large] + np.log(q + (1.0 - q) * np.exp(-y[large]))
    return log


def drawn(q: float, t: float, beta: Array) -> Array:
    """Cumulants of P = (1 - q) N(0, 1) + q N(t, 1) against Q = N(0, 1), for 0 < q < 1 and t = 1/sigma > 0.

    This pair is the worst one, in this direction: [MTZ19, Thm. 4] (the pair), [MTZ19, Thm. 5, Cor. 7]
    (D(P || Q) >= D(Q || P) at all orders). Integer and fractional orders go the same way: the trapezoidal
    rule on (*), in windows around the one or two peaks of the integrand.

    Where squares of z would drown its unit width in rounding, A_alpha <= 1 - q + q e^(alpha beta t^2 / 2)
    steps in, from the convexity of x^alpha: within 1e-8 of the truth for t > 1e5 and q > 1e-10, and of no
    use to anyone at orders above 1e7 / t.
    """
    bound = mixed(q, beta * (0.5 * (beta + 1.0) * t * t))
    precise = (beta + 1.0) * t < 1e7
    if t < 1e5 and precise.any():
        bound[precise] = _Drawn(q, t).cumulant(beta[precise])
    return bound


def replaced(q: float, t: float, beta: Array) -> Array:
    """Cumulants of P = (1 - q) N(0, 1) + q N(t, 1) against its mirror image Q, which has N(-t, 1).

    Where quadrature would take too many points two bounds step in: A_alpha <= 1 - q + q e^(2 alpha beta t^2)
    by joint convexity, and, as Q >= (1 - q) N(0, 1), A_alpha <= (1 - q)^-beta times that of `drawn`.
    """
    if t < _DISTINCT:
        integral = _Replaced(q, t)
        few = integral.points(beta) < _MOST_POINTS
    else:
        few = np.zeros(beta.shape, dtype=np.bool_)
    value = np.minimum(mixed(q, 2.0 * beta * (beta + 1.0) * t * t), drawn(q, t, beta) - beta * math.log1p(-q))
    if few.any():
        value[few] = integral.cumulant(beta[few])
    return value


def fixed_size(q: float, t: float, beta: Array) -> Array:
    """Cumulants of the pair that takes positive losses from `drawn` and negative ones from its mirror image.

    E[f] over both: all of `drawn`, less its part with negative losses (z < t/2, where the loss changes its
    sign), plus its mirror image's. Where t is large the first is left in, and the second is at most beta
    times the mass there: below a hundredth of the total.
    """
    whole = drawn(q, t, beta)
    if t > 18.0:
        less, more = np.zeros_like(beta), beta * q
    else:
        less, more = _halves(q, t, beta)
    near = np.log1p(np.expm1(np.minimum(whole, 30.0)) - less + more)
    far = np.logaddexp(whole, np.log(more))
    return np.asarray(np.where(whole < 30.0, near, far))


def _halves(q: float, t: float, beta: Array) -> tuple[Array, Array]:
    """E_Q[f(l); l < 0] and E_P[f(-l); l > 0] of the pair of `drawn`, by Gauss-Legendre rules.

    Panels shrink towards t/2, where large orders bend f most.
    """
    distance, width = _panels(min(1.0, 2.0 / t), 0.5 * t + _REACH)
    halves = []
    for side in (-1.0, 1.0):
        z = 0.5 * t + side * distance
        loss = mixed(q, t * (z - 0.5 * t))
        exponent, factor = terms(-np.abs(loss)[:, None], beta[None, :])
        density = np.exp(np.maximum(side, 0.0) * loss - 0.5 * z * z) / math.sqrt(2.0 * math.pi)
        halves.append((width * density) @ (np.exp(exponent) * factor))
    return halves[0] * (1.0 - 1e-7), halves[1] * (1.0 + 1e-7)


def _panels(widest: float, end: float) -> tuple[Array, Array]:
    """Points in (0, end) and their weights."""
    dyadic = widest * np.exp2(np.arange(-30.0, 0.0))
    edges = np.concatenate(([0.0], dyadic, np.arange(widest, end + widest, widest)))
    node, weight = np.polynomial.legendre.leggauss(_PANEL)
    half = 0.5 * np.diff(edges)
    points = (edges[:-1] + half)[:, None] + half[:, None] * node
    return points.ravel(), (half[:, None] * weight).ravel()


class _Integral(abc.ABC):
    """The integral (*) over z by the trapezoidal rule, for all orders at once."""

    def __init__(self, q: float, t: float) -> None:
        self.q, self.t = q, t
        self.log_odds = math.log(q) - math.log1p(-q)
        self.kink = 0.5 * t - self.log_odds / t  # where a draw is as likely sampled as not

    @abc.abstractmethod
    def log_weight(self, z: Array) -> Array:
        """Logarithm of Q's density over the standard normal one."""

    @abc.abstractmethod
    def log_ratio(self, z: Array) -> Array:
        """Logarithm of P's density over Q's."""

    @abc.abstractmethod
    def steps(self, beta: Array) -> Array:
        """Steps of the rule, for each order."""

    @abc.abstractmethod
    def windows(self, beta: Array) -> tuple[Array, Array]:
        """Left and right ends, each (m, n), of n windows for each order."""

    def cumulant(self, beta: Array) -> Array:
        """Return log(1 + integral), one value for each beta."""
        left, right = self.windows(beta)
        step = self.steps(beta)
        sizes = np.ceil(np.maximum((right - left) / step[:, None], -1.0)).astype(np.int64) + 1
        points = sizes.sum(axis=1)
        starts = np.cumsum(points) - points
        z = _grid(left.ravel(), sizes.ravel(), np.repeat(step, sizes.shape[1]))
        exponent, factor = self.integrand(z, np.repeat(beta, points))
        top = np.maximum.reduceat(exponent, starts)
        total = np.add.reduceat(np.exp(exponent - np.repeat(top, points)) * factor, starts)
        excess = top + np.log(total * (step / math.sqrt(2.0 * math.pi)))
        return np.asarray(np.logaddexp(0.0, excess))

    def integrand(self, z: Array, beta: Array) -> tuple[Array, Array]:
        """Return exponent and factor of the integrand, e^exponent factor / sqrt(2 pi).

        Each exponent is raised by a bound on its own rounding error.
        """
        loss = self.log_ratio(z)
        exponent, factor = terms(loss, beta)
        square = 0.5 * z * z
        error = ROUNDING * ((beta + 1.0) * (self.t * np.abs(z) + np.abs(loss)) + square)
        return exponent + self.log_weight(z) - square + error, factor

    def height(self, z: Array, beta: Array) -> Array:
        """Logarithm of the integrand."""
        exponent, factor = self.integrand(z, beta)
        with np.errstate(divide="ignore"):  # the integrand has a zero where the loss is 0
            return np.asarray(exponent + np.log(factor))


class _Drawn(_Integral):
    """The pair of `drawn`."""

    def __init__(self, q: float, t: float) -> None:
        super().__init__(q, t)
        clearance = 0.5 * t - abs(self.log_odds) / t
        self.split = clearance > 9.0  # the kink lies so deep between the peaks at 0 and t that it is nothing

    def log_weight(self, z: Array) -> Array:
        return np.zeros_like(z)

    def log_ratio(self, z: Array) -> Array:
        return mixed(self.q, self.t * (z - 0.5 * self.t))

    def steps(self, beta: Array) -> Array:
        return np.full_like(beta, 0.5 if self.split else _step(self.t))

    def _peak(self, z: Array, beta: Array) -> Array:
        """The stationary point z = alpha t s(z) next to the start z, s the posterior of being sampled.

        Newton's method from 0 climbs to the lowest one, from alpha t it falls to the highest one, both
        monotonely [s is convex below the kink and concave above]. Where the slope is flat plain iteration
        crawls instead; then the integrand is flat too, and `_outwards` widens the window.
        """
        pull = (beta + 1.0) * self.t
        for _ in range(8):
            s = logistic(self.t * (z - self.kink))
            slope = 1.0 - pull * self.t * s * (1.0 - s)
            z = np.clip(z - (z - pull * s) / np.where(slope > 0.1, slope, 1.0), 0.0, pull)
        return z

    def windows(self, beta: Array) -> tuple[Array, Array]:
        """Left and right ends, each (m, 3): a window around 0, one up to t and the low peak, the high peak's.

        Between the windows the integrand has no maximum and is below e^-34 of its height at the peak.
        Windows that touch are merged; one that is not needed ends before it begins.
        """
        low, high = self._peak(np.zeros_like(beta), beta), self._peak((beta + 1.0) * self.t, beta)
        middle = np.full_like(beta, max(self.t, min(2.0 * self.t, self.kink)))
        probes = np.stack([np.full_like(beta, -1.0), middle + 1.0, low, high])
        floor = np.maximum(self.height(probes, beta).max(axis=0), _LOWEST) - _DEPTH
        lone = high - low < _REACH  # the window of the high peak sees to the low one
        ends = np.stack(
            [np.where(lone, middle, np.maximum(middle, low)) + _REACH, high - _REACH, high + _REACH]
        )
        strides = np.array([[_REACH], [-_REACH], [_REACH]])
        middle_end, high_start, high_end = _outwards(ends, strides, lambda z: self.height(z, beta) > floor)
        merged = high_start <= middle_end
        middle_end = np.where(merged, np.maximum(middle_end, high_end), middle_end)
        high_end = np.where(merged, -np.inf, high_end)
        zero_end, middle_start = (_REACH, self.t - _REACH) if self.split else (-np.inf, -_REACH)
        left = np.stack([np.full_like(beta, -_REACH), np.full_like(beta, middle_start), high_start], axis=1)
        right = np.stack([np.full_like(beta, zero_end), middle_end, high_end], axis=1)
        return left, right


class _Replaced(_Integral):
    """The pair of `replaced`."""

    def log_weight(self, z: Array) -> Array:
        return mixed(self.q, -self.t * (z + 0.5 * self.t))

    def log_ratio(self, z: Array) -> Array:
        return mixed(self.q, self.t * (z - 0.5 * self.t)) - self.log_weight(z)

    def steps(self, beta: Array) -> Array:
        """On the line shifted by i a, |1/Q| grows by 1 / cos(a t / 2) at most, about e^(a^2 t^2 / 8).

        So the integrand grows by e^(a^2 (1 + beta t^2 / 4) / 2); the rest is as for `_step`.
        """
        return np.minimum(_step(self.t), 0.75 / np.sqrt(1.0 + 0.25 * beta * self.t**2))

    def points(self, beta: Array) -> Array:
        """How many points the rule takes."""
        left, right = self.windows(beta)
        return np.asarray(((right - left)[:, 0]) / self.steps(beta))

    def windows(self, beta: Array) -> tuple[Array, Array]:
        """One window, from below Q's lower part to beyond the highest peak."""
        high = (2.0 * beta + 1.0) * self.t
        for _ in range(40):  # falls to the highest stationary point
            there, back = logistic(self.t * (high - self.kink)), logistic(-self.t * (high + self.kink))
            high = self.t * ((beta + 1.0) * there + beta * back)
        probes = np.stack([np.full_like(beta, -self.t), np.full_like(beta, self.t + 1.0), high])
        floor = np.maximum(self.height(probes, beta).max(axis=0), _LOWEST) - _DEPTH
        first = np.maximum(high, self.t) + _REACH
        ends = _outwards(first[None, :], np.array([[_REACH]]), lambda z: self.height(z, beta) > floor)
        return np.full((beta.size, 1), -self.t - _REACH), ends.T


def _outwards(ends: Array, stride: Array, inside: Callable[[Array], npt.NDArray[np.bool_]]) -> Array:
    """Move ends (n, m) outwards in doubling strides until none is inside any more."""
    while (short := inside(ends)).any():
        ends = np.where(short, ends + stride, ends)
        stride = 2.0 * stride
    return ends


def _grid(left: Array, sizes: npt.NDArray[np.int64], step: Array) -> Array:
    """One after the other, the points left, left + step, ... of each window."""
    firsts = np.cumsum(sizes) - sizes
    index = np.arange(sizes.sum()) - np.repeat(firsts, sizes)
    return np.asarray(np.repeat(left, sizes) + np.repeat(step, sizes) * index)


def _step(t: float) -> float:
    """Step of the trapezoidal rule at which its relative error is below 2 e^-34.

    On the line shifted by i a, |integrand| is at most e^(a^2/2) times what it is on the real line, and the
    first singularity lies at a = pi/t (where P/Q = 0): the error is at most 2 e^(a^2/2 - 2 pi a/h) of the
    integral of (P/Q)^alpha [TW14, Thm. 5.1]. For t <= 0.38 the best a is 2 pi/h, and h = 0.75 will do.
    """
    return 0.75 if t < 0.38 else 2.0 / (34.0 * t / math.pi**2 + 0.5 / t)


def logistic(x: Array) -> Array:
    """1 / (1 + e^-x)."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))
