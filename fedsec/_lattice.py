"""Poisson and Skellam laws as tables for csrc/lattice.c, and the decisions that C leaves open.

A table has 2^k cells whose probabilities are integers over 2^32. Where a law is narrow, a cell is one integer
and has its probability rounded down; what is missing everywhere is drawn from the last cell, exactly. Where
it is wide, a cell is a block of 2^b integers: a value is drawn uniformly in it and stands with probability
weight / height, with a height that makes that at most 1; all that is beyond is drawn from the last cell.
Skellam noise that is wide is drawn as discrete Gaussian noise is [fedsec/_bell.py].

All of it is integers and fractions; parameters are the exact values of their doubles. The only doubles that
come out, logarithms of heights, are read with room for their rounding (csrc/lattice.c).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from fedsec._exact import (
    PRECISION,
    Bounds,
    alias_columns,
    below,
    exp_minus,
    halvings,
    least_unit,
    log_near_one,
    logarithm,
    stands,
    stirling,
)
from fedsec._kernels import LawArrays, Undecided

MAX_INDEX_BITS = 12
_COUNTS = 2**32
_BLOCK_INDEX_BITS = 10
_TABLE_ERROR = 2 ** (PRECISION - 200)


class Law(ABC):
    """Weights of integers, up to a common factor: they rise, then fall. Most are in `first` .. `last`."""

    parameter: float
    first: int
    last: int
    mode: int

    @abstractmethod
    def weight(self, y: int, bits: int) -> Bounds:
        """Bounds on the weight of y in units of 2^-bits, a few units apart."""


class NarrowLaw(Law):
    """A law all of whose weights are in a table."""

    @abstractmethod
    def weights(self) -> list[int]:
        """Those from first to last in units of 2^-256, off by less than 2^-200."""


def _poisson_range(mean: float) -> tuple[int, int]:
    """Thirteen deviations to either side, and more to the right where the law is not yet like a Gaussian."""
    root = math.isqrt(math.ceil(mean)) + 1
    return max(0, math.floor(mean) - 13 * root), math.ceil(mean) + 13 * root + 60


class Poisson(NarrowLaw):
    """exp(-mean) mean^y / y!, divided by that of the mode."""

    def __init__(self, mean: float) -> None:
        self.parameter = mean
        self._mean = Fraction(mean)
        self.first, self.last = _poisson_range(mean)
        self.mode = math.floor(mean)

    def weights(self) -> list[int]:
        """By ratios from the mode down to either side."""
        above, below = [1 << PRECISION], [1 << PRECISION]
        p, q = self._mean.numerator, self._mean.denominator
        for y in range(self.mode + 1, self.last + 1):
            above.append(above[-1] * p // (q * y))
        for y in range(self.mode, self.first, -1):
            below.append(below[-1] * q * y // p)
        return below[:0:-1] + above

    def weight(self, y: int, bits: int) -> Bounds:
        """A fraction."""
        if y < 0:
            return 0, 0
        factorials = math.prod(range(min(y, self.mode) + 1, max(y, self.mode) + 1))
        p, q = self._mean.numerator ** abs(y - self.mode), self._mean.denominator ** abs(y - self.mode)
        number = (p << bits) // (q * factorials) if y > self.mode else (factorials * q << bits) // p
        return number, number + 1


class WidePoisson(Law):
    """exp(-mean) mean^y / y! times sqrt(2 pi mean) exp(-1 / 1024), which is below 1."""

    def __init__(self, mean: float) -> None:
        self.parameter = mean
        self._mean = Fraction(mean)
        self.first, self.last = _poisson_range(mean)
        self.mode = math.floor(mean)

    def weight(self, y: int, bits: int) -> Bounds:
        """By Stirling's series, in [mean / 2, 2 mean]; further out a weight is below exp(-mean / 7)."""
        if not self._mean < 2 * y < 4 * self._mean:
            if bits * 7 > self._mean:
                raise ArithmeticError(f"the weight of {y} for a mean of {float(self._mean)!r} to {bits} bits")
            return 0, 1
        guard = bits + 64
        p, q = self._mean.numerator, self._mean.denominator
        log = log_near_one(y * q, p, guard + 48)  # times y < 2^41
        rest = stirling(y, guard)
        difference = (y * q - p << guard) // q
        # -ln weight = y ln(y / L) - (y - L) + ln(y / L) / 2 + what Stirling's series adds
        below_one = 1 << guard - 10
        low = ((2 * y + 1) * log[0] >> 49) - difference + rest[0] + below_one - 1
        high = ((2 * y + 1) * log[1] >> 49) - difference + rest[1] + below_one + 1
        return exp_minus(high, 1 << guard, bits)[0], exp_minus(low, 1 << guard, bits)[1]


