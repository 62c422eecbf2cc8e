"""Gaussian noise and Poisson samples of it by an inversion integral: delta over epsilon without a lattice.

Let A(s) = E_F[e^(s l)] be the moments of the composed loss l in one direction, F its first law. Then

    delta(epsilon) = 1 / (2 pi i) int A(s) e^(-s epsilon) / (s (s + 1)) ds

along any line with a positive real part theta. The trapezoidal rule with step 2 pi / L gives the sum of
delta(epsilon + k L) e^(theta k L) over all whole k, exactly: an upper bound as it stands, and a lower one
less what Chernoff's bound says of k other than 0. The moments of one run are a trapezoidal sum over outputs,
whose error is an integral along a curve in the complex plane; frequencies beyond the last one are bounded by
how much of the law of one run is as good as uniform. docs/accounting_proofs.md has the proofs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedsec.accounting.numbers import UNIT, Array
from fedsec.accounting.pairs.noise import Mixture, NormalNoise
from fedsec.accounting.pld import closed_in, gain
from fedsec.accounting.tilt import Steps

Complex = npt.NDArray[np.complex128]

_DEPTH = 32.0  # what of other periods turns up is below e^-32 of Chernoff's bound, or nearly so
_FADED = 32.0  # and frequencies are left out where the law has faded to e^-32
_DIGITS = 45.0  # the same of the moments of one run, over the count
_WIDEST = 6.0  # imaginary part of outputs on the curve, at most
_TURNS = (1.0, 4.0, 16.0)  # growth of a moment on the curve by its frequency, as exponent
_STEEP = 2.0  # length of the curve over that of the real line, at most: below 1 / cos(1)
_MOST_NODES = 2**13
_MOST_TERMS = 2**20  # nodes times frequencies
_FASTEST = 1e3  # frequency, in 1/deviations
_LOBE = 0.2173  # |sin v / v| for v beyond pi, at most
_THIN = 1e-6  # mass of a layer that is not worth counting
_FARTHEST = 300.0  # logarithm of numbers beyond which nothing is known
_PLACES: Array = np.array([1.0, 2.0, 3.0, 4.5, 6.5, 9.0])  # of Chernoff bounds, in 1/deviations from theta
_LEVELS: Array = np.geomspace(1e-3, 1.0, 7, dtype=np.float64)  # of frequencies whose quadrature is bounded
_ROOT = 1e-11  # in log(delta)


@dataclass(frozen=True)
class Moments:
    """A - 1 of one run at some places, and bounds on its absolute errors."""

    excess: Complex
    error: Array

    @property
    def log_size(self) -> Array:
        """log|A|."""
        real, imaginary = self.excess.real, self.excess.imag
        square = real * (2.0 + real) + imaginary * imaginary
        near = np.abs(square) < 0.5
        far = np.log(np.where(near, 1.0, np.hypot(1.0 + real, imaginary)))
        return np.asarray(np.where(near, 0.5 * np.log1p(np.where(near, square, 0.0)), far))

    @property
    def angle(self) -> Array:
        """The argument of A."""
        return np.arctan2(self.excess.imag, 1.0 + self.excess.real)


class Sample:
    """One run of a Poisson sample of Gaussian noise, tilted by theta: nodes of outputs z, and their losses.

    With R = 1 - q + q e^y, y = mu z - mu^2 / 2 and z normal, A(s) = E[R^beta], beta = s + 1 or -s, and

        A - 1 = E[R^beta - 1 - beta (R - 1)],

    whose terms are small where R is next to 1.
    """

    def __init__(self, pair: Mixture, mu: float, count: int, sign: int, theta: float) -> None:
        self._q, self._mu, self._sign = pair.probability, mu, sign
        digits = _DIGITS + math.log(count)
        reach = math.sqrt(2.0 * digits)
        widest = min(1.0 / mu, _WIDEST)
        self._widest = mu * widest  # angle of e^y on the curve, at most
        self.step = math.pi * widest / (digits + 0.5 * widest * widest)
        low, high = -reach, mu * (1.0 + theta if sign > 0 else 1.0) + reach
        if sign < 0:  # the tilt moves outputs down
            place: Array = np.linspace(-reach - theta * mu, 0.0, 400, dtype=np.float64)
            exponent = -0.5 * place * place - theta * pair.loss(mu * (place - 0.5 * mu))
            low += float(place[np.argmax(exponent)])
        if not (high - low) / self.step < _MOST_NODES:
            raise FloatingPointError("too many outputs")
        nodes = np.arange(math.floor(low / self.step), math.ceil(high / self.step) + 1)
        z: Array = np.asarray(self.step * nodes, dtype=np.float64)
        self._z, self._y = z, mu * (z - 0.5 * mu)
        self._loss = pair.loss(self._y)
        self._log_weight = -0.5 * z * z + math.log(self.step / math.sqrt(2.0 * math.pi))
        exponents = (0.0, 1.0, self._beta(theta))
        largest = np.max([self._log_weight + b * self._loss for b in exponents], axis=0)
        self._kept = largest > -digits - 5.0
        kept = self._kept
        self._r, self._weight = self._loss[kept], np.exp(self._log_weight[kept])
        self._x = np.expm1(self._r)
        slope = self._slope(self._y[kept], self._r)
        doubt = np.abs(self._r) + np.abs(self._x) * np.exp(-self._r)
        self._doubt = 4.0 * (doubt + slope * (np.abs(mu * z[kept]) + mu * mu))  # of r, in units
        self._terms = 0.5 * kept.sum() + 16.0 + z[kept] ** 2  # relative errors of terms and sums, in units

    @property
    def nodes(self) -> int:
        """How many outputs it takes."""
        return int(self._r.size)

    def _beta(self, theta: float | Array) -> Array:
        return np.asarray(1.0 + theta if self._sign > 0 else np.negative(theta))

    def _slope(self, y: Array, loss: Array) -> Array:
        return np.asarray(self._q * np.exp(y - loss))

    def moments(self, theta: Array, u: Array) -> Moments:
        """A(theta + i u) - 1; either may be a single number."""
        b, v = self._beta(theta)[:, None], self._sign * u[:, None]
        real, half = b * self._r, 0.5 * (v * self._r)
        lost = real.max(axis=1) > _FARTHEST
        real = np.minimum(real, _FARTHEST)
        size, sine = np.exp(real), np.sin(half)
        excess = np.empty(np.broadcast_shapes(b.shape, v.shape)[0], dtype=np.complex128)
        excess.real = (np.expm1(real) - 2.0 * size * sine * sine - b * self._x) @ self._weight
        excess.imag = (2.0 * size * sine * np.cos(half) - v * self._x) @ self._weight
        with np.errstate(over="ignore", invalid="ignore"):  # no bound, then
            error = self._rounding(b, v, size) + self._left_out(b, v) + self._quadrature(b, v)
        return Moments(excess, np.where(lost | np.isnan(error), np.inf, error))

    def _rounding(self, b: Array, v: Array, size: Array) -> Array:
        r, x = np.abs(self._r), np.abs(self._x)
        parts = self._terms * (r * (1.0 + size) + x) + (size + np.exp(self._r)) * self._doubt
        return np.asarray(4.0 * UNIT * np.hypot(b, v)[:, 0] * (parts @ self._weight))

    def _left_out(self, b: Array, v: Array) -> Array:
        """Terms of nodes that are not kept, and of those beyond all nodes (a geometric series each)."""
        power = self._powers(b, self._log_weight, self._loss)
        line = self._line(self._log_weight, self._loss)
        low, high = self._ends(b, -float(self._z[0]), float(self._z[-1]))
        of_power, of_line = (
            part[..., ~self._kept].sum(axis=-1) + part[..., 0] * low + part[..., -1] * high
            for part in (power, line)
        )
        return np.asarray(of_power + np.hypot(b, v)[:, 0] * of_line)

    def _powers(self, b: Array, log_weight: Array, loss: Array) -> Array:
        """Weight (R^b + 1)."""
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(log_weight + b * loss) + np.exp(log_weight))

    def _line(self, log_weight: Array, loss: Array) -> Array:
        """Weight (R + 1), at least that of |R - 1|."""
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(log_weight + loss) + np.exp(log_weight))

    def _ends(self, b: Array, low: float, high: float) -> tuple[Array, Array]:
        """Sums of geometric series that terms make from -low downwards and from high upwards."""
        slope = float(self._slope(self._y[:1], self._loss[:1])[0])
        below = low - np.maximum(-b[:, 0], 0.0) * self._mu * slope
        above = high - np.maximum(b[:, 0], 1.0) * self._mu
        return _series(self.step * below), _series(self.step * above)

    def _quadrature(self, b: Array, v: Array) -> Array:
        """Bound the error of the trapezoidal rule, for a few frequencies that stand for all below them."""
        size = np.abs(v[:, 0])
        levels = _LEVELS * size.max() if size.size > 1 else size
        which = np.minimum(np.searchsorted(levels, size), levels.size - 1)
        if b.size > 1:
            return self._along_curve(b, np.abs(v), _TURNS[0])
        bounds = [self._along_curve(b, levels[:, None], turn) for turn in _TURNS]
        return np.asarray(np.min(bounds, axis=0)[which])

    def _along_curve(self, b: Array, v: Array, turn: float) -> Array:
        """Integral of |integrand| / |e^(2 pi a / step) - 1| on the curve z + i a(z) and its mirror image.

        a falls with z, and so that no moment grows by more than e^turn: |v| arg R is at most |v| mu a, and
        |v| q e^y / (1 - q) sin(mu a). Each cell counts with its largest value: all factors are monotone.
        """
        z, q, v = self._z, self._q, np.maximum(v, 1e-300)
        log_odds = self._y + math.log(q) - math.log1p(-q)
        bend = np.exp(np.clip(math.log(turn) - np.log(v) - log_odds, -_FARTHEST, 0.0))
        least = np.minimum(turn / v, self._widest)
        a = np.maximum(np.arcsin(np.minimum(bend, math.sin(self._widest))), least)
        left, right = slice(None, -1), slice(1, None)
        nearest = np.where(z[left] * z[right] <= 0.0, 0.0, np.minimum(z[left] ** 2, z[right] ** 2))
        rate = 2.0 * math.pi / (self._mu * self.step)
        fall = _log_expm1(rate * a)
        log_weight = -0.5 * nearest + 0.5 * (a[:, left] / self._mu) ** 2 - fall[:, right] + turn
        log_weight += math.log(2.0 * _STEEP * self.step / math.sqrt(2.0 * math.pi))
        cosine = np.cos(a[:, left])
        lowest = np.log1p(q * (cosine * np.exp(np.minimum(self._y[left], _FARTHEST)) - 1.0))
        loss = np.where(b > 0.0, self._loss[right], lowest)
        cells = self._powers(b, log_weight, loss) + np.hypot(b, v) * self._line(log_weight, self._loss[right])
        low, high = self._ends(b, -float(z[1]), float(z[-2]))
        low = np.where(a[:, 0] >= self._widest * (1.0 - 2.0**-40), low, np.inf)
        slowest = np.exp(fall[:, -1] - _log_expm1(rate * least[:, 0]))
        return np.asarray(cells.sum(axis=1) + cells[:, 0] * low + cells[:, -1] * slowest * high)

    def mean_and_variance(self, theta: float) -> tuple[float, float]:
        """Of the tilted loss, about."""
        weight = self._weight * np.exp(float(self._beta(theta)) * self._r)
        weight /= weight.sum()
        mean = float(weight @ self._r)
        return self._sign * mean, float(weight @ (self._r - mean) ** 2)

    def layers(self, theta: float, log_total: float) -> tuple[Array, Array]:
        """Parts of the tilted law that are uniform on an interval of losses: their masses and widths.

        log p = -z^2 / 2 - y + (beta + 1) loss + const bends upwards by (beta + 1) mu^2 / 4 - 1 at most, so
        between two nodes it is at least what it is at the lower one, less an eighth of that times step^2.
        Below p lies a function with one peak, and below that one a pile of nested intervals.
        """
        b = float(self._beta(theta))
        log_p = -0.5 * self._z**2 - self._y + (b + 1.0) * self._loss
        log_p -= 0.5 * math.log(2.0 * math.pi) + math.log(self._mu) + math.log(self._q) + log_total
        log_p -= 0.125 * self.step**2 * max(0.25 * (b + 1.0) * self._mu**2 - 1.0, 0.0) + 1e-7
        peaks = {int(np.argmax(log_p)), int(np.argmax(self._log_weight + b * self._loss))}
        return max((self._pile(log_p, peak) for peak in sorted(peaks)), key=lambda pile: float(pile[0].sum()))

    def _pile(self, log_p: Array, peak: int) -> tuple[Array, Array]:
        right, left = (np.minimum.accumulate(part) for part in (log_p[peak:], log_p[peak::-1]))
        first = peak - np.maximum(np.searchsorted(-left, -right, side="right") - 1, 0)
        width = self._loss[peak:] - self._loss[first]
        height = np.exp(np.minimum(right, _FARTHEST))
        mass = width * -np.diff(height, append=0.0)
        kept = mass > _THIN
        return mass[kept], width[kept]


def _log_expm1(x: Array) -> Array:
    return np.asarray(x + np.log(-np.expm1(-x)))


def _series(exponent: Array) -> Array:
    """1 / (1 - e^-exponent), infinite where it is not positive."""
    with np.errstate(divide="ignore"):
        return np.asarray(1.0 / -np.expm1(-np.maximum(exponent, 0.0)))


@dataclass(frozen=True)
class _Composition:
    """Counts of samples and, all in one, unsampled noise of variance mu^2."""

    samples: Sequence[tuple[Sample, int]]
    square: float

    def moments(self, theta: Array, u: Array) -> tuple[Array, Array, Array, Array]:
        """log|A|, its bound from above, the angle of A, and a bound of |error of A / its bound|."""
        s = theta + 1j * u
        normal = 0.5 * self.square * (s + s * s)
        size, angle = normal.real.copy(), normal.imag.copy()
        doubt = 4.0 * UNIT * self.square * np.abs(s) * (1.0 + np.abs(s))
        most = size + doubt
        for sample, count in self.samples:
            found = sample.moments(theta, u)
            log_size = found.log_size
            allowed = np.log1p(found.error * np.exp(-log_size))
            size += count * log_size
            most += count * (log_size + allowed)
            angle += count * found.angle
            doubt -= count * np.expm1(-allowed)
        return size, most, angle, doubt

    def decay(self, theta: float, u: Array) -> Array:
        """Bound log|A(theta + i u) / A(theta)| for a frequency and all larger ones."""
        total = -0.5 * self.square * u * u
        for sample, count in self.samples:
            here = sample.moments(np.array([theta]), np.zeros(1))
            mass, width = sample.layers(theta, math.log1p(float(here.excess.real[0] + here.error[0])))
            v = np.multiply.outer(u, 0.5 * width)
            lobe = np.maximum(np.where(v < math.pi, np.sinc(v / math.pi), 0.0), _LOBE)
            faded = np.log1p(np.maximum(-(1.0 - lobe) @ mass, -1.0 + UNIT))
            total = total + count * (faded + 4.0 * UNIT)
        return np.asarray(total)


@dataclass(frozen=True, eq=False)
class Inversion:
    """Delta as a function of epsilon in one direction, from both sides."""

    theta: float
    scale: float  # log A(theta)
    mean: float  # of the tilted loss, about
    deviation: float
    u: Array
    weight: Complex
    slack: float  # bounds the error of the sum, in units of A(theta), but for
    drift: float  # this times epsilon
    places: Array  # other real parts,
    heights: Array  # and log(A gain) there, bounded from above
    period: float
    roots: dict[tuple[int, float], float] = field(default_factory=dict)

    def delta(self, epsilon: float, side: int) -> float:
        """Bound delta at epsilon from above (+1) or below (-1)."""
        angle = self.u * epsilon
        value = float(self.weight.real @ np.cos(angle) + self.weight.imag @ np.sin(angle))
        value += side * (self.slack + self.drift * epsilon)
        exponent = self.scale - self.theta * epsilon
        if side > 0:
            value = min(value, gain(self.theta))
        else:
            value -= self._aliases(epsilon, exponent)
        if not value > 0.0:
            return 0.0
        size = abs(self.scale) + self.theta * epsilon - math.log(value) + 16.0
        exponent += math.log(value) + side * 16.0 * UNIT * size
        return math.exp(min(exponent, 0.0))

    def _aliases(self, epsilon: float, exponent: float) -> float:
        """Bound the sum of delta(epsilon + k period) e^(theta k period) over k other than 0."""
        away = np.abs(self.places - self.theta)
        bounds = self.heights - self.places * epsilon - exponent - _log_expm1(self.period * away)
        above = self.places > self.theta
        ends = (float(bounds[part].min()) for part in (above, ~above))
        return sum(math.exp(min(end, _FARTHEST)) for end in ends) * (1.0 + 2.0**-30)

    def epsilon(self, delta: float, side: int) -> float:
        """Bound epsilon at delta; the end that is returned was checked."""
        if (side, delta) not in self.roots:
            self.roots[side, delta] = self._root(delta, side)
        return self.roots[side, delta]

    def _root(self, delta: float, side: int) -> float:
        def miss(epsilon: float) -> float:
            value = self.delta(epsilon, side)
            return math.log(value / delta) if value > 1e-300 * delta else -700.0

        high = max(self.mean, 0.0)
        stride = 0.5 * self.deviation
        low = high
        for _ in range(12):  # upwards until delta is met
            if miss(high) <= 0.0:
                break
            low, high, stride = high, high + stride, 2.0 * stride
        else:
            return math.inf if side > 0 else low
        if low < high:
            return closed_in(miss, low, high, side, _ROOT)
        while low > 0.0:  # downwards until it is missed
            low, high, stride = max(low - stride, 0.0), low, 2.0 * stride
            if miss(low) > 0.0:
                return closed_in(miss, low, high, side, _ROOT)
        return 0.0


def fits(steps: Steps) -> bool:
    """Whether all mechanisms are Gaussian noise or Poisson samples of it."""
    return all(
        isinstance(pair.inner if isinstance(pair, Mixture) else pair, NormalNoise) for pair, _ in steps
    )


def inversion(steps: Steps, sign: int, theta: float) -> Inversion:
    """Return bounds for P against Q (+1) or Q against P (-1) on the line with real part theta.

    Raises FloatingPointError where too many nodes would be needed, or numbers leave the range of doubles.
    """
    samples, square = [], 0.0
    for pair, count in steps:
        if isinstance(pair, Mixture) and isinstance(pair.inner, NormalNoise):
            samples.append((Sample(pair, pair.inner.shift, count, sign, theta), count))
        elif isinstance(pair, NormalNoise):
            square += count * pair.shift * pair.shift
    law = _Composition(samples, square)
    parts = [(count, *sample.mean_and_variance(theta)) for sample, count in samples]
    mean = square * (theta + 0.5) + sum(count * part for count, part, _ in parts)
    deviation = math.sqrt(square + sum(count * part for count, _, part in parts))
    if not 0.0 < deviation < math.inf:
        raise FloatingPointError("no deviation")
    places, heights = _elsewhere(law, theta, deviation)
    base = float(law.moments(np.array([theta]), np.zeros(1))[0][0]) + math.log(gain(theta))
    needed = np.maximum(heights - base - (places - theta) * mean + _DEPTH, 1.0) / np.abs(places - theta)
    period = max(
        float(np.min(needed, where=part, initial=math.inf)) for part in (places > theta, places < theta)
    )
    frequencies: Array = np.geomspace(1.0, _FASTEST, 48, dtype=np.float64) / deviation
    decay = law.decay(theta, frequencies)
    enough = int(np.argmax(decay < -_FADED))
    terms = float(frequencies[enough]) * period / (2.0 * math.pi)
    if not (
        decay[enough] < -_FADED and terms * (1 + sum(sample.nodes for sample, _ in samples)) < _MOST_TERMS
    ):
        raise FloatingPointError("too many frequencies")
    u: Array = np.arange(math.ceil(terms) + 1, dtype=np.float64) * (2.0 * math.pi / period)
    log_size, most, angle, doubt = law.moments(np.array([theta]), u)
    scale, s = float(log_size[0]), theta + 1j * u
    share = np.where(u > 0.0, 2.0, 1.0) / (period * np.abs(s * (s + 1.0)))
    weight = share * np.exp(log_size - scale) * np.exp(1j * (angle - np.angle(s) - np.angle(s + 1.0)))
    bound = share * np.exp(most - scale)
    doubt += UNIT * (32.0 + u.size + 4.0 * (np.abs(angle) + np.abs(log_size) + abs(scale)))
    slack = float(bound @ doubt) + math.exp(float(decay[enough])) / (math.pi * float(u[-1]))
    drift = 2.0 * UNIT * float(bound @ u)
    return Inversion(theta, scale, mean, deviation, u, weight, slack, drift, places, heights, period)


def _elsewhere(law: _Composition, theta: float, deviation: float) -> tuple[Array, Array]:
    """Other real parts, and bounds of log(A gain) there, for Chernoff's bound."""
    away = _PLACES / deviation
    places = np.unique(np.concatenate((np.maximum(theta - away, 0.0), theta + away)))
    places = places[places != theta]
    log_gain = [math.log(gain(place)) if place > 0.0 else 0.0 for place in places]
    return places, law.moments(places, np.zeros(1))[1] + np.array(log_gain)
