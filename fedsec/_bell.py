"""The table of a discrete Gaussian for csrc/discrete_gaussian.c, and the decisions that C leaves open.

Candidates come from 64 cells of probabilities n / 2^14. Up to a stddev of 4 a cell is one integer, from -31
to 31. Beyond, it is a block of 2^block_bits values of |y|, an eighth to a quarter of the stddev, with a
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
from typing import Any

from fedsec import _kernels
from fedsec._exact import (
    PRECISION,
    Bounds,
    alias_columns,
    exp_minus,
    halvings,
    least_unit,
    logarithm,
    stands,
)

CELLS = 64
COUNTS = 2**14
UNIFORM_BITS = 80  # of a candidate's uniform real, that C has drawn
NARROW_STDDEV = 4.0
_SHOWN_BITS = 17
_BEYOND = CELLS - 1


@dataclass(frozen=True)
class Bell:
    """A discrete Gaussian: block_bits is None where a cell is one integer. `unit` is in units of 2^-256."""

    stddev: float
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
            low, high = weight(self.stddev, value, bits)
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


def weight(stddev: float, y: int, bits: int) -> Bounds:
    """Bounds on exp(-y^2 / (2 stddev^2)), three units apart."""
    twice_variance = 2 * Fraction(stddev) ** 2
    return exp_minus(y * y * twice_variance.denominator, twice_variance.numerator, bits)


@lru_cache(maxsize=32)
def table(stddev: float) -> Bell:
    """The table for a stddev from 0.1 to 2^40, as the exact value of the double; cached."""
    if stddev > NARROW_STDDEV:
        block_bits = math.frexp(stddev)[1] - 3  # 2^block_bits in (stddev / 8, stddev / 4]
        tops = [weight(stddev, cell << block_bits, PRECISION)[1] for cell in range(_BEYOND)]
    else:
        block_bits = None
        tops = [weight(stddev, cell - _BEYOND // 2, PRECISION)[1] for cell in range(_BEYOND)]
    unit = least_unit(tops, COUNTS - 1)
    counts = [-(-top // unit) for top in tops] + [1]
    counts[tops.index(max(tops))] += COUNTS - sum(counts)
    structure = _structure(stddev, block_bits, tops, counts, unit)
    return Bell(stddev, block_bits, tuple(counts), unit, structure)


def _structure(stddev: float, block_bits: int | None, tops: list[int], counts: list[int], unit: int) -> Any:
    """fs_bell of csrc/core.cdef."""
    mirrored, block_bits = block_bits is not None, block_bits or 0
    shown = min(block_bits, _SHOWN_BITS)
    square = (Fraction(2**block_bits) / Fraction(stddev)) ** 2 if mirrored else Fraction(0)
    slopes, heights = [0] * CELLS, [0] * CELLS
    for cell, (top, n) in enumerate(zip(tops, counts, strict=False)):
        # Further out the acceptance is less than the filter can tell from zero.
        if (slope := cell * square / 2) + square / 4 < 1:
            slopes[cell] = round(slope * 2**16)
            heights[cell] = min(round(Fraction(top * 2**16, n * unit)), 2**16 - 1)
    return _kernels.bell(
        block_bits=block_bits,
        shown_bits=shown,
        first=0 if mirrored else -(_BEYOND // 2),
        mirrored=2**16 - 1 if mirrored else 0,
        offset_mask=2**16 - 2 ** max(16 - shown, 0),
        step=0 if shown > 16 else min(2 ** (16 - shown), 2**16 - 1),
        curvature=round(square / 4 * 2**16),
        stddev=stddev,
        cells=[threshold << 8 | alias for threshold, alias in alias_columns(counts)],
        slopes=slopes,
        heights=heights,
        log_heights=[logarithm(n * unit) for n in counts],
    )
