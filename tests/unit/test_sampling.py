"""Draws that amplify: from the operating system, of the right law, under nobody's seed."""

import math

import numpy as np
import pytest

from fedsec import _kernels, sampling
from fedsec.errors import InvalidArgumentError, InvalidTypeError


@pytest.fixture
def fixed_keys(monkeypatch):
    """A fixed sequence of keys, so that a statistical test says the same every time."""
    keys = iter(range(10**6))
    monkeypatch.setattr(_kernels, "fresh_key", lambda: bytearray(next(keys).to_bytes(32, "little")))


def test_poisson_at_the_ends():
    assert sampling.poisson(5, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert sampling.poisson(1000, 0.0).size == 0
    assert sampling.poisson(0, 0.5).size == 0


@pytest.mark.usefixtures("fixed_keys")
def test_poisson_counts_follow_the_binomial():
    """False alarm over keys: 1e-9 by Bernstein's inequality, for each of both tails."""
    n, q = 200_000, 0.03
    deviation = math.sqrt(2 * n * q * (1 - q) * math.log(1e9)) + math.log(1e9)
    indices = sampling.poisson(n, q)
    assert abs(indices.size - n * q) < deviation
    assert np.array_equal(indices, np.unique(indices))
    # Negative control: the bound would notice a probability that is off by a tenth.
    assert abs(sampling.poisson(n, 1.1 * q).size - n * q) > deviation / 2


@pytest.mark.usefixtures("fixed_keys")
def test_fixed_size_is_a_uniform_subset():
    """False alarm over keys: 2e-9. Each count is binomial(3000, 1/3), standard deviation 25.8."""
    counts = np.zeros(6)
    for _ in range(3000):
        subset = sampling.fixed_size(6, 2)
        assert subset.size == 2
        assert subset[0] < subset[1]
        counts[subset] += 1
    assert np.all(np.abs(counts - 1000) < 6.2 * 25.8)


def test_no_seed_of_others_repeats_a_draw():
    torch = pytest.importorskip("torch")
    draws = []
    for _ in range(2):
        np.random.seed(1)
        torch.manual_seed(1)
        draws.append(sampling.poisson(1000, 0.5))
    assert not np.array_equal(*draws)


@pytest.mark.parametrize("arguments", [(10, 1.5), (10, -0.1), (10, math.nan), (-1, 0.5)])
def test_poisson_refuses(arguments):
    with pytest.raises(InvalidArgumentError):
        sampling.poisson(*arguments)


def test_fixed_size_refuses():
    with pytest.raises(InvalidArgumentError, match=r"\[0, 3\], got 4"):
        sampling.fixed_size(3, 4)
    with pytest.raises(InvalidTypeError):
        sampling.fixed_size(3, 1.0)


@pytest.mark.usefixtures("fixed_keys")
def test_permutations_are_uniform():
    """False alarm over keys: 6e-9. Each count is binomial(3000, 1/6), standard deviation 20.4."""
    counts = {}
    for _ in range(3000):
        order = tuple(sampling.permutation(3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert set(counts) == {(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}
    assert all(abs(count - 500) < 6.2 * 20.4 for count in counts.values())
    assert sampling.permutation(0).size == 0


@pytest.mark.usefixtures("fixed_keys")
def test_uniform_numbers_are_uniform():
    """False alarm over keys: 4e-9. Each count is binomial(70000, 1/7), standard deviation 92.6."""
    counts = np.bincount(sampling.uniform(70_000, 7), minlength=7)
    assert counts.size == 7
    assert np.all(np.abs(counts - 10_000) < 6.2 * 92.6)
    assert not sampling.uniform(5, 1).any()
    assert sampling.uniform(0, 5).size == 0


def test_words_that_would_favour_some_numbers_are_drawn_again(monkeypatch):
    words = iter([[2**64 - 1, 2**64 - 2, 5], [2**64 - 1], [9]])
    monkeypatch.setattr(sampling, "_random_words", lambda count: np.array(next(words)[:count], np.uint64))
    assert sampling.uniform(3, 3).tolist() == [0, 2, 2]
    assert next(words, None) is None


@pytest.mark.parametrize(
    ("function", "arguments"), [("uniform", (-1, 2)), ("uniform", (3, 0)), ("permutation", (-1,))]
)
def test_other_draws_refuse(function, arguments):
    with pytest.raises(InvalidArgumentError):
        getattr(sampling, function)(*arguments)
