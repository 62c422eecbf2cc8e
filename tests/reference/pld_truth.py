"""Deltas without a grid of losses: closed forms in mpmath for one run, an inversion integral for many.

With A(s) = E_P[(P/Q)^s], P and Q the two laws of one run,

    delta(epsilon) = 1 / (2 pi i) int A(s)^count e^(-s epsilon) / (s (s + 1)) ds                        (*)

along a line with a positive real part c, because int e^(s y) / (s (s + 1)) ds / (2 pi i) = (1 - e^-y)_+.
`many_runs` takes the line through the saddle point and the trapezoidal rule. Of its four errors

1. the step h: the rule returns the sum of delta(epsilon + 2 pi k / h) e^(2 pi k c / h) over whole k
   (Poisson's summation); Chernoff bounds with other c bound all but k = 0, so h is chosen by a proof;
2. the end of the line: where the integrand has fallen to 1e-13 of its start, seen on a geometric grid;
3. the quadrature within A: measured, by leaving out every second node;
4. rounding: relative errors of all exponents, times the terms' moduli;

the last three are estimated and `NotConvergedError` is raised if their sum is above what is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import mpmath
import numpy as np
from scipy.special import logsumexp, ndtr, ndtri_exp

UNIT = 2.0**-52
MAX_POINTS = 10_000
_FADING = 8.0


class NotConvergedError(Exception):
    """The integral is not known well enough; nothing is returned rather than something wrong."""


# One run, in mpmath.


def gaussian_delta(mu: float, epsilon: float) -> mpmath.mpf:
    with mpmath.workdps(60):
        mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(mu / 2 - epsilon / mu) - mpmath.exp(epsilon) * mpmath.ncdf(-mu / 2 - epsilon / mu)


def one_run(noise: str, sigma: float, q: float, epsilon: float) -> mpmath.mpf:
    """Delta of one Poisson-sampled release: the worse of both directions."""
    return max(one_direction(noise, sigma, q, epsilon, sign) for sign in (1, -1))


def one_direction(noise: str, sigma: float, q: float, epsilon: float, sign: int) -> mpmath.mpf:
    """One direction of it, from tails of the densities.

    P/Q grows with the output, so the best test is a threshold on the noise's own loss.
    """
    with mpmath.workdps(60):
        q, t, e = mpmath.mpf(q), 1 / mpmath.mpf(sigma), mpmath.exp(mpmath.mpf(float(epsilon)))
        threshold = 1 + (e**sign - 1) / q
        if threshold <= 0:
            return mpmath.mpf(0)
        below_q, above_q, below_p, above_p = _sides(noise, t, mpmath.log(threshold))
        if sign > 0:
            return (1 - q) * above_q + q * above_p - e * above_q
        return below_q - e * ((1 - q) * below_q + q * below_p)


def _sides(noise: str, t: mpmath.mpf, y: mpmath.mpf) -> tuple[mpmath.mpf, ...]:
    """Q(loss <= y), Q(loss > y), P(loss <= y), P(loss > y)."""
    if noise == "gaussian":
        z = y / t + t / 2
        return mpmath.ncdf(z), mpmath.ncdf(-z), mpmath.ncdf(z - t), mpmath.ncdf(t - z)
    if y < -t or y >= t:
        return (mpmath.mpf(y >= t), mpmath.mpf(y < -t)) * 2
    x = (y + t) / 2
    return 1 - mpmath.exp(-x) / 2, mpmath.exp(-x) / 2, mpmath.exp(x - t) / 2, 1 - mpmath.exp(x - t) / 2


def replaced_one_run(sigma: float, q: float, epsilon: float) -> mpmath.mpf:
    """One Poisson sample of Gaussian noise, a record replaced: (1-q) N(0) + q N(t), against q N(-t)."""
    with mpmath.workdps(60):
        q, t, epsilon = mpmath.mpf(q), 1 / mpmath.mpf(sigma), mpmath.mpf(float(epsilon))

        def loss(z: mpmath.mpf) -> mpmath.mpf:
            up, down = (mpmath.exp(sign * t * z - t * t / 2) for sign in (1, -1))
            return mpmath.log((1 - q + q * up) / (1 - q + q * down))

        reach = epsilon / t + 100 + 2 * t - mpmath.log(q) / t
        low, high = mpmath.mpf(0), reach
        for _ in range(300):
            middle = (low + high) / 2
            low, high = (middle, high) if loss(middle) < epsilon else (low, middle)
        above_p = (1 - q) * mpmath.ncdf(-high) + q * mpmath.ncdf(t - high)
        above_q = (1 - q) * mpmath.ncdf(-high) + q * mpmath.ncdf(-t - high)
        return above_p - mpmath.exp(epsilon) * above_q


def two_runs(sigmas: Sequence[float], qs: Sequence[float], epsilon: float, sign: int) -> float:
    """Two Poisson-sampled Gaussian releases: the mean over the first one's loss of the second one's delta.

    Gauss-Legendre quadrature on pieces that shrink towards the place where the second delta is not
    analytic; half as many pieces serve as a check.
    """
    coarse, fine = (_integrated(sigmas, qs, epsilon, sign, pieces) for pieces in (60, 120))
    if abs(fine - coarse) > 1e-9 * abs(fine) + 1e-18:
        raise NotConvergedError(f"{coarse} and {fine}")
    return fine


def _integrated(
    sigmas: Sequence[float], qs: Sequence[float], epsilon: float, sign: int, pieces: int
) -> float:
    t, q = 1.0 / sigmas[0], qs[0]
    x, weight = np.polynomial.legendre.leggauss(16)
    ends = np.linspace(-14.0 - t, 14.0 + t, pieces + 1)
    odds = math.expm1(sign * (epsilon - sign * math.log1p(-qs[1]))) / q + 1.0
    if odds > 0.0:
        kink, near = math.log(odds) / t + 0.5 * t, np.geomspace(1e-9, 30.0 + 2.0 * t, pieces)
        ends = np.unique(np.clip(np.concatenate((ends, kink - near, [kink], kink + near)), ends[0], ends[-1]))
    z = (0.5 * (ends[1:] + ends[:-1])[:, None] + 0.5 * np.diff(ends)[:, None] * x).ravel()
    weight = (0.5 * np.diff(ends)[:, None] * weight).ravel()
    loss = mixed(q, t * (z - 0.5 * t))
    p = weight * np.exp(_log_normal(z) + (loss if sign > 0 else 0.0))
    return float(p @ sampled_deltas(sigmas[1], qs[1], epsilon - sign * loss, sign))


def sampled_deltas(sigma: float, q: float, epsilon: np.ndarray, sign: int) -> np.ndarray:
    """E_P[(1 - e^(epsilon - x))_+] of one sampled Gaussian release for any real epsilon, in doubles."""
    t = 1.0 / sigma
    threshold = 1.0 + np.expm1(sign * epsilon) / q
    z = np.log(np.maximum(threshold, 1e-300)) / t + 0.5 * t
    if sign > 0:
        above_q, above_p = ndtr(-z), ndtr(t - z)
        value = q * above_p + ((1.0 - q) - np.exp(epsilon)) * above_q
        return np.where(threshold > 0.0, value, -np.expm1(epsilon))
    below_q, below_p = ndtr(z), ndtr(z - t)
    value = -np.expm1(epsilon + math.log1p(-q)) * below_q - np.exp(epsilon) * q * below_p
    return np.where(threshold > 0.0, value, 0.0)


# Many runs, by (*).


class Run(Protocol):
    """The moments of one run: A at c on the real axis, and how it turns along the line through c.

    No loss is above `most`; of P, a mass `lost` was left out.
    """

    @property
    def most(self) -> float: ...

    @property
    def lost(self) -> float: ...

    def cumulant(self, c: np.ndarray) -> np.ndarray:
        """log A(c), real c (m,)."""

    def turned(self, c: float, y: np.ndarray, *, half: bool = False) -> np.ndarray:
        """log A(c + i y) - log A(c), complex (m,); with half the nodes if there are any."""

    def rounding(self, c: float) -> float:
        """A bound on the absolute error of log A(c), in units of `UNIT`."""


@dataclass(frozen=True)
class Normal:
    """Gaussian noise without sampling: all in closed form."""

    mu: float
    most: float = math.inf
    lost: float = 0.0

    def cumulant(self, c: np.ndarray) -> np.ndarray:
        return 0.5 * self.mu**2 * c * (c + 1.0)

    def turned(self, c: float, y: np.ndarray, *, half: bool = False) -> np.ndarray:
        return self.mu**2 * (1j * y * (c + 0.5) - 0.5 * y * y)

    def rounding(self, c: float) -> float:
        return 4.0 * float(self.cumulant(np.array(c)))


@dataclass(frozen=True)
class Nodes:
    """A law of losses given by nodes: trapezoidal or Gaussian quadrature of a density, and atoms.

    `log_weight` is the logarithm of the mass of P; `coarse` holds the same for the check by half the nodes.
    """

    loss: np.ndarray
    log_weight: np.ndarray
    coarse: tuple[np.ndarray, np.ndarray] = field(repr=False)
    most: float = math.inf
    lost: float = 0.0

    def cumulant(self, c: np.ndarray) -> np.ndarray:
        exponent = np.multiply.outer(c, self.loss)
        large = logsumexp(exponent + self.log_weight, axis=-1)
        with np.errstate(over="ignore"):
            excess = np.expm1(np.minimum(exponent, 700.0)) @ np.exp(self.log_weight)
        near = np.abs(large) < 1.0
        return np.where(near, np.log1p(np.where(near, excess, 0.0)), large)

    def turned(self, c: float, y: np.ndarray, *, half: bool = False) -> np.ndarray:
        loss, log_weight = self.coarse if half else (self.loss, self.log_weight)
        tilted = log_weight + c * loss
        tilted -= logsumexp(tilted)
        kept = tilted > -52.0
        loss, weight = loss[kept], np.exp(tilted[kept])
        return np.concatenate([_turned(loss, weight, part) for part in np.array_split(y, y.size // 200 + 1)])

    def rounding(self, c: float) -> float:
        exponent = np.minimum(c * self.loss, 700.0)
        tilted = np.exp(self.log_weight + exponent - np.maximum(self.cumulant(np.array([c]))[0], 0.0))
        return float(4.0 * np.abs(c * self.loss) @ (np.exp(self.log_weight) + tilted))


def _turned(loss: np.ndarray, weight: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log E[e^(i y loss)], with E[e^(i y loss)] - 1 kept to all its digits."""
    half = 0.5 * np.multiply.outer(y, loss)
    sine = np.sin(half)
    real, imaginary = -2.0 * (sine * sine) @ weight, 2.0 * (sine * np.cos(half)) @ weight
    square = real * (2.0 + real) + imaginary * imaginary
    far = 0.5 * np.log(np.maximum((1.0 + real) ** 2 + imaginary**2, 1e-300))
    modulus = np.where(square > -0.5, 0.5 * np.log1p(np.maximum(square, -0.5)), far)
    return modulus + 1j * np.arctan2(imaginary, 1.0 + real)


