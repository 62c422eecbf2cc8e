"""The release: on a public grid, with the noise that was promised, below 0.1 % of cost, and its refusals."""

from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

from fedsec import noise
from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError

KEY = bytes(range(32))

DIMENSIONS = [1, 2, 3, 10, 1000, 26_010, 10**6, 10**8]
SENSITIVITIES = [1e-30, 1e-6, 0.37, 1.0, 2.0, 1e6, 1e30]
MULTIPLIERS = [1e-3, 0.05, 0.3, 1.0, 1.1, 7.7, 100.0, 1e3]


def scales():
    return [
        (sensitivity, dimension, multiplier)
        for sensitivity in SENSITIVITIES
        for dimension in DIMENSIONS
        for multiplier in MULTIPLIERS
    ]


def parts(sensitivity, dimension, multiplier):
    step = noise.grid(sensitivity, dimension, multiplier)
    steps = noise.integer_sensitivity(sensitivity, dimension, step)
    return step, steps, noise.integer_stddev(steps, multiplier)


def exact_slope(stddev):
    with mp.workdps(60):
        return mp.sqrt(6 * (1 - mp.sqrt(1 - 1 / (3 * mp.mpf(stddev) ** 2))))


# ---- the promise


def test_at_least_as_private_as_the_gaussian_in_exact_arithmetic():
    """slope(s) * (sensitivity / g + sqrt(d)) <= 1 / noise_multiplier, with no rounding of ours in it."""
    for sensitivity, dimension, multiplier in scales():
        step, _, stddev = parts(sensitivity, dimension, multiplier)
        with mp.workdps(60):
            steps = mp.mpf(sensitivity) / mp.mpf(step) + mp.sqrt(dimension)
            assert exact_slope(stddev) * steps * mp.mpf(multiplier) <= 1


def test_costs_less_than_a_thousandth_of_noise():
    for sensitivity, dimension, multiplier in scales():
        step, _, stddev = parts(sensitivity, dimension, multiplier)
        assert 1.0 < Fraction(stddev) * Fraction(step) / Fraction(multiplier) / Fraction(sensitivity) <= 1.001


def test_an_uncharged_release_would_break_the_promise():
    """The negative control of the first test: without rounding charged, or without the slope."""
    sensitivity, dimension, multiplier = 1.0, 1000, 1.1
    step, steps, _ = parts(sensitivity, dimension, multiplier)
    without_rounding = noise.integer_stddev(sensitivity / step, multiplier)
    without_slope = steps * multiplier
    for stddev in (without_rounding, without_slope):
        with mp.workdps(60):
            assert exact_slope(stddev) * mp.mpf(steps) * mp.mpf(multiplier) > 1


def test_the_grid_is_the_largest_power_of_two_within_both_limits():
    for sensitivity, dimension, multiplier in scales():
        step = noise.grid(sensitivity, dimension, multiplier)
        assert np.frexp(step)[0] == 0.5
        limit = sensitivity * min(2**-11 / np.sqrt(dimension), multiplier / 16)
        assert step <= limit < 2 * step
        assert noise.integer_stddev(noise.integer_sensitivity(sensitivity, dimension, step), multiplier) >= 16


def test_the_integer_sensitivity_is_rounded_up():
    """(steps - sensitivity / g)^2 >= d in exact fractions, for coarse and fine grids alike."""
    for dimension in (1, 2, 3, 7, 10**6 + 3, 2**47 + 1):
        for granularity in (2.0**-60, 2.0**-11, 1.0, 2.0**60):
            steps = Fraction(noise.integer_sensitivity(0.3, dimension, granularity))
            exceeding = steps - Fraction(0.3) / Fraction(granularity)
            assert exceeding > 0
            assert exceeding**2 >= dimension


def test_known_grids():
    assert noise.grid(1.0, 1, 1.0) == 2**-11
    assert noise.grid(1.0, 2, 1.0) == 2**-12
    assert noise.grid(4.0, 4**5, 1.0) == 2**-14
    assert noise.grid(1.0, 1, 2**-10) == 2**-14
    assert 2049.0 < noise.integer_sensitivity(1.0, 1, 2.0**-11) < 2049.0 + 1e-12


