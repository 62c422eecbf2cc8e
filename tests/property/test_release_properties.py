"""What holds for every release: rounding never exceeds what is charged, and the noise never falls short."""

from fractions import Fraction

import mpmath as mp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsec import noise
from fedsec._slope import discrete_gaussian_slope, stddev_for_inverse_slope

KEY = bytes(32)
sensitivities = st.floats(1e-20, 1e20)
multipliers = st.floats(1e-3, 1e3)
dimensions = st.integers(1, 10**8)


def steps_of(vector, step):
    """The integers that a release adds its noise to."""
    stddev = noise.integer_stddev(noise.integer_sensitivity(1.0, vector.size, step), 1.0)
    added = noise.discrete_gaussian(vector.shape, stddev, insecure_key=KEY)
    return (noise.release(vector, 1.0, 1.0, insecure_key=KEY) / step).astype(np.int64) - added


@given(
    hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-100, 100)),
    st.data(),
)
def test_neighbours_are_within_the_charged_integer_sensitivity(vector, data):
    direction = data.draw(hnp.arrays(np.float64, vector.shape, elements=st.floats(-1, 1)))
    norm = float(np.linalg.norm(direction))
    neighbour = vector + direction / max(norm, 1.0)
    apart = [Fraction(float(a)) - Fraction(float(b)) for a, b in zip(vector, neighbour, strict=True)]
    if sum(x * x for x in apart) > 1:  # the float addition pushed it past the sensitivity
        return
    step = noise.grid(1.0, vector.size, 1.0)
    shift = [int(a - b) for a, b in zip(steps_of(vector, step), steps_of(neighbour, step), strict=True)]
    limit = Fraction(noise.integer_sensitivity(1.0, vector.size, step))
    assert sum(k * k for k in shift) <= limit**2


@given(sensitivities, dimensions, multipliers)
def test_the_noise_suffices_and_costs_less_than_a_thousandth(sensitivity, dimension, multiplier):
    step = noise.grid(sensitivity, dimension, multiplier)
    stddev = noise.integer_stddev(noise.integer_sensitivity(sensitivity, dimension, step), multiplier)
    with mp.workdps(60):
        steps = mp.mpf(sensitivity) / mp.mpf(step) + mp.sqrt(dimension)
        slope = mp.sqrt(6 * (1 - mp.sqrt(1 - 1 / (3 * mp.mpf(stddev) ** 2))))
        assert slope * steps * mp.mpf(multiplier) <= 1
        assert mp.mpf(stddev) * mp.mpf(step) <= mp.mpf("1.001") * mp.mpf(multiplier) * mp.mpf(sensitivity)


@given(st.floats(2.0, 2.0**40))
def test_slope_and_its_inverse_meet_on_the_safe_side(value):
    stddev = stddev_for_inverse_slope(value)
    assert discrete_gaussian_slope(stddev) * value <= 1.0
    assert discrete_gaussian_slope(stddev) * value > 1.0 - 2.0**-45


@given(st.floats(2.0, 2.0**40), st.floats(2.0, 2.0**40))
def test_slope_falls_with_the_deviation(first, second):
    low, high = sorted((first, second))
    assert discrete_gaussian_slope(low) >= discrete_gaussian_slope(high)


@settings(max_examples=50)
@given(st.sampled_from([np.float32, np.float64]), st.data())
def test_a_release_is_on_the_grid(dtype, data):
    bits = 32 if dtype is np.float32 else 64
    elements = st.floats(-(2.0**40), 2.0**40, width=bits)
    vector = data.draw(hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=5), elements=elements))
    released = noise.release(vector, 1.0, 1.0)
    assert released.dtype == dtype
    assert released.shape == vector.shape
    assert not np.any(np.mod(released.astype(np.float64), noise.grid(1.0, vector.size, 1.0)))
