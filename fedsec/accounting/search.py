"""A root search that ends on the safe side: the boldest parameter whose cost stays within a target.

`calibration` asks it, with an accountant as the judge. Costs are epsilons and parameters are positive, so
the search works on logarithms, in which the two are nearly proportional wherever Gaussian noise is composed:
a secant, then inverse quadratic interpolation, and bisection where they lead nowhere. Nothing is assumed
but that cost rises with boldness; it may jump, be zero or be infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedsec.errors import CalibrationError

TOLERANCE = 1e-4  # how far below the target, relative, the cost of a real parameter may end by default,
NARROW = 1e-7  # unless the parameter itself is known to this relative width
_STRIDE = 4.0  # the longest step, in logarithms, while one side of the target is unseen,
_PATIENCE = 3  # looks after which such steps double
_BISECT = 8  # looks after which every other one halves the bracket


class _Point(NamedTuple):
    """A parameter that was looked at; `position` ascends with boldness, `height` is log(cost / target)."""

    parameter: float
    position: float
    height: float
    cost: float


class Search:
    """The boldest parameter between two ends (the bolder one may be the smaller) that meets a target.

    Parameters
    ----------
    name : str
        What the parameter is called in an error.
    cost : callable
        From a parameter to its cost: zero or above, possibly infinite.
    target : float
        Positive and finite.
    safest, boldest : float
        Ends of the range, positive; the search includes them.
    whole : bool
        Whether parameters are whole numbers; then the bolder end is the larger one.
    tolerance : float
        How far below the target, relative, the cost of a real parameter may end.
    """

    def __init__(
        self,
        name: str,
        cost: Callable[[float], float],
        target: float,
        *,
        safest: float,
        boldest: float,
        whole: bool = False,
        tolerance: float = TOLERANCE,
    ) -> None:
        self._name, self._cost, self._target = name, cost, target
        self._safest, self._boldest, self._whole = safest, boldest, whole
        self._sign = 1.0 if safest <= boldest else -1.0
        self._least = math.log1p(-tolerance)
        self._aim = 0.0 if whole else math.log1p(-0.5 * tolerance)
        self._slope = 1.0
        self._points: list[_Point] = []
        self._met: _Point | None = None
        self._missed: _Point | None = None

    def run(self, start: float, slope: float = 1.0) -> float:
        """Return a parameter that was seen to meet the target.

        If it is whole, the next bolder one was seen to miss it, or it is the end of the range. If it is real,
        its cost is within the tolerance, or one that is bolder by NARROW was seen to miss the target, or it
        is the end of the range. Raises `CalibrationError`, naming the best cost, if the safest misses.

        The search sets out from `start`, with `slope` for a guess at how log(cost) rises there.
        """
        self._slope = slope
        met = self._look(start)
        while met is None:
            met = self._look(self._parameter(self._guess()))
        return met

    def slope(self) -> float:
        """How fast log(cost) rises with boldness where it meets the target; 1 if that is not known."""
        near = self._nearest(2)
        run = near[0].position - near[-1].position if near else 0.0
        slope = (near[0].height - near[-1].height) / run if run else 1.0
        return slope if slope > 0.0 else 1.0

    def _look(self, parameter: float) -> float | None:
        """Try a parameter; return the answer once it is known."""
        cost = self._cost(parameter)
        point = _Point(parameter, self._sign * math.log(parameter), _height(cost, self._target), cost)
        self._points.append(point)
        if cost <= self._target:
            self._met = point
        else:
            self._missed = point
        return self._answer()

    def _answer(self) -> float | None:
        met, missed = self._met, self._missed
        if met is None:
            if missed is not None and missed.parameter == self._safest:
                raise CalibrationError(
                    f"no {self._name} meets target_epsilon {self._target}, not even {self._safest:g}: the "
                    f"best reachable epsilon is {missed.cost:.6g}"
                )
            return None
        near = not self._whole and met.height >= self._least
        cornered = missed is not None and self._adjacent(met, missed)
        return met.parameter if near or cornered or met.parameter == self._boldest else None

    def _adjacent(self, met: _Point, missed: _Point) -> bool:
        if self._whole:
            return missed.parameter - met.parameter <= 1
        return missed.position - met.position <= NARROW

    def _guess(self) -> float:
        """The position to look at next."""
        met, missed = self._met, self._missed
        if met is None or missed is None:
            return self._beyond(met or self._points[-1], 1.0 if missed is None else -1.0)
        if len(self._points) <= _BISECT or len(self._points) % 2:
            for guess in self._interpolations():
                if met.position < guess < missed.position:
                    return guess
        return 0.5 * (met.position + missed.position)

    def _beyond(self, last: _Point, direction: float) -> float:
        """Bolder than all that met the target, or safer than all that missed it."""
        distances = (direction * (guess - last.position) for guess in self._interpolations())
        distance = next((d for d in distances if d > 0.0), _STRIDE)
        growth = 2.0 ** max(0, len(self._points) - _PATIENCE)
        return last.position + direction * growth * min(max(distance, NARROW), _STRIDE)

    def _interpolations(self) -> list[float]:
        """Where the curve through the nearest points seen meets the aim, by the best guess first."""
        near = self._nearest(3)
        curves = [_inverse(near[:n], self._aim) for n in (3, 2) if n <= len(near)]
        return curves + [point.position + (self._aim - point.height) / self._slope for point in near[:1]]

    def _nearest(self, number: int) -> list[_Point]:
        """The points with finite costs that come nearest to the aim."""
        finite = [point for point in self._points if math.isfinite(point.height)]
        return sorted(finite, key=lambda point: abs(point.height - self._aim))[:number]

    def _parameter(self, position: float) -> float:
        """The parameter at a position, within the range; whole ones within the bracket."""
        low, high = sorted((self._safest, self._boldest))
        parameter = math.exp(min(self._sign * position, 700.0))
        if not self._whole:
            return min(max(parameter, low), high)
        low = low if self._met is None else self._met.parameter + 1
        high = high if self._missed is None else self._missed.parameter - 1
        return min(max(math.floor(parameter), low), high)


def _height(cost: float, target: float) -> float:
    if 0.0 < cost < math.inf:
        return math.log(cost) - math.log(target)
    return math.inf if cost else -math.inf


def _inverse(points: Sequence[_Point], aim: float) -> float:
    """Lagrange's polynomial of position over height, at the aim."""
    total = 0.0
    for point in points:
        others = [other.height for other in points if other is not point]
        gaps = [point.height - height for height in others]
        if 0.0 in gaps:
            return math.nan
        total += point.position * math.prod((aim - h) / gap for h, gap in zip(others, gaps, strict=True))
    return total