# ---- the release


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 1, 6)])
def test_is_rounding_plus_exact_noise_on_the_grid(dtype, shape):
    vector = np.random.default_rng(0).normal(size=shape).astype(dtype)
    vector = np.asarray(vector)
    step, _, stddev = parts(2.0, vector.size, 0.8)
    released = noise.release(vector, 2.0, 0.8, insecure_key=KEY)
    added = noise.discrete_gaussian(shape, stddev, insecure_key=KEY)
    expected = [round(Fraction(float(x)) / Fraction(step)) for x in vector.ravel()]
    assert (released.ravel() / step).tolist() == [
        x + int(y) for x, y in zip(expected, added.ravel(), strict=True)
    ]
    assert released.dtype == dtype
    assert released.shape == shape


def test_every_value_is_on_the_public_grid_whatever_the_secret():
    """And the control: the naive sum is not, its low bits tell secrets apart [Mir12]."""
    step = noise.grid(1.0, 1000, 1.0)
    for secret in (0.0, 1e-17, 1 / 3, 1.0 - 2**-53):
        vector = np.full(1000, secret)
        assert not np.any(np.mod(noise.release(vector, 1.0, 1.0), step))
        assert np.any(np.mod(vector + noise.gaussian(1000, 1.0, np.float64), step))


def test_low_bits_of_a_secret_do_not_show():
    """Two secrets that round to the same grid point are released by the same law: with one key, equally."""
    step = noise.grid(1.0, 4, 1.0)
    first, second = np.full(4, 7 * step), np.full(4, 7.49 * step)
    releases = [noise.release(vector, 1.0, 1.0, insecure_key=KEY) for vector in (first, second)]
    assert np.array_equal(*releases)


def test_large_values_that_float32_cannot_hold_stay_on_the_grid():
    vector = np.full(8, 3e4, np.float32)
    step = noise.grid(1.0, 8, 1.0)
    released = noise.release(vector, 1.0, 1.0)
    assert released.dtype == np.float32
    assert not np.any(np.mod(released.astype(np.float64), step))


def test_the_vector_is_not_changed_and_may_be_strided_and_read_only():
    vector = np.arange(12.0).reshape(3, 4)[:, ::2]
    vector.flags.writeable = False
    before = vector.copy()
    released = noise.release(vector, 1.0, 1.0)
    assert released.flags.writeable
    assert released.shape == (3, 2)
    assert np.array_equal(vector, before)


def test_an_empty_vector_gives_an_empty_array():
    empty = np.empty((0, 3), np.float32)
    released = noise.release(empty, 1.0, 1.0)
    assert released is not empty
    assert released.shape == (0, 3)
    assert released.dtype == np.float32


def test_a_vector_in_parts_is_released_on_the_grid_of_the_whole():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=shape) for shape in [(300, 400), (7,), (), (0, 2)]]
    d = sum(part.size for part in parts)
    step = noise.grid(1.0, d, 1.0)
    stddev = noise.integer_stddev(noise.integer_sensitivity(1.0, d, step), 1.0)
    released = list(noise.release_parts(iter(parts), d, 1.0, 1.0, dtype=np.float32, scale=0.25))
    for part, result in zip(parts, released, strict=True):
        assert result.dtype == np.float32
        assert result.shape == part.shape
    exact = list(noise.release_parts(iter(parts), d, 1.0, 1.0, dtype=np.float64))
    noises = [
        (result - np.rint(part / step) * step) / step for part, result in zip(parts, exact, strict=True)
    ]
    assert all(np.array_equal(added, np.rint(added)) for added in noises)
    assert np.std(noises[0]) == pytest.approx(stddev, rel=7 / np.sqrt(2 * noises[0].size))
    first, second = noises[0].ravel()[: 2**16], noises[0].ravel()[2**16 :]
    assert not np.array_equal(first[: len(second)], second)


def test_more_parts_than_were_announced_are_refused():
    given = noise.release_parts([np.zeros(3), np.zeros(2)], 4, 1.0, 1.0, dtype=np.float64)
    assert next(given).shape == (3,)
    with pytest.raises(InvalidArgumentError, match="4 elements together"):
        next(given)


def test_releases_do_not_repeat():
    vector = np.zeros(16)
    assert not np.array_equal(noise.release(vector, 1.0, 1.0), noise.release(vector, 1.0, 1.0))


def test_tiny_and_subnormal_values_are_zero_steps():
    vector = np.array([5e-324, -5e-324, 1e-300, -0.0])
    added = noise.release(np.zeros(4), 1.0, 1.0, insecure_key=KEY)
    assert np.array_equal(noise.release(vector, 1.0, 1.0, insecure_key=KEY), added)


def test_never_minus_zero():
    vector = np.full(200_000, -0.0)
    released = noise.release(vector, 1.0, 0.001, insecure_key=KEY)
    assert (released == 0).any()
    assert not np.signbit(released[released == 0]).any()


