"""Laws on the integers: weights enclosed, to as many bits as one asks for, against mpmath and recurrences."""

import math
from fractions import Fraction

import mpmath as mp
import pytest

from fedsec import _exact, _laws

NARROW = [
    *map(_laws.NarrowPoisson, (2.0**-10, 0.7, 1.0, 100.3, 2000.9)),
    *map(_laws.NarrowSkellam, (2.0**-10, 0.7, 200.0, 3000.0)),
]


def each(laws):
    return pytest.mark.parametrize(
        "law", laws, ids=lambda law: f"{type(law).__name__}-{float(law.variance):.6g}"
    )


@pytest.mark.parametrize("mean", [2.0**14, 25_000.7, 1e6, 2.0**40])
@pytest.mark.parametrize("bits", [64, 256, 400, 2000])
def test_weights_of_wide_poisson_laws_are_enclosed(mean, bits):
    law = _laws.WidePoisson(mean)
    for deviations in (0, 0.01, 2, 7, 13, -7, -13):
        y = law.middle + round(deviations * mean**0.5)
        low, high = law.weight(y, bits)
        with mp.workdps(700):
            x = mp.mpf(mean)
            exponent = y * mp.log(x) - x - mp.loggamma(y + 1) + mp.log(2 * mp.pi * x) / 2
            assert low <= mp.exp(exponent - mp.mpf(2) ** -10) * 2**bits <= high
        assert high - low <= 8


@each(NARROW)
@pytest.mark.parametrize("bits", [64, 256, 700])
def test_weights_of_narrow_laws_are_enclosed(law, bits):
    with mp.workdps(400):
        reach = 13 * math.isqrt(math.ceil(law.variance)) + 60
        for y in (law.middle, law.middle + 1, law.middle - 1, law.middle + 5, law.middle + reach, -reach):
            low, high = law.weight(y, bits)
            exact = mass(law, y) / mass(law, law.middle) * 2**bits
            assert low <= exact * (1 + mp.mpf(10) ** -390)
            assert exact * (1 - mp.mpf(10) ** -390) <= high
            assert high - low <= 8


def mass(law, y):
    """Up to a factor; to the digits at work."""
    x = mp.mpf(law.parameter)
    if law.even:
        return mp.besseli(abs(y), x)
    return mp.exp(y * mp.log(x) - mp.loggamma(y + 1)) if y >= 0 else mp.mpf(0)


@each(NARROW)
def test_a_narrow_laws_table_is_of_its_weights(law):
    """And no weight that there is is taken for zero."""
    reach = 8 * math.isqrt(math.ceil(law.variance)) + 60
    first, last = law.middle - reach, law.middle + reach
    table = law.weights(first, last)
    assert len(table) == last - first + 1
    for y in {
        first,
        last,
        law.middle,
        law.middle + 1,
        law.middle - 1,
        max(first, -1),
        (law.middle + last) // 2,
    }:
        low, high = law.weight(y, 320)
        least, most = table[y - first]
        assert least << 64 <= high
        assert low <= most << 64
        assert most - least <= 2
        assert (most > 0) == (law.even or y >= 0)


def test_stirlings_series_says_where_it_ends():
    with pytest.raises(ArithmeticError, match="Stirling"):
        _exact.stirling(10, 400)


# ---- Skellam weights


@pytest.mark.parametrize("bits", [64, 256, 400, 510])
@pytest.mark.parametrize("variance", [2.0**14, 22_500.7, 1e6 + 0.3, 2.0**41])
def test_bessel_functions_are_enclosed(variance, bits):
    """Where mpmath can say, and by I_(n-1) - I_(n+1) = 2 n I_n / x where it cannot."""
    p, q = variance.as_integer_ratio()
    for z in (0.0, 0.02, 1.0, 5.0, 8.0):
        n = round(z * variance**0.5)
        low, high = _exact.scaled_bessel(n, p, q, bits)
        with mp.workdps(400):
            x = mp.mpf(variance)
            exact = mp.sqrt(2 * mp.pi * x) * mp.exp(-x) * mp.besseli(n, x) * 2**bits
            assert low <= exact <= high
        assert high - low <= 8
    for z in (12.0, 16.0, 20.0):
        n = round(z * variance**0.5)
        before, this, after = (_exact.scaled_bessel(m, p, q, bits) for m in (n - 1, n, n + 1))
        assert before[0] - after[1] <= Fraction(2 * n * this[1] * q, p)
        assert before[1] - after[0] >= Fraction(2 * n * this[0] * q, p)
        assert this[1] - this[0] <= 8


def test_bessel_functions_say_where_they_end():
    with pytest.raises(ArithmeticError, match="variance"):
        _exact.scaled_bessel(0, 2**14, 1, 513)
    assert _exact.scaled_bessel(2**12 + 1, 2**14, 1, 500) == (0, 1)
    with mp.workdps(200):
        assert mp.sqrt(2 * mp.pi * 2**14) * mp.exp(-(2**14)) * mp.besseli(2**12, 2**14) < mp.mpf(2) ** -512


@pytest.mark.parametrize("variance", [2.0**14, 22_500.0, 1e5])
def test_the_error_of_debyes_expansion(variance):
    """Of the weight over its leading factor: below 1 / s^2, as docs/noise.md proves, s = sqrt(v^2 + y^2)."""
    with mp.workdps(60):
        v = mp.mpf(variance)
        for y in (0, 1, round(variance**0.5), round(5 * variance**0.5), round(8 * variance**0.5)):
            s = mp.sqrt(v * v + y * y)
            exact = mp.sqrt(2 * mp.pi * s) * mp.besseli(y, v) * mp.exp(y * mp.asinh(y / v) - s)
            assert abs(exact - 1 - (3 - 5 * (y / s) ** 2) / (24 * s)) < 1 / s**2
