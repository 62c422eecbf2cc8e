"""Dominating pairs: the two output laws that stand for the worst two neighbours of one mechanism.

A pair (P, Q) dominates a mechanism if no two neighbouring inputs are easier to tell apart, at any epsilon;
products of dominating pairs dominate compositions, and sampling a dominated mechanism with probability q
is dominated by ((1 - q) Q + q P, Q) in one direction and (Q, (1 - q) Q + q P) in the other [ZDW22]. Here
Q is noise around 0 and P the same noise around the shift; both are described through their loss
y = log(P/Q), by the mass of each law below and above it. `rounding` puts a pair on a grid, `pld` composes.

References
----------
[ZDW22] Zhu, Dong, Wang, Optimal Accounting of Differential Privacy via Characteristic Function, AISTATS
        2022 (arXiv 2106.08567).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np

from fedsec.accounting.events import Event, Gaussian, Laplace, NeighboringRelation, NonPrivate, PoissonSampled
from fedsec.accounting.rdp import ROUNDING, Array
from fedsec.errors import UnsupportedError

_FARTHEST = 600.0  # losses beyond e^600 are left to the ends


class Cells(NamedTuple):
    """Masses of both laws in neighbouring cells, and bounds on their absolute errors."""

    q: Array
    p: Array
    q_error: Array
    p_error: Array


@dataclass(frozen=True)
class NormalNoise:
    """N(0, 1) against N(shift, 1)."""

    shift: float
    farthest: ClassVar[float] = 25.0

    def tails(self, y: Array) -> tuple[Array, Array, Array, Array]:
        """Return Q(loss <= y), Q(loss > y), P(loss <= y), P(loss > y)."""
        from scipy.special import ndtr

        z = y / self.shift
        below, above = z + 0.5 * self.shift, z - 0.5 * self.shift
        return ndtr(below), ndtr(-below), ndtr(above), ndtr(-above)

    def digits(self, y: Array) -> Array:
        """Relative error of the tails, in units of `ROUNDING`: that of z^2 / 2, and of scipy's ndtr."""
        z = np.minimum(np.abs(y) / self.shift + self.shift, 40.0)
        return np.asarray(2.0 + 0.5 * z * z)

    def ends(self, tail: float) -> tuple[float, float]:
        """Losses below and above which either law has at most `tail`."""
        from scipy.special import ndtri

        reach = -float(ndtri(max(tail, 1e-300))) * self.shift + 0.5 * self.shift**2
        return -reach, reach


@dataclass(frozen=True)
class LaplaceNoise:
    """Laplace(0, 1) against Laplace(shift, 1): atoms at the losses -shift and shift, a density between."""

    shift: float
    farthest: ClassVar[float] = 500.0

    def tails(self, y: Array) -> tuple[Array, Array, Array, Array]:
        """Return Q(loss <= y), Q(loss > y), P(loss <= y), P(loss > y)."""
        inner = 0.5 * (np.clip(y, -self.shift, self.shift) + self.shift)
        least, most = y < -self.shift, y >= self.shift
        above_q = np.where(least, 1.0, np.where(most, 0.0, 0.5 * np.exp(-inner)))
        below_p = np.where(least, 0.0, np.where(most, 1.0, 0.5 * np.exp(inner - self.shift)))
        return 1.0 - above_q, above_q, below_p, 1.0 - below_p

    def digits(self, y: Array) -> Array:
        """Relative error of the tails, in units of `ROUNDING`."""
        return np.full_like(y, 2.0 + self.shift)

    def ends(self, tail: float) -> tuple[float, float]:
        """All losses lie between these."""
        return -self.shift, self.shift


Noise: TypeAlias = NormalNoise | LaplaceNoise