def density(
    log_p: Callable[[np.ndarray], np.ndarray],
    loss: Callable[[np.ndarray], np.ndarray],
    low: float,
    high: float,
    most: float = math.inf,
) -> Nodes:
    """The trapezoidal rule over outputs z, with P fading out smoothly (an analytic factor) below and above.

    What fades belongs to no output: it costs delta no more than its mass. A sharp end would ring.
    """
    intervals = 2 * int(min(max((high - low) / 0.024, 1000), 30_000))
    z, step = np.linspace(low - 3.0, high + 3.0, intervals + 1, retstep=True)
    fading = -np.exp(_FADING * (low - z)) - np.exp(_FADING * (z - high))
    losses, weights = loss(z), log_p(z) + fading + math.log(step)
    lost = float(-np.expm1(fading) @ np.exp(log_p(z)) * step)
    return Nodes(losses, weights, (losses[::2], weights[::2] + math.log(2.0)), most, lost)


def _log_normal(z: np.ndarray) -> np.ndarray:
    return -0.5 * z * z - 0.5 * math.log(2.0 * math.pi)


def mixed(q: float, y: np.ndarray) -> np.ndarray:
    """log(1 - q + q e^y)."""
    large = y > 30.0
    near = np.log1p(q * np.expm1(np.where(large, 0.0, y)))
    return np.where(large, np.logaddexp(math.log1p(-q) if q < 1.0 else -np.inf, y + math.log(q)), near)


