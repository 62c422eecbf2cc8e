"""The samplers' laws, against the exact mass function; fixed keys, so the same answer every time.

Each test would raise a false alarm for about one key in a million (`ALARM`), and comes with a negative
control: the same statistic must reject a law that is wrong by as little as it is meant to find.
"""

import os
from hashlib import sha256

import numpy as np
import pytest
from reference import bell_reference
from reference import discrete_gaussian_reference as reference
from scipy import special, stats

from fedsec import noise

LONG = os.environ.get("FEDSEC_LONG") == "1"
ALARM = 1e-6
SIGMAS = stats.norm.isf(ALARM / 2 / 4)  # four moments, two sides: 5.16 standard errors
WRONG_SCALES = [0.98, 1.02]


def key_of(*words):
    return sha256(repr(words).encode()).digest()


def chi_square_p(counts, probabilities):
    """p-value of observed counts; neighbouring cells are merged until each expects at least 10."""
    expected = probabilities * counts.sum()
    cells = np.cumsum(expected) // 10.0
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    observed, expected = np.add.reduceat(counts, starts), np.add.reduceat(expected, starts)
    return stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


# ---- discrete Gaussian


def discrete_p(samples, stddev, reach):
    counts = np.bincount(samples + reach, minlength=2 * reach + 1).astype(float)
    return chi_square_p(counts, reference.mass(stddev, reach))


@pytest.mark.parametrize(
    ("stddev", "dtype"),
    [(0.5, np.int64), (1.0, np.int32), (3.7, np.int64), (4.3, np.int64), (50.0, np.int32)],
)
def test_discrete_gaussian_follows_its_mass_function(stddev, dtype):
    samples = noise.discrete_gaussian(400_000, stddev, dtype, insecure_key=key_of("mass", stddev))
    reach = int(12 * stddev) + 4
    assert discrete_p(samples, stddev, reach) > ALARM
    for wrong in WRONG_SCALES:
        assert discrete_p(samples, wrong * stddev, reach) < ALARM
    rounded = np.rint(np.random.default_rng(0).normal(0, stddev, 400_000)).astype(np.int64)
    if stddev <= 1.0:  # a rounded continuous Gaussian is another law, plainly so for small deviations
        assert discrete_p(rounded, stddev, reach) < ALARM


def test_the_smallest_deviation_is_all_zeros():
    """At 0.1 another value has probability 4e-22; the control, at 0.3, has one in 128."""
    assert not noise.discrete_gaussian(100_000, 0.1, insecure_key=key_of(0.1)).any()
    assert noise.discrete_gaussian(100_000, 0.3, insecure_key=key_of(0.3)).any()


def moment_errors(samples, stddev):
    """Mean, variance, skewness and kurtosis against the normal's, in standard errors."""
    z, n = samples / stddev, len(samples)
    powers = [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]
    return np.array([(np.mean(z**k) - mean) / np.sqrt(variance / n) for k, mean, variance in powers])


@pytest.mark.parametrize("stddev", [3.7, 1e3, 2.0**20 + 0.3, 2.0**40])
def test_moments_of_the_discrete_gaussian(stddev):
    """From 3.7 on, the first four moments differ from the normal's by less than 1e-50."""
    samples = noise.discrete_gaussian(300_000, stddev, insecure_key=key_of("moments", stddev))
    assert np.abs(moment_errors(samples, stddev)).max() < SIGMAS
    for wrong in WRONG_SCALES:
        assert np.abs(moment_errors(samples, wrong * stddev)).max() > SIGMAS
    cut = np.clip(samples, -2.5 * stddev, 2.5 * stddev)
    assert np.abs(moment_errors(cut, stddev)).max() > SIGMAS


def tail_is_right(count, expected):
    """Within the central 1 - ALARM / 2 of a Poisson law; each test asks twice."""
    return stats.poisson.ppf(ALARM / 4, expected) <= count <= stats.poisson.isf(ALARM / 4, expected)


@pytest.mark.parametrize("stddev", [3.7, 50.0])
def test_tail_of_the_discrete_gaussian(stddev):
    """Beyond 4 deviations a thousand of 20 million; beyond 5 a dozen. A sampler without them is found."""
    size, reach = 20_000_000, 1000
    samples = noise.discrete_gaussian(size, stddev, np.int32, insecure_key=key_of("tail", stddev))
    mass = reference.mass(stddev, reach)
    for deviations in (4.0, 4.5, 5.0):
        beyond = np.abs(np.arange(-reach, reach + 1)) > deviations * stddev
        expected = size * mass[beyond].sum()
        assert tail_is_right(np.count_nonzero(np.abs(samples) > deviations * stddev), expected)
    assert not tail_is_right(0, size * mass[np.abs(np.arange(-reach, reach + 1)) > 4.5 * stddev].sum())


