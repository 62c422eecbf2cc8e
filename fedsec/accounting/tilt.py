"""Where an answer is looked for: the exponent of the tilt, from a coarse view of a composition.

Nothing here is part of a bound: any tilt gives valid ones, a good one gives tight ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fedsec.accounting.lattice import cumulant
from fedsec.accounting.numbers import Array
from fedsec.accounting.pairs.base import Cells, Pair

_ALLOWANCE = 4.0  # in nats: how many digits a lighter tail may cost

Steps = Sequence[tuple[Pair, int]]


class Tilt(NamedTuple):
    """The exponent, each mechanism's standard deviation of a loss there, and the Chernoff bound."""

    theta: float
    deviations: tuple[float, ...]
    bound: float


class Probe:
    """One direction of a composition, coarsely, without the `tail` of each run."""

    def __init__(self, steps: Steps, sign: int, tail: float) -> None:
        self._parts = [(*_coarse(pair, sign, tail), count) for pair, count in steps]

    def for_delta(self, delta: float) -> Tilt:
        """The tilt for the epsilon that belongs to delta."""
        return self._tilt(lambda theta, total: (total - _log_gain(theta) - math.log(delta)) / theta, 0.0)

    def for_epsilon(self, epsilon: float) -> Tilt:
        """The tilt for the delta that belongs to epsilon.

        Of those within the allowance of the best it is the least: lighter tails, a smaller window.
        """
        return self._tilt(lambda theta, total: total - _log_gain(theta) - theta * epsilon, _ALLOWANCE)

    def _tilt(self, bound: Callable[[Array, Array], Array], allowance: float) -> Tilt:
        theta, total, usual_deviations = self._cumulants
        value = bound(theta, total)
        best = int(np.argmin(value))
        good = (value <= value[best] + allowance) & (theta >= 0.25 * theta[best])
        chosen = float(theta[np.argmax(good)])
        deviations = zip(self._deviations(chosen), usual_deviations, strict=True)
        return Tilt(chosen, tuple(max(d, 0.05 * u) for d, u in deviations), float(value[best]))

    @cached_property
    def _cumulants(self) -> tuple[Array, Array, list[float]]:
        """Some exponents, the cumulant of the composed loss there, and deviations without a tilt."""
        deviations = self._deviations(0.0)
        usual = math.hypot(*(math.sqrt(part[2]) * d for part, d in zip(self._parts, deviations, strict=True)))
        theta: Array = np.geomspace(1e-6, 60.0, 65, dtype=np.float64) / usual
        total = sum((count * cumulant(theta, loss, mass) for loss, mass, count in self._parts), np.zeros(65))
        return theta, total, deviations

    def _deviations(self, theta: float) -> list[float]:
        return [_deviation(theta, loss, mass) for loss, mass, _ in self._parts]


def _deviation(theta: float, loss: Array, mass: Array) -> float:
    """Standard deviation of a tilted loss; some positive number where there is just one."""
    weight = mass * np.exp(theta * (loss - loss.max()))
    weight /= weight.sum()
    least = 1e-6 * float(np.abs(loss).max()) or 1e-3
    return max(least, math.sqrt(float(weight @ (loss - float(weight @ loss)) ** 2)))


def _coarse(pair: Pair, sign: int, tail: float) -> tuple[Array, Array]:
    """Losses and masses of the first law, in the cells of the pair's own sketch.

    What one run may leave out must not decide on the tilt: at small sampling rates it would, by far.
    """
    low, high = pair.range(tail)
    x = pair.sketch()
    x = 0.5 * (x[1:] + x[:-1])  # edges away from atoms, on whose sides rounding would decide
    margin = 1e-9 * (high - low) + 1e-300  # atoms at the ends count
    low, high = low - margin, high + margin
    cells = pair.cells(np.unique(np.concatenate(([low], x[(x > low) & (x < high)], [high]))))
    cells = Cells(*(part[1:-1] for part in cells))
    mass = cells.p if sign > 0 else cells.q
    kept = (mass > 0.0) & np.isfinite(cells.loss_error)
    return sign * cells.loss[kept], mass[kept] / mass[kept].sum()


def _log_gain(theta: Array) -> Array:
    return np.asarray(np.log1p(theta) + theta * np.log1p(1.0 / theta))
