"""From a composition to certified intervals: which bounds to compute, and when they are tight enough.

It stands between `pld` (one bound) and `PLDAccountant`. Every bound ever computed for a composition holds,
so the best of them all is the answer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedsec.accounting import contour, gaussian, pld
from fedsec.accounting.events import Event, NeighboringRelation
from fedsec.accounting.numbers import Array
from fedsec.accounting.pairs.base import Pair
from fedsec.accounting.pairs.noise import NormalNoise
from fedsec.accounting.pairs.table import dominance
from fedsec.accounting.tilt import Probe, Steps, Tilt

_FINENESS = 1.0 / 22.0  # of the first lattice, where the tolerance is a thousandth
_ROUGH = 8.0  # times as coarse is the bound that comes first
_PASSES = 5
_MISSED = 30.0  # times the tolerance: an interval so wide speaks of a wrong tilt
_MOST_WORK = 2**19  # lattice points of a bound than which no finer one is worth its time
_LEFT_OUT = 1e-4  # of delta: what all runs together may leave out
_AWAY = 3.0  # deviations between the mean of a tilted law and the answer: it was tilted wrongly
_EXACT = 1e-9  # relative width of an interval that no Rényi bound can narrow: none is so precise
_KEPT = 16  # bounds that later questions may use
_ANCHORS = 8  # places of a curve for which bounds are computed
_LEAST_DELTA = 1e-300
_MU = 1e-15  # relative error of mu

Interval = tuple[float, float]


class _Half(Protocol):
    """Bounds from one side, in one direction."""

    def epsilon(self, delta: float) -> float: ...
    def delta(self, epsilon: float) -> float: ...


@dataclass(frozen=True)
class _Constant:
    """Known beforehand: nothing from below, no cost, or no protection."""

    at_epsilon: float
    at_delta: float

    def epsilon(self, delta: float) -> float:
        return self.at_epsilon

    def delta(self, epsilon: float) -> float:
        return self.at_delta


@dataclass(frozen=True)
class _Normal:
    """Gaussian noise alone."""

    mu: float
    side: int

    def epsilon(self, delta: float) -> float:
        return gaussian.epsilon(self.mu * (1.0 + self.side * _MU), delta, self.side)

    def delta(self, epsilon: float) -> float:
        return gaussian.delta(self.mu * (1.0 + self.side * _MU), epsilon, self.side)


class _Refined:
    """Bounds by inversion integrals and on lattices, as many as were asked for."""

    def __init__(self, steps: Steps, side: int, sign: int) -> None:
        self.steps, self.side, self.sign = steps, side, sign
        self.bounds: list[pld.ManyRuns] = []
        self.inversions: list[contour.Inversion] = []

    def epsilon(self, delta: float) -> float:
        found = [bound.epsilon(delta) for bound in self.bounds]
        found += [bound.epsilon(delta, self.side) for bound in self.inversions]
        return min(found, default=math.inf) if self.side > 0 else max(found, default=0.0)

    def delta(self, epsilon: float) -> float:
        found = [bound.delta(epsilon) for bound in self.bounds]
        found += [bound.delta(epsilon, self.side) for bound in self.inversions]
        return min(found, default=1.0) if self.side > 0 else max(found, default=0.0)

    def probe(self, delta: float) -> Probe:
        """A coarse view for choosing a tilt."""
        return Probe(self.steps, self.sign, self.tail(delta))

    def tail(self, delta: float) -> float:
        """What one run may leave out."""
        return _LEFT_OUT * max(delta, _LEAST_DELTA) / sum(count for _, count in self.steps)

    def inverted(self, line: _Line) -> contour.Inversion | None:
        """An inversion integral along some line, where there is one."""
        if not contour.fits(self.steps):
            return None
        with (
            contextlib.suppress(FloatingPointError),
            np.errstate(over="raise", divide="raise", invalid="raise"),
        ):
            theta = line(Probe(self.steps, self.sign, 0.0)).theta
            return contour.inversion(self.steps, self.sign, theta)
        return None

    def refine(self, tilt: Tilt, delta: float, fineness: float) -> None:
        """Compute one more bound, if doubles can hold what it takes."""
        with contextlib.suppress(FloatingPointError), np.errstate(over="raise"):
            bound = pld.many_runs(self.steps, self.side, self.sign, tilt, fineness, self.tail(delta))
            self.bounds = [*self.bounds, bound][-_KEPT:]


def _half(steps: Steps, side: int, sign: int) -> _Half:
    """The simplest exact form, or one that can be refined."""
    steps = _collapsed([(pair, count) for pair, count in steps if not _is_free(pair)])
    if not steps:
        return _Constant(0.0, 0.0)
    pair, count = steps[0]
    if len(steps) == 1 and isinstance(pair, NormalNoise):
        return _Normal(pair.shift * math.sqrt(count), side)
    if len(steps) == 1 and count == 1:
        return pld.OneRun(pair, side, sign)
    return _Refined(steps, side, sign)


def _is_free(pair: Pair) -> bool:
    """Whether both laws are the same."""
    return pair.infinite == (0.0, 0.0) and pair.range(0.0) == (0.0, 0.0)


def _collapsed(steps: Steps) -> Steps:
    """Gather unsampled Gaussian noise of any mix into one run."""
    normal = [(pair.shift, count) for pair, count in steps if isinstance(pair, NormalNoise)]
    if not normal:
        return steps
    mu = math.hypot(*(math.sqrt(count) * shift for shift, count in normal))
    return [*(step for step in steps if not isinstance(step[0], NormalNoise)), (NormalNoise(mu), 1)]


_Aim = Callable[[_Refined, float], tuple[Tilt, float]]
_Line = Callable[[Probe], Tilt]


def _corrected(tilt: Tilt, bound: pld.ManyRuns, delta: float) -> Tilt:
    """Mend a tilt whose law turned out to lie far from the answer, as if that law were normal.

    The coarse view knows the mean of a run to some thousandths only: too little where epsilon is
    thousands of deviations.
    """
    mean, deviation = bound.moments()
    known = bound.epsilon(delta)
    if deviation == 0.0 or not abs(mean - known) > _AWAY * deviation:
        return tilt
    square = bound.theta**2 + 2.0 * (bound.scale - bound.theta * mean - math.log(delta)) / deviation**2
    theta = min(max(math.sqrt(max(square, 0.0)), 0.5 * bound.theta), 2.0 * bound.theta)
    return tilt._replace(theta=theta)


class Curve:
    """The bounds of one composition, and what was computed on the way."""

    def __init__(self, counts: Mapping[Event, int], relation: NeighboringRelation, tolerance: float) -> None:
        self._tolerance = tolerance
        known = [(dominance(event, relation), count) for event, count in counts.items()]
        self._lost = any(found is None for found, _ in known)
        found = [(each, count) for each, count in known if each is not None]
        above: list[tuple[Pair, int]] = [(each.above, count) for each, count in found]
        below = [
            (each.below, count) for each, count in found if each.below is not None
        ]  # fewer runs cost less
        signs = (1,) if all(each.symmetric for each, _ in found) else (1, -1)
        self._halves = {sign: (_half(below, -1, sign), _half(above, 1, sign)) for sign in signs}
        self._fineness = _FINENESS * math.sqrt(min(tolerance / 1e-3, 4.0))

    def epsilon_interval(self, delta: float, most: Callable[[], float]) -> Interval:
        """Bounds on the least epsilon that belongs to delta; `most` finds another one from above.

        It is asked unless it is known to be no smaller.
        """
        if self._lost:
            return math.inf, math.inf

        def aim(half: _Refined, known: float) -> tuple[Tilt, float]:
            """Aim at the epsilon that is known from above, or where a Rényi bound would be best."""
            probe = half.probe(delta)
            if not (half.bounds and 0.0 < known < math.inf):
                return probe.for_delta(delta), delta
            tilt = probe.for_epsilon(known)
            return (_corrected(tilt, half.bounds[-1], delta) if len(half.bounds) > 1 else tilt), delta

        def line(probe: Probe) -> Tilt:
            """Where the best Rényi bound lies, so as little tilted as will do."""
            return probe.for_epsilon(max(probe.for_delta(delta).bound, 0.0))

        def narrowed(most: float) -> Interval:
            return self._narrowed(lambda half: half.epsilon(delta), aim, line, self._tolerance, most)

        low, high = narrowed(math.inf)
        narrow = high <= low * (1.0 + self._tolerance)
        if high <= low * (1.0 + _EXACT) or (narrow and self._renyi_floor(delta) >= high):
            return low, high
        other = most()
        if narrow or other >= high:
            return low, max(low, min(high, other))
        return narrowed(other)

    def _renyi_floor(self, delta: float) -> float:
        """What no Rényi bound undercuts, judged by the finest bounds from below."""
        lows = [low for low, _ in self._halves.values() if isinstance(low, _Refined) and low.bounds]
        return max((low.bounds[-1].renyi_floor(delta) for low in lows), default=0.0)

    def delta_interval(self, epsilon: float, most: float) -> Interval:
        """Bounds on the least delta that belongs to epsilon, of which `most` is another one from above."""
        if self._lost:
            return 1.0, 1.0

        def aim(half: _Refined, known: float) -> tuple[Tilt, float]:
            tilt = half.probe(_LEAST_DELTA).for_epsilon(epsilon)
            delta = 1e-3 * math.exp(min(tilt.bound, 0.0))
            return half.probe(delta).for_epsilon(epsilon), delta

        def line(probe: Probe) -> Tilt:
            return probe.for_epsilon(epsilon)

        return self._narrowed(lambda half: half.delta(epsilon), aim, line, 10.0 * self._tolerance, most)

    def deltas(self, epsilons: Array) -> tuple[Array, Array]:
        """Bounds on delta at many epsilons, from all bounds that were ever computed, and some for these."""
        if self._lost:
            return np.ones_like(epsilons), np.ones_like(epsilons)
        for epsilon in np.quantile(epsilons, np.linspace(0.0, 1.0, min(_ANCHORS, epsilons.size))):
            self.delta_interval(float(epsilon), 1.0)
        sides = [
            np.max([[half.delta(float(epsilon)) for epsilon in epsilons] for half in halves], axis=0)
            for halves in zip(*self._halves.values(), strict=True)
        ]
        return sides[0], sides[1]

    def _narrowed(
        self, answer: Callable[[_Half], float], aim: _Aim, line: _Line, tolerance: float, most: float
    ) -> Interval:
        """Refine the direction that costs most until the interval is narrow, or refining does not help."""
        searches = {
            sign: _Search(low, high, aim, line, self._fineness) for sign, (low, high) in self._halves.items()
        }
        while True:
            intervals = {
                sign: (answer(low), min(answer(high), most)) for sign, (low, high) in self._halves.items()
            }
            low, high = _worse(intervals.values())
            sign = max(intervals, key=lambda sign: (intervals[sign][1], -searches[sign].passes))
            if high <= low * (1.0 + tolerance) or not searches[sign].go_on(intervals[sign], tolerance):
                return low, max(low, high)


class _Search:
    """Refinement of one direction for one question.

    By an inversion integral, if there is one; on lattices a rough bound from above first, then both sides.
    """

    def __init__(self, low: _Half, high: _Half, aim: _Aim, line: _Line, fineness: float) -> None:
        self._low, self._high = (half if isinstance(half, _Refined) else None for half in (low, high))
        self._aim, self._line, self._fineness = aim, line, fineness
        self._inverted = False
        self._aims: list[tuple[_Refined, Tilt, float]] = []
        self._width = math.inf
        self.passes = 0

    def go_on(self, interval: Interval, tolerance: float) -> bool:
        """Compute finer bounds; False if there is nothing to be gained."""
        low, high = interval
        width = (high - low) / high
        if not (self._low or self._high) or self.passes > _PASSES or width > 0.9 * self._width:
            return False
        if not self._inverted:
            self._inverted = True
            if self._invert():
                return True
        if self.passes == 0 and self._high:
            self._high.refine(*self._aim(self._high, high), self._fineness * _ROUGH)
        elif self._work > _MOST_WORK:
            return False
        else:
            self._refine(high, width, tolerance)
        self.passes += 1
        return True

    def _invert(self) -> bool:
        """Whether there is an inversion integral; one is enough for both sides, unless they differ."""
        high = self._high.inverted(self._line) if self._high else None
        alike = self._high and self._low and self._high.steps == self._low.steps
        low = high if alike or not self._low else self._low.inverted(self._line)
        for half, inversion in ((self._high, high), (self._low, low)):
            if half and inversion:
                half.inversions = [*half.inversions, inversion][-_KEPT:]
        return bool(high or low)

    def _refine(self, known: float, width: float, tolerance: float) -> None:
        missed = width > _MISSED * tolerance
        if self._aims:
            wished = 1.1 * math.sqrt(width / tolerance)
            self._fineness /= max(1.5, min(wished, 2.0 if missed else 8.0))
            self._width = math.inf if missed else width
        if missed or not self._aims:
            self._aims = self._aimed(known)
        for half, tilt, delta in self._aims:
            half.refine(tilt, delta, self._fineness)

    def _aimed(self, known: float) -> list[tuple[_Refined, Tilt, float]]:
        """One aim for both sides, unless their mechanisms differ."""
        aims: list[tuple[_Refined, Tilt, float]] = []
        for half in (self._high, self._low):
            if half is not None:
                alike = aims and aims[0][0].steps == half.steps
                aims.append((half, *(aims[0][1:] if alike else self._aim(half, known))))
        return aims

    @property
    def _work(self) -> int:
        return max((half.bounds[-1].points for half, *_ in self._aims if half.bounds), default=0)


def _worse(bounds: Iterable[Interval]) -> Interval:
    """The larger of the lower and the larger of the upper bounds."""
    lows, highs = zip(*bounds, strict=True)
    return max(lows), max(highs)
