"""Laws on the integers as integers in tables, for csrc/lattice.c; and the decisions that C leaves open.

A table holds the probabilities of 2^k cells in units of 2^-160. Where a law is narrow a cell is one integer.
Where it is wide, a cell is a block of 2^b integers, with a height that no weight in it exceeds: a value is
drawn uniformly in the block and accepted with probability weight / height, decided exactly however many bits
it takes, so that blocks add no error to that of the table.

What is left out: beyond `first` .. `last` a law has less than 2^-105 of its mass, and a probability is off by
2^-150 at most. `DISTANCE` bounds the total variation distance between one variate and its law.

All of it is integers and fractions. Parameters are the exact values of their doubles. The only doubles that
come out, logarithms of heights, are read with room for their rounding (csrc/lattice.c).

References
----------
[Wal77] Walker. An Efficient Method for Generating Discrete Random Variables with General Distributions. ACM
    TOMS 3(3), 1977.
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

from fedsec._kernels import LawArrays

DISTANCE = 2.0**-100
MAX_INDEX_BITS = 12
THRESHOLD_BITS = 160  # 32 - k in the first word, k less than no bits, and 128: all cells together
_PRECISION = 256
_BLOCK_INDEX_BITS = 10
_REACH = Fraction(63, 5)  # 12.6 deviations of a Gaussian leave 2^-114


class Law(ABC):
    """Weights of integers, up to a common factor, between `first` and `last`; they rise, then fall."""

    kind: int
    parameter: float
    first: int
    last: int

    @abstractmethod
    def weights(self) -> list[int]:
        """All weights from first to last in units of 2^-256, off by 2^-200 of the largest at most."""

    @abstractmethod
    def weight(self, y: int, bits: int) -> tuple[int, int]:
        """Bounds on the weight of y in units of 2^-bits, a few units apart."""

    @property
    @abstractmethod
    def mode(self) -> int:
        """An integer with the largest weight."""


class DiscreteGaussian(Law):
    """exp(-y^2 / (2 stddev^2)); twelve deviations and a half to either side."""

    kind = 0

    def __init__(self, stddev: float) -> None:
        self.parameter = stddev
        self._twice_variance = 2 * Fraction(stddev) ** 2
        self.last = math.ceil(_REACH * Fraction(stddev)) + 2
        self.first = -self.last

    @property
    def mode(self) -> int:
        return 0

    def weights(self) -> list[int]:
        """By ratios: the weight of y + 1 is that of y times a^(2 y + 1), a = exp(-1 / (2 stddev^2))."""
        ratio = self.weight(1, _PRECISION)[0]
        square = ratio * ratio >> _PRECISION
        half = [1 << _PRECISION]
        for _ in range(self.last):
            half.append(half[-1] * ratio >> _PRECISION)
            ratio = ratio * square >> _PRECISION
        return half[:0:-1] + half

    def weight(self, y: int, bits: int) -> tuple[int, int]:
        variance = self._twice_variance
        return exp_minus(y * y * variance.denominator, variance.numerator, bits)


class Poisson(Law):
    """exp(-mean) mean^y / y!; where the law is wide times sqrt(2 pi mean) exp(-1 / 1024), hence below 1.

    By Chernoff's bounds less than 2^-105 of the mass is beyond: exp(-mean phi((last - mean) / mean)) on the
    right, exp(-(mean - first)^2 / (2 mean)) on the left (docs/noise.md).
    """

    kind = 1

    def __init__(self, mean: float) -> None:
        self.parameter = mean
        self._mean = Fraction(mean)
        root = math.isqrt(math.ceil(self._mean)) + 1
        self.first = max(0, math.floor(self._mean) - 13 * root)
        self.last = math.ceil(self._mean) + 13 * root + 60

    @property
    def mode(self) -> int:
        return math.floor(self._mean)

    def weights(self) -> list[int]:
        """By ratios from the mode, whose weight is 1, down to either side."""
        above, below = [1 << _PRECISION], [1 << _PRECISION]
        p, q = self._mean.numerator, self._mean.denominator
        for y in range(self.mode + 1, self.last + 1):
            above.append(above[-1] * p // (q * y))
        for y in range(self.mode, self.first, -1):
            below.append(below[-1] * q * y // p)
        return below[:0:-1] + above

    def weight(self, y: int, bits: int) -> tuple[int, int]:
        """By Stirling's series, whose error is less than its first term left out, and of its sign."""
        guard = bits + 64
        p, q = self._mean.numerator, self._mean.denominator
        log = log_near_one(y * q, p, guard + 48)  # times y < 2^41
        rest = _stirling(y, guard)
        difference = (y * q - p << guard) // q
        # -ln weight = y ln(y / L) - (y - L) + ln(y / L) / 2 + what Stirling's series adds
        below_one = 1 << guard - 10
        low = ((2 * y + 1) * log[0] >> 49) - difference + rest[0] + below_one - 1
        high = ((2 * y + 1) * log[1] >> 49) - difference + rest[1] + below_one + 1
        return (
            exp_minus(high, 1 << guard, bits)[0],
            exp_minus(low, 1 << guard, bits)[1],
        )


