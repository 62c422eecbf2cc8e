"""Partitions: every record to exactly one client, sizes and labels skewed as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.errors import InvalidArgumentError, InvalidTypeError
from fedsec.federated.partition import by_key, dirichlet, iid, label_counts, quantity, shards


@settings(max_examples=150, deadline=None)
@given(
    targets=st.lists(st.integers(-3, 40), min_size=1, max_size=60),
    share=st.floats(0, 1),
    concentration=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**32),
)
def test_every_record_has_exactly_one_client_and_every_client_a_record(targets, share, concentration, seed):
    targets = np.array(targets)
    num_clients = 1 + int(share * (len(targets) - 1))
    parts = dirichlet(targets, num_clients, concentration, seed)
    sizes = [len(shard) for shard in parts]
    assert len(parts) == num_clients
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert sorted(np.concatenate(parts)) == list(range(len(targets)))
    for shard in parts:
        assert shard.dtype == np.int64
        assert np.all(np.diff(shard) > 0)


TARGETS = np.arange(2000) % 10


def mixes(concentration, seed=0, num_clients=10):
    parts = dirichlet(TARGETS, num_clients, concentration, seed)
    return np.array([np.bincount(TARGETS[part], minlength=10) / len(part) for part in parts])


def test_the_seed_decides():
    again = [dirichlet(TARGETS, 7, 0.5, 3) for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*again, strict=True))
    other = dirichlet(TARGETS, 7, 0.5, 4)
    assert not all(np.array_equal(a, b) for a, b in zip(again[0], other, strict=True))


def test_global_seeds_have_no_say():
    np.random.seed(1)
    first = mixes(1.0)
    np.random.seed(2)
    np.testing.assert_array_equal(first, mixes(1.0))


def test_small_concentrations_give_few_labels_and_large_ones_give_all():
    """The first clients draw from full pools: their mixes are the Dirichlet's own."""
    skewed = [mixes(0.01, seed)[0].max() for seed in range(20)]
    assert np.mean(skewed) > 0.9
    np.testing.assert_allclose(mixes(1e6), 0.1, atol=0.12)


def test_the_first_mix_has_the_moments_of_a_dirichlet():
    """Mean 1/10, and variance of a share m (1 - m) / (a + 1) + E[share (1 - share)] / n, for a = 1.

    400 seeds of ten shares each: the mean of the squared deviations lies within four standard errors,
    measured on the seeds themselves; false alarm below 1e-4 for a correct sampler.
    """
    shares = np.array([mixes(1.0, seed)[0] for seed in range(400)])
    m, a, n = 0.1, 1.0, 200
    variance = m * (1 - m) / (a + 1)
    expected = variance + (m * (1 - m) - variance) / n
    per_seed = ((shares - m) ** 2).mean(axis=1)
    error = abs(per_seed.mean() - expected) / (per_seed.std() / np.sqrt(len(per_seed)))
    assert error < 4
    for wrong in (0.5, 2.0):  # the control: other concentrations are told apart
        variance = m * (1 - m) / (wrong + 1)
        assert abs(per_seed.mean() - variance) / (per_seed.std() / np.sqrt(len(per_seed))) > 4


def test_mixes_follow_the_shares_of_the_labels():
    targets = np.repeat([0, 1], [1500, 500])
    shares = [np.mean(targets[dirichlet(targets, 10, 1.0, seed)[0]]) for seed in range(300)]
    assert abs(np.mean(shares) - 0.25) < 4 * np.std(shares) / np.sqrt(len(shares))


def test_records_of_a_label_are_drawn_uniformly_not_in_order():
    first = dirichlet(TARGETS, 2, 1e6, 0)[0]
    assert 800 < np.median(first) < 1200


def test_one_client_takes_everything():
    (shard,) = dirichlet(TARGETS, 1, 0.1, 0)
    np.testing.assert_array_equal(shard, np.arange(2000))


