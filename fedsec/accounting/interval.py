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

from fedsec.accounting import gaussian, pld
from fedsec.accounting.events import Event, NeighboringRelation
from fedsec.accounting.pairs.base import Pair
from fedsec.accounting.pairs.noise import NormalNoise
from fedsec.accounting.pairs.table import dominance
from fedsec.accounting.tilt import Probe, Steps, Tilt

_FINENESS = 1.0 / 28.0  # of the first lattice, where the tolerance is a thousandth
_PASSES = 5
_MISSED = 30.0  # times the tolerance: an interval so wide speaks of a wrong tilt
_MOST_WORK = 2**18  # lattice points of a bound than which no finer one is worth its time
_LEFT_OUT = 1e-4  # of delta: what all runs together may leave out
_AWAY = 3.0  # deviations between the mean of a tilted law and the answer: it was tilted wrongly
_KEPT = 8  # bounds that later questions may use
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
    """Bounds on lattices, as many as were asked for."""

    def __init__(self, steps: Steps, side: int, sign: int) -> None:
        self.steps, self.side, self.sign = steps, side, sign
        self.bounds: list[pld.ManyRuns] = []

    def epsilon(self, delta: float) -> float:
        found = [bound.epsilon(delta) for bound in self.bounds]
        return min(found, default=math.inf) if self.side > 0 else max(found, default=0.0)

    def delta(self, epsilon: float) -> float:
        found = [bound.delta(epsilon) for bound in self.bounds]
        return min(found, default=1.0) if self.side > 0 else max(found, default=0.0)

    def probe(self, delta: float) -> Probe:
        """A coarse view for choosing a tilt."""
        return Probe(self.steps, self.sign, self.tail(delta))

    def tail(self, delta: float) -> float:
        """What one run may leave out."""
        return _LEFT_OUT * max(delta, _LEAST_DELTA) / sum(count for _, count in self.steps)

    def refine(self, tilt: Tilt, fineness: float, delta: float) -> None:
        """Compute one more bound, if doubles can hold what it takes."""
        with contextlib.suppress(FloatingPointError), np.errstate(over="raise"):
            bound = pld.many_runs(self.steps, self.side, self.sign, tilt, fineness, self.tail(delta))
            self.bounds = [*self.bounds, bound][-_KEPT:]


def _half(steps: Steps, side: int, sign: int) -> _Half:
    """The simplest exact form, or one that can be refined."""
    steps = _collapsed(steps)
    if not steps:
        return _Constant(0.0, 0.0)
    pair, count = steps[0]
    if len(steps) == 1 and isinstance(pair, NormalNoise):
        return _Normal(pair.shift * math.sqrt(count), side)
    if len(steps) == 1 and count == 1:
        return pld.OneRun(pair, side, sign)
    return _Refined(steps, side, sign)


def _collapsed(steps: Steps) -> Steps:
    """Gather unsampled Gaussian noise of any mix into one run."""
    normal = [(pair.shift, count) for pair, count in steps if isinstance(pair, NormalNoise)]
    if not normal:
        return steps
    mu = math.sqrt(math.fsum(count * shift**2 for shift, count in normal))
    return [*(step for step in steps if not isinstance(step[0], NormalNoise)), (NormalNoise(mu), 1)]


_Aim = Callable[[_Refined, float], tuple[Tilt, float]]


def _tilt_for_delta(half: _Refined, delta: float, known: float) -> Tilt:
    """The tilt at about the right epsilon, a bound that is known or a rough one.

    Where Rényi bounds are loose, theirs would be far too large.
    """
    probe = half.probe(delta)
    if not half.bounds:
        rough = _Refined(half.steps, 1, half.sign)
        rough.refine(probe.for_delta(delta), 8.0 * _FINENESS, delta)
        known = min(known, rough.epsilon(delta))
    tilt = probe.for_epsilon(known) if 0.0 < known < math.inf else probe.for_delta(delta)
    return _corrected(tilt, half.bounds[-1], delta) if half.bounds else tilt


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

    def epsilon_interval(self, delta: float, most: float) -> Interval:
        """Bounds on the least epsilon that belongs to delta, of which `most` is another one from above."""
        if self._lost:
            return math.inf, math.inf

        def aim(half: _Refined, known: float) -> tuple[Tilt, float]:
            return _tilt_for_delta(half, delta, known), delta

        return self._narrowed(lambda half: half.epsilon(delta), aim, self._tolerance, most)

    def delta_interval(self, epsilon: float, most: float) -> Interval:
        """Bounds on the least delta that belongs to epsilon, of which `most` is another one from above."""
        if self._lost:
            return 1.0, 1.0

        def aim(half: _Refined, known: float) -> tuple[Tilt, float]:
            tilt = half.probe(_LEAST_DELTA).for_epsilon(epsilon)
            delta = 1e-3 * math.exp(min(tilt.bound, 0.0))
            return half.probe(delta).for_epsilon(epsilon), delta

        return self._narrowed(lambda half: half.delta(epsilon), aim, 10.0 * self._tolerance, most)

    def _narrowed(
        self, answer: Callable[[_Half], float], aim: _Aim, tolerance: float, most: float
    ) -> Interval:
        """Refine the direction that costs most until the interval is narrow, or refining does not help."""
        searches = {
            sign: _Search(low, high, aim, self._fineness) for sign, (low, high) in self._halves.items()
        }
        while True:
            intervals = {
                sign: (answer(low), min(answer(high), most)) for sign, (low, high) in self._halves.items()
            }
            low, high = _worse(intervals.values())
            sign = max(intervals, key=lambda sign: (intervals[sign][1], -searches[sign].tried))
            if high <= low * (1.0 + tolerance) or not searches[sign].go_on(intervals[sign], tolerance):
                return low, max(low, high)


class _Search:
    """Refinement of one direction for one question."""

    def __init__(self, low: _Half, high: _Half, aim: _Aim, fineness: float) -> None:
        self._halves = [half for half in (low, high) if isinstance(half, _Refined)]
        self._aim, self._fineness = aim, fineness
        self._aims: list[tuple[Tilt, float]] = []
        self._width, self._passes = math.inf, _PASSES

    def go_on(self, interval: Interval, tolerance: float) -> bool:
        """Compute finer bounds; False if there is nothing to be gained."""
        width = (interval[1] - interval[0]) / interval[1]
        if not self._halves or self._passes == 0 or width > 0.9 * self._width or self._work > _MOST_WORK:
            return False
        missed = width > _MISSED * tolerance
        if not self._aims or missed:
            self._aims = self._aimed(interval[1])
        if self._passes < _PASSES:
            wished = 1.1 * math.sqrt(width / tolerance)
            self._fineness /= max(1.5, min(wished, 2.0 if missed else 8.0))
        for half, (tilt, delta) in zip(self._halves, self._aims, strict=True):
            half.refine(tilt, self._fineness, delta)
        self._width, self._passes = math.inf if missed else width, self._passes - 1
        return True

    @property
    def _work(self) -> int:
        return max((half.bounds[-1].points for half in self._halves if half.bounds), default=0)

    def _aimed(self, known: float) -> list[tuple[Tilt, float]]:
        first, *others = self._halves
        aim = self._aim(first, known)
        return [aim, *(aim if half.steps == first.steps else self._aim(half, known) for half in others)]

    @property
    def tried(self) -> int:
        """How many bounds were computed already."""
        return _PASSES - self._passes


def _worse(bounds: Iterable[Interval]) -> Interval:
    """The larger of the lower and the larger of the upper bounds."""
    lows, highs = zip(*bounds, strict=True)
    return max(lows), max(highs)