class Skellam(NarrowLaw):
    """The difference of two Poisson laws of half the variance v each: I_|y|(v), divided by I_0(v)."""

    mode = 0

    def __init__(self, variance: float) -> None:
        self.parameter = variance
        self._variance = Fraction(variance)
        self._root = math.isqrt(math.ceil(variance)) + 1
        self.last = 13 * self._root + 60
        self.first = -self.last

    def _ratios(self, last: int, bits: int) -> Iterator[tuple[int, Bounds]]:
        """Bounds on I_n(v) / I_(n-1)(v) = 1 / (2 n / v + I_(n+1) / I_n), from `last` down to 1.

        They begin far beyond, between 0 and 1. Each step shrinks their distance by the square of the ratio.
        """
        one, v = 1 << bits, self._variance
        low, high = 0, one
        enough = (math.isqrt(bits) + 1) * self._root + bits // 2
        for n in range(last + enough, 0, -1):
            step = 2 * n * v.denominator * one // v.numerator
            low, high = one * one // (step + 1 + high), one * one // (step + low) + 1
            if n <= last:
                yield n, (low, high)

    def weights(self) -> list[int]:
        """Products of ratios, to more bits than are kept."""
        work = PRECISION + 64
        ratios = [low for _, (low, _) in self._ratios(self.last, work)][::-1]
        products = accumulate(ratios, lambda product, ratio: product * ratio >> work, initial=1 << work)
        half = [product >> work - PRECISION for product in products]
        return half[:0:-1] + half

    def weight(self, y: int, bits: int) -> Bounds:
        """The product of the ratios' bounds."""
        work = bits + 64
        low = high = 1 << work
        for _, (least, most) in self._ratios(abs(y), work):
            low, high = low * least >> work, (high * most >> work) + 1
        return low >> 64, (high >> 64) + 1


@dataclass(frozen=True)
class Table:
    """A law as the kernels read it.

    Each cell has a count of units, 2^32 in all. Of the last one's, one is for what is beyond to the right and
    one to the left; in a narrow law, one more is for each integer's missing part of a unit. What is left is
    for nobody: the variate is drawn anew.
    """

    law: Law
    arrays: LawArrays
    counts: tuple[int, ...]
    unit: int  # in units of 2^-256

    def settled(self, undecided: Undecided, more: Iterator[int]) -> int | None:
        """The value, if it stands, which as many of the words `more` decide as it takes."""
        if undecided.cell == len(self.counts) - 1:
            return self._from_last_cell(more)
        height, bits = self.unit * self.counts[undecided.cell], 128 - self.arrays.block_bits
        weight = self._weight(undecided.value)
        return undecided.value if stands(weight, height, more, undecided.uniform, bits) else None

    def _weight(self, y: int, doublings: int = 0) -> Callable[[int], Bounds]:
        def weight(bits: int) -> Bounds:
            low, high = self.law.weight(y, bits)
            return low << doublings, high << doublings

        return weight

    def _from_last_cell(self, more: Iterator[int]) -> int | None:
        choice = below(self.counts[-1], more)
        if choice < 2:
            return self._beyond(bool(choice), more)
        y = self.law.first + choice - 2
        if self.arrays.block_bits or y > self.law.last:
            return None
        whole = self.counts[choice - 2] * self.unit

        def missing(bits: int) -> Bounds:
            low, high = self.law.weight(y, bits)
            return low - (whole << bits - PRECISION), high - (whole << bits - PRECISION)

        return y if stands(missing, self.unit, more) else None

    def _beyond(self, right: bool, more: Iterator[int]) -> int | None:
        """Blocks of at least a deviation, of probability 1/2, 1/4, 1/8, ...; weights fall by more."""
        block, size_bits = halvings(more), self.beyond_bits
        distance = (block << size_bits) + next(more) % 2**size_bits
        y = self.end + distance if right else self.law.first - 1 - distance
        doublings = block + 1 + size_bits - self.arrays.block_bits
        return y if stands(self._weight(y, doublings), self.unit, more) else None

    @property
    def beyond_bits(self) -> int:
        """2^beyond_bits integers are a block beyond the cells."""
        return self.arrays.block_bits + 6 if self.arrays.block_bits else self.arrays.index_bits

    @property
    def end(self) -> int:
        """The first integer to the right that is in no cell."""
        block_bits = self.arrays.block_bits
        return self.law.first + ((self.law.last - self.law.first >> block_bits) + 1 << block_bits)


