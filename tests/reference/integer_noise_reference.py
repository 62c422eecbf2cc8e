"""Integer noise by the definition: exact laws, slopes to 40 digits, and divergences by enumeration.

Laws are lists of probabilities of 0, 1, ..., M, symmetric about 0, in mpmath.
"""

import itertools

import mpmath as mp
import numpy as np
from scipy.special import ndtri_exp

DIGITS = 60


def discrete_gaussian(stddev: float, reach: int) -> list[mp.mpf]:
    with mp.workdps(DIGITS):
        weights = [mp.exp(-(mp.mpf(m) ** 2) / (2 * mp.mpf(stddev) ** 2)) for m in range(reach + 1)]
        total = 2 * mp.fsum(weights) - weights[0]
        return [w / total for w in weights]


def skellam(variance: float, reach: int) -> list[mp.mpf]:
    """The difference of two Poisson variables, by Bessel functions."""
    with mp.workdps(DIGITS):
        return [mp.exp(-mp.mpf(variance)) * mp.besseli(m, mp.mpf(variance)) for m in range(reach + 1)]


BITS = 800  # fixed point: tails down to 2^-600 keep 200 bits


def summed(law: list[mp.mpf], shares: int) -> list[mp.mpf]:
    """The law of the sum of independent copies: products of polynomials, as products of whole numbers."""
    with mp.workprec(BITS + 20):
        share = [int(p * 2**BITS) for p in law]
    share = share[:0:-1] + share
    total = [2**BITS]
    for digit in bin(shares)[2:]:
        total = _product(total, total)
        total = _product(total, share) if digit == "1" else total
    with mp.workprec(BITS):
        return [mp.mpf(p) / 2**BITS for p in total[len(total) // 2 :]]


def _product(a: list[int], b: list[int]) -> list[int]:
    """Coefficients side by side in one number, far enough apart; the result rounded down again."""
    width = (2 * BITS + 64) // 8
    packed = [int.from_bytes(b"".join(p.to_bytes(width, "little") for p in c), "little") for c in (a, b)]
    length = len(a) + len(b) - 1
    product = (packed[0] * packed[1]).to_bytes(length * width + width, "little")
    return [int.from_bytes(product[i * width : (i + 1) * width], "little") >> BITS for i in range(length)]


def slope(law: list[mp.mpf], last: int) -> mp.mpf:
    """The largest step of the normal quantiles up to `last`; the law must reach well beyond it."""
    with mp.workdps(DIGITS):
        tail, quantiles = mp.fsum(law[last + 1 :]), []
        for m in range(last, -1, -1):
            quantiles.append(upper_quantile(tail))
            tail += law[m]
        quantiles.reverse()
        return max(2 * quantiles[0], *(b - a for a, b in itertools.pairwise(quantiles)))


def upper_quantile(tail: mp.mpf) -> mp.mpf:
    """x with Pr[N(0, 1) > x] = tail, by Newton on the logarithm."""
    x = mp.mpf(-float(ndtri_exp(float(mp.log(tail)))))
    for _ in range(4):
        survival = mp.erfc(x / mp.sqrt(2)) / 2
        x += (mp.log(survival) - mp.log(tail)) * survival / mp.npdf(x)
    return x


def both_sides(law: list[mp.mpf]) -> np.ndarray:
    """Probabilities of -M .. M in double precision."""
    half = np.array([float(p) for p in law])
    return np.concatenate((half[:0:-1], half))


def neighbours(law: list[mp.mpf], shift: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The laws of noise in len(shift) dimensions, and of the same noise shifted, where both are known."""
    p, q, mass = np.ones(1), np.ones(1), both_sides(law)
    for k in map(abs, shift):
        p = np.multiply.outer(p, mass[k:]).ravel()
        q = np.multiply.outer(q, mass[: mass.size - k]).ravel()
    return p, q


def hockey_stick(epsilon: float, law: list[mp.mpf], shift: tuple[int, ...]) -> float:
    """From below: what is beyond the law's reach is left out."""
    p, q = neighbours(law, shift)
    return float(np.maximum(q - np.exp(epsilon) * p, 0.0).sum())


def renyi(order: float, law: list[mp.mpf], shift: int) -> mp.mpf:
    """The divergence in one dimension, to many digits; what is beyond the law's reach is left out."""
    reach = len(law) - 1
    with mp.workdps(DIGITS):
        logs = [mp.log(p) for p in law]
        total = mp.fsum(
            mp.exp(order * logs[abs(m - shift)] + (1 - mp.mpf(order)) * logs[abs(m)])
            for m in range(shift - reach, reach + 1)
        )
        return mp.log(total) / (mp.mpf(order) - 1)
