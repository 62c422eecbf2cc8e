"""Exact pairs of integer noise in one coordinate, and of discrete Laplace noise in any.

Q is noise N on the integers and P = N + s. All noise here is symmetric and log-concave. Then:

- The ratio R_s(k) = P(k)/Q(k) ascends with k, so the best tests are thresholds, and at each threshold a
  larger shift errs less: s dominates all shifts of smaller size.
- A shift that is split over coordinates, s + t, costs at most what it costs in one: R_{s+t}(N) is
  R_s(N) R_t(N - s), and (a - b)_+ has its largest mean, for given marginals, where b falls as a grows, so

    E_Q[(R_{s+t} - c)_+] = E[(R_t(N) - c / R_s(N + s))_+] >= E[(R_t(N) - c / R_s(N' + s))_+],

  with N' independent of N; the right side is the hockey stick of the two coordinates. So for noise whose
  sensitivity is an L1 norm (discrete Laplace) one coordinate is the worst case. An L2 norm allows more L1
  in more coordinates: discrete Gaussian and Skellam noise are exact here in dimension 1 only.

References
----------
[CKS20] Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, 2020 (arXiv 2004.00010).
[Amo74] Amos, Computation of Modified Bessel Functions and Their Ratios, Math. Comp. 28, 1974.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fedsec.accounting.numbers import ROUNDING, UNIT, Array
from fedsec.accounting.pairs.atoms import Atoms
from fedsec.accounting.pairs.base import Cells, Pair

MAX_ATOMS = 2**20  # of an enumerated pair; beyond it noise is so wide that its Gaussian bound is as good
_DEPTH = 760.0  # tails are cut where Chernoff's bound is e^-760
_NARROWEST = 1e-100  # noise below it has losses beyond all use, whose squares overflow
_LEAST = 1e-306  # more than both tails that were cut, and still a normal double


@dataclass(frozen=True)
class GeometricNoise(Pair):
    """Discrete Laplace noise, Q(k) = (1 - r) / (1 + r) r^|k| with r = e^(-1/scale), shifted by `shift`.

    Losses are (2 k - shift) / scale for k clipped to [0, shift]: two atoms collect the tails beyond.
    """

    scale: float
    shift: int

    @property
    def lattice(self) -> float:  # type: ignore[override]
        """From one k to the next."""
        return 2.0 / self.scale

    @property
    def anchor(self) -> float:
        """The atom that holds most of Q: all k <= 0."""
        return -self.shift / self.scale

    @property
    def other_atom(self) -> float:  # type: ignore[override]
        """The atom that holds most of P: all k >= shift."""
        return -self.anchor

    def cells(self, x: Array) -> Cells:
        """Geometric sums over the k from i to j; P is Q seen from the other end."""
        with np.errstate(over="ignore"):
            k = np.clip(np.floor(0.5 * (x * self.scale + self.shift)), -1.0, self.shift)
        i, j = np.concatenate(([0.0], k + 1.0)), np.concatenate((k, [float(self.shift)]))
        empty = i > j
        j = np.maximum(i, j)
        q, p = self._mass(i, j), self._mass(self.shift - j, self.shift - i)
        loss = (i + j - self.shift) / self.scale
        loss += np.where(j >= self.shift, self._rest(self.shift - i), 0.0)
        loss -= np.where(i <= 0.0, self._rest(j), 0.0)
        error = np.full_like(loss, ROUNDING * (8.0 + self.shift / self.scale))
        loss_error = np.where(empty, np.inf, 8.0 * ROUNDING * (self.shift / self.scale))
        p, q, loss = (np.where(empty, 0.0, values) for values in (p, q, loss))
        return Cells(p, q, error, loss, loss_error)

    def _mass(self, i: Array, j: Array) -> Array:
        """Mass of Q from i to j, where 0 stands for all below, and `shift` for all above."""
        inner = np.exp(-np.maximum(i, 0.0) / self.scale)
        inner = np.where(j < self.shift, -inner * np.expm1((i - j - 1.0) / self.scale), inner)
        bottom = np.where(j < self.shift, np.exp(self._rest(j)), 1.0 + math.exp(-1.0 / self.scale))
        return np.asarray(np.where(i > 0.0, inner, bottom) / (1.0 + math.exp(-1.0 / self.scale)))

    def _rest(self, m: Array) -> Array:
        """log(1 + r - r^(m + 1)): the logarithm of what all k <= m weigh, where 0 weighs 1 - r."""
        return np.asarray(np.log1p(-math.exp(-1.0 / self.scale) * np.expm1(-np.maximum(m, 0.0) / self.scale)))

    def range(self, tail: float) -> tuple[float, float]:
        """All losses lie between these."""
        return self.anchor, -self.anchor

    def sketch(self) -> Array:
        """Evenly chosen atoms, and a place below the first."""
        chosen = np.unique(np.linspace(0.0, self.shift, 65).round())
        losses = (2.0 * chosen - self.shift) / self.scale
        return np.concatenate(([self.anchor * (1.0 + 1e-12)], losses))


@lru_cache(maxsize=4)
def discrete_gaussian(stddev: float, shift: int) -> Atoms | None:
    """Discrete Gaussian noise in one coordinate; None where it is too wide, or too narrow, to enumerate.

    Chernoff: P(N >= k) <= e^(-k^2 / 2 stddev^2) [CKS20, Cor. 17].
    """
    reach = math.ceil(math.sqrt(2.0 * _DEPTH) * stddev)
    if stddev < _NARROWEST or not _countable(reach, shift):
        return None
    k: Array = np.arange(reach + shift + 1, dtype=np.float64)
    step = shift / stddev / stddev
    loss: Array = step * (np.arange(-reach, reach + shift + 1, dtype=np.float64) - 0.5 * shift)
    return _shifted(-0.5 * (k / stddev) ** 2, shift, loss, lattice=step)


@lru_cache(maxsize=4)
def skellam(variance: float, shift: int) -> Atoms | None:
    """Skellam noise in one coordinate, Q(k) = e^-variance I_k(variance); None as before."""
    reach = _skellam_reach(variance)
    if variance < _NARROWEST or not _countable(reach, shift):
        return None
    weight = -np.concatenate(([0.0], np.cumsum(np.log1p(bessel_falls(variance, reach + shift)))))
    k = np.arange(-reach, reach + shift + 1)
    there, here = np.abs(k - shift), np.abs(k)
    loss, deeper = weight[there] - weight[here], np.maximum(there, here)
    growth = UNIT * (16.0 + 8.0 * math.sqrt(variance))  # of errors down the recurrence
    loss_error = growth * np.abs(loss) - UNIT * shift * weight[deeper]
    error = growth - (growth + UNIT * deeper) * weight[deeper]
    return _shifted(weight, shift, loss, error=error, loss_error=loss_error)


def _countable(reach: float, shift: int) -> bool:
    return 2.0 * reach + shift < MAX_ATOMS


def _shifted(weight: Array, shift: int, loss: Array, **known: Any) -> Atoms:
    """Noise with the logarithms `weight` (n,) of unscaled probabilities at 0, ..., n - 1, and its shift."""
    top = weight.size - 1 - shift
    k = np.arange(-top, top + shift + 1)
    total = math.log(2.0 * float(np.sum(np.exp(weight[:0:-1]))) + 1.0)
    log_q = weight[np.abs(k)] - total
    return Atoms(loss, log_q[::-1].copy(), log_q, infinite=(_LEAST, _LEAST), **known)


def _skellam_reach(variance: float) -> int:
    """Least k with Chernoff's bound P(N >= k) <= exp(sqrt(v^2 + k^2) - v - k asinh(k / v)) below e^-760."""

    def depth(k: float) -> float:
        ratio = k / variance
        return variance * (ratio * math.asinh(ratio) - ratio * ratio / (math.sqrt(1.0 + ratio * ratio) + 1.0))

    low, high = 0, 1
    while depth(high) < _DEPTH:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if depth(middle) < _DEPTH else (low, middle)
    return high


def bessel_falls(x: float, count: int) -> Array:
    """y_k = I_k(x) / I_{k+1}(x) - 1 for k = 0, ..., count - 1: y_{k-1} = 2 k / x - y_k / (1 + y_k) [Amo74].

    Downwards every step multiplies an error by (I_{k+1} / I_k)^2 < 1, hence from k = m on by (I_m / I_0)^2
    in all. The start, from a bound on the ratio, is far enough above to leave nothing of it; rounding errors
    add up to those of some sqrt(x) steps.
    """
    first = count + 40 + int(20.0 * x / count)
    y = (first + 1.0 + math.hypot(first + 1.0, x)) / x - 1.0
    falls = np.empty(first)
    for k in range(first, 0, -1):
        y = 2.0 * k / x - y / (1.0 + y)
        falls[k - 1] = y
    return falls[:count]
