"""Laws on the integers from mpmath, and the core's way from words to variates, said plainly."""

from collections.abc import Iterator
from itertools import islice

import mpmath as mp
import numpy as np

from reference.masks_reference import noise_stream

DIGITS = 70


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


def stream(key: bytes, chunk: int, retry: int, purpose: int, size: int) -> Iterator[int]:
    """Words of `size` bytes."""
    data = noise_stream(key, (chunk, retry, purpose), 0, 1 << 16)
    for position in range(0, len(data), size):
        yield int.from_bytes(data[position : position + size], "little")


def points(arrays, key: bytes, size: int) -> list[int]:
    """Walker's method word by word: a table of single integers, thresholds of 32 - k bits."""
    k, words = arrays.index_bits, stream(key, 0, 0, 0, 4)
    out = []
    for word in islice(words, size):
        index, fraction = word >> (32 - k), word % 2 ** (32 - k)
        threshold, alias = divmod(int(arrays.cells[index]), 2**k)
        out.append(arrays.first + (index if fraction < threshold else alias))
    return out