def sampled_gaussian_moments(sigma: float, q: float, sign: int) -> Maker:
    """A Poisson sample of Gaussian noise: P = (1-q) N(0) + q N(t) against Q = N(0), or Q against P."""
    t = 1.0 / sigma
    if q == 1.0:
        return lambda log_tail: Normal(t)

    def loss(z: np.ndarray) -> np.ndarray:
        return sign * mixed(q, t * (z - 0.5 * t))

    def log_p(z: np.ndarray) -> np.ndarray:
        return _log_normal(z) + (mixed(q, t * (z - 0.5 * t)) if sign > 0 else 0.0)

    def run(log_tail: float) -> Run:
        reach = _reach(log_tail)
        most = math.inf if sign > 0 else -math.log1p(-q)
        return density(log_p, loss, -reach, reach + (t if sign > 0 else 0.0), most)

    return run


def replaced_gaussian_moments(sigma: float, q: float) -> Maker:
    """The same with a record replaced: P = (1-q) N(0) + q N(t) against Q = (1-q) N(0) + q N(-t)."""
    t = 1.0 / sigma
    if q == 1.0:
        return lambda log_tail: Normal(2.0 * t)

    def up(z: np.ndarray) -> np.ndarray:
        return mixed(q, t * (z - 0.5 * t))

    def run(log_tail: float) -> Run:
        reach = _reach(log_tail)
        return density(lambda z: _log_normal(z) + up(z), lambda z: up(z) - up(-z), -reach, reach + t)

    return run


