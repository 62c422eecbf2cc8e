"""The constants of csrc/normal.h: how far the polynomials are off; the lattice of float32."""

import re
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
from reference import normal_reference
from scipy import stats

SOURCE = (Path(__file__).parents[2] / "csrc" / "normal.h").read_text()
NUMBER = re.compile(r"-?0x1\.?[0-9a-f]*p[+-]\d+|(?<=, )[12]\.0(?=f?\))")


def polynomial(function, variable):
    """The coefficients of the statements that assign to `variable` in a function, lowest power first."""
    body = SOURCE.split(f" {function}(")[1].split("\n}")[0]
    lines = [line for line in body.splitlines() if re.match(rf"\s+((float|double) )?{variable} = ", line)]
    return [mp.mpf(float.fromhex(n) if "x" in n else float(n)) for n in NUMBER.findall(" ".join(lines))][::-1]


def value(coefficients, x):
    return mp.polyval(coefficients[::-1], x)


def nodes(end):
    return [end * (1 - mp.cos(mp.pi * (2 * i + 1) / 400)) / 2 for i in range(200)]


@pytest.mark.parametrize(("bits", "bound", "terms"), [(32, 2**-25.2, 9), (64, 2**-53.3, 20)])
def test_the_logarithm(bits, bound, terms):
    """q(g) = -2 ln(1 - g) / g on (0, 1/2], even and odd powers apart; relative errors."""
    with mp.workdps(40):
        even, odd = (polynomial(f"minus_twice_log{bits}", name) for name in ("even", "odd"))
        assert len(even) + len(odd) == terms
        for g in nodes(mp.mpf(1) / 2):
            found = value(even, g * g) + g * value(odd, g * g)
            assert abs(found / (-2 * mp.log1p(-g) / g) - 1) < bound


@pytest.mark.parametrize(("bits", "bound", "terms"), [(32, 2**-25.0, 4), (64, 2**-54.1, 7)])
def test_the_sine(bits, bound, terms):
    """s(t^2) = sin(pi t / 2) / t for t in (0, 1/2]; relative errors."""
    with mp.workdps(40):
        s = polynomial(f"turn{bits}", "s")
        assert len(s) == terms
        for z in nodes(mp.mpf(1) / 4):
            assert abs(value(s, z) * mp.sqrt(z) / mp.sin(mp.pi / 2 * mp.sqrt(z)) - 1) < bound


@pytest.mark.parametrize(("bits", "bound", "terms"), [(32, 2**-31.0, 5), (64, 2**-55.2, 8)])
def test_the_cosine(bits, bound, terms):
    with mp.workdps(40):
        c = polynomial(f"turn{bits}", "c")
        assert len(c) == terms
        for z in nodes(mp.mpf(1) / 4):
            assert abs(value(c, z) / mp.cos(mp.pi / 2 * mp.sqrt(z)) - 1) < bound


def test_twice_the_logarithm_of_two():
    assert "0x1.62e43p+0f" in SOURCE
    assert float.fromhex("0x1.62e43p+0") == np.float32(2 * np.log(2.0))
    assert "0x1.62e42fefa39efp+0" in SOURCE
    assert float.fromhex("0x1.62e42fefa39efp+0") == 2 * np.log(2.0)


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
