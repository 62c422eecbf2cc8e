"""Privacy loss distributions: delta over epsilon for a whole composition, certified from both sides.

It puts together what `grid`, `rounding` and `lattice` make of each mechanism: with the tilted law T of the
composed loss,

    delta(epsilon) = e^(M - theta epsilon) E_T[g(X - epsilon)] + infinite,   g(y) = e^(-theta y) (1 - e^-y)_+.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedsec.accounting.grid import nodes
from fedsec.accounting.lattice import COARSER, OUTSIDE, Law, composed, excess, moved, tilted, trimmed
from fedsec.accounting.numbers import ROUNDING, UNIT, Array
from fedsec.accounting.pairs.base import Pair
from fedsec.accounting.rounding import directed, directed_range, infinite_mass, lower, upper
from fedsec.accounting.tilt import Steps, Tilt

_SUM = 2.0**-40  # relative error of a sum over the grid, and of logarithms
_DEPTH = 60.0
_CUT = math.exp(-_DEPTH)
_STEPS = 60  # of a root search at most
_PLACES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)  # deviations below the mean
_FLOORS, _BLOCKS = 48, 400  # orders, and blocks of a law, at which a Rényi bound is looked at
_BISECTIONS = 200
_NEARBY = 2.0**-20  # relative distance within which rounding moves an atom
_ENOUGH = 2**13  # atoms of a law that is asked for its answers


class OneRun:
    """Delta as a function of epsilon for a single run, to rounding; the same face as `ManyRuns`.

    delta = F(l > epsilon) (1 - e^(epsilon - l)) with l the loss of all that lies above epsilon, merged.
    """

    def __init__(self, pair: Pair, side: int, sign: int) -> None:
        self._pair, self._side, self._sign = pair, side, sign
        self._infinite = infinite_mass(pair, sign) * (1.0 + side * ROUNDING)

    def delta(self, epsilon: float) -> float:
        """Bound delta at epsilon; at most 1."""
        edge = self._edge(epsilon) if self._side > 0 else epsilon
        mass, error, loss, loss_error = self._above(edge)
        doubt = loss_error + ROUNDING * (abs(loss) + epsilon) + (epsilon - edge)
        distance = loss - epsilon + self._side * doubt
        part = -math.expm1(-max(distance, 0.0)) * mass * max(1.0 + self._side * (error + ROUNDING), 0.0)
        if math.isnan(part):
            return 1.0 if self._side > 0 else 0.0
        return min(1.0, part + self._infinite)

    def _above(self, edge: float) -> tuple[float, ...]:
        """Mass, its relative error, loss and its error of all that lies above a loss."""
        return tuple(float(part[1]) for part in directed(self._pair, np.array([edge]), self._sign))

    def _edge(self, epsilon: float) -> float:
        """A little less than epsilon: rounding may put an atom above epsilon into the cell below it."""
        doubt = self._above(epsilon * (1.0 - _NEARBY))[3]
        return epsilon - (2.0 * doubt if math.isfinite(doubt) else 0.0) - ROUNDING * epsilon

    def epsilon(self, delta: float) -> float:
        """Bound epsilon at delta by bisection; the end that is returned was checked."""
        if self.delta(0.0) <= delta:
            return 0.0
        low, high = 0.0, 2.0 * max(directed_range(self._pair, 5e-324, self._sign)[1], 5e-324)
        if self.delta(high) > delta:
            return math.inf if self._side > 0 else high
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high) if low > 0.0 else high * 1e-3
            if not low < middle < high or high - low <= 1e-13 * high:
                break
            low, high = (middle, high) if self.delta(middle) > delta else (low, middle)
        return high if self._side > 0 else low


@dataclass(frozen=True, eq=False)
class ManyRuns:
    """Delta as a function of epsilon, never below the truth (side +1) or never above it (side -1)."""

    x: Array  # losses of the tilted law, ascending
    mass: Array
    theta: float
    scale: float  # M
    relative: float  # bounds the relative error of E_T[g] and of e^M
    slack: float  # bounds the rest of the error of E_T[g], whatever epsilon
    infinite: float
    doubt: float  # bounds the error of each mass, beyond the relative one
    side: int
    points: int  # lattice points it took
    roots: dict[float, float] = field(default_factory=dict)

    def delta(self, epsilon: float) -> float:
        """Bound delta at epsilon; at most 1."""
        epsilon -= self.side * 8.0 * UNIT * (float(np.abs(self.x[[0, -1]]).max()) + epsilon)
        first, last = np.searchsorted(
            self.x, (epsilon, epsilon + _DEPTH / self.theta)
        )  # then g is below e^-60
        y = self.x[first:last] - epsilon
        value = float(np.sum(self.mass[first:last] * np.exp(-self.theta * y) * -np.expm1(-y)))
        value = value * (1.0 + self.side * _SUM) + self.side * (self.slack + _CUT)
        if self.side > 0:
            value = min(value, gain(self.theta) * (1.0 + self.doubt))
        if value <= 0.0:
            return self.infinite
        exponent = math.log(value) + self.scale - self.theta * epsilon
        exponent += self.side * (self.relative + _SUM * (1.0 + abs(self.scale) + self.theta * epsilon))
        return min(1.0, math.exp(min(exponent, 0.0)) + self.infinite)

    def epsilon(self, delta: float) -> float:
        """Bound epsilon at delta; zero or above, infinite if there is no bound from above."""
        if delta not in self.roots:
            self.roots[delta] = self._root(delta)
        return self.roots[delta]

    def _root(self, delta: float) -> float:
        """Close in on where the bound passes delta; the end that is returned was checked."""
        if delta <= self.infinite:
            return math.inf
        start = self._known_to_miss(delta)
        if start is None:
            return 0.0
        low, high = self._bracket(delta, start)
        if low == high:  # the slack alone is more than delta
            return max(low, self._chernoff(delta)) if self.side > 0 else low
        return closed_in(lambda epsilon: self._miss(epsilon, delta), low, high, self.side)

    def _bracket(self, delta: float, start: float) -> tuple[float, float]:
        """One epsilon that misses delta and one that meets it, from the bulk on; equal if none meets it."""
        mean, deviation = self.moments()
        last = float(self.x[-1])
        stride = max(0.5 * deviation, 1e-3 * abs(mean), 1e-300)
        low = high = min(max(mean, start), last)
        if self.delta(high) > delta:
            while low < last:
                high = min(low + stride, last)
                if self.delta(high) <= delta:
                    return low, high
                low, stride = high, 2.0 * stride
            return low, low
        while high > start:
            low = max(high - stride, start)
            if low == start or self.delta(low) > delta:
                return low, high
            high, stride = low, 2.0 * stride
        return start, start

    def renyi_floor(self, delta: float) -> float:
        """Return an epsilon at delta below which no Rényi bound lies; for a bound from below.

        Rényi bounds are (M(t) + log gain(t) - log(delta)) / t over all t > 0, with the cumulant M of the
        loss, which is at least that of this law. M is convex: above each of some t it is at least its
        tangent there, and log gain, which falls, is at least what it is at the next t. Below them M is at
        least 0; above, both terms over t rise.
        """
        blocks = np.arange(0, self.x.size, -(-self.x.size // _BLOCKS))  # each at its lower end
        x, mass = self.x[blocks], np.add.reduceat(self.mass, blocks) - self.doubt
        x, mass = x[mass > 0.0], mass[mass > 0.0]
        if not x.size:
            return 0.0
        t: Array = np.geomspace(1.0 / 16.0, 16.0, _FLOORS, dtype=np.float64) * self.theta
        log_gain = -np.log1p(t) - t * np.log1p(1.0 / t)
        exponent = np.multiply.outer(t - self.theta, x) + np.log(mass)
        most = exponent.max(axis=1)
        weight = np.exp(exponent - most[:, None])
        total = weight.sum(axis=1)
        slope = weight @ x / total
        tangent = self.scale - self.relative + most + np.log(total) - slope * t - math.log(delta)
        inner = tangent[:-1] + log_gain[1:]
        inner = inner / np.where(inner > 0.0, t[1:], t[:-1]) + slope[:-1]
        first = (log_gain[0] - math.log(delta)) / t[0]
        last = slope[-1] + (min(tangent[-1], 0.0) + log_gain[-1]) / t[-1]
        return float(min(first, inner.min(), last)) * (1.0 - _SUM)

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the tilted law."""
        mean = float(self.mass @ self.x) / float(self.mass.sum())
        return mean, math.sqrt(max(float(self.mass @ (self.x - mean) ** 2), 0.0))

    def _known_to_miss(self, delta: float) -> float | None:
        """An epsilon at which the bound is above delta.

        From above 0 is one, or the answer. Far below the bulk of the tilted law a bound from below drowns
        in its slack, so the largest of some places in the bulk is taken.
        """
        places = [0.0]
        if self.side < 0:
            mean, deviation = self.moments()
            peak = mean - math.log1p(1.0 / self.theta)  # from there g looks at the mean most
            places = [peak - part * deviation for part in _PLACES if peak > part * deviation] + places
        return next((place for place in places if self.delta(place) > delta), None)

    def _miss(self, epsilon: float, delta: float) -> float:
        """By how much log(delta) is missed at epsilon."""
        value = self.delta(epsilon)
        return math.log(value / delta) if value > 1e-300 * delta else -700.0

    def _chernoff(self, delta: float) -> float:
        """Epsilon from the cumulant alone, where even a bound from above meets delta."""
        budget = math.log(delta - self.infinite)
        least = (self.scale + math.log(gain(self.theta) * (1.0 + self.doubt)) - budget) / self.theta
        size = (1.0 + abs(self.scale) + abs(budget) + self.theta * abs(least)) / self.theta
        return least + 4.0 * _SUM * size + self.relative / self.theta


