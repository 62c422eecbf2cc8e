"""Box and Muller's method on the core's words, with 40 digits; the words of float32 as a lattice."""

import mpmath as mp
import numpy as np

MULTIPLIER = 0x9E3778C1


def signed(word: int, bits: int) -> int:
    return word - (word >> (bits - 1) << bits)


def radius(s: mp.mpf) -> mp.mpf:
    """sqrt(-2 ln u) for u = s or 1 + s."""
    return mp.sqrt(-2 * (mp.log1p(s) if s < 0 else mp.log(s)))


def turned(length: mp.mpf, turns: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    return length * mp.cos(2 * mp.pi * turns), length * mp.sin(2 * mp.pi * turns)


def pair32(first: int, second: int) -> tuple[mp.mpf, mp.mpf]:
    """The words are a signed number of 64 bits; the direction is the second times a constant."""
    with mp.workdps(40):
        s = (mp.mpf(signed(first, 32)) * 2**32 + signed(second, 32) + 0.5) / 2**64
        return turned(radius(s), (second * MULTIPLIER % 2**32 + mp.mpf(1) / 2) / 2**32)


def pair64(first: int, second: int) -> tuple[mp.mpf, mp.mpf]:
    """A signed number; a sixteenth of a turn by 4 bits, and where in it by all, from its middle on."""
    with mp.workdps(40):
        s = (mp.mpf(signed(first, 64)) + 0.5) / 2**64
        return turned(radius(s), (second % 16 + mp.mpf(signed(second, 64)) / 2**64) / 16)


def outermost(count: int, multiplier: int = MULTIPLIER) -> np.ndarray:
    """Cosine coordinates of the `count` pairs of words with the largest radii, of probability 2^-64 each."""
    second = np.arange(count, dtype=np.uint32)
    length = np.sqrt(-2 * np.log((second + 0.5) / 2.0**64))
    return length * np.cos((second * np.uint32(multiplier) + 0.5) * (2 * np.pi / 2.0**32))


def quotients(numerator: int, denominator: int) -> list[int]:
    """The continued fraction of a fraction."""
    found = []
    while denominator:
        quotient, rest = divmod(numerator, denominator)
        found.append(quotient)
        numerator, denominator = denominator, rest
    return found
