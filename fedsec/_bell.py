"""Tables of laws for csrc/bell.c, and the decisions that C leaves open.

Candidates come from 64 cells of probabilities n / 2^14. Up to a variance of 16 a cell is one integer. Beyond,
it is a block of 2^block_bits integers, an eighth to a quarter of a deviation, to the right of the middle, and
one to the left, for a sign drawn apart: a candidate to the left is one further away, so that the middle is
drawn once. The last cell is all integers beyond the others: blocks of probability 1/2, 1/4, 1/8, ... of its
own. A candidate stands with probability weight / (n unit), where the unit is the least for which that never
exceeds 1. Everything here is integers and fractions, but for the numbers of the filters, which decide nothing
that is close [docs/noise.md].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from fedsec import _kernels
from fedsec._exact import PRECISION, Bounds, alias_columns, halvings, least_unit, logarithm, stands
from fedsec._laws import (
    WIDE,
    DiscreteGaussian,
    Law,
    NarrowLaw,
    NarrowPoisson,
    NarrowSkellam,
    WidePoisson,
    WideSkellam,
)

CELLS = 64
COUNTS = 2**14
UNIFORM_BITS = 80  # of a candidate's uniform real, that C has drawn
NARROW_VARIANCE = 16
_SHOWN_BITS = 17
_BEYOND = CELLS - 1


@dataclass(frozen=True)
class Bell:
    """A law's table: block_bits is None where a cell is one integer. `unit` is in units of 2^-256.

    The first integer is that of the first cell, and of the right one of two.
    """

    law: Law
    first: int
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
        if self.block_bits is None:
            return self.first + (_BEYOND + block if word >> 63 else ~block), block + 2
        distance = (_BEYOND + block << self.block_bits) + word % 2**self.block_bits
        return self.first + (distance if word >> 63 else ~distance), block + 1


@lru_cache(maxsize=32)
def discrete_gaussian(stddev: float) -> Bell:
    """The table of a discrete Gaussian; cached."""
    return table(DiscreteGaussian(stddev))


@lru_cache(maxsize=32)
def skellam(variance: float) -> Bell:
    """The table of a Skellam law; cached."""
    return table(NarrowSkellam(variance) if variance < WIDE else WideSkellam(variance))


@lru_cache(maxsize=32)
def poisson(mean: float) -> Bell:
    """The table of a Poisson law; cached."""
    return table(NarrowPoisson(mean) if mean < WIDE else WidePoisson(mean))


class _Cells(NamedTuple):
    """Where the cells of a law are, and its weights there: 256 bits of them."""

    first: int
    size: int
    mirrored: bool
    weight: Callable[[int], Bounds]

    def side(self, left: bool, distance: int) -> Bounds:
        """The weight at a distance from `first` to the right, or from the integer before it to the left."""
        return self.weight(self.first + (~distance if left else distance))


def table(law: Law) -> Bell:
    """The table of a law."""
    mirrored = law.variance > NARROW_VARIANCE
    # 2^block_bits in (1/8, 1/4] of the deviation, up to its rounding
    block_bits = math.frexp(math.sqrt(law.variance))[1] - 3 if mirrored else None
    if block_bits and not law.even:
        block_bits = min(block_bits, _SHOWN_BITS)
    first = law.middle if mirrored else 0 if not law.even else -(_BEYOND // 2)
    cells = _Cells(first, 1 << (block_bits or 0), mirrored, _weights(law, first, block_bits))
    tops = [
        max(cells.side(left, cell * cells.size)[1] for left in ((False, True) if mirrored else (False,)))
        for cell in range(_BEYOND)
    ]
    unit = least_unit(tops, COUNTS - 1)
    counts = [-(-top // unit) for top in tops] + [1]
    counts[tops.index(max(tops))] += COUNTS - sum(counts)
    return Bell(law, first, block_bits, tuple(counts), unit, _structure(law, cells, counts, unit))


def _weights(law: Law, first: int, block_bits: int | None) -> Callable[[int], Bounds]:
    """To 256 bits, of all integers in the cells and one further on either side."""
    if not isinstance(law, NarrowLaw):
        return lambda y: law.weight(y, PRECISION)
    reach = _BEYOND << (block_bits or 0)
    lowest = first if block_bits is None else first - reach - 1
    values = law.weights(lowest, first + reach)
    return lambda y: values[y - lowest]


def _structure(law: Law, cells: _Cells, counts: list[int], unit: int) -> Any:
    """fs_bell of csrc/core.cdef."""
    block_bits = cells.size.bit_length() - 1
    shown = min(block_bits, _SHOWN_BITS)
    skewed = cells.mirrored and not law.even
    sides = [_filter(law, cells, left, [n * unit for n in counts]) for left in (False, skewed)]
    slopes, curvatures, heights = zip(*[zip(*side, strict=True) for side in sides], strict=True)
    return _kernels.bell_law(
        law.formula,
        block_bits=block_bits,
        shown_bits=shown,
        first=cells.first,
        mirrored=2**16 - 1 if cells.mirrored else 0,
        curved=cells.mirrored and _curved(law),
        skewed=skewed,
        offset_mask=2**16 - 2 ** max(16 - shown, 0),
        step=0 if shown > 16 or not law.even else min(2 ** (16 - shown), 2**16 - 1),
        variance=float(law.variance),
        margin=law.margin,
        cells=[threshold << 8 | alias for threshold, alias in alias_columns(counts)],
        slopes=slopes,
        curvatures=curvatures,
        heights=heights,
        log_heights=[logarithm(n * unit) for n in counts],
        log_weights=_log_weights(law, cells),
    )


def _filter(law: Law, cells: _Cells, left: bool, heights: list[int]) -> list[tuple[int, int, int]]:
    """Of each cell, in units of 2^-16: slope, curvature and height of the acceptance."""
    found = []
    constant = float(Fraction(cells.size**2) / law.variance) / 4
    for cell, height in enumerate(heights[:-1]):
        begin, middle, end = (
            cells.side(left, cell * cells.size + part)[0] for part in (0, cells.size // 2, cells.size)
        )
        fall, curvature = 0.0, 0.0
        if cells.size > 1 or (cells.mirrored and law.even):
            # Where it falls by more, the acceptance is less than the filter can tell from zero.
            fall, curvature = min(_fall(begin, end), 2 - 2.0**-12), constant
            if _curved(law):
                curvature = max(fall - 2.0 * _fall(begin, middle), 0.0) if cells.size > 1 else 0.0
        slope = max(fall / 2 - curvature, 0.0)
        of_height = min(round(Fraction(begin * 2**16, height)), 2**16 - 1)
        found.append((round(slope * 2**16), round(curvature * 2**16), of_height))
    return [*found, (0, 0, 0)]


def _curved(law: Law) -> bool:
    """Whether the filter's curvature is not the same in all cells."""
    return isinstance(law, (NarrowSkellam, NarrowPoisson, WidePoisson))


def _fall(begin: int, further: int) -> float:
    """By how much the weight's logarithm falls."""
    return logarithm(begin) - logarithm(further) if further else math.inf


def _log_weights(law: Law, cells: _Cells) -> list[float]:
    """Of a narrow law's integers, from the first one in a cell on."""
    if not isinstance(law, NarrowLaw):
        return []
    reach = _BEYOND * cells.size
    weights = (cells.weight(y)[0] for y in range(cells.first - reach * cells.mirrored, cells.first + reach))
    return [logarithm(w) if w else -math.inf for w in weights]
