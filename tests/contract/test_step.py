"""The passes of a training step against numpy, on every backend: parts added up, and a release."""

import numpy as np
import pytest

from fedsec import _kernels

ABLE = _kernels.backends()
every_backend = pytest.mark.parametrize("backend", ABLE, ids=lambda backend: backend.name)
LENGTHS = (0, 1, 7, 8, 9, 255, 511, 512, 513, 1025, 3000)
PAIRS = [(np.float32, np.float32), (np.float64, np.float32), (np.float64, np.float64)]
FLOAT32_MAX = float(np.finfo(np.float32).max)


@every_backend
@pytest.mark.parametrize("length", LENGTHS)
def test_parts_are_added_up_in_double_precision_before_the_total_is_met(backend, length):
    rng = np.random.default_rng(length)
    for n in (1, 2, 5):
        parts = (rng.normal(size=(n, length)) * 10.0 ** rng.integers(-9, 9, (n, length))).astype(np.float32)
        total = rng.normal(size=length) * 1e6
        expected = np.zeros(length)
        for part in parts:
            expected += part.astype(np.float64)
        expected += total
        _kernels.add_parts(total, parts, backend)
        assert np.array_equal(total, expected)


def released(values, noise, granularity, scale, out_dtype, backend):
    out = np.full(len(values), 7, out_dtype)
    return out, _kernels.release(out, values, noise, granularity, scale, backend)


@every_backend
@pytest.mark.parametrize(("dtype", "out_dtype"), PAIRS)
@pytest.mark.parametrize("granularity", [2.0**-40, 2.0**-11, 1.0])
def test_a_release_rounds_to_the_nearest_even_step_and_adds_the_noise(backend, dtype, out_dtype, granularity):
    rng = np.random.default_rng(0)
    for length in LENGTHS:
        steps = np.concatenate([
            np.array([0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 2047.5, 2048.5, 2.0**40 + 0.5, -(2.0**61)]),
            rng.normal(size=3000) * 10.0 ** rng.integers(-3, 15, 3000),
        ])[:length]  # fmt: skip
        values = (steps * granularity).astype(dtype)
        noise = rng.integers(-(2**40), 2**40, len(values))
        nearest = np.rint(values.astype(np.float64) / granularity).astype(np.int64)
        expected = ((nearest + noise).astype(np.float64) * (granularity * 0.3)).astype(out_dtype)
        out, done = released(values, noise, granularity, 0.3, out_dtype, backend)
        assert done
        assert np.array_equal(out, expected)


@every_backend
@pytest.mark.parametrize(("dtype", "out_dtype"), PAIRS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**62 * 1.01, -(2.0**62) * 1.01])
def test_what_no_step_is_near_to_is_refused_and_nothing_is_kept(backend, dtype, out_dtype, bad):
    for place in (0, 8, 514):
        values = np.zeros(515, dtype)
        values[place] = bad
        out, done = released(values, np.ones(515, np.int64), 1.0, 1.0, out_dtype, backend)
        assert not done
        assert not out.any()


@every_backend
def test_results_beyond_the_outputs_type_are_refused(backend):
    values, noise = np.full(9, FLOAT32_MAX), np.zeros(9, np.int64)
    for scale, fits in ((1.0, True), (1.0 + 2.0**-40, False), (-1.0 - 2.0**-40, False)):
        assert released(values, noise, 2.0**80, scale, np.float32, backend)[1] is fits
    assert not released(np.full(9, 1e308), noise, 2.0**1000, 4.0, np.float64, backend)[1]