class Skellam(Law):
    """The difference of two Poisson laws of half the variance each: exp(-v) I_|y|(v).

    Pr[Y >= y] <= exp(-y asinh(y / v) + sqrt(y^2 + v^2) - v), Chernoff's bound.
    """

    kind = -1  # never in blocks

    def __init__(self, variance: float) -> None:
        self.parameter = variance
        self._variance = Fraction(variance)
        root = math.isqrt(math.ceil(self._variance)) + 1
        self.last = 13 * root + 60
        self.first = -self.last

    @property
    def mode(self) -> int:
        return 0

    def weights(self) -> list[int]:
        """By the ratios I_(n+1)(v) / I_n(v) = 1 / (2 (n + 1) / v + I_(n+2) / I_(n+1)), from far beyond down.

        Each step shrinks an error by the square of the ratio, so that no error of the first one is left.
        """
        one, v = 1 << _PRECISION, self._variance
        far = self.last + 40 * (math.isqrt(math.ceil(v)) + 1) + 300
        ratio, ratios = 0, []
        for n in range(far, 0, -1):
            step = 2 * n * v.denominator * one // v.numerator
            ratio = one * one // (step + ratio)
            ratios.append(ratio)
        half = list(accumulate(ratios[::-1][: self.last], lambda w, r: w * r >> _PRECISION, initial=one))
        return half[:0:-1] + half

    def weight(self, y: int, bits: int) -> tuple[int, int]:
        raise NotImplementedError("Skellam noise that is wide is a difference of Poisson variates")


@dataclass(frozen=True)
class Table:
    """A law as the kernels read it, and the heights of its blocks as integers in units of 2^-256."""

    law: Law
    arrays: LawArrays
    heights: tuple[int, ...] = ()

    def accepts(self, cell: int, value: int, uniform: int, more: Iterator[int]) -> bool:
        """Whether a uniform real is below weight(value) / height(cell).

        `uniform` are its first 128 - block_bits binary digits; `more` gives further ones, 64 at a time, as
        many as it takes.
        """
        height, bits = self.heights[cell], 128 - self.arrays.block_bits
        while True:
            low, high = self.law.weight(value, _PRECISION + bits)
            if (uniform + 1) * height <= low:
                return True
            if uniform * height >= high:
                return False
            uniform, bits = uniform << 64 | next(more), bits + 64


@lru_cache(maxsize=32)
def tables(name: str, parameter: float) -> tuple[Table, ...]:
    """The table of "discrete_gaussian", "poisson" or "skellam", cached.

    Single integers where 2^12 cells are enough, else blocks. Skellam noise that is wider than that is the
    difference of the variates of two tables.
    """
    law = _LAWS[name](parameter)
    if index_bits_of(law) <= MAX_INDEX_BITS:
        return (point_table(law),)
    if name == "skellam":
        return tables("poisson", parameter / 2.0) * 2
    return (block_table(law),)


_LAWS: dict[str, Callable[[float], Law]] = {
    "discrete_gaussian": DiscreteGaussian,
    "poisson": Poisson,
    "skellam": Skellam,
}


def index_bits_of(law: Law) -> int:
    """How many bits number the integers of a law."""
    return (law.last - law.first).bit_length()


def point_table(law: Law) -> Table:
    """One integer a cell."""
    bits = index_bits_of(law)
    cells = alias_table(law.weights(), bits)
    arrays = LawArrays(
        law.kind, bits, 0, law.first, law.parameter, *cells, np.zeros(0, np.uint32), np.zeros(0)
    )
    return Table(law, arrays)


