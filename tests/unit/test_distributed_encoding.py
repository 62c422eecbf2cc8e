"""Contributions as integers: what never exceeds the bound, what stays zero, what comes back."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec import _kernels, distributed
from fedsec.distributed import encoding as module
from fedsec.errors import FedsecError, InvalidArgumentError, InvalidTypeError, NonFiniteError

KEY = bytes(range(32))
TINY, HUGE = 5e-324, 1e308


def squared(levels):
    return sum(int(level) ** 2 for level in levels)


def decoded(encoding, levels, key=KEY):
    return encoding.rotate_back((levels * encoding.granularity).astype(np.float32), key)


def adversarial(dimension):
    """Vectors that try to come out longer than they should."""
    e = np.eye(1, dimension)[0]
    block = distributed.ClientEncoding(dimension, 1.0).block
    halves = np.zeros(dimension, np.float32)
    halves[: dimension - dimension % block] = 0.5
    if dimension >= block:  # half-integers once rotated, before the scale
        _kernels.rotate(halves[: dimension - dimension % block], block, KEY, back=True)
    random = np.random.default_rng(0)
    return {
        "one-hot": e,
        "one-hot, large": 1e30 * e.astype(np.float32),
        "constant": np.ones(dimension),
        "alternating": (-1.0) ** np.arange(dimension),
        "half-integers": halves.astype(np.float64),
        "denormal": TINY * np.ones(dimension),
        "denormal float32": np.full(dimension, 1e-45, np.float32),
        "huge": HUGE * np.ones(dimension),
        "huge and tiny": np.where(np.arange(dimension) % 2, HUGE, TINY),
        "normal": random.normal(size=dimension),
        "heavy": random.standard_cauchy(dimension),
        "at the norm": np.full(dimension, 1.0 / math.sqrt(dimension)),
    }


@pytest.mark.parametrize("dimension", [1, 2, 3, 10, 100, 1000, 5000])
@pytest.mark.parametrize("fineness", [module.MIN_FINENESS, 0.5, 8.0, module.MAX_FINENESS])
@pytest.mark.parametrize("norm", [1e-30, 1.0, 1e30])
def test_no_vector_comes_out_longer_than_the_bound(dimension, fineness, norm):
    length = distributed.ClientEncoding(dimension, norm).length
    encoding = distributed.ClientEncoding(dimension, norm, norm / (fineness * math.sqrt(length)))
    for vector in adversarial(dimension).values():
        levels = encoding.encode(vector, KEY)
        assert levels.shape == (length,)
        assert squared(levels) <= encoding.squared_bound <= encoding.l2_sensitivity**2


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=n, max_size=n)
    ),
    st.floats(1e-30, 1e30),
)
def test_no_vector_at_all_comes_out_longer(values, norm):
    encoding = distributed.ClientEncoding(len(values), norm)
    assert squared(encoding.encode(np.array(values), KEY)) <= encoding.squared_bound


@pytest.mark.parametrize("dimension", [1, 7, 1000])
def test_zero_becomes_zero(dimension):
    encoding = distributed.ClientEncoding(dimension, 1.0)
    for zero in (0.0, -0.0):
        assert not encoding.encode(np.full(dimension, zero), KEY).any()


@pytest.mark.parametrize("fineness", [module.MIN_FINENESS, 8.0, module.MAX_FINENESS])
def test_after_all_retries_truncation_meets_the_bound(fineness, monkeypatch):
    """As if every rounding at random came out too long."""
    calls = []

    def too_long(values, granularity, max_abs, dtype, **_):
        calls.append(values.size)
        return np.full(values.size, 10**6, dtype)

    for dimension in (1, 3, 1000):
        length = distributed.ClientEncoding(dimension, 1.0).length
        encoding = distributed.ClientEncoding(dimension, 1.0, 1.0 / (fineness * math.sqrt(length)))
        monkeypatch.setattr(_kernels, "quantize", too_long)
        for vector in adversarial(dimension).values():
            calls.clear()
            levels = encoding.encode(vector, KEY)
            assert len(calls) == module._RETRIES
            assert squared(levels) <= encoding.squared_bound
        monkeypatch.undo()


def test_nothing_leaves_if_even_truncation_is_too_long(monkeypatch):
    encoding = distributed.ClientEncoding(4, 1.0)
    monkeypatch.setattr(_kernels, "squared_norm", lambda levels, backend: 2**60)
    with pytest.raises(FedsecError, match="nothing leaves"):
        encoding.encode(np.ones(4), KEY)


def test_the_bound_is_counted_in_whole_numbers(monkeypatch):
    """One step beyond the bound is one too many, where a float of 24 bits would round it off."""
    encoding = distributed.ClientEncoding(10_000, 1.0)
    levels = np.zeros(encoding.length, np.int32)
    rest = encoding.squared_bound
    for place in range(encoding.length):
        levels[place] = math.isqrt(rest)
        rest -= int(levels[place]) ** 2
        if not rest:
            break
    assert squared(levels) == encoding.squared_bound
    monkeypatch.setattr(_kernels, "quantize", lambda *_, **__: levels.copy())
    assert np.array_equal(encoding.encode(np.ones(10_000), KEY), levels)
    levels[-1] += 1
    assert not np.array_equal(encoding.encode(np.ones(10_000), KEY), levels)


@pytest.mark.parametrize("dimension", [2, 100, 10_000, 10**6])
@pytest.mark.parametrize("fineness", [0.25, 1.0, 8.0, 64.0])
def test_the_bound_is_the_published_one(dimension, fineness):
    length = distributed.ClientEncoding(dimension, 2.5).length
    encoding = distributed.ClientEncoding(dimension, 2.5, 2.5 / (fineness * math.sqrt(length)))
    with mp.workdps(50):
        norm, d = mp.mpf(2.5) / mp.mpf(encoding.granularity), mp.mpf(length)
        spread = mp.sqrt(2 * mp.log(1 / mp.exp(-mp.mpf(1) / 2)))
        published = min((norm + mp.sqrt(d)) ** 2, norm**2 + d / 4 + spread * (norm + mp.sqrt(d) / 2))
        assert abs(encoding.squared_bound - published) <= 1 + published * mp.mpf(2) ** -50
        assert encoding.l2_sensitivity >= mp.sqrt(encoding.squared_bound)


def test_the_first_rounding_mostly_fits(monkeypatch):
    """The published chance is 39 % at least; a bound that was too tight would end in truncation, and bias."""
    encoding = distributed.ClientEncoding(1000, 1.0)
    vector, quantize, calls = np.random.default_rng(1).normal(size=1000), _kernels.quantize, []
    monkeypatch.setattr(_kernels, "quantize", lambda *a, **k: calls.append(1) or quantize(*a, **k))
    for _ in range(300):
        encoding.encode(vector, KEY)
    assert 300 <= len(calls) < 300 / 0.39


@pytest.mark.parametrize("dimension", [1, 5, 1000, 3000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decoding_gives_the_clipped_vector_back_to_a_step_a_coordinate(dimension, dtype):
    vector = np.random.default_rng(dimension).normal(size=dimension).astype(dtype)
    for norm in (0.5 * np.linalg.norm(vector), 2.0 * np.linalg.norm(vector)):
        encoding = distributed.ClientEncoding(dimension, float(norm))
        back = decoded(encoding, encoding.encode(vector, KEY))
        clipped = vector * min(1.0, norm / np.linalg.norm(vector))
        error = np.linalg.norm(back - clipped) / encoding.granularity
        assert error <= math.sqrt(encoding.length)
    other = decoded(encoding, encoding.encode(vector, KEY), bytes(32))
    if dimension > 100:  # another key rotates elsewhere
        assert np.linalg.norm(other - clipped) > 0.5 * np.linalg.norm(clipped)


def test_rounding_has_no_bias():
    encoding = distributed.ClientEncoding(64, 1.0, 0.5)  # coarse: a fraction of a step a coordinate
    vector = np.full(64, 0.1)
    mean = np.mean([decoded(encoding, encoding.encode(vector, KEY)) for _ in range(4000)], axis=0)
    # Conditioned on the bound, which nearly all roundings meet here; five standard errors.
    assert np.abs(mean - 0.1).max() < 5 * 0.5 * 0.5 / math.sqrt(4000) + 0.01


def test_padding_stays_below_one_block_and_a_sixtyfourth():
    for dimension in (*range(1, 200), 1000, 26_010, 10**5, 10**6, 10**7 + 1):
        encoding = distributed.ClientEncoding(dimension, 1.0)
        padding = encoding.length - dimension
        assert 0 <= padding < encoding.block
        assert padding * 64 <= dimension
        assert encoding.length % encoding.block == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_by_index(bad):
    vector = np.zeros(5, np.float32)
    vector[3] = bad
    with pytest.raises(NonFiniteError, match="index 3"):
        distributed.ClientEncoding(5, 1.0).encode(vector, KEY)


@pytest.mark.parametrize(
    "vector",
    [[1.0] * 4, np.zeros(5), np.zeros((2, 2)), np.zeros(4, np.int64), np.ma.zeros(4), np.zeros(8)[::2]],
)
def test_other_vectors_are_refused(vector):
    with pytest.raises(InvalidTypeError):
        distributed.ClientEncoding(4, 1.0).encode(vector, KEY)


@pytest.mark.parametrize("key", [b"", bytes(31), "x" * 32, None])
def test_other_keys_are_refused(key):
    encoding = distributed.ClientEncoding(4, 1.0)
    with pytest.raises(InvalidTypeError, match="rotation_key"):
        encoding.encode(np.zeros(4), key)
    with pytest.raises(InvalidTypeError, match="rotation_key"):
        encoding.rotate_back(np.zeros(4, np.float32), key)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0, 1.0), "dimension"),
        ((4, 0.0), "l2_clip_norm"),
        ((4, math.nan), "l2_clip_norm"),
        ((4, 1e31), "l2_clip_norm"),
        ((4, 1.0, 1e-3), "granularity"),
        ((4, 1.0, 1e3), "granularity"),
        ((4, 1.0, -1.0), "granularity"),
    ],
)
def test_arguments_are_refused_by_name(arguments, name):
    with pytest.raises(InvalidArgumentError, match=name):
        distributed.ClientEncoding(*arguments)


# ---- sums of records


def records(dimension=1000, norm=1.0, max_sum=50.0, **changes):
    return distributed.RecordEncoding(dimension, norm, max_sum, **changes)


@pytest.mark.parametrize("dimension", [1, 10, 1000])
def test_a_record_moves_a_sum_by_its_norm_and_a_step_a_coordinate(dimension, monkeypatch):
    """Two neighbours rounded with the same uniform numbers, as in the proof."""
    encoding = records(dimension, granularity=0.25)
    rng = np.random.default_rng(dimension)
    monkeypatch.setattr(_kernels, "fresh_key", lambda: bytearray(32))
    for _ in range(50):
        rest, record = rng.uniform(-40, 40, dimension), rng.normal(size=dimension)
        record *= rng.choice([0.01, 1.0]) / np.linalg.norm(record)
        with_it, without = encoding.encode(rest + record), encoding.encode(rest)
        assert np.linalg.norm(with_it - without) <= encoding.l2_sensitivity
    # The control: the norm in steps alone is too little.
    worst = max(
        np.linalg.norm(encoding.encode(rest + record / 100) - encoding.encode(rest)) for _ in range(3)
    )
    if dimension == 1000:
        assert worst > 0.01 / encoding.granularity


def test_steps_of_records_cost_at_most_a_fourhundredth():
    for dimension in (1, 1000, 10**6, 12_345_678):
        for norm in (1e-30, 0.37, 1.0, 1e30):
            encoding = records(dimension, norm, 100 * norm)
            assert math.frexp(encoding.granularity)[0] == 0.5
            assert 1.0 < encoding.l2_sensitivity * encoding.granularity / norm <= 1.0 + 1.0 / 400 + 1e-12


def test_sums_of_records_are_rounded_without_bias_or_loss():
    encoding = records(3, granularity=0.5)
    assert encoding.encode(np.array([1.0, -2.5, 0.0])).tolist() == [2, -5, 0]  # multiples stay
    mean = np.mean([encoding.encode(np.full(3, 0.1)) for _ in range(4000)])
    assert mean == pytest.approx(0.2, abs=7 * 0.4 / math.sqrt(12_000))
    assert encoding.largest_level(7) == 107


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        (np.array([1.0, math.nan, 0.0]), NonFiniteError),
        (np.array([1.0, math.inf, 0.0]), NonFiniteError),
        (np.array([1.0, 1e13, 0.0]), InvalidArgumentError),
        (np.zeros(2), InvalidTypeError),
        (np.zeros(3, np.int64), InvalidTypeError),
    ],
)
def test_sums_that_cannot_be_are_refused(vector, error):
    with pytest.raises(error):
        records(3).encode(vector)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"dimension": 0}, "dimension"),
        ({"norm": 0.0}, "l2_clip_norm"),
        ({"max_sum": -1.0}, "max_sum"),
        ({"max_sum": 1e15}, "max_sum"),
        ({"granularity": 0.3}, "granularity"),
        ({"granularity": 2.0}, "granularity"),
        ({"excess_probability": 1.5}, "excess_probability"),
    ],
)
def test_arguments_for_records_are_refused_by_name(arguments, name):
    with pytest.raises(InvalidArgumentError, match=name):
        records(**arguments)
