"""The PLD accountant: certified intervals for epsilon and delta, refined until they are narrow.

It stands on top of `pld` (one bound on one grid) and decides which grids to compute. Every bound it has seen
holds, so the best of them all is the answer, and the Rényi bound takes part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fedsec import _checks
from fedsec.accounting import gaussian, pld
from fedsec.accounting.accountant import Accountant, RDPAccountant
from fedsec.accounting.events import Event, NeighboringRelation
from fedsec.accounting.old_pairs import NormalNoise, Pair, pair_of
from fedsec.errors import UnsupportedError

_FINENESS = 1.0 / 28.0  # of the first grid
_PASSES = 6
_KEPT = 8  # laws that later questions may use
_FINEST = 2.0**-10  # below it rounding is what widens the interval
_WIDE = 2**19  # points at which a finer grid is not worth its time
_LEAST_DELTA = 1e-300


class PLDAccountant(Accountant):
    """Certified lower and upper bounds on epsilon and delta, through privacy loss distributions.

    Parameters
    ----------
    neighboring_relation : NeighboringRelation
        Which data sets must not be told apart; add or remove one by default.
    tolerance : float
        Relative width of an interval for epsilon at which refinement stops, in [1e-6, 1]; a grid that would
        take much more than a second stops it as well, and the interval says how wide it is.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        An argument is not what it should be.

    Notes
    -----
    For schedules fixed beforehand: parameters that depend on earlier outputs are not covered. The truth lies
    in every interval that is returned, given the accuracy that is assumed of scipy's transforms and
    distribution functions (docs/accounting.md); an upper bound is never above that of `RDPAccountant`.
    Compositions of Gaussian noise alone have a closed form, with intervals as narrow as doubles allow.
    """

    def __init__(
        self,
        *,
        neighboring_relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
        tolerance: float = 1e-3,
    ) -> None:
        super().__init__(neighboring_relation=neighboring_relation)
        self._tolerance = _checks.within("tolerance", tolerance, 1e-6, 1.0)
        self._curve = _Curve({}, self._relation, self._tolerance)

    def compose(self, event: Event, count: int = 1) -> PLDAccountant:
        """Add `count` runs of an event, with fresh randomness each; as `RDPAccountant.compose`."""
        super().compose(event, count)
        self._curve = _Curve(self._counts, self._relation, self._tolerance)
        return self

    def epsilon(self, delta: float) -> float:
        """Return the upper end of `epsilon_interval(delta)`."""
        return self.epsilon_interval(delta)[1]

    def delta(self, epsilon: float) -> float:
        """Return the upper end of `delta_interval(epsilon)`."""
        return self.delta_interval(epsilon)[1]

    def epsilon_interval(self, delta: float) -> tuple[float, float]:
        """Return (lower, upper) around the least epsilon that belongs to delta.

        Parameters
        ----------
        delta : float
            In (0, 1).

        Returns
        -------
        tuple of float
            Zero or above; infinite only for `NonPrivate` or beyond the range of doubles.
        """
        return self._curve.epsilon_interval(_checks.open_unit("delta", delta))

    def delta_interval(self, epsilon: float) -> tuple[float, float]:
        """Return (lower, upper) around the least delta that belongs to epsilon.

        Parameters
        ----------
        epsilon : float
            Zero or above, finite.

        Returns
        -------
        tuple of float
            In [0, 1].
        """
        return self._curve.delta_interval(_checks.non_negative("epsilon", epsilon))

    def _check(self, mechanism: Event) -> None:
        pair_of(mechanism, self._relation)


@dataclass
class _Direction:
    """One direction of the relation: P against Q (+1) or Q against P (-1)."""

    sign: int
    below: list[pld.Law] = field(default_factory=list)
    above: list[pld.Law] = field(default_factory=list)

    def epsilon(self, delta: float) -> tuple[float, float]:
        low = max((law.epsilon(delta) for law in self.below), default=0.0)
        return low, min((law.epsilon(delta) for law in self.above), default=math.inf)

    def delta(self, epsilon: float) -> tuple[float, float]:
        low = max((law.delta(epsilon) for law in self.below), default=0.0)
        return low, min((law.delta(epsilon) for law in self.above), default=1.0)

    def add(self, *, above: pld.Law, below: pld.Law | None = None) -> None:
        self.above = [*self.above, above][-_KEPT:]
        self.below = [*self.below, *([] if below is None else [below])][-_KEPT:]


class _Curve:
    """The bounds of one composition, and what was computed on the way."""

    def __init__(self, counts: Mapping[Event, int], relation: NeighboringRelation, tolerance: float) -> None:
        self._tolerance = tolerance
        self._counts, self._relation = counts, relation
        pairs = [(pair_of(event, relation), count) for event, count in counts.items()]
        self._lost = any(pair is None for pair, _ in pairs)
        self._mu, self._steps = _collapsed([(pair, count) for pair, count in pairs if pair is not None])
        both = any(pair.probability < 1.0 for pair, _ in self._steps)
        self._directions = [_Direction(sign) for sign in ((1, -1) if both else (1,))]
        self._reachable = all(pair.within_reach for pair, _ in self._steps)
        self._known: dict[tuple[str, float], tuple[float, float]] = {}

    def epsilon_interval(self, delta: float) -> tuple[float, float]:
        if self._lost:
            return math.inf, math.inf
        if not self._steps:
            return self._normal(gaussian.epsilon, delta)
        key = ("epsilon", delta)
        if key not in self._known:
            if self._reachable:
                self._refine_epsilon(delta)
            low, high = _worse(direction.epsilon(delta) for direction in self._directions)
            self._known[key] = low, max(low, min(high, self._renyi().epsilon(delta)))
        return self._known[key]

    def delta_interval(self, epsilon: float) -> tuple[float, float]:
        if self._lost:
            return 1.0, 1.0
        if not self._steps:
            return self._normal(gaussian.delta, epsilon)
        key = ("delta", epsilon)
        if key not in self._known:
            if self._reachable:
                self._refine_delta(epsilon)
            low, high = _worse(direction.delta(epsilon) for direction in self._directions)
            self._known[key] = low, max(low, min(high, self._renyi().delta(epsilon)))
        return self._known[key]

    def _normal(self, bound: Callable[[float, float, int], float], value: float) -> tuple[float, float]:
        if self._mu == 0.0:
            return 0.0, 0.0
        return bound(self._mu * (1.0 - 1e-15), value, -1), bound(self._mu * (1.0 + 1e-15), value, 1)

    def _refine_epsilon(self, delta: float) -> None:
        """Look where a coarse bound says, ever finer."""
        tail = self._tail(delta)
        tilts = {d.sign: self._aim(d, delta, tail) for d in self._directions}
        fineness = dict.fromkeys(tilts, _FINENESS)
        for _ in range(_PASSES * len(tilts)):
            bounds = {d.sign: d.epsilon(delta) for d in self._directions}
            low, high = _worse(bounds.values())
            if high <= low * (1.0 + self._tolerance):
                return
            worst = max(self._directions, key=lambda d: bounds[d.sign][1])
            before = bounds[worst.sign]
            size = self._compute(worst, tilts[worst.sign], fineness[worst.sign], tail)
            if size > _WIDE or fineness[worst.sign] < _FINEST:
                return
            after = worst.epsilon(delta)
            if before[0] > 0.0 and after[1] - after[0] > 0.9 * (before[1] - before[0]):
                return  # rounding is what widens it
            fineness[worst.sign] /= self._factor(after, size)

    def _aim(self, direction: _Direction, delta: float, tail: float) -> pld.Tilt:
        """The tilt at about the right epsilon: where Rényi bounds are loose, theirs is far too large."""
        tilt = pld.tilt_for_delta(self._steps, direction.sign, delta, tail)
        law = pld.law(self._steps, 1, direction.sign, tilt, 8.0 * _FINENESS, tail)
        direction.add(above=law)
        epsilon = direction.epsilon(delta)[1]
        if not 0.0 < epsilon < math.inf:
            return tilt
        return pld.tilt_for_epsilon(self._steps, direction.sign, epsilon, tail)

    def _refine_delta(self, epsilon: float) -> None:
        """The same for delta, until its logarithm is as well known as epsilon would be."""
        for direction in self._directions:
            guess = pld.tilt_for_epsilon(self._steps, direction.sign, epsilon, self._tail(_LEAST_DELTA)).bound
            tail = self._tail(max(math.exp(min(guess, 0.0)) * 1e-3, _LEAST_DELTA))
            tilt = pld.tilt_for_epsilon(self._steps, direction.sign, epsilon, tail)
            fineness = _FINENESS
            for _ in range(_PASSES):
                low, high = direction.delta(epsilon)
                if high <= low * (1.0 + 10.0 * self._tolerance):
                    break
                size = self._compute(direction, tilt, fineness, tail)
                if size > _WIDE or fineness < _FINEST:
                    break
                fineness /= self._factor(direction.delta(epsilon), size)

    def _factor(self, bounds: tuple[float, float], size: int) -> float:
        """By how much finer the next grid is: the width falls with its square at least."""
        low, high = bounds
        width = (high - low) / high if high > 0.0 else 0.0
        wished = 1.1 * math.pow(width / self._tolerance, 0.4)
        return max(1.5, min(wished, 8.0, 1.6 * _WIDE / size))

    def _compute(self, direction: _Direction, tilt: pld.Tilt, fineness: float, tail: float) -> int:
        below = pld.law(self._steps, -1, direction.sign, tilt, fineness, tail)
        above = pld.law(self._steps, 1, direction.sign, tilt, fineness, tail)
        direction.add(above=above, below=below)
        return int(above.mass.size)

    def _tail(self, delta: float) -> float:
        """What of one run may lie beyond its grid."""
        return 1e-6 * delta / sum(count for _, count in self._steps)

    def _renyi(self) -> RDPAccountant | _Nothing:
        renyi = RDPAccountant(neighboring_relation=self._relation)
        try:
            for event, count in self._counts.items():
                renyi.compose(event, count)
        except UnsupportedError:
            return _Nothing()
        return renyi


class _Nothing:
    """Stands for Rényi bounds where there are none."""

    def epsilon(self, delta: float) -> float:
        return math.inf

    def delta(self, epsilon: float) -> float:
        return 1.0


def _collapsed(steps: list[tuple[Pair, int]]) -> tuple[float, list[tuple[Pair, int]]]:
    """Gather unsampled Gaussian noise into one mu; if there is more than that, make it one of the steps."""
    normal = [(pair, count) for pair, count in steps if _is_normal(pair)]
    others = [step for step in steps if not _is_normal(step[0])]
    mu = math.sqrt(math.fsum(count * pair.noise.shift**2 for pair, count in normal))
    if others and normal:
        others.append((Pair(NormalNoise(mu * (1.0 + 1e-15)), 1.0), 1))
    return mu, others


def _is_normal(pair: Pair) -> bool:
    return isinstance(pair.noise, NormalNoise) and pair.probability == 1.0


def _worse(bounds: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The larger of the lower and the larger of the upper bounds."""
    lows, highs = zip(*bounds, strict=True)
    return max(lows), max(highs)
