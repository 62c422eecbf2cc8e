"""Dominating pairs for a unit that is replaced by another one, in a sample.

**Poisson samples of Gaussian noise** (`ReplacedNormal`). Both laws share the outcomes where the unit is not
drawn: A = (1 - q) N(0) + q N(u) and B = (1 - q) N(0) + q N(v) with |u|, |v| <= t, in any dimension. The worst
case is v = -u, |u| = t, in one. For alpha >= 1, advanced joint convexity [BBG18, Thm. 2] gives

    H_alpha(A || B) = q H_gamma(N(u) || (1 - b) N(0) + b N(v)) = q E[(1 - gamma ((1 - b) X + b Y))_+],

with gamma = 1 + (alpha - 1) / q and b = gamma's share: X and Y, the ratios of N(0) and of N(v) to N(u) under
N(u), are lognormal with mean 1, and their laws know only |u| and |v - u|. A convex function of their sum
has its largest mean when they rise together (-u and v - u point the same way), and it grows with both
distances. For alpha < 1 exchange A and B. The argument knows Gaussian noise only by the laws of X and Y: it
holds for all mechanisms that are Gaussian-DP, with t against a unit's absence and 2 t against replacement.

**Samples of fixed size** (`Glued`). Let (P, Q) dominate the mechanism when one unit of its input is
replaced, symmetric under exchange, and q = sample_size / population_size. A sample without the unit becomes
one with it by one replacement, so the same theorem and convexity give, for alpha >= 1, H_alpha(A || B) <=
q H_gamma(P || Q) = H_alpha(M || Q) with M = (1 - q) Q + q P, and H_alpha(Q || M) for alpha < 1 by exchange.
Losses above 0 decide the first curve and losses below 0 the second: the pair takes the positive losses
of (M, Q) and the negative ones of (Q, M), and has the rest of both laws at loss 0. In one direction (M, Q) is
attained: by data in which all other units equal the replacement.

**A zeroed unit in them** (`ZeroedNormal`) is nearer to what replaces it than to the other units: t, not 2 t.
So for alpha >= 1 the worst case is N(2 t) against N(t), with N(0) where the unit is not drawn. In the other
order both distances are t, b does not matter, and N(t) against N(0) is the worst. Glued, each at its side.

References
----------
[BBG18] Balle, Barthe, Gaboardi, Privacy Amplification by Subsampling, NeurIPS 2018 (arXiv 1807.01647).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedsec.accounting.numbers import ROUNDING, Array
from fedsec.accounting.pairs.base import Cells, Pair
from fedsec.accounting.pairs.noise import normal_log_mass, normal_masses

_LEAST = 1e-290  # masses below it are known through their logarithms only
_SKETCHED = 30.0  # standard deviations that a sketch shows to either side


@dataclass(frozen=True)
class ReplacedNormal(Pair):
    """P = (1 - q) N(0, 1) + q N(t, 1) against Q = (1 - q) N(0, 1) + q N(-t, 1), for 0 < q < 1 and t > 0.

    The loss x rises with the outcome z, and t z = x / 2 + asinh((1 - q) / q e^(t^2 / 2) sinh(x / 2)).
    """

    shift: float
    probability: float

    @property
    def anchor(self) -> float:
        """The loss at the mode of Q's heavier part."""
        return 0.0 if self.probability <= 0.5 else float(self._loss(np.array([-self.shift]))[0])

    def _loss(self, z: Array) -> Array:
        """Losses at outcomes z."""
        there, other = (self._relative(mean * (z - 0.5 * mean)) for mean in self._means)
        return np.asarray(there - other)

    @property
    def _means(self) -> tuple[float, float]:
        """Where the unit puts P's drawn part, and Q's."""
        return self.shift, -self.shift

    def _relative(self, y: Array) -> Array:
        """log(1 - q + q e^y): of a law over N(0, 1)."""
        near = np.log1p(self.probability * np.expm1(np.minimum(y, 600.0)))
        return np.asarray(np.where(y > 600.0, y + math.log(self.probability), near))

    def _outcome(self, x: Array) -> Array:
        """Outcomes z at losses x."""
        half = 0.5 * np.abs(x)
        factor = math.log1p(-self.probability) - math.log(self.probability) + 0.5 * self.shift**2
        with np.errstate(divide="ignore"):
            log_sinh = half + np.log(-np.expm1(-2.0 * half)) - math.log(2.0)
            large = np.maximum(factor + log_sinh, 0.0)
        near = np.arcsinh(np.exp(min(factor, 700.0)) * np.sinh(np.where(large > 0.0, 0.0, half)))
        far = large + np.log1p(np.sqrt(1.0 + np.exp(-2.0 * large)))
        turn = np.where(large > 0.0, far, near)
        with np.errstate(over="ignore"):
            return np.asarray(np.copysign((half + turn) / self.shift, x))

    def cells(self, x: Array) -> Cells:
        """What both laws share cancels in P - Q = q (N(t) - N(-t)): the loss keeps its digits at scale q."""
        z = np.concatenate(([-np.inf], self._outcome(x), [np.inf]))
        share = self.probability
        own, there, other = (normal_masses(z - mean) for mean in (0.0, *self._means))
        p, q = ((1.0 - share) * own[0] + share * drawn[0] for drawn in (there, other))
        least, excess = np.minimum(p, q), share * (there[0] - other[0])
        wrong = share * (there[1] * there[0] + other[1] * other[0])
        error = (
            np.maximum(
                *(
                    np.divide(
                        (1.0 - share) * own[0] * own[1] + share * drawn[0] * drawn[1],
                        mass,
                        out=np.ones_like(mass),
                        where=mass > 0.0,
                    )
                    for mass, drawn in ((p, there), (q, other))
                )
            )
            + 4.0 * ROUNDING
        )
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            loss = np.copysign(np.log1p(np.abs(excess) / least), excess)
            loss_error = 2.0 * wrong / least * np.exp(-np.abs(loss)) + error * -np.expm1(-np.abs(loss))
        far = ~(least > _LEAST)
        if far.any():
            loss[far], loss_error[far] = self._far_loss(z[:-1][far], z[1:][far])
        edges = self._edge_errors(x)
        loss_error += ROUNDING * (np.abs(loss) + 4.0 * share) + np.maximum(edges[1:], edges[:-1])
        known = np.isfinite(loss) & (loss_error < 1.0)
        return Cells(p, q, error, np.where(known, loss, 0.0), np.where(known, loss_error, np.inf))

    def _edge_errors(self, x: Array) -> Array:
        """How far rounding moves edges, in losses: the outcomes move most where the loss hardly does."""
        size = np.where(np.isfinite(x), np.abs(x), 0.0)
        depth = self.shift**2 - math.log(self.probability) - np.log(np.clip(size, 1e-300, 0.5))
        moved = 8.0 * ROUNDING * (size + np.minimum(size, 1.0) * depth)
        return np.concatenate(([0.0], moved, [0.0]))

    @np.errstate(divide="ignore", invalid="ignore", over="ignore")
    def _far_loss(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Losses of cells whose masses underflow, from logarithms, and bounds on their errors."""
        means = (0.0, *self._means)
        (own, a), (there, b), (other, c) = (normal_log_mass(low - mean, high - mean) for mean in means)
        own, drawn = own + math.log1p(-self.probability), math.log(self.probability)
        loss = np.logaddexp(own, there + drawn) - np.logaddexp(own, other + drawn)
        return loss, 2.0 * np.maximum(a, np.maximum(b, c)) + ROUNDING * (np.abs(there) + np.abs(other))

    def range(self, tail: float) -> tuple[float, float]:
        """Both laws have no more beyond an outcome than their component farthest out."""
        from scipy.special import ndtri_exp

        reach = self._means[0] - float(ndtri_exp(math.log(max(tail, 5e-324))))
        high = float(self._loss(np.array([reach]))[0])
        return -high, high

    def sketch(self) -> Array:
        """Quarters of a standard deviation around each component."""
        middle: Array = np.arange(-_SKETCHED, _SKETCHED, 0.25, dtype=np.float64)
        z = np.unique(np.concatenate([middle + mean for mean in (0.0, *self._means)]))
        return np.unique(self._loss(z))


class ZeroedNormal(ReplacedNormal):
    """P = (1 - q) N(0, 1) + q N(2 t, 1) against Q = (1 - q) N(0, 1) + q N(t, 1), for positive losses only.

    They lie where z > 3 t / 2: there the loss rises with z, and e^(t z) solves a quadratic equation.
    """

    @property
    def _means(self) -> tuple[float, float]:
        return 2.0 * self.shift, self.shift

    def _outcome(self, x: Array) -> Array:
        """Outcomes z at losses x >= 0."""
        square, log_q = self.shift**2, math.log(self.probability)
        with np.errstate(divide="ignore", over="ignore"):
            constant = math.log1p(-self.probability) + x + np.log(-np.expm1(-x))
            linear = x + log_q - 0.5 * square
            root = 0.5 * np.logaddexp(2.0 * linear, math.log(4.0) + log_q - 2.0 * square + constant)
            log_power = np.logaddexp(linear, root) - math.log(2.0) - log_q + 2.0 * square
            return np.asarray(log_power / self.shift)

    def _edge_errors(self, x: Array) -> Array:
        """How far rounding moves edges, in losses: at most twice the odds that the unit was drawn as fast."""
        log_q, size = math.log(self.probability), np.clip(x, 0.0, 1e100)
        y = 2.0 * self.shift * (self._outcome(size) - self.shift)
        drawn = np.exp(np.minimum(log_q + y - self._relative(y), 0.0))
        moved = 8.0 * ROUNDING * (size + 2.0 * drawn * (np.abs(y) + 6.0 * self.shift**2 - log_q))
        return np.concatenate(([0.0], moved, [0.0]))


@dataclass(frozen=True)
class Glued(Pair):
    """The positive losses of `above`, the mirrored positive losses of `below`, and the rest at loss 0."""

    above: Pair
    below: Pair

    @property
    def infinite(self) -> tuple[float, float]:  # type: ignore[override]
        """What the first laws have at loss +infinity."""
        return self.above.infinite[0], self.below.infinite[0]

    @property
    def anchor(self) -> float:
        """The atom that holds the rest."""
        return 0.0

    def cells(self, x: Array) -> Cells:
        """Mirrored cells, the one that holds 0, and cells above it."""
        middle = int(np.searchsorted(x, 0.0, side="left"))
        above = _positive(self.above, x[middle:])
        below = _mirrored(_positive(self.below, np.nextafter(-x[:middle][::-1], -np.inf)))  # keeps [a, b)
        centre = _merged(_slice(below, middle, middle + 1), self._rest(), _slice(above, 0, 1))
        return _joined(_slice(below, 0, middle), centre, _slice(above, 1, None))

    def _rest(self) -> Cells:
        """What either law has at loss 0: as much as the other, so the mean of both is as good."""
        above, below = _positive(self.above, np.empty(0)), _mirrored(_positive(self.below, np.empty(0)))
        taken = (above.p + above.q + below.p + below.q + sum(self.infinite)) * 0.5
        mass = np.maximum(1.0 - taken, 0.0)
        wrong = np.maximum(above.error, below.error) * taken + 4.0 * ROUNDING
        error = np.divide(wrong, mass, out=np.ones(1), where=mass > wrong)
        return Cells(mass, mass, error, np.zeros(1), np.zeros(1))

    def range(self, tail: float) -> tuple[float, float]:
        """The upper ends of both."""
        return -max(self.below.range(tail)[1], 0.0), max(self.above.range(tail)[1], 0.0)

    def sketch(self) -> Array:
        """What both show above 0."""
        above, below = self.above.sketch(), self.below.sketch()
        return np.concatenate((-below[below > 0.0][::-1], [0.0], above[above > 0.0]))


def _slice(cells: Cells, first: int, last: int | None) -> Cells:
    return Cells(*(part[first:last] for part in cells))


def _joined(*pieces: Cells) -> Cells:
    return Cells(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))


def _positive(pair: Pair, x: Array) -> Cells:
    """The cells (0, x[0]], (x[0], x[1]], ..., (x[-1], inf) for ascending x, zero or above."""
    with np.errstate(over="ignore"):  # the mirror image of -infinity is the largest double
        cells = _slice(pair.cells(np.concatenate(([0.0], x[x > 0.0]))), 1, None)
    return cells if np.all(x > 0.0) else _joined(_EMPTY, cells)


_EMPTY = Cells(*(np.array([value]) for value in (0.0, 0.0, 0.0, 0.0, np.inf)))


def _mirrored(cells: Cells) -> Cells:
    """The laws exchanged and losses reversed."""
    p, q, error, loss, loss_error = (part[::-1] for part in cells)
    return Cells(q, p, error, -loss, loss_error)


@np.errstate(divide="ignore", invalid="ignore")
def _merged(*cells: Cells) -> Cells:
    """Cells of one entry each as one cell; their losses are known at the scale of P - Q."""
    p, q, error, loss, loss_error = (np.concatenate(parts) for parts in zip(*cells, strict=True))
    known = (loss < 1.0) & np.isfinite(loss_error)
    excess = np.where(known, q * np.expm1(np.where(known, loss, 0.0)), p - q)
    wrong = np.where(known, p * np.where(known, loss_error, 0.0) + error * np.abs(excess), error * (p + q))
    first, second, surplus = p.sum(), q.sum(), excess.sum()
    least = min(first, second)
    total = math.copysign(math.log1p(abs(surplus) / least), surplus) if least > 0.0 else 0.0
    doubt = error.max() * abs(total) + (wrong.sum() / least if least > 0.0 else np.inf)
    return Cells(*(np.array([part]) for part in (first, second, error.max() + ROUNDING, total, doubt)))
