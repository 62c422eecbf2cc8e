"""What the exact samplers share: candidates from integers, comparisons of uniform reals with real numbers.

A law is sampled by rejection. Candidates come from a table whose probabilities are integers over a power of
two; each stands with a probability that is computed to as many bits as it takes to compare it with a uniform
real, whose bits are drawn as they are needed. So nothing is rounded, cut off or normalised, and the law is
exact.

Bounds on a real number are a pair of integers in units of 2^-bits.

References
----------
[Olv97] Olver. Asymptotics and Special Functions. A K Peters, 1997.
[Wal77] Walker. An Efficient Method for Generating Discrete Random Variables with General Distributions. ACM
    TOMS 3(3), 1977.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import count

PRECISION = 256

Bounds = tuple[int, int]


def stands(
    weight: Callable[[int], Bounds], height: int, more: Iterator[int], uniform: int = 0, bits: int = 0
) -> bool:
    """Whether a uniform real is below weight / height, from as many of its digits as it takes.

    `weight(n)` are bounds in units of 2^-n, and `height` is in units of 2^-256. `uniform` are the first
    `bits` binary digits; `more` gives further ones, 64 at a time.
    """
    while True:
        low, high = weight(PRECISION + bits)
        if (uniform + 1) * height <= low:
            return True
        if uniform * height >= high:
            return False
        uniform, bits = uniform << 64 | next(more), bits + 64


def halvings(more: Iterator[int]) -> int:
    """0 with probability 1/2, 1 with 1/4, 2 with 1/8, ..."""
    ones = 0
    while (word := next(more)) == 2**64 - 1:
        ones += 64
    return ones + (~word & word + 1).bit_length() - 1


def least_unit(tops: list[int], limit: int) -> int:
    """The least unit of which `limit` are enough to reach each of the tops from below."""
    low, high = 0, sum(tops)
    while high - low > 1:
        middle = (low + high) // 2
        enough = sum(-(-top // middle) for top in tops) <= limit
        low, high = (low, middle) if enough else (middle, high)
    return high


def alias_columns(counts: list[int]) -> list[tuple[int, int]]:
    """Walker's alias table [Wal77]: a threshold and an alias for each of as many columns as there are counts.

    A column is a cell's own below its threshold, and its alias's from there on; all are sum(counts) /
    len(counts) wide, which is a whole number. Each cell has exactly its count.
    """
    width = sum(counts) // len(counts)
    parts, alias = list(counts), list(range(len(counts)))
    small = [i for i, part in enumerate(parts) if part < width]
    large = [i for i, part in enumerate(parts) if part >= width]
    while small:
        poor, rich = small.pop(), large[-1]
        alias[poor] = rich
        parts[rich] -= width - parts[poor]
        if parts[rich] < width:
            small.append(large.pop())
    # A whole column is its own alias, and its threshold does not matter.
    return [(part if part < width else 0, other) for part, other in zip(parts, alias, strict=True)]


def logarithm(number: int) -> float:
    """The logarithm of a number in units of 2^-256, up to 2^-46."""
    mantissa, exponent = math.frexp(Fraction(number, 1 << PRECISION))
    return math.log(mantissa) + exponent * math.log(2.0)


def exp_minus(p: int, q: int, bits: int) -> Bounds:
    """Bounds on exp(-p / q), p >= 0, three units apart: Taylor's series at a 2^s-th, squared s times."""
    squarings = (p // q).bit_length() + 8
    work = bits + squarings + 16
    small = (p << work - squarings) // q
    term = total = 1 << work
    for j in range(1, work):
        term = -(term * small >> work) // j
        if term in (0, -1):
            break
        total += term
    for _ in range(squarings):
        total = total * total >> work
    middle = total >> (work - bits)
    return max(middle - 1, 0), middle + 2


def log_near_one(p: int, q: int, bits: int) -> Bounds:
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


_bernoulli_numbers = [Fraction(1)]  # B_0, B_1, B_2, ...


def _bernoulli_number(n: int) -> Fraction:
    known = _bernoulli_numbers
    for m in range(len(known), n + 1):
        known.append(-sum((math.comb(m + 1, k) * known[k] for k in range(m)), Fraction(0)) / (m + 1))
    return known[n]


def stirling(y: int, bits: int) -> Bounds:
    """Bounds on ln y! - (y + 1/2) ln y + y - ln(2 pi) / 2, by Stirling's series.

    The error is less than the first term left out. The terms, B_2j / (2j (2j - 1) y^(2j - 1)), fall until
    they are about exp(-2 pi y): ArithmeticError beyond, that is for more than some 9 y bits.
    """
    total, power, least = 0, y, 1 << bits + 8
    for j in count(1):
        coefficient = _bernoulli_number(2 * j) / (2 * j * (2 * j - 1))
        term = (coefficient.numerator << bits + 8) // (coefficient.denominator * power)
        if term in (0, -1):
            return (total - j >> 8) - 1, (total + j >> 8) + 2
        if abs(term) > least:
            break
        total, power, least = total + term, power * y * y, abs(term)
    raise ArithmeticError(f"Stirling's series at {y} does not reach {bits} bits")


def scaled_bessel(n: int, p: int, q: int, bits: int) -> Bounds:
    """Bounds on sqrt(2 pi x) exp(-x) I_n(x), for n >= 0 and x = p / q >= 2^14, a few units apart.

    By Hankel's series [Olv97, ch. 7, sec. 13], with the error that docs/noise.md proves: for n, K <= x / 4 it
    is at most max(1, K / (n - 1/2)) times the first term left out, the K-th, plus 2^(-x / 2). ArithmeticError
    where that is not enough; further out the value is below 2^(-x / 32).
    """
    if bits * 32 * q > p:
        raise ArithmeticError(f"the weight of {n} for a variance of {p / q!r} to {bits} bits")
    if 4 * n * q > p:
        return 0, 1
    if n == 0:  # I_0 = I_2 + 2 I_1 / x
        (low, high), (least, most) = (scaled_bessel(m, p, q, bits) for m in (1, 2))
        return least + 2 * low * q // p, most + 2 * high * q // p + 1
    guard = 32 + 3 * n * n * q // (4 * p)  # terms grow to exp(n^2 / 2 x)
    term = total = 1 << bits + guard
    error = total_error = 0
    for k in count():
        numerator, denominator = (4 * n * n - (2 * k + 1) ** 2) * q, 8 * (k + 1) * p
        term = -term * numerator // denominator
        error = error * abs(numerator) // denominator + 2
        if term in (0, -1):
            break
        total, total_error = total + term, total_error + error
    if 4 * (k + 1) * q > p:
        raise ArithmeticError(f"Hankel's series at {p / q!r} does not reach {bits} bits")
    total_error += 2 * (k + 1) * (1 + error)
    return max((total - total_error >> guard) - 1, 0), (total + total_error >> guard) + 2
