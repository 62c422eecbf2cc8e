"""The quantiser: never further than a step, never beyond the ring, never silent; unbiased."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec import _kernels
from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError
from fedsec.secagg import Quantizer, aggregate, to_residues

KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("granularity", "max_abs", "num_clients", "bits"),
    [(1.0, 1.0, 1, 2), (0.5, 1.0, 10, 6), (1.0, 127.0, 1, 8), (1.0, 128.0, 1, 9), (2.0**-20, 1.0, 100, 28)],
)
def test_the_ring_is_the_smallest_that_holds_every_sum(granularity, max_abs, num_clients, bits):
    quantizer = Quantizer(granularity, max_abs, num_clients)
    assert quantizer.modulus_bits == bits
    largest = num_clients * quantizer.max_level
    assert 2 ** (bits - 2) <= largest < 2 ** (bits - 1)


def test_the_sum_that_wraps_elsewhere():
    """Ten clients at 7.9: the ring holds 79, where a fixed 2**24 with 8 / 2**22 steps gave -24.5."""
    quantizer = Quantizer(8 / 2**22, 8.0, 10)
    level = quantizer.quantize(np.array([7.9, -7.9]))
    outcome = aggregate(dict.fromkeys(range(10), level), quantizer.modulus_bits)
    assert quantizer.dequantize(outcome.sum) == pytest.approx([79.0, -79.0], abs=10 * quantizer.granularity)


def test_20_is_refused_and_not_clipped_to_8():
    with pytest.raises(InvalidArgumentError, match=r"in \[-8.0, 8.0\], got 20.0"):
        Quantizer(0.01, 8.0, 10).quantize(np.array([1.0, 20.0]))
    with pytest.raises(InvalidArgumentError, match=r"got -20.0"):
        Quantizer(0.01, 8.0, 10).quantize(np.array([-20.0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [float, np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_range_ends_where_it_ends_whatever_the_precision(dtype, kind, sign):
    """One in single precision is not below 1 - 2**-30, and four of them would wrap to -4."""
    quantizer = Quantizer(kind(2**-30), 1 - 2**-30, num_clients=4)
    assert quantizer.modulus_bits == 33
    with pytest.raises(InvalidArgumentError, match=rf"0.99999\d+\], got {sign * 1.0}"):
        quantizer.quantize(np.array([sign], dtype))
    largest = Quantizer(2**-30, kind(1.0), num_clients=np.int8(127))
    assert largest.quantize(np.array([sign], dtype)).tolist() == [sign * 2**30]
    assert (largest.max_level, largest.modulus_bits) == (2**30, 38)
    with pytest.raises(InvalidArgumentError):
        largest.quantize(np.array([sign * (1 + 2**-30)]))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(("1", 1.0, 1), "granularity"), ((1.0, True, 1), "max_abs"), ((1.0, 1.0, 2.0), "num_clients")],
)
def test_parameters_of_other_types_are_refused(arguments, named):
    with pytest.raises(InvalidTypeError, match=named):
        Quantizer(*arguments)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(NonFiniteError, match=str(value)):
        Quantizer(0.01, 8.0, 10).quantize(np.array([1.0, value]))


@pytest.mark.parametrize(
    "values", [[1.0], np.array([1]), np.array([[1.0]]), np.array([1.0], np.float16), None]
)
def test_other_types_are_refused(values):
    with pytest.raises(InvalidTypeError):
        Quantizer(0.01, 8.0, 10).quantize(values)


@pytest.mark.parametrize(
    "arguments",
    [
        (0.0, 1.0, 1),
        (-1.0, 1.0, 1),
        (math.nan, 1.0, 1),
        (math.inf, 1.0, 1),
        (1.0, 0.0, 1),
        (1.0, math.inf, 1),
        (1.0, 1.0, 0),
        (0.1, 1e16, 1),  # more than 2**53 steps, and no power of two
        (1.0, 2.0**62, 2),  # a sum beyond 64 bits
        (1.0, 2.0**63, 1),
        (5e-324, 1e308, 1),
        (2.0**-1023, 2.0**-1020, 1),  # the inverse is not in full precision
    ],
)
def test_parameters_out_of_range_are_refused(arguments):
    with pytest.raises(InvalidArgumentError):
        Quantizer(*arguments)


def test_a_power_of_two_reaches_further():
    quantizer = Quantizer(2.0**-60, 1.0, 4)
    assert quantizer.modulus_bits == 64
    values = np.array([1.0, -1.0, 2.0**-60, 1 / 3])
    assert quantizer.quantize(values).tolist() == [int(value * 2.0**60) for value in values]


STEPS = st.floats(1e-6, 1e3) | st.sampled_from([2.0**-30, 0.1, 1 / 3, 1.0, 5e-324 * 2**60])


@given(STEPS, st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.binary(min_size=32, max_size=32))
def test_no_coordinate_moves_a_whole_step(granularity, fractions, key):
    max_abs = granularity * 1e6
    quantizer = Quantizer(granularity, max_abs, 10)
    values = np.clip(np.array(fractions) * max_abs, -max_abs, max_abs)
    levels = quantizer.quantize(values, insecure_key=key)
    for value, level in zip(values.tolist(), levels.tolist(), strict=True):
        assert abs(Fraction(value) / Fraction(granularity) - level) < 1
        assert abs(level) <= quantizer.max_level


@given(STEPS, st.lists(st.integers(-(2**20), 2**20), min_size=1), st.binary(min_size=32, max_size=32))
def test_exact_multiples_do_not_move(granularity, levels, key):
    """Those that are multiples as real numbers, which k * granularity need not be."""
    values = np.array(levels) * granularity
    exact = [Fraction(v) == k * Fraction(granularity) for v, k in zip(values.tolist(), levels, strict=True)]
    quantized = Quantizer(granularity, granularity * 2**21, 1).quantize(values, insecure_key=key)
    assert all(q == k for q, k, is_exact in zip(quantized.tolist(), levels, exact, strict=True) if is_exact)


def test_float32_is_quantised_as_its_exact_value():
    single = np.random.default_rng(0).uniform(-8, 8, 100_000).astype(np.float32)
    for granularity in (0.01, 2.0**-18, 1e-6):
        quantizer = Quantizer(granularity, 8.0, 3)
        levels = quantizer.quantize(single, insecure_key=KEY)
        assert np.array_equal(levels, quantizer.quantize(single.astype(np.float64), insecure_key=KEY))


def test_the_largest_float32_is_in_an_open_range():
    """2**128 is beyond single precision, and its largest number is not beyond it."""
    quantizer, largest = Quantizer(2.0**110, 2.0**128, 1), float(np.finfo(np.float32).max)
    values = np.array([largest, -largest], np.float32)
    assert quantizer.dequantize(quantizer.quantize(values)) == pytest.approx(
        [largest, -largest], rel=2.0**-17
    )
    with pytest.raises(NonFiniteError):
        quantizer.quantize(np.array([np.inf], np.float32))


def test_residues_are_the_levels_of_the_ring(monkeypatch):
    quantizer, values = Quantizer(0.01, 8.0, 10), np.linspace(-8, 8, 3001)
    monkeypatch.setattr(_kernels, "fresh_key", lambda: bytearray(KEY))
    levels = quantizer.quantize(values, insecure_key=KEY)
    for bits in (None, 16, 32, 40):
        expected = to_residues(levels, bits or quantizer.modulus_bits)
        assert np.array_equal(quantizer.residues(values, bits), expected)
    with pytest.raises(InvalidArgumentError, match=r"in \[14, 64\], got 13"):
        quantizer.residues(values, 13)
    with pytest.raises(InvalidArgumentError, match=r"got 9.0"):
        quantizer.residues(np.array([9.0]))


def test_zero_and_tiny_values():
    quantizer = Quantizer(0.25, 1.0, 1)
    tiny = quantizer.quantize(np.array([0.0, -0.0, 5e-324, -5e-324, -1e-300]), insecure_key=KEY)
    assert tiny.tolist() == [0, 0, 0, 0, 0]
    assert quantizer.quantize(np.zeros(0)).size == 0


def bias_in_deviations(quantizer, value, size, rounding):
    """How many standard deviations the mean of `size` roundings lies off; it should be standard normal."""
    levels = rounding(np.full(size, value))
    fraction = value / quantizer.granularity - math.floor(value / quantizer.granularity)
    return abs(levels.mean() - value / quantizer.granularity) / math.sqrt(fraction * (1 - fraction) / size)


@pytest.mark.parametrize("value", [0.003, -0.003, 0.0251, 7.3333, -0.00999])
def test_unbiased(value):
    """False alarm below 1e-5 for each value (normal, 4.5 deviations; the key is fixed)."""
    quantizer = Quantizer(0.01, 8.0, 10)
    off = bias_in_deviations(
        quantizer, value, 400_000, lambda values: quantizer.quantize(values, insecure_key=KEY)
    )
    assert off < 4.5


@pytest.mark.parametrize("rounding", [np.rint, np.floor])
def test_negative_control_rounding_without_chance_is_biased(rounding):
    quantizer = Quantizer(0.01, 8.0, 10)
    assert bias_in_deviations(quantizer, 0.003, 400_000, lambda values: rounding(values / 0.01)) > 100


def test_fresh_randomness_every_call_whatever_numpy_is_told():
    quantizer, values = Quantizer(0.01, 8.0, 10), np.full(100, 0.005)
    np.random.seed(0)
    one = quantizer.quantize(values)
    np.random.seed(0)
    assert not np.array_equal(one, quantizer.quantize(values))
    same = [quantizer.quantize(values, insecure_key=KEY).tolist() for _ in range(2)]
    assert same[0] == same[1]


def test_the_key_of_a_call_is_wiped_even_if_the_call_fails(monkeypatch):
    drawn = []

    def fresh_key(original=_kernels.fresh_key):
        drawn.append(original())
        return drawn[-1]

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(_kernels, "fresh_key", fresh_key)
    quantizer = Quantizer(0.01, 8.0, 10)
    quantizer.quantize(np.zeros(1), insecure_key=KEY)
    assert drawn == []
    quantizer.quantize(np.zeros(1))
    monkeypatch.setattr(_kernels, "pointer", fail)
    with pytest.raises(MemoryError):
        quantizer.quantize(np.zeros(1))
    assert drawn == [bytes(32), bytes(32)]


@pytest.mark.parametrize("key", [b"short", "x" * 32])
def test_a_wrong_key_is_refused(key):
    with pytest.raises(InvalidTypeError):
        Quantizer(0.01, 8.0, 10).quantize(np.zeros(1), insecure_key=key)


def test_lift_and_dequantize():
    quantizer = Quantizer(0.5, 4.0, 3)
    levels = np.array([24, -24, 0, -1], np.int64)
    residues = to_residues(levels, quantizer.modulus_bits)
    assert quantizer.lift(residues).tolist() == levels.tolist()
    for given_ in (levels, residues):
        assert quantizer.dequantize(given_).tolist() == [12.0, -12.0, 0.0, -0.5]


def test_all_levels_of_64_bits_but_one():
    """The lowest is no negative of another."""
    levels = np.array([0, 1, -1, 2**53 + 1, -(2**53) - 3, 2**63 - 1, -(2**63) + 1], np.int64)
    assert np.array_equal(Quantizer(0.1, 4.0, 3).dequantize(levels), 0.1 * levels.astype(np.float64))
    with pytest.raises(InvalidArgumentError, match=r"above -2\*\*63, got -9223372036854775808"):
        Quantizer(0.1, 4.0, 3).dequantize(np.array([0, -(2**63)], np.int64))


def test_a_level_that_no_sum_has_is_refused():
    """What a session of mismatched vectors gives is uniform in the ring, and mostly refused."""
    quantizer = Quantizer(0.5, 4.0, 3)
    assert quantizer.modulus_bits == 6
    with pytest.raises(InvalidArgumentError, match=r"in \[-24, 24\], got 25"):
        quantizer.lift(np.array([25], np.uint16))
    with pytest.raises(InvalidArgumentError, match=r"in \[-24, 24\], got 32"):
        quantizer.dequantize(np.array([32], np.uint16))
    for wrong in (np.array([1], np.uint32), np.array([1.0]), [1]):
        with pytest.raises(InvalidTypeError):
            quantizer.dequantize(wrong)