# ---- refusals


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_names_the_first_index_that_is_not_finite(bad):
    vector = np.zeros((3, 4), np.float32)
    vector[1, 2] = vector[2, 3] = bad
    with pytest.raises(NonFiniteError, match=rf"got {float(bad)} at index \(1, 2\)"):
        noise.release(vector, 1.0, 1.0)


def test_names_a_scalar_that_is_not_finite():
    with pytest.raises(NonFiniteError, match=r"nan at index \(\)"):
        noise.release(np.array(np.nan), 1.0, 1.0)


@pytest.mark.parametrize(
    "vector",
    [
        [1.0, 2.0],
        1.0,
        np.float64(1.0),
        np.zeros(3, np.int64),
        np.zeros(3, np.float16),
        np.zeros(3, ">f8"),
        np.zeros(3, complex),
        np.zeros(3, object),
        np.ma.masked_array([1.0, 2.0], [True, False]),
        None,
    ],
    ids=repr,
)
def test_vectors_of_the_wrong_type(vector):
    with pytest.raises(InvalidTypeError, match="vector"):
        noise.release(vector, 1.0, 1.0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("argument", ["l2_sensitivity", "noise_multiplier"])
@pytest.mark.parametrize("size", [0, 3])
def test_parameters_out_of_range(argument, value, size):
    arguments = {"l2_sensitivity": 1.0, "noise_multiplier": 1.0} | {argument: value}
    with pytest.raises(InvalidArgumentError, match=argument):
        noise.release(np.zeros(size), **arguments)
    with pytest.raises(InvalidArgumentError, match=argument):
        noise.grid(dimension=3, **arguments)
    with pytest.raises(InvalidArgumentError, match=argument):
        noise.integer_stddev(**arguments)


@pytest.mark.parametrize("dimension", [0, -1, 2**50])
def test_dimensions_out_of_range(dimension):
    with pytest.raises(InvalidArgumentError, match="dimension"):
        noise.grid(1.0, dimension, 1.0)
    with pytest.raises(InvalidArgumentError, match="dimension"):
        noise.integer_sensitivity(1.0, dimension, 0.5)


@pytest.mark.parametrize("dimension", [1.0, True, "3", None])
def test_dimensions_of_the_wrong_type(dimension):
    with pytest.raises(InvalidTypeError, match="dimension"):
        noise.grid(1.0, dimension, 1.0)


@pytest.mark.parametrize("granularity", [0.3, 3.0, 0.0, -0.5])
def test_granularities_that_are_no_power_of_two(granularity):
    with pytest.raises(InvalidArgumentError, match="granularity"):
        noise.integer_sensitivity(1.0, 3, granularity)


def test_values_beyond_the_integers():
    step = noise.grid(1.0, 2, 1.0)
    noise.release(np.array([0.0, 2.0**62 * step]), 1.0, 1.0)
    for large in (2.0**63 * step, 1e300):
        with pytest.raises(InvalidArgumentError, match=r"2\*\*62 steps"):
            noise.release(np.array([0.0, -large]), 1.0, 1.0)
    with pytest.raises(InvalidArgumentError, match=r"2\*\*62 steps"):
        noise.release(np.array([1e308]), 1e-280, 1.0)


def test_sums_beyond_the_dtype():
    with pytest.raises(InvalidArgumentError, match="float32"):
        noise.release(np.full(100, 3.4e38, np.float32), 1e37, 10.0)
    with pytest.raises(InvalidArgumentError, match="float64"):
        noise.release(np.full(100, 1.7e308), 1e307, 10.0)


def test_noise_beyond_the_sampler():
    with pytest.raises(InvalidArgumentError, match=r"noise_multiplier 1e\+30 .* must be in"):
        noise.release(np.zeros(3), 1.0, 1e30)
    with pytest.raises(InvalidArgumentError, match=r"noise_multiplier 1e\+30 .* got inf"):
        noise.integer_stddev(1e300, 1e30)


def test_noise_too_small_for_the_proof():
    with pytest.raises(InvalidArgumentError, match=r"must be in \[2.0, 1099511627776.0\], got 1\.1"):
        noise.integer_stddev(1.0, 1.1)


def test_sensitivities_too_small_for_a_grid():
    with pytest.raises(InvalidArgumentError, match=r"l2_sensitivity 1e-310 .* 2\*\*-1000"):
        noise.release(np.zeros(3), 1e-310, 1.0)
