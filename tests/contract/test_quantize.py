"""The core's quantiser against its law in numpy, on every backend; and back."""

import numpy as np
import pytest

from fedsec import _kernels, masks

KEY = bytes(range(32))


def law(values, granularity, key):
    """floor(q) + (u < q - floor(q)), u a multiple of 2^-53 from the key's words."""
    quotients = values.astype(np.float64) / granularity
    uniform = np.ldexp((masks.expand(key, len(values), 64) >> np.uint64(11)).astype(np.float64), -53)
    levels = np.floor(quotients)
    return (levels + (uniform < quotients - levels)).astype(np.int64)


def values_of(dtype, length, max_abs):
    rng = np.random.default_rng(length)
    values = rng.uniform(-max_abs, max_abs, length)
    special = [0.0, -0.0, 1e-30, -1e-30, 5e-324, -5e-324, max_abs, -max_abs, max_abs / 2, -max_abs / 3]
    values[: len(special)] = special[:length]
    return np.clip(values.astype(dtype), -max_abs, max_abs).astype(dtype)


@pytest.mark.parametrize("backend", _kernels.backends(), ids=lambda backend: backend.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("granularity", [1.0, 0.1, 2.0**-20, 2.0**-49, 2.0**-50, 2.0**-53, 2.0**-61])
def test_levels_are_those_of_the_law(backend, dtype, granularity):
    for length in (0, 1, 7, 8, 9, 511, 512, 513, 3000):
        values = values_of(dtype, length, 1.0)
        levels = _kernels.quantize(values, granularity, 1.0, KEY, backend)
        assert np.array_equal(levels, law(values, granularity, KEY))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("refused", [np.nan, -np.nan, np.inf, -np.inf, 1.0001, -1.0001])
@pytest.mark.parametrize("place", [0, 511, 512, 1023])
def test_one_value_out_of_range_refuses_all(dtype, refused, place):
    values = np.ones(1024, dtype)
    assert _kernels.quantize(values, 0.5, 1.0, KEY).tolist() == [2] * 1024
    values[place] = refused
    assert _kernels.quantize(values, 0.5, 1.0, KEY) is None


@pytest.mark.parametrize("bits", range(1, 65))
def test_residues_stand_for_signed_levels(bits):
    dtype = masks.lane_dtype(bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    levels = [low, low + 1, -1, 0, high - 1, high, low // 3, high // 3]
    levels = [level for level in levels if low <= level <= high]
    residues = np.array([level % 2**bits for level in levels], dtype)
    if bits < 64:
        expected = [0.25 * float(level) for level in levels]
        assert _kernels.dequantize(residues, bits, 0.25, 2**62).tolist() == expected
    assert _kernels.dequantize(residues, bits, 0.25, -low - 1) is None
    assert _kernels.dequantize(residues[1:], bits, 0.25, 2**63 - 1).size == len(levels) - 1