def _reach(log_tail: float) -> float:
    return -float(ndtri_exp(log_tail))


def sampled_laplace_moments(scale: float, q: float, sign: int) -> Maker:
    """A Poisson sample of Laplace noise: two atoms, and Gauss-Legendre quadrature between them."""
    t = 1.0 / scale

    def nodes(points: int) -> tuple[np.ndarray, np.ndarray]:
        x, weight = np.polynomial.legendre.leggauss(points)
        u = 0.5 * t * (x + 1.0)  # the output: Q has e^-u / 2 there, P e^(u - t) / 2
        y = np.concatenate(([-t, t], 2.0 * u - t))
        log_q = np.concatenate(([math.log(0.5), math.log(0.5) - t], np.log(0.25 * t * weight) - u))
        loss = mixed(q, y) if q < 1.0 else y
        return sign * loss, log_q + (loss if sign > 0 else 0.0)

    fine = nodes(400)
    return lambda log_tail: Nodes(*fine, nodes(200), float(fine[0].max()))


def laplace_moments(scale: float) -> Maker:
    return sampled_laplace_moments(scale, 1.0, 1)


Maker = Callable[[float], Run]  # given the logarithm of what may be left out of a tail of P
Part = tuple[Maker, int]


def many_runs(parts: Sequence[Part], epsilon: float, accuracy: float = 1e-8) -> float:
    """Delta of a composition at epsilon; see `curve`."""
    return float(curve(parts, np.array([epsilon]), accuracy)[0])


def curve(parts: Sequence[Part], epsilons: np.ndarray, accuracy: float = 1e-8) -> np.ndarray:
    """Deltas of a composition at a few neighbouring epsilons, each to the relative accuracy asked for.

    All are evaluated on the line through the saddle point of the middle one. What each run leaves out of
    the tails of P changes delta by no more than its mass: less and less is left out until that is nothing.
    """
    for log_tail in (-45.0, -60.0, -80.0, -120.0, -250.0, -500.0, -800.0):
        runs = [(make(log_tail), count) for make, count in parts]
        if sum(count * run.most for run, count in runs) <= np.min(epsilons):
            return np.zeros(len(epsilons))
        deltas = _curve(runs, np.asarray(epsilons, dtype=float), accuracy)
        if sum(count * run.lost for run, count in runs) <= accuracy * deltas.min():
            return deltas
    raise NotConvergedError("the tails count, however little is left out")