def block_table(law: Law) -> Table:
    """2^10 cells at most, of blocks of a power of two."""
    block_bits = index_bits_of(law) - _BLOCK_INDEX_BITS
    size, n = 1 << block_bits, 1 << _BLOCK_INDEX_BITS
    starts = range(law.first, law.last + 1, size)
    ends = [law.weight(y, _PRECISION) for y in (*starts, starts[-1] + size)]
    heights, least = [], []
    for start, left, right in zip(starts, ends, ends[1:], strict=False):
        top = law.weight(law.mode, _PRECISION) if start <= law.mode < start + size else max(left, right)
        heights.append(top[1])
        least.append((min(left[0], right[0]) << 16) // top[1])
    blank = n - len(heights)  # cells that are never drawn
    arrays = LawArrays(
        law.kind,
        _BLOCK_INDEX_BITS,
        block_bits,
        law.first,
        law.parameter,
        *alias_table(heights, _BLOCK_INDEX_BITS),
        np.array(least + [0] * blank, np.uint32),
        np.array([_log(height) for height in heights] + [0.0] * blank),
    )
    return Table(law, arrays, tuple(heights))


def alias_table(weights: list[int], index_bits: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
    """Walker's alias table [Wal77] of 2^index_bits cells: thresholds of 160 - index_bits bits, and aliases.

    Probabilities are rounded down to multiples of 2^-160, and the largest takes what is left.
    """
    n, total = 1 << index_bits, sum(weights)
    width = 1 << (THRESHOLD_BITS - index_bits)
    parts = [(weight << THRESHOLD_BITS) // total for weight in weights] + [0] * (n - len(weights))
    parts[parts.index(max(parts))] += (1 << THRESHOLD_BITS) - sum(parts)
    alias = list(range(n))
    small = [i for i, part in enumerate(parts) if part < width]
    large = [i for i, part in enumerate(parts) if part >= width]
    while small:
        poor, rich = small.pop(), large[-1]
        alias[poor] = rich
        parts[rich] -= width - parts[poor]
        if parts[rich] < width:
            small.append(large.pop())
    # A whole cell is its own alias, and its threshold does not matter.
    thresholds = [part if part < width else 0 for part in parts]
    low = (1 << 128) - 1
    cells = [
        threshold >> 128 << index_bits | other for threshold, other in zip(thresholds, alias, strict=True)
    ]
    rest = [word for part in thresholds for word in ((part & low) >> 64, part & (1 << 64) - 1)]
    return np.array(cells, np.uint32), np.array(rest, np.uint64)


def masses(arrays: LawArrays) -> list[int]:
    """The probabilities of all cells in units of 2^-160, read back from an alias table."""
    k, width = arrays.index_bits, 1 << (THRESHOLD_BITS - arrays.index_bits)
    found = [0] * len(arrays.cells)
    for index, entry in enumerate(map(int, arrays.cells)):
        high, low = (int(word) for word in arrays.rest[2 * index : 2 * index + 2])
        threshold = (entry >> k << 128) + (high << 64) + low
        found[index] += threshold
        found[entry & ((1 << k) - 1)] += width - threshold
    return found


# --- exact elementary functions: bounds in units of 2^-bits ---


def exp_minus(p: int, q: int, bits: int) -> tuple[int, int]:
    """Bounds on exp(-p / q), p >= 0, three units apart: Taylor's series at a 2^s-th, squared s times."""
    halvings = (p // q).bit_length() + 8
    work = bits + halvings + 16
    small = (p << work - halvings) // q
    term = total = 1 << work
    for j in range(1, work):
        term = -(term * small >> work) // j
        if term in (0, -1):
            break
        total += term
    for _ in range(halvings):
        total = total * total >> work
    middle = total >> (work - bits)
    return max(middle - 1, 0), middle + 2


def log_near_one(p: int, q: int, bits: int) -> tuple[int, int]:
    """Bounds on ln(p / q), three units apart, p / q in [1/2, 2]: 2 atanh(z), z = (p - q) / (p + q)."""
    work = bits + 16
    z = (p - q << work) // (p + q)
    square, power, total = z * z >> work, z, 0
    for j in range(1, work, 2):
        total += power // j
        power = power * square >> work
        if power in (0, -1):
            break
    middle = total >> (work - bits - 1)
    return middle - 1, middle + 2


# B_2j / (2j (2j - 1)), the coefficients of y^(1 - 2j)
_STIRLING = [
    Fraction(b) / (2 * j * (2 * j - 1))
    for j, b in enumerate(
        map(
            Fraction,
            [
                "1/6",
                "-1/30",
                "1/42",
                "-1/30",
                "5/66",
                "-691/2730",
                "7/6",
                "-3617/510",
                "43867/798",
                "-174611/330",
                "854513/138",
                "-236364091/2730",
                "8553103/6",
                "-23749461029/870",
                "8615841276005/14322",
            ],
        ),
        start=1,
    )
]


def _stirling(y: int, bits: int) -> tuple[int, int]:
    """Bounds on ln y! - (y + 1/2) ln y + y - ln(2 pi) / 2: sums of one term less, and of all."""
    totals, total, power, scale = [], 0, y, 1 << (bits + 8)
    for coefficient in _STIRLING:
        total += coefficient.numerator * scale // (coefficient.denominator * power)
        totals.append(total)
        power *= y * y
    low, high = sorted(totals[-2:])
    return (low >> 8) - 1, (high >> 8) + 2


def _log(weight: int) -> float:
    """The logarithm of a weight in units of 2^-256."""
    mantissa, exponent = math.frexp(Fraction(weight, 1 << _PRECISION))
    return math.log(mantissa) + exponent * math.log(2.0)
