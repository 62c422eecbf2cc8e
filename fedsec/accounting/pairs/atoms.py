"""Pairs of finitely many atoms: randomised response, guarantees, and whatever else can be enumerated.

An atom holds its loss and the logarithms of both masses, so nothing underflows. The loss is kept beside
the two logarithms because it often has more digits than their difference.

References
----------
[KOV15] Kairouz, Oh, Viswanath, The Composition Theorem for Differential Privacy, ICML 2015
        (arXiv 1311.0776).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedsec.accounting.numbers import ROUNDING, UNIT, Array
from fedsec.accounting.pairs.base import Cells, Pair

_SKETCHED = 1000  # atoms in a sketch, at most


@dataclass(frozen=True, eq=False, repr=False)
class Atoms(Pair):
    """Atoms with finite losses, at least one, and what mass there is at infinite losses.

    Parameters
    ----------
    loss : float64 array (n,)
        Logarithm of P's mass over Q's; strictly ascending.
    log_p, log_q : float64 array (n,)
        Logarithms of the masses; finite.
    error : float or float64 array (n,)
        Bound on the relative error of either mass, apart from the rounding of its logarithm.
    loss_error : float or float64 array (n,)
        Bound on the absolute error of `loss`, apart from its rounding.
    infinite : pair of float
        Mass of P where Q has none, and of Q where P has none.
    lattice : float, optional
        If set, losses differ by whole multiples of it.
    """

    loss: Array
    log_p: Array
    log_q: Array
    error: float | Array = 0.0
    loss_error: float | Array = 0.0
    infinite: tuple[float, float] = (0.0, 0.0)
    lattice: float | None = None

    @property
    def anchor(self) -> float:
        """The atom where Q has most."""
        return float(self.loss[np.argmax(self.log_q)])

    @property
    def other_atom(self) -> float:  # type: ignore[override]
        """The atom where P has most."""
        return float(self.loss[np.argmax(self.log_p)])

    def cells(self, x: Array) -> Cells:
        """Each atom goes to the one cell that holds its loss."""
        ends = np.searchsorted(self.loss, x, side="right")
        sizes = np.diff(ends, prepend=0, append=self.loss.size)
        full = sizes > 0
        merged = self._merged(sizes[full])
        cells = Cells(*(np.full(sizes.size, value) for value in (0.0, 0.0, 0.0, 0.0, np.inf)))
        for whole, part in zip(cells, merged, strict=True):
            whole[full] = part
        return cells

    def _merged(self, sizes: npt.NDArray[np.int64]) -> Cells:
        """Neighbouring atoms merged, so many at a time."""
        first = np.cumsum(sizes) - sizes
        p, top_p = _sums(self.log_p, first, sizes)
        q, top_q = _sums(self.log_q, first, sizes)
        base = self.loss[first]
        width = self.loss[first + sizes - 1] - base
        depth = np.maximum(_largest(-self.log_p, first), _largest(-self.log_q, first))
        error = self._worst(self.error, first) + ROUNDING * (1.0 + depth) + UNIT * sizes
        growth = np.expm1(np.minimum(self.loss - np.repeat(base, sizes), 1.0))
        weight = np.exp(self.log_q - np.repeat(top_q, sizes))
        near = base + np.log1p(np.add.reduceat(weight * growth, first) / q)
        far = (top_p - top_q) + (np.log(p) - np.log(q))
        loss = np.where(width <= 1.0, near, far)
        loss_error = self._worst(self.loss_error, first) + ROUNDING * (np.abs(base) + np.minimum(width, 1.0))
        loss_error += np.where(width <= 1.0, 4.0 * error * width, 2.0 * error + ROUNDING * depth)
        return Cells(np.exp(top_p) * p, np.exp(top_q) * q, error, loss, loss_error)

    def _worst(self, error: float | Array, first: npt.NDArray[np.int64]) -> Array:
        return _largest(np.broadcast_to(error, self.loss.shape), first)

    def range(self, tail: float) -> tuple[float, float]:
        """Atoms at an end are left out while each has at most its share of the tail."""
        heavy = np.maximum(self.log_p, self.log_q) > math.log(max(tail, 5e-324)) - math.log(self.loss.size)
        kept = self.loss[heavy]
        return (float(kept[0]), float(kept[-1])) if kept.size else (self.anchor, self.anchor)

    def sketch(self) -> Array:
        """The losses, or evenly chosen ones of them, and a place below the first."""
        chosen = np.unique(
            np.linspace(0, self.loss.size - 1, min(self.loss.size, _SKETCHED)).astype(np.int64)
        )
        below = self.loss[0] - max(1e-12 * abs(self.loss[0]), 1e-300)
        return np.concatenate(([below], self.loss[chosen]))


def _largest(values: Array, first: npt.NDArray[np.int64]) -> Array:
    return np.asarray(np.maximum.reduceat(values, first))


def _sums(log_mass: Array, first: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Sums of masses, each over the largest of its terms, and the logarithm of that one."""
    top = _largest(log_mass, first)
    return np.add.reduceat(np.exp(log_mass - np.repeat(top, sizes)), first), top


def randomized_response(epsilon: float) -> Atoms:
    """The worst of all mechanisms whose loss is at most epsilon >= 0 [KOV15]."""
    return approximate_dp(epsilon, 0.0)


def approximate_dp(epsilon: float, delta: float) -> Atoms:
    """The worst of all (epsilon, delta)-private mechanisms, for delta below 1 [KOV15, Thm. 3.3].

    With probability delta the data set is told; otherwise a bit is told truly with odds e^epsilon to 1.
    """
    loss = np.array([-epsilon, epsilon]) if epsilon > 0.0 else np.zeros(1)
    likely = math.log1p(-delta) - math.log1p(math.exp(-epsilon))
    log_q = np.array([likely, likely - epsilon]) if epsilon > 0.0 else np.full(1, math.log1p(-delta))
    lattice = 2.0 * epsilon if epsilon > 0.0 else None
    return Atoms(loss, log_q[::-1].copy(), log_q, infinite=(delta, delta), lattice=lattice)
