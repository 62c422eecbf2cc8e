"""Box and Muller's method on the core's words, with 40 digits; the words of float32 as a lattice."""

import mpmath as mp
import numpy as np

MULTIPLIER = 0x9E3778C1


def radius(side: int, y: mp.mpf) -> mp.mpf:
    """sqrt(-2 ln u) for u = 1 - y or y."""
    return mp.sqrt(-2 * (mp.log1p(-y) if side else mp.log(y)))


def turned(length: mp.mpf, quarters: int, t: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    angle = mp.pi / 2 * (quarters + t)
    return length * mp.cos(angle), length * mp.sin(angle)


def pair32(first: int, second: int) -> tuple[mp.mpf, mp.mpf]:
    """A side and 31 bits of y, then 31 more; the direction is the second word times a constant."""
    with mp.workdps(40):
        side, high = divmod(first, 2**31)
        high = 2**31 - 1 - high if side else high
        y = (mp.mpf(high) * 2**31 + (second >> 1) + 0.5) / 2**63
        quarters, angle = divmod(second * MULTIPLIER % 2**32, 2**30)
        angle -= 2**30 if angle >= 2**29 else 0
        return turned(radius(side, y), quarters, (angle + mp.mpf(1) / 2) / 2**30)


def pair64(first: int, second: int) -> tuple[mp.mpf, mp.mpf]:
    """A side and 63 bits of y; quarters by two bits and an angle within an eighth of a turn by 62."""
    with mp.workdps(40):
        side, y = divmod(first, 2**63)
        y = 2**63 - 1 - y if side else y
        quarters, angle = divmod(second, 2**62)
        return turned(
            radius(side, (mp.mpf(y) + 0.5) / 2**64), quarters, (angle + mp.mpf(1) / 2) / 2**62 - 0.5
        )


def outermost(count: int, multiplier: int = MULTIPLIER) -> np.ndarray:
    """Cosine coordinates of the `count` pairs of words with the largest radii, of probability 2^-64 each."""
    second = np.arange(count, dtype=np.uint32)
    length = np.sqrt(-2 * np.log(((second >> np.uint32(1)) + 0.5) / 2.0**63))
    return length * np.cos((second * np.uint32(multiplier) + 0.5) * (2 * np.pi / 2.0**32))


def quotients(numerator: int, denominator: int) -> list[int]:
    """The continued fraction of a fraction."""
    found = []
    while denominator:
        quotient, rest = divmod(numerator, denominator)
        found.append(quotient)
        numerator, denominator = denominator, rest
    return found