@pytest.mark.parametrize("stddev", [0.7, 4.3])
def test_the_law_is_that_of_canonne_kamath_and_steinke(stddev):
    """Both samplers' counts in one table; the control is a stddev 15 % off. 8,000 of theirs."""
    theirs = np.array(reference.discrete_gaussian(key_of("theirs", stddev), stddev, 8_000))
    reach = int(8 * stddev) + 2

    def p_value(parameter):
        ours = noise.discrete_gaussian(400_000, parameter, insecure_key=key_of("ours", parameter))
        counts = np.array([np.bincount(x + reach, minlength=2 * reach + 1) for x in (ours, theirs)])
        return stats.chi2_contingency(counts[:, counts[1] >= 10]).pvalue

    assert p_value(stddev) > ALARM
    assert p_value(1.15 * stddev) < ALARM


def long_form(draw, low, high, total, piece=2**24):
    """Counts of low .. high, and of what lies beyond, of `total` variates; a piece at a time."""
    counts, beyond = np.zeros(high - low + 1, np.int64), 0
    for start in range(0, total, piece):
        samples = draw(piece, start)
        inside = samples[(low <= samples) & (samples <= high)]
        counts += np.bincount(inside - low, minlength=len(counts))
        beyond += samples.size - inside.size
    return counts, beyond


@pytest.mark.parametrize("stddev", [2.7, 40.0])
def test_the_long_form(stddev):
    """2^24 variates; 2^30 with FEDSEC_LONG=1. The control is 1 % off, or 0.1 %."""

    def draw(size, start):
        return noise.discrete_gaussian(size, stddev, np.int32, insecure_key=key_of("long", stddev, start))

    total, reach = 2**30 if LONG else 2**24, int(7 * stddev)
    counts, beyond = long_form(draw, -reach, reach, total)
    law = reference.mass(stddev, reach)
    found = chi_square_p(counts.astype(float), law)
    assert found > ALARM
    wrong = reference.mass(stddev * (1.001 if LONG else 1.01), reach)
    assert chi_square_p(counts.astype(float), wrong) < ALARM
    assert beyond <= 1  # of an expected 3e-3 at most
    for deviations in (5.0, 5.5, 6.0) if LONG else (5.0,):
        far = np.abs(np.arange(-reach, reach + 1)) > deviations * stddev
        expected = total * law[far].sum()
        print(f"{stddev}: {counts[far].sum()} beyond {deviations} deviations, expected {expected:.1f}")
        assert tail_is_right(counts[far].sum(), expected)
        assert not tail_is_right(0, expected) or expected < 16
    print(f"stddev {stddev}: {total} variates, chi-square p-value {found:.3f}")


@pytest.mark.parametrize(
    ("sampler", "mass", "parameter", "middle"),
    [
        (noise.skellam, lambda y, v: special.ive(np.abs(y), v), 7.3, 0),
        (noise.skellam, lambda y, v: special.ive(np.abs(y), v), 1600.0, 0),
        (noise.poisson, stats.poisson.pmf, 7.3, 7),
        (noise.poisson, stats.poisson.pmf, 1600.0, 1600),
    ],
)
def test_the_long_form_of_other_laws(sampler, mass, parameter, middle):
    """As above, for variances of both kinds of tables; here it is a variance that is 2 % off, or 0.2 %."""

    def draw(size, start):
        return sampler(
            size, parameter, np.int32, insecure_key=key_of("long", sampler.__name__, parameter, start)
        )

    total, reach = 2**30 if LONG else 2**24, int(7 * parameter**0.5)
    least = max(0, middle - reach) if sampler is noise.poisson else -reach
    values = np.arange(least, middle + reach + 1)
    counts, beyond = long_form(draw, values[0], values[-1], total)
    law = mass(values, parameter)
    found = chi_square_p(counts.astype(float), law)
    assert found > ALARM
    assert chi_square_p(counts.astype(float), mass(values, parameter * (1.002 if LONG else 1.02))) < ALARM
    assert stats.poisson.sf(beyond - 1, total * max(0.0, 1.0 - law.sum())) > ALARM
    print(f"{sampler.__name__}({parameter}): {total} variates, chi-square p-value {found:.3f}")


