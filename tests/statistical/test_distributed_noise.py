"""The noise of decoded sums, for every number of survivors, against its exact law; fixed keys.

Each test would raise a false alarm for about one set of keys in a million, and has a control that must fail.
"""

import math
from hashlib import sha256

import numpy as np
import pytest
from reference import distributed_truth as truth
from scipy import stats

from fedsec import _kernels, distributed, masks, secagg

ALARM = 1e-6
KEY = bytes(range(32))
COORDINATES = 2**16
COHORT = distributed.Cohort(num_clients=5, min_survivors=4, max_corrupt=1)


@pytest.fixture
def fixed_keys(monkeypatch):
    """Every call's fresh key, from a counter."""
    drawn = iter(range(10**6))
    monkeypatch.setattr(_kernels, "fresh_key", lambda: bytearray(sha256(b"test %d" % next(drawn)).digest()))


def plan_for(law):
    """Coarse steps, so that the lattice shows: a few steps of noise."""
    length = distributed.ClientEncoding(COORDINATES, 1.0).length
    z = 0.02 if law == "skellam" else 0.05
    return distributed.plan_clients(
        COHORT,
        dimension=COORDINATES,
        l2_clip_norm=1.0,
        noise_multiplier=z,
        law=law,
        granularity=1.0 / (0.25 * math.sqrt(length)),
    )


def noisy_levels(plan, survivors):
    """The centred sum of so many empty contributions."""
    total = np.zeros(plan.encoding.length, masks.lane_dtype(plan.modulus_bits))
    for _ in range(survivors):
        masks.add(total, plan.share_residues(np.zeros(COORDINATES, np.float32), KEY), plan.modulus_bits)
    return secagg.centre(total, plan.modulus_bits)


def p_value(levels, law):
    reach = law.size // 2
    counts = np.bincount(np.clip(levels, -reach, reach) + reach, minlength=law.size).astype(float)
    expected = law / law.sum() * levels.size
    cells = np.cumsum(expected) // 10.0
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    counts, expected = np.add.reduceat(counts, starts), np.add.reduceat(expected, starts)
    return stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


@pytest.mark.parametrize("law", ["skellam", "discrete_gaussian"])
def test_noise_follows_its_exact_law_whoever_survives(law, fixed_keys):
    plan = plan_for(law)
    share = truth.share_law(plan.shares)
    for survivors in range(1, COHORT.num_clients + 1):
        levels = noisy_levels(plan, survivors)
        assert p_value(levels, truth.summed(share, survivors)) > ALARM
        for wrong in {survivors - 1, survivors + 1} - {0}:
            assert p_value(levels, truth.summed(share, wrong)) < ALARM


@pytest.mark.parametrize("law", ["skellam", "discrete_gaussian"])
def test_variance_is_that_of_the_survivors_shares(law, fixed_keys):
    plan = plan_for(law)
    share = truth.share_law(plan.shares)
    variance = float(share @ (np.arange(share.size) - share.size // 2) ** 2)
    for survivors in range(1, COHORT.num_clients + 1):
        levels = noisy_levels(plan, survivors).astype(float)
        # The kurtosis of a sum of so many shares, at most that of one.
        error = survivors * variance * math.sqrt((2.0 + 1.0 / variance) / levels.size)
        assert abs(np.mean(levels**2) - survivors * variance) < 5.0 * error
        assert abs(np.mean(levels)) < 5.0 * math.sqrt(survivors * variance / levels.size)
        assert abs(np.mean(levels**2) - 1.05 * survivors * variance) > 5.0 * error  # the control


def test_coordinates_are_independent_of_each_other(fixed_keys):
    levels = noisy_levels(plan_for("skellam"), 3).astype(float)
    z = (levels - levels.mean()) / levels.std()
    for lag in (1, 2, 64, 2**15):
        correlation = float(np.mean(z[lag:] * z[:-lag]))
        assert abs(correlation) < 5.5 / math.sqrt(z.size - lag)
    assert abs(np.mean(np.abs(z[1:]) * np.abs(z[:-1])) - np.mean(np.abs(z)) ** 2) < 5.5 / math.sqrt(z.size)


def test_contributions_shift_the_sum_and_nothing_else(fixed_keys):
    """Noise is what is left when the contribution's own integers are taken off: same law as for zeros."""
    plan = plan_for("skellam")
    one = np.random.default_rng(0).normal(size=COORDINATES)
    levels = plan.encoding.encode(one, KEY)
    drawn = plan.shares.draw(levels.size)
    law = truth.share_law(plan.shares)
    assert p_value(drawn, law) > ALARM
    residues = plan.share_residues(one, KEY)
    rest = secagg.centre(residues, plan.modulus_bits) - levels  # another rounding of the same vector
    # Two roundings differ by at most one step a coordinate, so the rest is noise plus that.
    assert abs(np.var(rest) - plan.shares.variance) < 0.5
