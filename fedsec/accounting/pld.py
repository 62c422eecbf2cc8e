"""Privacy loss distributions: the law of the loss of a whole composition, certified from both sides.

It stands between `pairs` and `rounding` (one mechanism on a grid) and `PLDAccountant`. The loss of a
composition is a sum of independent losses; its law under the first output law is a convolution. With a
tilt theta, T(x) = e^(theta x - M) P(x) is again a convolution of laws, centred where the answer lies, and

    delta(epsilon) = e^(M - theta epsilon) E_T[g(X - epsilon)],   g(y) = e^(-theta y) (1 - e^-y)_+,

so that a small delta is known to as many digits as a large one. One FFT per mechanism raises the laws to
their counts. What the FFT wraps around, what lies outside its window (Chernoff) and what floating-point
arithmetic may have lost are charged to the bound, in `Law.slack`. `docs/accounting.md` has the proofs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedsec.accounting.old_pairs import LaplaceNoise, NormalNoise, Pair
from fedsec.accounting.rdp import Array
from fedsec.accounting.rounding import Atoms, lower, upper

_UNIT = 2.0**-52
_OUTSIDE = 1e-10  # what the window may miss on either side, in the tilted law
_MOST_POINTS = 2**20
_MOST_NODES = 2**14  # of one mechanism, far out
_SUM = 2.0**-40  # relative error of a sum over the grid, and of logarithms
_DEPTH = 60.0
_INSET = 1e-12  # how far nodes lie inside the atoms they are meant for, so that rounding does not part them
_CUT = math.exp(-_DEPTH)
_STEPS = 60
_ALLOWANCE = 4.0  # in nats: how much of the digits below `_OUTSIDE` a lighter tail may cost
_EXPONENTS: Array = np.geomspace(
    0.25, 64.0, 17, dtype=np.float64
)  # of the Chernoff bound, in standard deviations

Steps = Sequence[tuple[Pair, int]]


class Tilt(NamedTuple):
    """Where an answer is looked for: the exponent, and the standard deviation of one average loss."""

    theta: float
    deviation: float
    bound: float  # what the coarse law gives there


@dataclass(frozen=True, eq=False)
class Grid:
    """One mechanism's nodes, at losses anchor + h index."""

    anchor: float
    index: npt.NDArray[np.int64]
    h: float

    @property
    def x(self) -> Array:
        """Losses of the nodes, ascending."""
        return np.asarray(self.anchor + self.h * self.index, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Law:
    """The tilted law of a composition at the losses start + h (0, 1, 2, ...)."""

    start: float
    h: float
    mass: Array
    theta: float
    scale: float  # M
    slack: float  # bounds the error of E_T[g], whatever epsilon
    infinite: float
    side: int  # +1: bounds from above, -1: bounds from below
    roots: dict[float, float] = field(default_factory=dict)

    def delta(self, epsilon: float) -> float:
        """Bound delta at epsilon; at most 1."""
        first = max(0, math.ceil((epsilon - self.start) / self.h))
        last = first + math.ceil(_DEPTH / (self.theta * self.h)) + 1  # beyond it g is below e^-60
        y = np.maximum(self.start + self.h * np.arange(first, min(last, self.mass.size)) - epsilon, 0.0)
        value = float(np.sum(self.mass[first:last] * np.exp(-self.theta * y) * -np.expm1(-y)))
        value = value * (1.0 + self.side * _SUM) + self.side * (self.slack + _CUT)
        if self.side > 0:
            value = min(value, gain(self.theta))
        if value <= 0.0:
            return 0.0
        exponent = math.log(value) + self.scale - self.theta * epsilon
        exponent += self.side * _SUM * (1.0 + abs(self.scale) + self.theta * epsilon)
        return min(1.0, math.exp(min(exponent, 0.0)) + (self.infinite if self.side > 0 else 0.0))

    def epsilon(self, delta: float) -> float:
        """Bound epsilon at delta; zero or above, infinite if there is no bound from above."""
        if delta not in self.roots:
            self.roots[delta] = self._root(delta)
        return self.roots[delta]

    def _root(self, delta: float) -> float:
        """Close in on where the bound passes delta; the end that is returned was checked."""
        if delta <= self.infinite:
            return math.inf if self.side > 0 else 0.0
        high = self._chernoff(delta)
        if high <= 0.0 or self.side * (self.delta(0.0) - delta) <= 0.0 < self.side:
            return 0.0
        low, high = self._bracket(delta, high)
        return self._narrowed(delta, low, high) if low < high else 0.0

    def _bracket(self, delta: float, high: float) -> tuple[float, float]:
        """Walk down from an epsilon that meets delta to one that misses it; (0, 0) if there is none."""
        width = 1.0 / self.theta
        low = max(high - width, 0.0)
        while self.delta(low) <= delta:
            if low == 0.0:
                return 0.0, 0.0
            high, width = low, 2.0 * width
            low = max(low - width, 0.0)
        return low, high

    def _narrowed(self, delta: float, low: float, high: float) -> float:
        """Regula falsi on log(delta), the Illinois variant; the end that is returned was checked."""
        above, below = self._miss(low, delta), self._miss(high, delta)
        moved = 0
        for _ in range(_STEPS):
            if high - low <= 1e-9 * high or (-below if self.side > 0 else above) <= 1e-9:
                break
            middle = low + (high - low) * min(max(above / (above - below), 0.01), 0.99)
            miss = self._miss(middle, delta)
            if miss <= 0.0:
                high, below, above = middle, miss, above / (2.0 if moved == 1 else 1.0)
                moved = 1
            else:
                low, above, below = middle, miss, below / (2.0 if moved == -1 else 1.0)
                moved = -1
        return high if self.side > 0 else low

    def _miss(self, epsilon: float, delta: float) -> float:
        """By how much log(delta) is missed at epsilon."""
        value = self.delta(epsilon)
        return math.log(value / delta) if value > 1e-300 * delta else -700.0

    def _chernoff(self, delta: float) -> float:
        """Epsilon from the cumulant alone, where even a bound from above meets delta."""
        budget = math.log(delta - self.infinite)
        least = (self.scale + math.log(gain(self.theta)) - budget) / self.theta
        size = (1.0 + abs(self.scale) + abs(budget) + self.theta * abs(least)) / self.theta
        return least + 4.0 * _SUM * size


def gain(theta: float) -> float:
    """The greatest value of g: theta^theta / (1 + theta)^(1 + theta)."""
    return math.exp(-theta * math.log1p(1.0 / theta) - math.log1p(theta))


def _roughness(theta: float, h: float, size: int) -> float:
    """Bound the Euclidean norm of g at points h apart: the sum of g^2 is within its peak of int g^2 / h."""
    integral = 1.0 / (theta * (2.0 * theta + 1.0) * (2.0 * theta + 2.0))
    peak = gain(theta) ** 2
    return math.sqrt(min(integral / h + peak, size * peak))


class _Probe:
    """Both laws of a composition, coarsely: good for choosing tilt and grid, never for an answer."""

    def __init__(self, steps: Steps, sign: int, tail: float) -> None:
        self.parts = [(*_coarse(pair, sign, tail), count) for pair, count in steps]
        self.count = sum(count for _, count in steps)

    def cumulant(self, theta: Array) -> Array:
        total = np.zeros_like(theta)
        for loss, mass, count in self.parts:
            total += count * _cumulant(theta, loss, mass)
        return total

    def deviation(self, theta: float) -> float:
        variance = 0.0
        for loss, mass, count in self.parts:
            weight = mass * np.exp(theta * (loss - loss.max()))
            weight /= weight.sum()
            mean = float(weight @ loss)
            variance += count * float(weight @ (loss - mean) ** 2)
        return math.sqrt(variance / self.count)

    def tilt(self, bound: Callable[[Array, Array], Array], allowance: float) -> Tilt:
        """The least exponent at which a Chernoff bound is within the allowance of its minimum.

        A smaller one means lighter tails, hence a smaller window, at the price of digits that are there.
        """
        usual = self.deviation(0.0)
        theta: Array = np.geomspace(1e-6, 60.0, 65, dtype=np.float64) / (usual * math.sqrt(self.count))
        value = bound(theta, self.cumulant(theta))
        best = int(np.argmin(value))
        good = (value <= value[best] + allowance) & (theta >= 0.25 * theta[best])
        chosen = float(theta[np.argmax(good)])
        return Tilt(chosen, max(self.deviation(chosen), 0.05 * usual), float(value[best]))


def _cumulant(theta: Array, loss: Array, mass: Array) -> Array:
    """Logarithm of E[e^(theta loss)] for masses that sum to 1, to full relative accuracy near 0."""
    exponent = np.multiply.outer(theta, loss)
    top = exponent.max(axis=1)
    near = top < 600.0
    total = np.log1p(np.expm1(np.where(near[:, None], exponent, 0.0)) @ mass)
    if not near.all():
        far = exponent[~near] + np.log(mass)
        peak = far.max(axis=1)
        total[~near] = peak + np.log(np.exp(far - peak[:, None]).sum(axis=1))
    return np.asarray(total)


def _coarse(pair: Pair, sign: int, tail: float) -> tuple[Array, Array]:
    low, high = pair.noise.ends(tail)
    low, high = max(low, -600.0), min(high, 600.0)
    width = 0.25 * pair.noise.shift if isinstance(pair.noise, NormalNoise) else 0.02 * (high - low)
    size = int(min(max((high - low) / min(width, 0.5), 16), 4000)) + 1
    cells = pair.noise_cells(np.linspace(low - 1e-6 * (high - low), high, size, dtype=np.float64))
    q, p = cells.q[1:-1], cells.p[1:-1]
    mass = q if sign < 0 else (1.0 - pair.probability) * q + pair.probability * p
    kept = (q > 0.0) & (p > 0.0) & (mass > 0.0)
    q, p, mass = q[kept], p[kept], mass[kept]
    odds = np.log(p / q)
    loss = odds if pair.probability == 1.0 else np.log1p(pair.probability * np.expm1(odds))
    return sign * loss, mass / mass.sum()


def tilt_for_delta(steps: Steps, sign: int, delta: float, tail: float) -> Tilt:
    """The tilt for the epsilon that belongs to delta."""

    def bound(theta: Array, total: Array) -> Array:
        return np.asarray((total - _log_gain(theta) - math.log(delta)) / theta)

    return _Probe(steps, sign, tail).tilt(bound, 0.0)


def tilt_for_epsilon(steps: Steps, sign: int, epsilon: float, tail: float) -> Tilt:
    """The tilt for the delta that belongs to epsilon."""

    def bound(theta: Array, total: Array) -> Array:
        return total - _log_gain(theta) - theta * epsilon

    return _Probe(steps, sign, tail).tilt(bound, _ALLOWANCE)


def _log_gain(theta: Array) -> Array:
    return np.asarray(np.log1p(theta) + theta * np.log1p(1.0 / theta))


def law(steps: Steps, side: int, sign: int, tilt: Tilt, fineness: float, tail: float) -> Law:
    """Compose on a grid whose step is about `fineness` times the deviation of one step's loss."""
    spans = (pair.range(tail) for pair, _ in steps)
    h = max(fineness * tilt.deviation, max(high - low for low, high in spans) * 2.0**-45, 1e-290)
    rounding = upper if side > 0 else lower
    for _ in range(4):
        h = _fitted(h, steps)
        grids = [_grid(pair, h, sign * tilt.theta, fineness, tail) for pair, _ in steps]
        parts = [_part(grid, rounding(pair, grid.x, sign), sign, tilt.theta, count)
                 for (pair, count), grid in zip(steps, grids, strict=True)]  # fmt: skip
        first, last = _window(parts)
        if last - first < _MOST_POINTS:
            break
        h *= 1.1 * (last - first) / _MOST_POINTS
    return _convolve(parts, h, first, last, tilt.theta, side)


def _fitted(h: float, steps: Steps) -> float:
    """A step that puts the atoms at both ends of a Laplace loss on the grid, if it is the first mechanism."""
    noise = steps[0][0].noise
    if not isinstance(noise, LaplaceNoise):
        return h
    low, high = steps[0][0].range(0.0)
    return (high - low) * (1.0 - 2.0 * _INSET) / max(1, math.ceil((high - low) / h))


def _grid(pair: Pair, h: float, theta: float, fineness: float, tail: float) -> Grid:
    """Nodes h apart around the bulk, further out as far apart as is `fineness` times the distance."""
    low, high = pair.range(tail)
    anchor = _anchor(pair, h, low)
    if isinstance(pair.noise, LaplaceNoise):  # a density that ends in atoms: no place may be coarse
        fineness = max(h / (high - low), 1.0 / _MOST_NODES)
    left = _offsets((anchor - low) / h, fineness, 1.0 / ((1.0 + max(-theta, 0.0)) * h))
    right = _offsets((high - anchor) / h, fineness, 1.0 / ((1.0 + max(theta, 0.0)) * h))
    return Grid(anchor, np.concatenate((-left[:0:-1], right)), h)


def _offsets(end: float, fineness: float, widest: float) -> npt.NDArray[np.int64]:
    """Whole numbers from 0 to just beyond `end`."""
    near = 1.0 / fineness
    far = min(max(widest, near, end / (fineness * _MOST_NODES)), end)
    parts = [np.arange(min(near, end) + 1.0)]
    if far > near:
        parts.append(near * np.exp(fineness * np.arange(math.log(far / near) / fineness + 1.0)))
    if end > far:
        parts.append(np.arange(far, end, max(1.0, fineness * far)))
    last = math.ceil(end - 1e-6)
    ends = np.array([last, last + 1, last + 2], dtype=np.float64)
    index = np.unique(np.concatenate([*parts, ends]).astype(np.int64))
    kept: npt.NDArray[np.int64] = index[index <= last + 2]
    return kept


def _anchor(pair: Pair, h: float, low: float) -> float:
    """The loss where most of Q lies: on the grid it needs no rounding."""
    if isinstance(pair.noise, LaplaceNoise):
        return low + _INSET * (pair.range(0.0)[1] - low)
    anchor = pair.loss(-0.5 * pair.noise.shift**2)
    for _ in range(2):
        cells = pair.cells(np.array([anchor - 0.5 * h, anchor + 0.5 * h]))
        if cells.q[1] > 1e3 * cells.q_error[1]:
            anchor = math.log1p(pair.probability * (float(cells.p[1] / cells.q[1]) - 1.0))
    return anchor


@dataclass(frozen=True, eq=False)
class _Part:
    """One mechanism's tilted law at losses origin + h index, and how often it runs."""

    origin: float
    index: npt.NDArray[np.int64]
    mass: Array
    cumulant: float
    count: int
    infinite: float
    error: float  # relative error of the masses, on average


def _part(grid: Grid, atoms: Atoms, sign: int, theta: float, count: int) -> _Part:
    """Tilt, and shift the grid so that its zero is near the mean."""
    kept = atoms.mass > 0.0
    x, mass, index = sign * grid.x[kept], atoms.mass[kept], sign * grid.index[kept]
    if not mass.size:
        return _Part(0.0, np.zeros(1, np.int64), np.ones(1), -math.inf, count, atoms.infinite, 0.0)
    top = max(0.0, float((theta * x).max()) - 600.0)
    weight = mass * np.exp(theta * x - top)
    total = float(weight.sum())
    cumulant = math.log(total) + top
    if theta * np.abs(x).max() < 600.0:
        cumulant = math.log1p(float(mass @ np.expm1(theta * x)) + (math.fsum(mass) - 1.0))
    weight /= total
    kept = weight > 0.0
    weight, x, index = weight[kept], x[kept], index[kept]
    mean = round(float(weight @ index))
    error = 16.0 * _UNIT * (1.0 + float(weight @ np.abs(theta * x)))
    origin = sign * grid.anchor + grid.h * mean
    return _Part(origin, index - mean, weight, cumulant, count, atoms.infinite, error)


def _window(parts: Sequence[_Part]) -> tuple[int, int]:
    """First and last index between which the composed law lies, but for `_OUTSIDE` on either side."""
    variance = sum(part.count * float(part.mass @ part.index.astype(np.float64) ** 2) for part in parts)
    exponents: Array = _EXPONENTS / max(math.sqrt(variance), 1.0)
    ends = []
    for sign in (1.0, -1.0):
        total = np.zeros_like(exponents)
        for part in parts:
            total = total + part.count * (
                _cumulant(sign * exponents, part.index.astype(np.float64), part.mass) + part.error
            )
        ends.append(float(np.min((total - math.log(_OUTSIDE)) / exponents)))
    return -math.ceil(ends[1]) - 1, math.ceil(ends[0]) + 1


@np.errstate(divide="ignore")
def _convolve(parts: Sequence[_Part], h: float, first: int, last: int, theta: float, side: int) -> Law:
    """One FFT per mechanism, its logarithm times the count, and one FFT back."""
    from scipy import fft

    size = int(fft.next_fast_len(max(last - first + 1, 16), real=True))
    log_size, angle, spread = np.zeros(size // 2 + 1), np.zeros(size // 2 + 1), np.zeros(size // 2 + 1)
    unit = 8.0 * _UNIT * math.log2(size)
    error = unit
    for part in parts:
        f = np.bincount(part.index % size, weights=part.mass, minlength=size)
        f[0] = 0.0
        f[0] = -f.sum()  # the law minus its unit: what the FFT errs is small when the law is narrow
        error += part.count * unit * float(np.linalg.norm(f))
        w = fft.rfft(f)
        size_part = np.minimum(0.5 * np.log1p(np.maximum(w.real * (2.0 + w.real) + w.imag**2, -1.0)), 0.0)
        angle_part = np.arctan2(w.imag, 1.0 + w.real)
        log_size += part.count * size_part
        angle += part.count * angle_part
        spread += part.count * (np.abs(angle_part) - np.maximum(size_part, -1e3))
    magnitude = np.exp(log_size)
    phase = 8.0 * _UNIT * (1.0 + spread) * magnitude
    error += math.sqrt(2.0 * float(phase @ phase) / size)
    mass = np.maximum(fft.irfft(magnitude * np.exp(1j * angle), size), 0.0)
    start = math.fsum(part.count * part.origin for part in parts) + h * first
    shaken = sum(part.count * part.error for part in parts)
    slack = gain(theta) * (2.0 * _OUTSIDE + shaken) + error * _roughness(theta, h, size)
    scale = math.fsum(part.count * part.cumulant for part in parts)
    infinite = min(1.0, math.fsum(part.count * part.infinite for part in parts) * (1.0 + 2.0**-40))
    return Law(start, h, np.roll(mass, -first), theta, scale, slack, infinite, side)
