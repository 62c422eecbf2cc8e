"""The discrete Gaussian as one would say it: the sampler over exact fractions, its mass and its slope.

The sampler is [CKS20, Alg. 1-3] word for word, on `fractions.Fraction`, reading the core's words in the
core's order from another library's AES: 64-bit little-endian words, one for each Bernoulli (more while
the drawn digits equal the probability's), one for each uniform candidate, one for each sign.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import count

import mpmath as mp
import numpy as np
from scipy.special import ndtri_exp

from reference.masks_reference import noise_stream

WORD = 2**64


def words(key: bytes) -> Iterator[int]:
    chunk = 1 << 15
    for start in count(0, chunk // 16):
        stream = noise_stream(key, (0, 0, 0), start, chunk)
        for position in range(0, chunk, 8):
            yield int.from_bytes(stream[position : position + 8], "little")


def bernoulli(stream: Iterator[int], p: Fraction) -> bool:
    """W < p for a uniform W, digit by digit in base 2^64; p in [0, 1)."""
    while True:
        digit, p = divmod(p * WORD, 1)
        word = next(stream)
        if word != digit:
            return word < digit


def bernoulli_exp(stream: Iterator[int], gamma: Fraction) -> bool:
    """Algorithm 1."""
    for _ in range(gamma.numerator // gamma.denominator):
        if not bernoulli_exp_one(stream):
            return False
    return alternating(stream, gamma % 1, 1)


def bernoulli_exp_one(stream: Iterator[int]) -> bool:
    """Algorithm 1 for gamma = 1, whose first trial is certain and takes no word."""
    return alternating(stream, Fraction(1), 2)


def alternating(stream: Iterator[int], gamma: Fraction, k: int) -> bool:
    while bernoulli(stream, gamma / k):
        k += 1
    return k % 2 == 1


def discrete_laplace(stream: Iterator[int], t: int) -> int:
    """Algorithm 2 with s = 1."""
    while True:
        u = next(stream) % 2 ** (t - 1).bit_length()
        if u >= t or not bernoulli_exp(stream, Fraction(u, t)):
            continue
        v = 0
        while bernoulli_exp_one(stream):
            v += 1
        magnitude, negative = u + t * v, next(stream) >> 63
        if not (negative and magnitude == 0):
            return -magnitude if negative else magnitude


def discrete_gaussian(key: bytes, stddev: float, size: int) -> list[int]:
    """Algorithm 3."""
    stream, sigma = words(key), Fraction(stddev)
    t = sigma.numerator // sigma.denominator + 1
    samples = []
    while len(samples) < size:
        y = discrete_laplace(stream, t)
        if bernoulli_exp(stream, (abs(y) - sigma**2 / t) ** 2 / (2 * sigma**2)):
            samples.append(y)
    return samples


def mass(stddev: float, reach: int) -> np.ndarray:
    """Probabilities of -reach .. reach; the rest, beyond `reach`, is left out of the normalisation."""
    m = np.arange(-reach, reach + 1, dtype=np.float64)
    weights = np.exp(-(m**2) / (2.0 * stddev**2))
    return weights / weights.sum()


def quantiles(stddev: float, steps: list[int]) -> dict[int, mp.mpf]:
    """x_m = Phi^-1(F(m)) for the steps m >= 0, by summing the upper tail; to some 30 digits."""
    with mp.workdps(40):
        s = mp.mpf(stddev)
        last = max(steps) + 60 + int(14 * stddev)
        tail, tails = mp.mpf(0), {}
        for m in range(last, -1, -1):
            tails[m] = tail  # Pr[X > m], not normalised
            tail += mp.exp(-(mp.mpf(m) ** 2) / (2 * s * s))
        half = tails[0]
        total = 2 * half + 1
        return {m: _upper_quantile(tails[m] / total) for m in steps}


def _upper_quantile(tail: mp.mpf) -> mp.mpf:
    """x with Pr[N(0, 1) > x] = tail, by Newton on the logarithm."""
    x = mp.mpf(-float(ndtri_exp(float(mp.log(tail)))))
    for _ in range(3):
        survival = mp.erfc(x / mp.sqrt(2)) / 2
        x += (mp.log(survival) - mp.log(tail)) * survival / mp.npdf(x)
    return x


def slope(stddev: float, steps: list[int]) -> mp.mpf:
    """The largest step Phi^-1(F(m)) - Phi^-1(F(m - 1)) over the given m >= 1, and m = 0."""
    x = quantiles(stddev, sorted({0, *steps, *(m - 1 for m in steps)}))
    return max(2 * x[0], *(x[m] - x[m - 1] for m in steps))
