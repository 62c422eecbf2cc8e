"""The passes of a training step against numpy, on every backend: sums, products and a release."""

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
def test_weighted_rows_are_added_up_in_double_precision_before_the_total_is_met(backend, length):
    rng = np.random.default_rng(length)
    for rows in (0, 1, 4, 7):
        values = (rng.normal(size=(rows, length)) * 10.0 ** rng.integers(-9, 9, (rows, length))).astype("f")
        weights, before = rng.random(rows), rng.normal(size=length) * 1e6
        terms, whole = weights[:, None] * values.astype(np.float64), rows // 4 * 4
        expected = np.zeros(length)
        for i in range(0, whole, 4):
            expected += (terms[i] + terms[i + 1]) + (terms[i + 2] + terms[i + 3])
        for term in terms[whole:]:
            expected += term
        for dtype in (np.float32, np.float64):
            total, fresh = before.astype(dtype), np.full(length, np.nan, dtype)
            _kernels.weighted_sum(total, values, weights, fresh=False, backend=backend)
            _kernels.weighted_sum(fresh, values, weights, fresh=True, backend=backend)
            assert np.array_equal(total, (before.astype(dtype) + expected).astype(dtype))
            assert np.array_equal(fresh, expected.astype(dtype))


@every_backend
@pytest.mark.parametrize("length", LENGTHS)
def test_squares_of_rows_are_added_up_in_double_precision(backend, length):
    values = np.random.default_rng(length).normal(size=(3, length)).astype("f")
    expected = (values.astype(np.float64) ** 2).sum(axis=1)
    assert np.allclose(_kernels.sums_of_squares(values, backend), expected, rtol=1e-14, atol=0.0)


# (rows, positions, m, n): one tile and parts of one, more than a panel, several blocks of terms.
PRODUCTS = [
    (1, 1, 1, 1),
    (3, 1, 5, 33),
    (200, 1, 61, 100),
    (2, 70, 25, 31),
    (3, 17, 13, 64),
    (600, 1, 500, 9),
]


@every_backend
@pytest.mark.parametrize("shape", PRODUCTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_of_whole_numbers_are_exact_on_every_backend(backend, shape, dtype):
    """No sum here is above 2**24, so nothing rounds, whatever is fused and in which order."""
    left, right, weights, total = whole_numbers(*shape)
    terms = left.astype(np.float64) * weights[:, None, None]
    expected = np.einsum("rpm,rpn->mn", terms, right)
    found, fresh = total.astype(dtype), np.full(total.shape, np.nan, dtype)
    _kernels.products(found, left, right, weights, fresh=False, backend=backend)
    _kernels.products(fresh, left, right, weights, fresh=True, num_threads=2, backend=backend)
    assert np.array_equal(found, total + expected)
    assert np.array_equal(fresh, expected)


def whole_numbers(rows, positions, m, n):
    rng = np.random.default_rng(rows * positions * m * n)
    sides = [rng.integers(-15, 16, (rows, positions, size)).astype(np.float32) for size in (m, n)]
    return *sides, rng.integers(0, 16, rows).astype(float), rng.integers(-99, 99, (m, n)).astype(float)


@every_backend
@pytest.mark.parametrize("positions", [1, 64, 130])
def test_at_most_a_block_of_terms_is_added_up_in_single_precision(backend, positions):
    """Of a block of ones after 2**24 nothing is left in single precision, and of a later block all."""
    rows = 2 * _kernels.BLOCK + 2 if positions == 1 else 2
    left, right = np.ones((rows, positions, 3), np.float32), np.ones((rows, positions, 2), np.float32)
    left[0, 0] = 2.0**24
    total = np.zeros((3, 2))
    _kernels.products(total, left, right, np.ones(rows), fresh=True, backend=backend)
    lost = min(_kernels.BLOCK, rows * positions if positions == 1 else positions) - 1
    assert np.array_equal(total, np.full((3, 2), 2.0**24 + rows * positions - 1 - lost))


@every_backend
def test_products_do_not_depend_on_threads(backend, monkeypatch):
    monkeypatch.setattr(_kernels, "_THREAD_PRODUCTS", 2**10)
    rng = np.random.default_rng(1)
    left, right = (rng.normal(size=(40, 3, size)).astype(np.float32) for size in (150, 70))
    weights = rng.random(40)
    totals = [np.zeros((150, 70)) for _ in range(2)]
    for total, threads in zip(totals, (1, 4), strict=True):
        _kernels.products(total, left, right, weights, fresh=True, num_threads=threads, backend=backend)
    assert np.array_equal(*totals)


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
