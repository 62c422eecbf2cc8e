"""Dominating pairs of additive noise, and of any pair run on a Poisson sample.

Q is noise around 0 and P the same noise around the shift. Sampling a mechanism that (P, Q) dominates with
probability q is dominated by ((1 - q) Q + q P, Q) when a unit is removed and by (Q, (1 - q) Q + q P) when
it is added [ZDW22]: `Mixture` asked in both directions.

References
----------
[ZDW22] Zhu, Dong, Wang, Optimal Accounting of Differential Privacy via Characteristic Function, AISTATS
        2022 (arXiv 2106.08567).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedsec.accounting.numbers import ROUNDING, Array
from fedsec.accounting.pairs.base import Cells, Pair

_LEAST = 1e-290  # masses below it are known through their logarithms only
_SKETCHED = 30.0  # standard deviations that a sketch shows to either side


@dataclass(frozen=True)
class NormalNoise(Pair):
    """P = N(shift, 1) against Q = N(0, 1)."""

    shift: float

    @property
    def anchor(self) -> float:
        """The loss at the mode of Q."""
        return -0.5 * self.shift * self.shift

    def cells(self, x: Array) -> Cells:
        """Differences of distribution functions, taken at the smaller tail."""
        with np.errstate(over="ignore"):
            z = np.concatenate(([-np.inf], x / self.shift + 0.5 * self.shift, [np.inf]))
        q, q_error = normal_masses(z)
        p, p_error = normal_masses(z - self.shift)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            loss, loss_error = np.log(p / q), p_error + q_error
        far = ~((p > _LEAST) & (q > _LEAST))
        if far.any():  # logarithms know more
            loss[far], loss_error[far] = _far_loss(z[:-1][far], z[1:][far], self.shift)
        known = np.isfinite(loss) & (loss_error < 1.0) & ((p > 0.0) | (q > 0.0))
        loss, loss_error = np.where(known, loss, 0.0), np.where(known, loss_error, np.inf)
        loss_error += ROUNDING * (np.abs(loss) + self.shift**2)
        return Cells(p, q, np.maximum(p_error, q_error), loss, loss_error)

    def range(self, tail: float) -> tuple[float, float]:
        """Both laws are symmetric about the middle of their modes."""
        from scipy.special import ndtri_exp

        reach = -float(ndtri_exp(math.log(max(tail, 5e-324)))) * self.shift + 0.5 * self.shift**2
        return -reach, reach

    def sketch(self) -> Array:
        """Quarters of a standard deviation."""
        middle = np.arange(-_SKETCHED, _SKETCHED, 0.25)
        z = np.unique(np.concatenate((middle, self.shift + middle)))
        return np.asarray(self.shift * (z - 0.5 * self.shift))


def normal_masses(z: Array) -> tuple[Array, Array]:
    """Standard normal mass between neighbours of z, and a bound on its relative error."""
    from scipy.special import ndtr

    left = z[1:] < -z[:-1]
    near, far = np.where(left, z[1:], -z[:-1]), np.where(left, z[:-1], -z[1:])
    most, least = ndtr(near), ndtr(far)
    mass = np.maximum(most - least, 0.0)
    digits = 2.0 + 0.5 * np.minimum(np.abs(near), 40.0) ** 2  # of z^2 / 2, and of ndtr itself
    error = np.divide(ROUNDING * digits * (most + least), mass, out=np.zeros_like(mass), where=mass > 0.0)
    return mass, np.minimum(error, 1.0)


@np.errstate(divide="ignore", invalid="ignore")
def _far_loss(low: Array, high: Array, shift: float) -> tuple[Array, Array]:
    """Losses of cells whose masses underflow, from logarithms, and bounds on their errors."""
    p, p_error = normal_log_mass(low - shift, high - shift)
    q, q_error = normal_log_mass(low, high)
    return np.asarray(p - q), np.asarray(p_error + q_error)


def normal_log_mass(low: Array, high: Array) -> tuple[Array, Array]:
    """Logarithm of the standard normal mass from low to high, and a bound on its absolute error."""
    from scipy.special import log_ndtr

    left = low + high < 0.0
    near, far = np.where(left, high, -low), np.where(left, low, -high)
    most = log_ndtr(near)
    part = -np.expm1(log_ndtr(far) - most)
    return most + np.log(part), ROUNDING * (2.0 + near * near) * 2.0 / part


@dataclass(frozen=True)
class LaplaceNoise(Pair):
    """P = Laplace(shift, 1) against Q = Laplace(0, 1).

    Q has atoms at the losses -shift and shift, and a density between them.

    With u = (x + shift) / 2, for u strictly between 0 and shift, Q(loss > x) = e^-u / 2 and
    P(loss <= x) = e^(u - shift) / 2.
    """

    shift: float

    @property
    def anchor(self) -> float:
        """The atom in which half of Q lies."""
        return -self.shift

    @property
    def other_atom(self) -> float:  # type: ignore[override]
        """The atom in which half of P lies."""
        return self.shift

    def cells(self, x: Array) -> Cells:
        """Closed forms: the loss of a cell of the density is the middle of its ends."""
        u = np.clip(0.5 * (x + self.shift), 0.0, self.shift)
        low, high = np.concatenate(([0.0], u)), np.concatenate((u, [self.shift]))
        bottom = np.concatenate(([True], x < -self.shift)) & np.concatenate((x >= -self.shift, [True]))
        top = np.concatenate(([True], x < self.shift)) & np.concatenate((x >= self.shift, [True]))
        inner_q = 0.5 * np.exp(-low) * -np.expm1(low - high)
        inner_p = 0.5 * np.exp(high - self.shift) * -np.expm1(low - high)
        q = inner_q + 0.5 * bottom + 0.5 * math.exp(-self.shift) * top
        p = inner_p + 0.5 * top + 0.5 * math.exp(-self.shift) * bottom
        loss = low + high - self.shift
        loss = np.where(bottom, high - self.shift - np.log1p(-np.expm1(-high)), loss)
        loss = np.where(top, low + np.log1p(-np.expm1(low - self.shift)), loss)
        loss = np.where(top & bottom, 0.0, loss)
        empty = (high <= low) & ~top & ~bottom
        error = np.divide(ROUNDING * (1.0 + self.shift), high - low, out=np.ones_like(low), where=high > low)
        error = np.where(top | bottom, ROUNDING * (4.0 + self.shift), np.minimum(error, 1.0))
        loss_error = np.where(empty, np.inf, 4.0 * ROUNDING * (1.0 + self.shift) * min(self.shift, 1.0))
        return Cells(p, q, error, np.where(empty, 0.0, loss), loss_error)

    def range(self, tail: float) -> tuple[float, float]:
        """All losses lie between these."""
        return -self.shift, self.shift

    def sketch(self) -> Array:
        """Both atoms and what is between."""
        inside = np.linspace(-self.shift, self.shift, 65, dtype=np.float64)
        return np.concatenate(([-self.shift * (1.0 + 1e-12)], inside))


@dataclass(frozen=True)
class Mixture(Pair):
    """(1 - q) Q + q P against Q for an inner pair (P, Q) and 0 < q < 1: losses x = log(1 - q + q e^y)."""

    inner: Pair
    probability: float

    @property
    def infinite(self) -> tuple[float, float]:  # type: ignore[override]
        """A unit that is not drawn hides what would give it away; Q's infinite loss becomes log(1 - q)."""
        return self.probability * self.inner.infinite[0], 0.0

    @property
    def anchor(self) -> float:
        """The inner one, seen through the sample."""
        return float(self.loss(np.array([self.inner.anchor]))[0])

    @property
    def other_atom(self) -> float | None:  # type: ignore[override]
        """The inner one, seen through the sample."""
        inner = self.inner.other_atom
        return None if inner is None else float(self.loss(np.array([inner]))[0])

    def loss(self, y: Array) -> Array:
        """Losses of the sampled pair where the inner pair has the losses y; ascending with y."""
        q, large = self.probability, y > 500.0
        near = np.log1p(q * np.expm1(np.where(large, 0.0, y)))
        return np.asarray(np.where(large, np.logaddexp(math.log1p(-q), y + math.log(q)), near))

    def _inner_loss(self, x: Array) -> Array:
        """The inverse of `loss`; -infinity where there is no loss so small."""
        q = self.probability
        large, excess = x > 30.0, np.expm1(np.minimum(x, 30.0))
        rare = excess > 1e10 * q
        with np.errstate(divide="ignore"):
            near = np.log1p(np.maximum(np.where(rare, 0.0, excess) / q, -1.0))
            middle = np.log(np.where(rare, excess + q, 1.0)) - math.log(q)
        far = x - math.log(q) + np.log1p(-(1.0 - q) * np.exp(-np.maximum(x, 30.0)))
        return np.asarray(np.where(large, far, np.where(rare, middle, near)))

    def cells(self, x: Array) -> Cells:
        """Cells of the inner pair, mixed; P's odds to Q keep their digits at the scale of q."""
        share = self.probability
        y = self._inner_loss(x)
        first = int(np.searchsorted(y, -np.inf, side="right"))  # cells that end there are empty
        inner = self.inner.cells(y[first:])
        loss, slope = self.loss(inner.loss), self._slope(inner.loss)
        loss_error = slope * inner.loss_error + ROUNDING * np.abs(loss)
        digits = 8.0 - math.log(share)
        loss_error += digits * ROUNDING * (slope + share * np.exp(-loss))  # e^y of an edge is off by that
        p = (1.0 - share) * inner.q + share * inner.p
        cells = Cells(p, inner.q, inner.error + ROUNDING, loss, loss_error)
        cells = Cells(*(np.concatenate((np.full(first, rest), part)) for part, rest in
                        zip(cells, (0.0, 0.0, 0.0, 0.0, np.inf), strict=True)))  # fmt: skip
        return self._with_undrawn(cells, x)

    def _slope(self, y: Array) -> Array:
        """dx/dy, the probability that the unit was drawn."""
        from scipy.special import expit

        return np.asarray(expit(math.log(self.probability) - math.log1p(-self.probability) + y))

    def _with_undrawn(self, cells: Cells, x: Array) -> Cells:
        """Add the atom at log(1 - q) that Q's mass at infinite inner loss becomes."""
        extra = self.inner.infinite[1]
        if extra == 0.0:
            return cells
        least = math.log1p(-self.probability)
        i = int(np.searchsorted(x, least, side="left"))
        p, q = cells.p.copy(), cells.q.copy()
        excess = math.expm1(least) * extra + (math.expm1(cells.loss[i]) * q[i] if q[i] > 0.0 else 0.0)
        q[i] += extra
        p[i] += (1.0 - self.probability) * extra
        loss, loss_error = cells.loss.copy(), cells.loss_error.copy()
        loss_error[i] = (loss_error[i] if cells.q[i] > 0.0 else 0.0) + 8.0 * ROUNDING * self.probability / (
            1.0 - self.probability
        )
        loss[i] = math.log1p(excess / q[i])
        return Cells(p, q, np.maximum(cells.error, 4.0 * ROUNDING), loss, loss_error)

    def range(self, tail: float) -> tuple[float, float]:
        """The ends of the inner range, seen through the sample."""
        low, high = self.loss(np.array(self.inner.range(tail), dtype=np.float64))
        if self.inner.infinite[1] > 0.0:
            low = math.log1p(-self.probability)
        return float(low), float(high)

    def sketch(self) -> Array:
        """The inner sketch, seen through the sample; equal losses are kept once."""
        return np.unique(self.loss(self.inner.sketch()))
