"""Discrete Gaussian, Skellam and Poisson noise from words to variates, each candidate decided with mpmath.

Of the core's table only the whole numbers are read: thresholds and aliases, counts, and the unit of a count.
"""

from collections.abc import Iterator
from itertools import count

import mpmath as mp
import numpy as np

from fedsec import _laws
from reference.masks_reference import noise_stream

GROUP, BLOCK, CELLS = 1024, 32, 64
DIGITS = 120


def numbers(data: bytes, size: int) -> list[int]:
    return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


def further(key: bytes, chunk: int, candidate: int) -> Iterator[int]:
    """A candidate's own stream: the second block of 16 bytes and on is what integers read."""
    for block in count():
        yield from numbers(noise_stream(key, (chunk, candidate, 2), block, 16), 8)


def candidates(table, key: bytes, chunk: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Number, cell, value and the first 16 binary digits of the uniform real."""
    block_bits = table.block_bits or 0
    wide = block_bits > 17
    size = 6 * GROUP + (4 * GROUP if wide else 0)
    for group in count():
        data = noise_stream(key, (chunk, 0, 0), group * size // 16, size)
        choices, uniforms, offsets = (numbers(data[2 * GROUP * i : 2 * GROUP * (i + 1)], 2) for i in range(3))
        rest = numbers(data[6 * GROUP :], 4) if wide else [0] * GROUP
        for start in range(0, GROUP, BLOCK):
            lanes = [*range(start, start + BLOCK, 2), *range(start + 1, start + BLOCK, 2)]
            for place, lane in enumerate(lanes, start):
                column, fraction = choices[lane] % CELLS, choices[lane] >> 8
                threshold, alias = divmod(table.structure.cells[column], 256)
                cell = column if fraction < threshold else alias
                shown = (offsets[lane] << 1 | choices[lane] >> 7 & 1) >> max(17 - block_bits, 0)
                hidden = max(block_bits - 17, 0)
                low_bits = rest[place] >> 32 - hidden
                if table.block_bits is None:
                    value = cell
                elif choices[lane] >> 6 & 1:  # complements, but for the bits that are not shown
                    value = (~(cell << min(block_bits, 17) | shown)) << hidden | low_bits
                else:
                    value = (cell << min(block_bits, 17) | shown) << hidden | low_bits
                yield group * GROUP + place, cell, table.first + value, uniforms[lane]


def mass(name: str, parameter: float, y: int) -> mp.mpf:
    """The probability of y."""
    with mp.workdps(DIGITS):
        x = mp.mpf(parameter)
        if name == "poisson":
            return mp.exp(y * mp.log(x) - x - mp.loggamma(y + 1)) if y >= 0 else mp.mpf(0)
        return mp.exp(-x) * mp.besseli(abs(y), x)


def masses(name: str, parameter: float, first: int, last: int) -> np.ndarray:
    """All of them in double precision."""
    return np.array([float(mass(name, parameter, y)) for y in range(first, last + 1)])


def weight(law, y: int) -> mp.mpf:
    """In the law's own unit."""
    v = mp.mpf(law.variance.numerator) / law.variance.denominator
    gaussian = mp.exp(-(mp.mpf(y - law.middle) ** 2) / (2 * v))
    if isinstance(law, _laws.DiscreteGaussian):
        return gaussian
    name = "skellam" if law.even else "poisson"
    if isinstance(law, _laws.NarrowLaw):
        return mass(name, law.parameter, y) / mass(name, law.parameter, law.middle)
    if (y - law.middle) ** 2 > 81 * v:  # so far out nobody sees a difference
        return gaussian
    below_one = 0 if law.even else mp.mpf(2) ** -10
    return mass(name, law.parameter, y) * mp.sqrt(2 * mp.pi * v) * mp.exp(-below_one)


def probability(table, cell: int, value: int) -> mp.mpf:
    """With which a candidate stands."""
    with mp.workdps(DIGITS):
        return weight(table.law, value) * 2**256 / (table.counts[cell] * table.unit)


def variates(table, key: bytes, size: int) -> list[int]:
    """The candidates that stand, in order; uniform reals of 16 + 64 digits, and none in the last cell."""
    out: list[int] = []
    for number, cell, value, first in candidates(table, key):
        if len(out) == size:
            break
        acceptance = probability(table, cell, value)
        whole = mp.floor(acceptance * 2**16)
        part = acceptance * 2**16 - whole
        if cell == CELLS - 1:
            assert first > 8, "never in these tests"
            continue
        if first != int(whole):
            standing = first < whole
        else:
            digits = next(further(key, 0, number))
            assert abs(digits / 2**64 - part) > 2.0**-50, "never in these tests"
            standing = digits < part * 2**64
        if standing:
            out.append(value)
    return out
