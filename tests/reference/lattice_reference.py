"""Laws on the integers from mpmath, and the core's way from words to variates, said plainly."""

from collections.abc import Iterator

import mpmath as mp
import numpy as np

from reference.masks_reference import noise_stream

DIGITS = 70
THRESHOLD_BITS = 160


def mass(name: str, parameter: float, y: int) -> mp.mpf:
    """The probability of y, but for "discrete_gaussian": its weight, 1 at zero."""
    with mp.workdps(DIGITS):
        x = mp.mpf(parameter)
        if name == "discrete_gaussian":
            return mp.exp(-(mp.mpf(y) ** 2) / (2 * x * x))
        if name == "poisson":
            return mp.exp(y * mp.log(x) - x - mp.loggamma(y + 1)) if y >= 0 else mp.mpf(0)
        return mp.exp(-x) * mp.besseli(abs(y), x)


def masses(name: str, parameter: float, first: int, last: int) -> np.ndarray:
    """All of them in double precision."""
    return np.array([float(mass(name, parameter, y)) for y in range(first, last + 1)])


def log_tail(name: str, parameter: float, y: int) -> mp.mpf:
    """ln of Chernoff's bound on the tail from y on, away from the mean; doubled for symmetric laws."""
    with mp.workdps(30):
        x, n = mp.mpf(parameter), mp.mpf(y)
        if name == "discrete_gaussian":  # a geometric series of ratio exp(-y / s^2), over sqrt(2 pi) s or 1
            series = -n * n / (2 * x * x) - mp.log(1 - mp.exp(-n / (x * x)))
            return mp.log(2) + series - mp.log(max(1, mp.sqrt(2 * mp.pi) * x))
        if name == "poisson":
            return n - x - n * mp.log(n / x)
        return mp.log(2) - n * mp.asinh(n / x) + mp.sqrt(n * n + x * x) - x


def stream(key: bytes, chunk: int, retry: int, purpose: int, size: int) -> Iterator[int]:
    """Words of `size` bytes."""
    data = noise_stream(key, (chunk, retry, purpose), 0, 1 << 16)
    for position in range(0, len(data), size):
        yield int.from_bytes(data[position : position + size], "little")


def points(arrays, key: bytes, size: int) -> list[int]:
    """Walker's method word by word: a table of single integers, and thresholds of 160 - k bits."""
    k, words, more = arrays.index_bits, stream(key, 0, 0, 0, 4), stream(key, 0, 0, 2, 8)
    out = []
    for _ in range(size):
        word = next(words)
        index, fraction = word >> (32 - k), word % 2 ** (32 - k)
        threshold, alias = divmod(int(arrays.cells[index]), 2**k)
        below = fraction < threshold
        if fraction == threshold:
            high, low = (int(part) for part in arrays.rest[2 * index : 2 * index + 2])
            below = next(more) << 64 | next(more)
            below = below < (high << 64 | low)
        out.append(arrays.first + (index if below else alias))
    return out
