"""The constants of csrc/normal.h: tables, how far the polynomials are off, the lattice of float32."""

import re
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
from reference import normal_reference
from scipy import stats

SOURCE = (Path(__file__).parents[2] / "csrc" / "normal.h").read_text()
NUMBER = r"-?(?:0x1(?:\.[0-9a-f]+)?p[+-]\d+|\d+\.0)"
PRECISION = {32: 24, 64: 53}


def number(text):
    return float.fromhex(text) if "x" in text else float(text)


def polynomial(function, variable):
    """The coefficients of the statements that assign to `variable` in a function, lowest power first."""
    body = SOURCE.split(f" {function}(")[1].split("\n}")[0]
    lines = [line for line in body.splitlines() if re.match(rf"\s+((FLOATS|DOUBLES) )?{variable} = ", line)]
    return [mp.mpf(number(n)) for line in lines for n in re.findall(rf"SET\d\d\(({NUMBER})", line)][::-1]


def table(name):
    entries = SOURCE.split(f" {name}[16] = {{")[1].split("};")[0]
    found = [number(n) for n in re.findall(NUMBER, entries)]
    assert len(found) == 16
    return found


def value(coefficients, x):
    return mp.polyval(coefficients[::-1], x)


def nodes(start, end):
    return [start + (end - start) * (1 - mp.cos(mp.pi * (2 * i + 1) / 400)) / 2 for i in range(200)]


def rounded(x, bits):
    with mp.workprec(PRECISION[bits]):
        return float(+x)


def twice_log_of_two(bits):
    found = re.search(rf"SET{bits}\(-({NUMBER})f?\), LOOK_UP{bits}\(t->logarithms", SOURCE)
    return number(found[1])


@pytest.mark.parametrize("bits", [32, 64])
def test_factors_bring_mantissas_near_one(bits):
    """|r m / 2 - 1| at both ends of each interval of m; the last one is 1 itself."""
    factors = table(f"FACTORS{bits}")
    for i, r in enumerate(factors):
        for m in (1 + i / 16, 1 + (i + 1) / 16):
            assert abs(mp.mpf(r) * m / 2 - 1) <= 1 / 32
    assert factors[15] == 1.0


@pytest.mark.parametrize(("bits", "share"), [(32, 2**-9), (64, 2**-5)])
def test_logarithms_of_factors_are_nearly_exact(bits, share):
    """After 2 ln 2 as it is rounded has been added; in half units in the last place of 1."""
    with mp.workdps(40):
        two = twice_log_of_two(bits)
        assert two == rounded(2 * mp.log(2), bits)
        for r, found in zip(table(f"FACTORS{bits}"), table(f"LOGARITHMS{bits}"), strict=True):
            assert abs(mp.mpf(found) + two - 2 * mp.log(r)) < share * mp.mpf(2) ** -PRECISION[bits]


@pytest.mark.parametrize(("bits", "bound", "terms"), [(32, 2**-24.8, 3), (64, 2**-56.2, 8)])
def test_the_logarithm(bits, bound, terms):
    """-2 x + x^2 q(x) = -2 ln(1 + x) for |x| <= 1/32; relative errors."""
    with mp.workdps(40):
        q = polynomial(f"minus_twice_log{bits}", "q")
        assert len(q) == terms
        for x in nodes(-mp.mpf(1) / 32, mp.mpf(1) / 32):
            assert abs((-2 * x + x * x * value(q, x)) / (-2 * mp.log1p(x)) - 1) < bound


@pytest.mark.parametrize(
    ("bits", "scale", "sine_bound", "cosine_bound", "terms"),
    [(32, 1, 2**-25.0, 2**-28.2, 3), (64, 2**63, 2**-54.4, 2**-54.0, 5)],
)
def test_the_sine_and_the_cosine(bits, scale, sine_bound, cosine_bound, terms):
    """Of a sixteenth of pi times x / scale, |x| <= scale; relative errors."""
    with mp.workdps(40):
        s, c = (polynomial(f"turn{bits}", name) for name in "sc")
        assert len(s) == len(c) == terms
        for x in nodes(mp.mpf(0), mp.mpf(scale)):
            angle = mp.pi / 16 * x / scale
            assert abs(x * value(s, x * x) / mp.sin(angle) - 1) < sine_bound
            assert abs(value(c, x * x) / mp.cos(angle) - 1) < cosine_bound


@pytest.mark.parametrize("bits", [32, 64])
def test_the_directions(bits):
    with mp.workdps(40):
        for i in range(16):
            assert table(f"COSINES{bits}")[i] == (0 if i % 8 == 4 else rounded(mp.cos(mp.pi * i / 8), bits))
            assert table(f"SINES{bits}")[i] == (0 if i % 8 == 0 else rounded(mp.sin(mp.pi * i / 8), bits))


def test_the_lattices_multiplier_has_small_quotients():
    """Their sum bounds the discrepancy [Nie92, ch. 5]; the golden ratio has ones alone."""
    assert f"UINT32_C({normal_reference.MULTIPLIER:#x})" in SOURCE
    assert max(normal_reference.quotients(normal_reference.MULTIPLIER, 2**32)[1:-1]) == 3
    assert sum(normal_reference.quotients(normal_reference.MULTIPLIER, 2**32)) == 49


@pytest.mark.parametrize(("deviations", "error"), [(7.8, 1e-3), (8.0, 1e-3), (8.5, 0.02), (9.0, 0.5)])
def test_the_far_tail_of_float32_by_enumeration(deviations, error):
    """All pairs of words beyond: their number against the normal law's. The control is no multiplier."""
    expected = 2 * stats.norm.sf(deviations) * 2.0**64
    count = int(np.exp(-deviations * deviations / 2) * 2.0**64) + 4
    beyond = np.count_nonzero(np.abs(normal_reference.outermost(count)) > deviations)
    assert abs(beyond / expected - 1) < error
    plain = np.count_nonzero(np.abs(normal_reference.outermost(count, 1)) > deviations)
    assert abs(plain / expected - 1) > 0.5
