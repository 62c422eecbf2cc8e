"""Tables of discrete Gaussian and wide Skellam laws for csrc/discrete_gaussian.c; what C leaves to decide.

Candidates come from 64 cells of probabilities n / 2^14. Up to a variance of 16 a cell is one integer, from
-31 to 31. Beyond, it is a block of 2^block_bits values of |y|, an eighth to a quarter of a deviation, with a
sign drawn apart; a negative candidate is one further from zero than a positive one, so that zero is drawn
once. The last cell is all integers beyond the others: blocks of probability 1/2, 1/4, 1/8, ... of its own.
A candidate stands with probability weight / (n unit), where the unit is the least for which that never
exceeds 1. Everything here is integers and fractions, but for the numbers of the filters, which decide
nothing that is close [docs/noise.md].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Protocol

from fedsec import _kernels
from fedsec._exact import (
    PRECISION,
    Bounds,
    alias_columns,
    exp_minus,
    halvings,
    least_unit,
    logarithm,
    scaled_bessel,
    stands,
)

CELLS = 64
COUNTS = 2**14
UNIFORM_BITS = 80  # of a candidate's uniform real, that C has drawn
NARROW_VARIANCE = 16
_SHOWN_BITS = 17
_BEYOND = CELLS - 1


class Law(Protocol):
    """A law on the integers that is even and log-concave, of weights up to a common factor; a value."""

    @property
    def variance(self) -> Fraction: ...

    def weight(self, y: int, bits: int) -> Bounds:
        """Bounds on the weight of y in units of 2^-bits, a few units apart."""


@dataclass(frozen=True)
class DiscreteGaussian:
    """exp(-y^2 / (2 stddev^2)), for a stddev from 0.1 to 2^40, as the exact value of the double."""

    stddev: float

    @property
    def variance(self) -> Fraction:
        return Fraction(self.stddev) ** 2

    def weight(self, y: int, bits: int) -> Bounds:
        twice = 2 * self.variance
        return exp_minus(y * y * twice.denominator, twice.numerator, bits)


@dataclass(frozen=True)
class WideSkellam:
    """sqrt(2 pi v) exp(-v) I_|y|(v), for a variance v from 2^14 to 2^41, as the exact value of the double."""

    parameter: float

    @property
    def variance(self) -> Fraction:
        return Fraction(self.parameter)

    def weight(self, y: int, bits: int) -> Bounds:
        return scaled_bessel(abs(y), self.variance.numerator, self.variance.denominator, bits)


@dataclass(frozen=True)
class Bell:
    """A law's table: block_bits is None where a cell is one integer. `unit` is in units of 2^-256."""

    law: Law
    block_bits: int | None
    counts: tuple[int, ...]
    unit: int
    structure: Any

    def settled(self, candidate: _kernels.BellUndecided, more: Iterator[int]) -> int | None:
        """The candidate's value if it stands, which as many of the words `more` decide as it takes."""
        value, height, raised = candidate.value, self.counts[candidate.cell] * self.unit, 0
        if candidate.cell == _BEYOND:
            value, raised = self._beyond(more)

        def raised_weight(bits: int) -> Bounds:
            low, high = self.law.weight(value, bits)
            return low << raised, high << raised

        return value if stands(raised_weight, height, more, candidate.uniform, UNIFORM_BITS) else None

    def _beyond(self, more: Iterator[int]) -> tuple[int, int]:
        """A value of the last cell, and how often its probability is half of a unit spread over a cell."""
        block, word = halvings(more), next(more)
        positive = bool(word >> 63)
        if self.block_bits is None:
            distance = CELLS // 2 + block
            return (distance if positive else -distance), block + 2
        distance = (_BEYOND + block << self.block_bits) + word % 2**self.block_bits
        return (distance if positive else ~distance), block + 1


@lru_cache(maxsize=32)
def discrete_gaussian(stddev: float) -> Bell:
    """The table of a discrete Gaussian; cached."""
    return table(DiscreteGaussian(stddev))


@lru_cache(maxsize=32)
def wide_skellam(variance: float) -> Bell:
    """The table of a Skellam law of a variance from 2^14 on; cached."""
    return table(WideSkellam(variance))


def table(law: Law) -> Bell:
    """The table of a law."""
    mirrored = law.variance > NARROW_VARIANCE
    # 2^block_bits in (1/8, 1/4] of the deviation, up to its rounding
    block_bits = math.frexp(math.sqrt(law.variance))[1] - 3 if mirrored else None
    nearest = [cell << block_bits if block_bits is not None else cell - _BEYOND // 2 for cell in range(CELLS)]
    tops = [law.weight(y, PRECISION)[1] for y in nearest]
    beyond = tops.pop()
    unit = least_unit(tops, COUNTS - 1)
    counts = [-(-top // unit) for top in tops] + [1]
    counts[tops.index(max(tops))] += COUNTS - sum(counts)
    structure = _structure(law, block_bits, [*tops, beyond], counts, unit)
    return Bell(law, block_bits, tuple(counts), unit, structure)


def _structure(law: Law, block_bits: int | None, tops: list[int], counts: list[int], unit: int) -> Any:
    """fs_bell of csrc/core.cdef."""
    mirrored, block_bits = block_bits is not None, block_bits or 0
    shown = min(block_bits, _SHOWN_BITS)
    curvature = float(Fraction(4**block_bits) / law.variance) / 4 if mirrored else 0.0
    slopes, heights = [0] * CELLS, [0] * CELLS
    for cell in range(_BEYOND):
        fall = logarithm(tops[cell]) - logarithm(tops[cell + 1]) if mirrored else 0.0
        # Further out the acceptance is less than the filter can tell from zero.
        if fall < 2:
            slopes[cell] = max(round((fall / 2 - curvature) * 2**16), 0)
            heights[cell] = min(round(Fraction(tops[cell] * 2**16, counts[cell] * unit)), 2**16 - 1)
    skellam = isinstance(law, WideSkellam)
    return _kernels.bell(
        block_bits=block_bits,
        shown_bits=shown,
        first=0 if mirrored else -(_BEYOND // 2),
        mirrored=2**16 - 1 if mirrored else 0,
        offset_mask=2**16 - 2 ** max(16 - shown, 0),
        step=0 if shown > 16 else min(2 ** (16 - shown), 2**16 - 1),
        curvature=round(curvature * 2**16),
        skellam=skellam,
        variance=float(law.variance),
        margin=2.0**-36 + (2.0 / float(law.variance) ** 2 if skellam else 0.0),
        cells=[threshold << 8 | alias for threshold, alias in alias_columns(counts)],
        slopes=slopes,
        heights=heights,
        log_heights=[logarithm(n * unit) for n in counts],
    )