def lag_errors(samples):
    """Correlations at lags 1 to 8 of the values and of their signs, in standard errors."""
    z = (samples - samples.mean()) / samples.std()
    series = [z, np.abs(z) - np.abs(z).mean()]
    return np.array(
        [np.dot(x[lag:], x[:-lag]) / np.dot(x, x) * np.sqrt(len(x)) for x in series for lag in range(1, 9)]
    )


@pytest.mark.parametrize("sampler", [noise.discrete_gaussian, noise.gaussian])
def test_samples_are_uncorrelated(sampler):
    samples = sampler(300_000, 20.0, insecure_key=key_of("lags", sampler.__name__)).astype(np.float64)
    limit = stats.norm.isf(ALARM / 2 / 16)
    assert np.abs(lag_errors(samples)).max() < limit
    smeared = samples[1:] + 0.02 * samples[:-1]
    assert np.abs(lag_errors(smeared)).max() > limit


# ---- Poisson and Skellam


def counted_p(samples, masses, first):
    counts = np.bincount(samples - first, minlength=len(masses)).astype(float)
    return chi_square_p(counts, masses / masses.sum())


@pytest.mark.parametrize(("name", "parameter"), [("poisson", 3.3), ("poisson", 100.0), ("skellam", 200.0)])
def test_poisson_and_skellam_follow_their_mass_functions(name, parameter):
    """And the controls: a parameter 2 % off, and a Gaussian of the same variance."""
    samples = getattr(noise, name)(1_000_000, parameter, insecure_key=key_of(name, parameter))
    first, last = (0, 60 if parameter < 50 else 300) if name == "poisson" else (-300, 300)
    assert counted_p(samples, bell_reference.masses(name, parameter, first, last), first) > ALARM
    for wrong in WRONG_SCALES:
        masses = bell_reference.masses(name, wrong * parameter, first, last)
        assert counted_p(samples, masses, first) < ALARM
    if parameter == 100.0:
        gaussian = np.rint(np.random.default_rng(0).normal(parameter, np.sqrt(parameter), 1_000_000))
        law = bell_reference.masses(name, parameter, -100, last)
        assert counted_p(gaussian.astype(np.int64), law, -100) < ALARM


def test_sums_of_skellam_noise_are_skellam_noise():
    """Three parties' shares of 20, 40 and 2.5; the control is the sum without the smallest."""
    shares = [noise.skellam(1_000_000, v, insecure_key=key_of("share", v)) for v in (20.0, 40.0, 2.5)]
    law = bell_reference.masses("skellam", 62.5, -200, 200)
    assert counted_p(sum(shares), law, -200) > ALARM
    assert counted_p(shares[0] + shares[1], law, -200) < ALARM


@pytest.mark.parametrize(("name", "parameter"), [("poisson", 1e5), ("skellam", 9e4), ("poisson", 2.0**40)])
def test_wide_laws_in_cells_of_equal_probability(name, parameter):
    """200 cells by the normal quantiles, with the skewness corrected [Cornish-Fisher]; error below 1e-5."""
    samples = getattr(noise, name)(300_000, parameter, insecure_key=key_of("wide", name, parameter))
    deviation = np.sqrt(parameter)
    quantiles = stats.norm.ppf(np.arange(1, 200) / 200)
    skew = 1 / deviation if name == "poisson" else 0.0
    centre = parameter if name == "poisson" else 0.0
    edges = np.floor(centre + deviation * (quantiles + skew * (quantiles**2 - 1) / 6)) + 0.5
    law = stats.poisson(parameter) if name == "poisson" else stats.skellam(parameter / 2, parameter / 2)
    below = law.cdf(edges) if parameter < 1e9 else stats.norm.cdf((edges - parameter) / deviation)
    counts = np.bincount(np.searchsorted(edges, samples), minlength=200).astype(float)
    assert chi_square_p(counts, np.diff(below, prepend=0.0, append=1.0)) > ALARM
    stretched = np.searchsorted(edges, (samples - centre) * 1.02 + centre)
    assert chi_square_p(np.bincount(stretched, minlength=200).astype(float), np.full(200, 1 / 200)) < ALARM