@pytest.mark.parametrize("targets", [[0, 1], np.zeros(3), np.zeros((3, 1), int), np.array([True]), None])
def test_targets_of_a_wrong_type(targets):
    with pytest.raises(InvalidTypeError, match=r"targets must be an integer array \(n,\), got"):
        dirichlet(targets, 1, 1.0, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((np.zeros(0, int), 1, 1.0, 0), InvalidArgumentError, "targets must have at least one record, got 0"),
        ((TARGETS, 0, 1.0, 0), InvalidArgumentError, r"num_clients must be in \[1, 2000\], got 0"),
        ((TARGETS, 2001, 1.0, 0), InvalidArgumentError, r"num_clients must be in \[1, 2000\], got 2001"),
        ((TARGETS, 2.0, 1.0, 0), InvalidTypeError, r"num_clients must be a whole number .*, got 2\.0"),
        ((TARGETS, 2, 0.0, 0), InvalidArgumentError, r"concentration must be in \[1e-06, 1e\+06\], got 0\.0"),
        ((TARGETS, 2, -1.0, 0), InvalidArgumentError, "concentration"),
        (
            (TARGETS, 2, float("nan"), 0),
            InvalidArgumentError,
            r"concentration must be a real number, in \[1e-06, 1e\+06\], got nan",
        ),
        ((TARGETS, 2, float("inf"), 0), InvalidArgumentError, "concentration must be in .* got inf"),
        ((TARGETS, 2, "1", 0), InvalidTypeError, "concentration must be a real number"),
        ((TARGETS, 2, 1.0, -1), InvalidArgumentError, "seed must be at least 0, got -1"),
        ((TARGETS, 2, 1.0, None), InvalidTypeError, "seed must be a whole number .*, got None"),
    ],
)
def test_bad_arguments_of_dirichlet(arguments, error, match):
    with pytest.raises(error, match=match):
        dirichlet(*arguments)


@settings(max_examples=60, deadline=None)
@given(
    num_records=st.integers(1, 80),
    share=st.floats(0, 1),
    concentration=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**32),
)
def test_the_other_ways_give_every_record_to_exactly_one_client_too(num_records, share, concentration, seed):
    num_clients = 1 + int(share * (num_records - 1))
    labels = np.arange(num_records) % 7
    each = max(1, num_records // num_clients // 2)
    for parts in (
        iid(num_records, num_clients, seed),
        quantity(num_records, num_clients, concentration, seed),
        shards(labels, num_clients, each, seed),
        list(by_key(labels).values()),
    ):
        assert min(len(part) for part in parts) >= 1
        assert sorted(np.concatenate(parts)) == list(range(num_records))
        assert all(part.dtype == np.int64 and np.all(np.diff(part) > 0) for part in parts)


def test_iid_clients_are_alike_in_size_and_labels():
    parts = iid(2000, 10, 0)
    assert {len(part) for part in parts} == {200}
    counts = label_counts(TARGETS, parts)
    assert counts.shape == (10, 10)
    assert counts.sum() == 2000
    assert counts.min() > 5
    assert all(np.array_equal(a, b) for a, b in zip(parts, iid(2000, 10, 0), strict=True))


def test_two_shards_a_client_are_two_labels():
    counts = label_counts(TARGETS, shards(TARGETS, 10, 2, 0))
    assert all((row > 0).sum() <= 2 for row in counts)
    assert [int(n) for n in counts.sum(axis=1)] == [200] * 10


def test_quantities_are_skewed_as_the_concentration_says():
    even = [len(part) for part in quantity(2000, 10, 1e6, 0)]
    skewed = [len(part) for part in quantity(2000, 10, 0.05, 0)]
    assert max(even) - min(even) < 60
    assert max(skewed) > 1000
    assert min(skewed) >= 1


def test_natural_keys_keep_their_names():
    parts = by_key(["ward b", "ward a", "ward b"])
    assert {key: part.tolist() for key, part in parts.items()} == {"ward a": [1], "ward b": [0, 2]}


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: iid(5, 6, 0), InvalidArgumentError, r"num_clients must be in \[1, 5\], got 6"),
        (lambda: iid(5, 2, -1), InvalidArgumentError, "seed"),
        (lambda: shards(TARGETS, 1000, 3, 0), InvalidArgumentError, "shards_per_client"),
        (lambda: quantity(5, 2, 0.0, 0), InvalidArgumentError, "concentration"),
        (lambda: by_key(np.zeros((2, 2))), InvalidTypeError, "keys"),
        (lambda: by_key(np.zeros(0, int)), InvalidArgumentError, "at least one record"),
    ],
)
def test_bad_arguments_of_the_others(call, error, match):
    with pytest.raises(error, match=match):
        call()