def _curve(runs: Sequence[tuple[Run, int]], epsilons: np.ndarray, accuracy: float) -> np.ndarray:
    line = np.geomspace(1e-4, 1e9, 400)
    base = sum(count * run.cumulant(line) for run, count in runs)
    best = int(np.argmin(base - line * np.median(epsilons) - np.log(line * (line + 1.0))))
    if best in (0, line.size - 1):
        raise NotConvergedError(f"the saddle point is beyond {line[best]:g}")
    c = float(line[best])
    logs = base - np.multiply.outer(epsilons, line)
    step = min(_step(line, row, best, 0.01 * accuracy) for row in logs)
    end = _end(runs, c)
    if end / step > MAX_POINTS:
        raise NotConvergedError(f"{end / step:.3g} points")
    y = np.arange(0.0, end + step, step)
    value, size = _sums(runs, c, y, epsilons, half=False)
    check, _ = _sums(runs, c, y, epsilons, half=True)
    noise = UNIT * (sum(count * run.rounding(c) for run, count in runs) + 4.0 * c * np.abs(epsilons) + 64.0)
    error = np.abs(value - check) + size * (noise + 1e-12)
    if not np.all(error <= accuracy * value):
        raise NotConvergedError(f"relative error {np.max(error / np.abs(value)):.2g}")
    return value * np.exp(logs[:, best])


def _step(line: np.ndarray, logs: np.ndarray, best: int, accuracy: float) -> float:
    """The largest h of a few for which Poisson's other terms are at most `accuracy` of about delta."""
    c = line[best]
    about = logs[best] - math.log(c * (c + 1.0)) - 6.0  # not above the logarithm of delta by much
    goal = about + math.log(accuracy)
    left, right = line < c, line > c
    for period in np.geomspace(0.1 / c, 1e4 * max(1.0, 1.0 / c), 400):
        down = min(float(np.min(logs[left] + (line[left] - c) * period, initial=np.inf)), -c * period)
        up = float(np.min(logs[right] - (line[right] - c) * period, initial=np.inf))
        if max(down, up) < goal:
            return 2.0 * math.pi / period
    raise NotConvergedError("no step is small enough")


def _end(runs: Sequence[tuple[Run, int]], c: float) -> float:
    """Where the integrand has fallen to 1e-13 of its start, and stays, as far as a factor of 100 shows."""
    y = np.geomspace(1e-4 * c, 1e7 * c, 1100)
    last = 0
    for first in range(0, y.size, 50):
        block = y[first : first + 50]
        height = sum(count * run.turned(c, block).real for run, count in runs)
        height = height - np.log(np.hypot(block, c) * np.hypot(block, c + 1.0) / (c * (c + 1.0)))
        above = np.flatnonzero(height > -30.0)
        last = first + int(above[-1]) if above.size else last
        if first - last > 200:
            return 1.1 * float(y[last + 1])
    raise NotConvergedError("the integrand does not fall")


def _sums(
    runs: Sequence[tuple[Run, int]], c: float, y: np.ndarray, epsilons: np.ndarray, *, half: bool
) -> tuple[np.ndarray, float]:
    """The trapezoidal sum for each epsilon, without e^(log A(c) - c epsilon), and the sum of moduli."""
    s, scale = c + 1j * y, (y[1] - y[0]) / math.pi
    terms = np.exp(sum(count * run.turned(c, y, half=half) for run, count in runs)) / (s * (s + 1.0))
    terms[0] *= 0.5
    value = np.array([(terms * np.exp(-1j * y * epsilon)).real.sum() for epsilon in epsilons])
    return value * scale, float(np.abs(terms).sum()) * scale