def closed_in(
    miss: Callable[[float], float], low: float, high: float, side: int, enough: float = 1e-9
) -> float:
    """Regula falsi on log(delta), the Illinois variant; the end that is returned was checked.

    `miss` is by how much log(delta) is missed: more than 0 at `low`, 0 or less at `high`.
    """
    above, below = miss(low), miss(high)
    moved = 0
    for _ in range(_STEPS):
        if high - low <= enough * high or (-below if side > 0 else above) <= enough:
            break
        middle = low + (high - low) * min(max(above / (above - below), 0.01), 0.99)
        found = miss(middle)
        if found <= 0.0:
            high, below, above = middle, found, above / (2.0 if moved == 1 else 1.0)
            moved = 1
        else:
            low, above, below = middle, found, below / (2.0 if moved == -1 else 1.0)
            moved = -1
    return high if side > 0 else low


def gain(theta: float) -> float:
    """The greatest value of g: theta^theta / (1 + theta)^(1 + theta)."""
    return math.exp(-theta * math.log1p(1.0 / theta) - math.log1p(theta))


def _roughness(theta: float, h: float, size: int) -> float:
    """Bound the Euclidean norm of g at points h apart: the sum of g^2 is within its peak of int g^2 / h."""
    integral = 1.0 / (theta * (2.0 * theta + 1.0) * (2.0 * theta + 2.0))
    peak = gain(theta) ** 2
    return math.sqrt(min(integral / h + peak, size * peak))