# ---- continuous Gaussian


def equal_cells_p(samples, stddev):
    """p-value of 200 cells of equal probability."""
    cells = np.minimum((stats.norm.cdf(samples / stddev) * 200).astype(int), 199)
    return chi_square_p(np.bincount(cells, minlength=200).astype(float), np.full(200, 1 / 200))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gaussian_follows_the_normal_law(dtype):
    samples = noise.gaussian(1_000_000, 2.5, dtype, insecure_key=key_of("normal", dtype)).astype(np.float64)
    assert equal_cells_p(samples, 2.5) > ALARM
    assert np.abs(moment_errors(samples, 2.5)).max() < SIGMAS
    for wrong in WRONG_SCALES:
        assert equal_cells_p(samples, wrong * 2.5) < ALARM
        assert np.abs(moment_errors(samples, wrong * 2.5)).max() > SIGMAS


class Tally:
    """Counts in cells of a 32nd of a deviation, sums of powers, and what is beyond some deviations."""

    EDGES = np.arange(-320, 321) / 32.0
    BEYOND = (4.5, 5.0, 5.5, 6.0)

    def __init__(self, chunks):
        self.size, self.powers = 0, np.zeros(4)
        self.cells, self.tails = np.zeros(640), dict.fromkeys(self.BEYOND, 0)
        for samples in chunks:
            self.size += samples.size
            self.cells += np.bincount((np.floor(samples * 32) + 320).astype(np.intp), minlength=640)
            z = samples.astype(np.float64)
            square = z * z
            self.powers += [z.sum(), square.sum(), np.dot(square, z), np.dot(square, square)]
            for deviations in self.BEYOND:
                self.tails[deviations] += np.count_nonzero(square > deviations * deviations)

    def cells_p(self, scale=1.0):
        return chi_square_p(self.cells, np.diff(stats.norm.cdf(self.EDGES / scale)))

    def errors(self, scale=1.0):
        moments = self.powers / self.size / scale ** np.arange(1, 5)
        return (moments - [0, 1, 0, 3]) / np.sqrt(np.array([1, 2, 15, 96]) / self.size)


def drawn(dtype, chunks, size):
    for i in range(chunks):
        yield noise.gaussian(size, 1.0, dtype, insecure_key=key_of("tally", dtype, i))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tail_of_the_gaussian(dtype):
    """2^26 variates, of which 38 are expected beyond 5 deviations; a sampler without them is found."""
    tally = Tally(drawn(dtype, 16, 2**22))
    for deviations in (4.5, 5.0):
        expected = tally.size * 2 * stats.norm.sf(deviations)
        assert tail_is_right(tally.tails[deviations], expected)
        assert not tail_is_right(0, expected)


@pytest.mark.skipif(not LONG, reason="a long run, for FEDSEC_LONG=1")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gaussian_at_length(dtype):
    """2^30 variates: cells, moments, tails; the controls are scales off by 2^-11, no tail beyond 5.5."""
    tally = Tally(drawn(dtype, 256, 2**22))
    print(
        f"{tally.size} {np.dtype(dtype)}: p = {tally.cells_p():.3f}, moments off by {tally.errors()} errors"
    )
    assert tally.cells_p() > ALARM
    assert np.abs(tally.errors()).max() < SIGMAS
    for scale in (1 - 2**-11, 1 + 2**-11):
        assert tally.cells_p(scale) < ALARM
        assert np.abs(tally.errors(scale)).max() > SIGMAS
    for deviations, count in tally.tails.items():
        expected = tally.size * 2 * stats.norm.sf(deviations)
        print(f"beyond {deviations}: {count}, expected {expected:.1f}")
        assert tail_is_right(count, expected)
    assert not tail_is_right(0, tally.size * 2 * stats.norm.sf(5.5))


# ---- release


def test_the_release_adds_noise_of_the_promised_size():
    """Variance in standard errors; the control is noise 2 % off."""
    vector = np.random.default_rng(3).normal(size=200_000).astype(np.float32)
    added = noise.release(vector, 0.5, 1.3, insecure_key=key_of("release")).astype(np.float64) - vector
    assert np.abs(moment_errors(added, 0.5 * 1.3 * 1.0005)).max() < SIGMAS
    for wrong in WRONG_SCALES:
        assert np.abs(moment_errors(added, wrong * 0.5 * 1.3)).max() > SIGMAS