@lru_cache(maxsize=32)
def table(name: str, parameter: float) -> Table:
    """The table of "poisson", or of "skellam" where it is narrow; cached. Single integers where they fit."""
    if is_narrow(name, parameter):
        return point_table(_LAWS[name](parameter))
    return block_table(WidePoisson(parameter))


@lru_cache(maxsize=64)
def is_narrow(name: str, parameter: float) -> bool:
    """Whether 2^12 cells are enough for the law's integers."""
    return _index_bits(_LAWS[name](parameter)) <= MAX_INDEX_BITS


_LAWS: dict[str, Callable[[float], NarrowLaw]] = {"poisson": Poisson, "skellam": Skellam}


def _index_bits(law: Law) -> int:
    """Enough to number the integers of a law, and two more."""
    return (law.last - law.first + 2).bit_length()


def point_table(law: NarrowLaw) -> Table:
    """One integer a cell."""
    bits, weights = _index_bits(law), law.weights()
    unit = -(-sum(weights) // (_COUNTS - 2**bits))
    # A weight that may be on either side of a multiple of the unit has no count that is surely its own.
    while any((w + _TABLE_ERROR) // unit != max(w - _TABLE_ERROR, 0) // unit for w in weights):
        unit += 1
    counts = [w // unit for w in weights]
    return Table(law, _arrays(law, bits, 0, _filled(counts, bits)), _filled(counts, bits), unit)


def block_table(law: Law) -> Table:
    """2^10 cells at most, of blocks of a power of two."""
    block_bits = _index_bits(law) - _BLOCK_INDEX_BITS
    block_bits += law.last - law.first >> block_bits == 2**_BLOCK_INDEX_BITS - 1  # the last cell is taken
    size = 1 << block_bits
    starts = range(law.first, law.last + 1, size)
    ends = [law.weight(y, PRECISION) for y in (*starts, starts[-1] + size)]
    tops, leasts = [], []
    for start, left, right in zip(starts, ends, ends[1:], strict=False):
        top = law.weight(law.mode, PRECISION) if start <= law.mode < start + size else max(left, right)
        tops.append(top[1])
        leasts.append(min(left[0], right[0]))
    unit = least_unit(tops, _COUNTS - 2)
    counts = _filled([-(-top // unit) for top in tops], _BLOCK_INDEX_BITS)
    return Table(law, _arrays(law, _BLOCK_INDEX_BITS, block_bits, counts, unit, leasts), counts, unit)


def _filled(counts: list[int], index_bits: int) -> tuple[int, ...]:
    """2^index_bits counts that add up: empty cells, and the rest in the last one."""
    return (*counts, *[0] * (2**index_bits - 1 - len(counts)), _COUNTS - sum(counts))


def _arrays(
    law: Law,
    index_bits: int,
    block_bits: int,
    counts: tuple[int, ...],
    unit: int = 0,
    leasts: list[int] | None = None,
) -> LawArrays:
    """What C reads. Of blocks: 2^16 times the least acceptance, and the height's logarithm."""
    cells = [threshold << index_bits | alias for threshold, alias in alias_columns(list(counts))]
    least: npt.NDArray[np.uint32] = np.zeros(0, np.uint32)
    log_heights: npt.NDArray[np.float64] = np.zeros(0)
    if leasts is not None:
        blank = [0] * (len(counts) - len(leasts))
        heights = [unit * n for n in counts[: len(leasts)]]
        least = np.array([(w << 16) // h for w, h in zip(leasts, heights, strict=True)] + blank, np.uint32)
        log_heights = np.array([logarithm(height) for height in heights] + blank, np.float64)
    return LawArrays(
        index_bits, block_bits, law.first, law.parameter, np.array(cells, np.uint32), least, log_heights
    )
