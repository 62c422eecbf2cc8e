"""The core's quantiser against its law in numpy, on every backend; and back."""

import math
from fractions import Fraction

import numpy as np
import pytest

from fedsec import _kernels, masks

KEY = bytes(range(32))
GROUP, LENGTHS = 512, (0, 1, 7, 8, 9, 255, 256, 257, 511, 512, 513, 3000, 8192, 8193, 20000)
ABLE = _kernels.backends()
(GENERIC,) = (backend for backend in ABLE if backend.name == "generic")
every_backend = pytest.mark.parametrize("backend", ABLE, ids=lambda backend: backend.name)


def words_of(length, key):
    """A word for each value: the four that share 64 bits see them from the first, second, ... quarter on."""
    stream = np.zeros(-(-length // GROUP) * GROUP // 4, "<u8")
    _kernels.noise_keystream(stream, key, backend=GENERIC)
    quarters = stream.view("<u2").astype(np.uint32).reshape(-1, GROUP // 4, 4)
    seen = [quarters[..., k] | quarters[..., (k + 1) % 4] << np.uint32(16) for k in range(4)]
    return np.concatenate(seen, axis=1).ravel()[:length]


def law(values, granularity, key):
    """x / g + u, with a word of 32 bits as u, and its floor."""
    step = Fraction(granularity)
    quotients = [Fraction(x) / step for x in values.tolist()]
    words = words_of(len(values), key).tolist()
    sums = [q + Fraction(word, 2**32) for q, word in zip(quotients, words, strict=True)]
    return sums, [math.floor(total) for total in sums]


def values_of(dtype, length, max_abs):
    rng = np.random.default_rng(length)
    values = rng.uniform(-max_abs, max_abs, length)
    special = [0.0, -0.0, 1e-30, -1e-30, 1e-45, -1e-45, max_abs, -max_abs, max_abs / 2, -max_abs / 3]
    values[: len(special)] = special[:length]
    return np.clip(values.astype(dtype), -max_abs, max_abs).astype(dtype)


@every_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "granularity",
    [1.0, 0.1, 1e-5, 2.0**-18, 2.0**-19, 2.0**-20, 1e-9, 2.0**-49, 2.0**-53, 2.0**-61],
)
def test_levels_are_those_of_the_law(backend, dtype, granularity):
    """But where the sum is a rounding error away from being another's, which is hardly ever."""
    values = values_of(dtype, 1500, 1.0)
    sums, expected = law(values, granularity, KEY)
    levels = _kernels.quantize(values, granularity, 1.0, insecure_key=KEY, backend=backend)
    exact = float(granularity).hex().startswith("0x1.0000000000000p")
    for level, wanted, total in zip(levels.tolist(), expected, sums, strict=True):
        slack = Fraction(2) ** -32 + (0 if exact else abs(total) * Fraction(2) ** -51)
        assert level == wanted or abs(total - max(level, wanted)) <= slack
    assert np.mean(levels == np.array(expected)) > 0.99


@every_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("granularity", [0.1, 1e-9])
def test_every_length_lane_and_ring_gives_the_bytes_of_generic(backend, dtype, granularity):
    lanes = (np.int64, None), (np.uint16, 11), (np.uint32, 20), (np.int32, None), (np.uint64, 63)
    for length in LENGTHS:
        aligned = values_of(dtype, length + 1, 1.0)
        for values in (aligned[:-1], aligned[1:]):
            levels = _kernels.quantize(values, granularity, 1.0, insecure_key=KEY, backend=GENERIC)
            for lane, bits in lanes:
                out = _kernels.quantize(values, granularity, 1.0, lane, bits, KEY, backend)
                expected = levels.astype(lane) & lane(2**bits - 1) if bits else levels.astype(lane)
                assert out.dtype == lane
                assert np.array_equal(out, expected), (length, lane)


@every_backend
@pytest.mark.parametrize("granularity", [0.01, 1e-9])
def test_unbiased_for_every_place_in_a_group(backend, granularity):
    """Each place of a group on its own, and sums over groups, whose words are shared by fours.

    False alarm below 1e-6 altogether: 512 places and one variance, normal; the key is fixed.
    """
    groups = 400
    values = np.full(groups * GROUP, 0.3 * granularity)
    for dtype in (np.float32, np.float64):
        levels = _kernels.quantize(values.astype(dtype), granularity, 1.0, insecure_key=KEY, backend=backend)
        assert set(levels.tolist()) == {0, 1}
        places = levels.reshape(groups, GROUP)
        assert np.abs(places.mean(0) - 0.3).max() < 6.0 * np.sqrt(0.21 / groups)
        variance = places.sum(1).var()
        assert abs(variance / (GROUP * 0.21) - 1.0) < 5.5 * np.sqrt(2.0 / groups)


@every_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("refused", [np.nan, -np.nan, np.inf, -np.inf, 1.0001, -1.0001])
@pytest.mark.parametrize("granularity", [0.5, 2.0**-40])
def test_one_value_out_of_range_refuses_all(backend, dtype, refused, granularity):
    values = np.ones(8192 + 700, dtype)
    whole = _kernels.quantize(values, granularity, 1.0, insecure_key=KEY, backend=backend)
    assert set(whole.tolist()) == {int(1 / granularity)}
    for place in (0, 255, 256, 511, 512, 8191, 8192, 8192 + 512, 8192 + 699):
        values[place] = refused
        assert _kernels.quantize(values, granularity, 1.0, insecure_key=KEY, backend=backend) is None
        values[place] = 1.0


@every_backend
@pytest.mark.parametrize("bits", range(1, 65))
def test_residues_stand_for_signed_levels(backend, bits):
    dtype = masks.lane_dtype(bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    levels = [low, low + 1, -1, 0, high - 1, high, low // 3, high // 3] * 5
    levels = [level for level in levels if low <= level <= high]
    residues = np.array([level % 2**bits for level in levels], dtype)
    for real in (np.float32, np.float64):
        if bits < 64:
            expected = [real(0.25 * float(level)) for level in levels]
            lifted = _kernels.dequantize(residues, bits, 0.25, 2**62, real, backend)
            assert lifted.dtype == real
            assert lifted.tolist() == expected
        assert _kernels.dequantize(residues, bits, 0.25, -low - 1, real, backend) is None
        inside = residues[np.array(levels) != low]
        assert _kernels.dequantize(inside, bits, 0.25, 2**63 - 1, real, backend).size == inside.size


@every_backend
def test_norms(backend):
    for length in (0, 1, 15, 16, 17, 1000, 4097):
        rng = np.random.default_rng(length)
        levels = rng.integers(-(2**31), 2**31, length).astype(np.int32)
        assert _kernels.squared_norm(levels, backend) == sum(level * level for level in levels.tolist())
        values = rng.normal(size=length).astype(np.float32) * np.float32(1e30)
        assert _kernels.l2_norm(values, backend) == _kernels.l2_norm(values, GENERIC)
        assert _kernels.l2_norm(values, backend) == pytest.approx(np.linalg.norm(values.astype(np.float64)))
    for wrong in (np.nan, np.inf, -np.inf):
        assert not np.isfinite(_kernels.l2_norm(np.array([1.0, wrong, 0.0], np.float32), backend))
    assert _kernels.squared_norm(np.full(2**16, -(2**31), np.int32), backend) == 2 ** (62 + 16)


def test_truncation_is_toward_zero():
    values = np.array([0.0, 0.99, -0.99, 1.0, -1.0, 2.5, -2.5], np.float32)
    assert _kernels.truncate(values, 0.5, 2.5).tolist() == [0, 1, -1, 2, -2, 5, -5]
    for wrong in (np.nan, np.inf, 2.6, -2.6):
        assert _kernels.truncate(np.array([1.0, wrong], np.float32), 0.5, 2.5) is None


@every_backend
def test_conditional_rounding_keeps_its_bound(backend):
    rng = np.random.default_rng(3)
    for given in (rng.normal(size=1000), np.full(1000, 0.5), np.zeros(1000), np.eye(1, 1000)[0] * 1e4):
        values = given.astype(np.float32)
        loose = int(np.sum(np.ceil(np.abs(given.astype(np.float64))) ** 2)) + 1
        assert _kernels.squared_norm(_kernels.round_conditionally(values, 1.0, loose, 1, backend)) <= loose
        # Hardly any rounding but truncation meets this.
        tight = int(np.sum(np.trunc(values.astype(np.float64)) ** 2))
        levels = _kernels.round_conditionally(values, 1.0, tight, 3, backend)
        assert levels is None or _kernels.squared_norm(levels) <= tight
    assert not _kernels.round_conditionally(np.zeros(50, np.float32), 1.0, 0, 1, backend).any()
    assert _kernels.round_conditionally(np.full(50, 2.0, np.float32), 1.0, 199, 2, backend) is None
    assert _kernels.round_conditionally(np.array([np.nan], np.float32), 1.0, 100, 2, backend) is None


@pytest.mark.parametrize("noise_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("bits", [1, 12, 16, 17, 20, 32, 33, 64])
def test_noise_is_added_in_the_ring(noise_dtype, bits):
    rng = np.random.default_rng(bits)
    levels = rng.integers(-(2**31), 2**31, 1000).astype(np.int32)
    most = np.iinfo(noise_dtype).max
    noise = rng.integers(-most, most, 1000, dtype=noise_dtype)
    noise[:2] = most, -most - 1
    out = _kernels.add_noise(levels, noise, bits)
    assert out.dtype == masks.lane_dtype(bits)
    assert out.tolist() == [(a + b) % 2**bits for a, b in zip(levels.tolist(), noise.tolist(), strict=True)]