@dataclass(frozen=True)
class Pair:
    """The law (1 - q) Q + q P against Q, for 0 < q <= 1; losses x = log(1 - q + q e^y)."""

    noise: Noise
    probability: float

    def ratio(self, x: Array) -> Array:
        """P/Q at the loss x; zero or negative below the least loss."""
        return np.asarray(1.0 + np.expm1(x) / self.probability)

    def loss(self, y: float) -> float:
        """Loss of the sampled pair where the noise has loss y."""
        if self.probability == 1.0:
            return min(y, _FARTHEST)
        return math.log1p(self.probability * math.expm1(min(y, _FARTHEST))) if y > -_FARTHEST else self.least

    @property
    def least(self) -> float:
        """Below it there is no loss."""
        return math.log1p(-self.probability) if self.probability < 1.0 else -math.inf

    @property
    def within_reach(self) -> bool:
        """Whether doubles can hold the ratios of the bulk; beyond, epsilon is in the hundreds anyway."""
        return self.noise.shift <= self.noise.farthest

    def range(self, tail: float) -> tuple[float, float]:
        """Losses between which all but `tail` of either law lies, or all that doubles can hold."""
        low, high = self.noise.ends(tail)
        return self.loss(max(low, 1.0 - _FARTHEST)), self.loss(min(high, _FARTHEST))

    def cells(self, x: Array) -> Cells:
        """Masses below x[0], between neighbouring entries of the ascending x, and above x[-1]."""
        ratio = self.ratio(x)
        y = np.log(ratio, where=ratio > 0.0, out=np.full_like(ratio, -np.inf))
        return self.noise_cells(y)

    def noise_cells(self, y: Array) -> Cells:
        """Masses below y[0], between neighbouring entries of the ascending y, and above y[-1]."""
        below_q, above_q, below_p, above_p = self.noise.tails(y)
        digits = self.noise.digits(y)
        q, q_error = _differences(below_q, above_q, digits)
        p, p_error = _differences(below_p, above_p, digits)
        return Cells(q, p, q_error, p_error)


def _differences(below: Array, above: Array, digits: Array) -> tuple[Array, Array]:
    """Mass of each cell from the smaller of both tails, and a bound on its absolute error."""
    below, above = np.concatenate(([0.0], below, [1.0])), np.concatenate(([1.0], above, [0.0]))
    digits = np.concatenate((digits[:1], digits, digits[-1:]))
    left = below[1:] < above[:-1]
    mass = np.where(left, below[1:] - below[:-1], above[:-1] - above[1:])
    size = np.where(left, below[1:] + below[:-1], above[:-1] + above[1:])
    return np.maximum(mass, 0.0), ROUNDING * np.maximum(digits[1:], digits[:-1]) * size


def pair_of(event: Event, relation: NeighboringRelation) -> Pair | None:
    """Return the dominating pair of one mechanism, `None` where nothing is protected.

    Raises
    ------
    UnsupportedError
        No valid analysis of this mechanism under this relation.
    """
    if isinstance(event, NonPrivate):
        return None
    if isinstance(event, PoissonSampled):
        return _sampled(event, relation)
    shift = 2.0 if relation is NeighboringRelation.REPLACE_ONE else 1.0
    if isinstance(event, Gaussian):
        return Pair(NormalNoise(shift / event.noise_multiplier), 1.0)
    if isinstance(event, Laplace):
        return Pair(LaplaceNoise(shift / event.noise_multiplier), 1.0)
    raise UnsupportedError(f"PLDAccountant has no analysis of {event!r}")


def _sampled(event: PoissonSampled, relation: NeighboringRelation) -> Pair | None:
    if relation is NeighboringRelation.REPLACE_ONE:
        raise UnsupportedError(
            f"PLDAccountant has no analysis of {event!r} under REPLACE_ONE; "
            "use ADD_OR_REMOVE_ONE or REPLACE_SPECIAL for Poisson sampling"
        )
    if not isinstance(event.event, (Gaussian, Laplace, NonPrivate)):
        raise UnsupportedError(
            f"PLDAccountant analyses Poisson sampling of Gaussian or Laplace noise only, got {event!r}"
        )
    inner = pair_of(event.event, relation)
    return None if inner is None else Pair(inner.noise, event.sampling_probability)