def many_runs(steps: Steps, side: int, sign: int, tilt: Tilt, fineness: float, tail: float) -> ManyRuns:
    """Compose on lattices whose steps are about `fineness` times the deviation of a law.

    Parameters
    ----------
    steps : sequence of (Pair, int)
        Each mechanism, and how often it runs.
    side : int
        +1 for a bound from above, -1 for one from below.
    sign : int
        +1 asks about P against Q, -1 about Q against P.
    tilt : Tilt
        Where the answer is looked for.
    fineness : float
        Smaller is tighter and slower.
    tail : float
        What of one run may lie beyond its nodes.
    """
    steps_wanted, h = _lattices(steps, tilt, fineness)
    laws, logs = [], []
    for (pair, count), wanted in zip(steps, steps_wanted, strict=True):
        law, infinite = _one_run(pair, side, sign, tilt.theta, wanted, fineness, (tail, OUTSIDE / count))
        laws.append((law, count))
        logs.append(count * math.log1p(-min(infinite, 1.0 - UNIT)))
    law = composed(laws, h, tilt.theta, side, fineness)
    points = max(law.work, *(each.index.size for each, _ in laws))
    coarse = 0.25 * fineness * law.deviation()
    if law.index.size > _ENOUGH and coarse > COARSER * law.h:
        law = moved(law, coarse, tilt.theta, side)
    infinite = min(1.0, max(0.0, -math.expm1(math.fsum(logs)) * (1.0 + side * _SUM)))
    slack = gain(tilt.theta) * law.error + law.noise * _roughness(tilt.theta, law.h, law.points)
    return ManyRuns(
        law.x, law.mass, tilt.theta, law.scale, law.relative, slack, infinite, law.l1, side, points
    )


def _lattices(steps: Steps, tilt: Tilt, fineness: float) -> tuple[list[float], float]:
    """Steps of each law's first lattice, and of the one where they meet: the same, unless much coarser."""
    own = [fineness * deviation for deviation in tilt.deviations]
    total = math.sqrt(math.fsum(count * h * h for (_, count), h in zip(steps, own, strict=True)))
    common = total / math.sqrt(len(steps))
    return [common if len(steps) > 1 and h * COARSER > common else h for h in own], common


def _one_run(
    pair: Pair, side: int, sign: int, theta: float, h: float, fineness: float, lost: tuple[float, float]
) -> tuple[Law, float]:
    """The tilted law of one run, and its infinite mass."""
    rounded = upper if side > 0 else lower
    for _ in range(3):
        grid = nodes(pair, sign, h, theta, fineness, lost[0])
        atoms = rounded(pair, grid.x, sign)
        law = trimmed(tilted(grid, atoms, theta), lost[1])
        wide = excess(law)
        if wide <= 1.0:
            break
        h *= 1.2 * wide
    return law, atoms.infinite
