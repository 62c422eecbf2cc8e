"""Dominating pairs: cells against enumeration in mpmath, and every claim of dominance against brute force."""

import itertools
import math

import mpmath
import numpy as np
import pytest

from fedsec.accounting import (
    ApproximateDP,
    DiscreteGaussian,
    DiscreteGaussianSum,
    DiscreteLaplace,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PoissonSampled,
    RandomizedResponse,
    Repeated,
    SampledWithoutReplacement,
    Skellam,
)
from fedsec.accounting.events import Event
from fedsec.accounting.pairs.integers import GeometricNoise, discrete_gaussian, skellam
from fedsec.accounting.pairs.noise import Mixture, NormalNoise
from fedsec.accounting.pairs.replace import Glued, ReplacedNormal, ZeroedNormal
from fedsec.accounting.pairs.table import dominance
from fedsec.errors import UnsupportedError

ADD = NeighboringRelation.ADD_OR_REMOVE_ONE
ONE = NeighboringRelation.REPLACE_ONE
ZERO = NeighboringRelation.REPLACE_SPECIAL
LEVELS = np.exp(np.concatenate((np.linspace(-6.0, 6.0, 49), np.linspace(-0.2, 0.2, 21))))


def mp_exp(x):
    return mpmath.exp(mpmath.mpf(x))


def response(epsilon, delta=0.0):
    """Masses of Q, ascending in the loss."""
    likely = (1 - mpmath.mpf(delta)) / (1 + mp_exp(-epsilon))
    return [likely, likely * mp_exp(-epsilon)]


def geometric(scale, shift):
    r = mpmath.exp(-1 / mpmath.mpf(scale))
    inner = [(1 - r) / (1 + r) * r**k for k in range(1, shift)]
    return [1 / (1 + r), *inner, r**shift / (1 + r)]


def noise_on_a_line(mass, shift, reach):
    return [mass(abs(k)) for k in range(-reach, reach + shift + 1)]


def gaussian_mass(stddev):
    def mass(k):
        return mpmath.exp(-((k / mpmath.mpf(stddev)) ** 2) / 2) / total

    total = mpmath.mpf(1)
    total = 1 / mass(0) + 2 * sum(mass(k) for k in range(1, int(45 * stddev) + 2))
    return mass


def skellam_mass(variance):
    return lambda k: mp_exp(-variance) * mpmath.besseli(k, mpmath.mpf(variance))


def check_cells(pair, q, p, edges):
    """Every cell of `pair` against sums over atoms with masses q and p (ascending in the loss)."""
    loss = [mpmath.log(b / a) for a, b in zip(q, p, strict=True)]
    cells = pair.cells(edges)
    bounds = [-mpmath.inf, *edges, mpmath.inf]
    for i in range(len(edges) + 1):
        held = [j for j, x in enumerate(loss) if bounds[i] < x <= bounds[i + 1]]
        p_mass, q_mass = mpmath.fsum(p[j] for j in held), mpmath.fsum(q[j] for j in held)
        if not held:
            assert cells.p[i] == cells.q[i] == cells.loss[i] == 0.0
            assert cells.loss_error[i] == math.inf
            continue
        for got, truth in ((cells.p[i], p_mass), (cells.q[i], q_mass)):
            assert abs(got - truth) <= cells.error[i] * truth + mpmath.mpf(10) ** -307
        assert abs(cells.loss[i] - mpmath.log(p_mass / q_mass)) <= cells.loss_error[i]


def edges_around(q, p, seed):
    """Edges between the losses, a little beside some of them, and beyond."""
    loss = np.array([float(mpmath.log(b / a)) for a, b in zip(q, p, strict=True)])
    rng = np.random.default_rng(seed)
    span = max(loss[-1] - loss[0], 1e-300)
    beside = rng.choice(loss, 6) + span * rng.choice([-1e-4, 1e-4], 6)
    return np.unique(np.concatenate((rng.uniform(loss[0] - 0.1 * span, loss[-1] + 0.1 * span, 8), beside)))


def hockey_stick(pair, level):
    """P(R > level) - level Q(R > level), for R = P/Q."""
    cells = pair.cells(np.array([math.log(level)]))
    return cells.p[1] + pair.infinite[0] - level * cells.q[1]


def sticks(p, q):
    """Hockey sticks of two laws given as arrays, at all levels."""
    return np.array([np.maximum(p - level * q, 0.0).sum() for level in LEVELS])


class TestAtoms:
    @pytest.mark.parametrize("epsilon", [1e-9, 0.3, 1.0, 50.0, 2000.0])
    @pytest.mark.parametrize("delta", [0.0, 1e-6, 0.5])
    def test_responses_and_guarantees(self, epsilon, delta):
        with mpmath.workdps(1000 if epsilon > 100 else 50):
            q = response(epsilon, delta)
            pair = dominance(ApproximateDP(epsilon, delta), ADD).above
            check_cells(pair, q, q[::-1], edges_around(q, q[::-1], 1))
        assert pair.infinite == (delta, delta)
        assert pair.range(0.0) == (-epsilon, epsilon)

    def test_a_response_is_a_guarantee_without_delta(self):
        x = np.array([-1.0, 0.0, 0.5])
        pairs = [dominance(event, ONE).above for event in (RandomizedResponse(0.5), ApproximateDP(0.5, 0.0))]
        assert np.array_equal(pairs[0].cells(x), pairs[1].cells(x))

    def test_no_loss_at_all(self):
        cells = dominance(RandomizedResponse(0.0), ADD).above.cells(np.array([-1e-300, 1e-300]))
        assert list(cells.p) == list(cells.q) == [0.0, 1.0, 0.0]
        assert cells.loss[1] == cells.loss_error[1] == 0.0

    def test_range_leaves_out_no_more_than_asked(self):
        pair = discrete_gaussian(2.0, 1)
        p, q = np.exp(pair.log_p), np.exp(pair.log_q)
        for tail in (1e-3, 1e-12, 1e-100):
            low, high = pair.range(tail)
            for mass in (p, q):
                assert mass[pair.loss < low].sum() <= tail
                assert mass[pair.loss > high].sum() <= tail
            assert high - low < pair.loss[-1] - pair.loss[0]

    def test_sampled_atoms(self):
        share, q = mpmath.mpf("0.01"), response(1.5, 1e-3)
        undrawn = mpmath.mpf(1) / 1000  # where Q's loss is infinite, the sampled pair has log(1 - share)
        p = [(1 - share) * a + share * b for a, b in zip(q, q[::-1], strict=True)]
        pair = dominance(PoissonSampled(ApproximateDP(1.5, 1e-3), 0.01), ADD).above
        check_cells(pair, [undrawn, *q], [undrawn * (1 - share), *p], np.array([-0.01, -0.009, 0.0, 0.1]))
        assert pair.infinite == (0.01 * 1e-3, 0.0)


class TestIntegerNoise:
    @pytest.mark.parametrize(
        ("scale", "shift"), [(1.0, 1), (0.3, 4), (5.0, 7), (1000.0, 3), (40.0, 60), (1e6, 2), (0.02, 3)]
    )
    def test_discrete_laplace(self, scale, shift):
        with mpmath.workdps(200):
            q = geometric(scale, shift)
            edges = edges_around(q, q[::-1], shift)
            check_cells(dominance(DiscreteLaplace(scale, shift), ADD).above, q, q[::-1], edges)

    def test_discrete_laplace_of_huge_sensitivity_is_laplace(self):
        x = np.linspace(-1.2, 1.2, 7)
        discrete = dominance(DiscreteLaplace(1e12, 10**12), ADD).above.cells(x)
        continuous = dominance(Laplace(1.0), ADD).above.cells(x)
        assert np.allclose(discrete.p, continuous.p, rtol=1e-11, atol=0.0)
        assert np.allclose(discrete.loss, continuous.loss, rtol=0.0, atol=1e-11)

    @pytest.mark.parametrize(("stddev", "shift"), [(0.1, 1), (0.7, 3), (1.0, 1), (3.0, 5)])
    def test_discrete_gaussian(self, stddev, shift):
        pair = dominance(DiscreteGaussian(stddev, shift, dimension=1), ADD).above
        reach = (pair.loss.size - shift - 1) // 2
        with mpmath.workdps(40):
            q = noise_on_a_line(gaussian_mass(stddev), shift, reach)
            check_cells(pair, q, q[::-1], edges_around(q, q[::-1], shift))
        assert pair.lattice == pytest.approx(shift / stddev**2, rel=1e-15)

    @pytest.mark.parametrize(("variance", "shift"), [(1e-3, 1), (0.5, 2), (4.0, 2), (30.0, 3)])
    def test_skellam(self, variance, shift):
        pair = dominance(Skellam(variance, shift, dimension=1), ADD).above
        reach = (pair.loss.size - shift - 1) // 2
        with mpmath.workdps(40):
            q = noise_on_a_line(skellam_mass(variance), shift, reach)
            check_cells(pair, q, q[::-1], edges_around(q, q[::-1], shift))

    @pytest.mark.parametrize("variance", [1e4, 1e6, 1e8])
    def test_skellam_of_large_variance(self, variance):
        pair = skellam(variance, 1)
        zero = (pair.loss.size - 2) // 2
        with mpmath.workdps(30):
            for k in (0, 1, int(3 * variance**0.5)):
                q, p = (skellam_mass(variance)(abs(j)) for j in (k, k - 1))
                assert abs(pair.log_q[zero + k] - mpmath.log(q)) <= pair.error[zero + k] < 1e-9
                assert abs(pair.loss[zero + k] - mpmath.log(p / q)) <= pair.loss_error[zero + k] < 1e-14

    def test_too_wide_to_enumerate_is_bounded_by_a_normal_law(self):
        assert discrete_gaussian(1e5, 1) is None
        assert skellam(1e10, 1) is None
        for event in (DiscreteGaussian(1e5, 1, dimension=1), Skellam(1e10, 1, dimension=1)):
            known = dominance(event, ADD)
            assert isinstance(known.above, NormalNoise)
            assert known.above.shift == pytest.approx(1e-5, rel=1e-8)
            assert known.below is None

    def test_several_dimensions_are_bounded_by_a_normal_law_and_one_coordinate(self):
        known = dominance(DiscreteGaussian(3.0, 2.5), ONE)
        assert isinstance(known.above, NormalNoise)
        assert known.above.shift >= 5.0 / 3.0
        assert known.below.lattice == pytest.approx(4.0 / 9.0)
        assert dominance(DiscreteGaussian(3.0, 0.5), ADD).below is None

    @pytest.mark.parametrize("kind", [lambda s: discrete_gaussian(1.5, s), lambda s: skellam(2.0, s)])
    def test_smaller_shifts_cost_less(self, kind):
        for level in LEVELS:
            assert hockey_stick(kind(1), level) <= hockey_stick(kind(2), level) + 1e-15
            assert hockey_stick(kind(2), level) <= hockey_stick(kind(3), level) + 1e-15

    @pytest.mark.parametrize("split", [(1, 1), (1, 2), (2, 2)])
    def test_one_coordinate_is_the_worst_for_discrete_laplace(self, split):
        k = np.arange(-60, 61)
        laws = [(np.exp(-np.abs(k - s) / 1.5), np.exp(-np.abs(k) / 1.5)) for s in split]
        p, q = (np.outer(laws[0][i], laws[1][i]) * math.tanh(1 / 3.0) ** 2 for i in (0, 1))
        whole = np.array([hockey_stick(GeometricNoise(1.5, sum(split)), level) for level in LEVELS])
        assert np.all(sticks(p, q) <= whole + 1e-12)
        larger_part = np.array([hockey_stick(GeometricNoise(1.5, max(split)), level) for level in LEVELS])
        assert np.any(sticks(p, q) > larger_part + 1e-3)

    def test_one_coordinate_is_not_the_worst_for_an_l2_norm(self):
        """Skellam variance 4: a shift by 2 in one coordinate costs less than by 1 in each of four."""
        variance = 4.0
        mass = np.array([float(skellam_mass(variance)(abs(j))) for j in range(-16, 16)])
        q, p = mass[1:-1], mass[:-2]
        loss = np.log(p / q)
        ratio = np.add.outer(np.add.outer(loss, loss), np.add.outer(loss, loss)).ravel()
        weight = np.multiply.outer(np.multiply.outer(q, q), np.multiply.outer(q, q)).ravel()
        line, bound = (dominance(Skellam(variance, 2, dimension=d), ADD).above for d in (1, None))
        excess = []
        for level in (1.0, math.e, math.e**2, math.e**4):
            four = float(weight @ np.maximum(np.exp(ratio) - level, 0.0))
            excess.append(four - hockey_stick(line, level))
            assert four <= hockey_stick(bound, level) + 1e-12
        assert max(excess) > 1e-6

    @pytest.mark.parametrize("stddev", [0.3, 1.0, 4.0])
    def test_the_normal_bound_is_above_one_coordinate(self, stddev):
        known = dominance(DiscreteGaussian(stddev, 1), ADD)
        for level in LEVELS:
            assert hockey_stick(known.below, level) <= hockey_stick(known.above, level) * (1 + 1e-12) + 1e-15


class TestReplacedInAPoissonSample:
    @pytest.mark.parametrize(
        ("q", "t"), [(0.01, 1.0), (1e-9, 1.0), (0.3, 0.1), (0.99, 3.0), (1e-5, 10.0), (0.5, 300.0)]
    )
    def test_cells(self, q, t):
        pair = ReplacedNormal(t, q)
        rng = np.random.default_rng(7)
        low, high = pair.range(1e-250)
        x = np.unique(np.concatenate((rng.choice(pair.sketch(), 8), rng.uniform(low, high, 4), [0.0])))
        cells = pair.cells(x)
        with mpmath.workdps(60):
            z = [-mpmath.inf, *(self.outcome(v, q, t) for v in x), mpmath.inf]
            for i, (a, b) in enumerate(itertools.pairwise(z)):
                own, there, back = (self.mass(a - m, b - m) for m in (0, t, -t))
                p_mass, q_mass = ((1 - mpmath.mpf(q)) * own + mpmath.mpf(q) * m for m in (there, back))
                if p_mass > 1e-300 and q_mass > 1e-300:
                    assert abs(cells.p[i] / p_mass - 1) < 1e-10
                    assert abs(cells.q[i] / q_mass - 1) < 1e-10
                    assert abs(cells.loss[i] - mpmath.log(p_mass / q_mass)) <= cells.loss_error[i]
                    scale = q + np.abs(x[max(i - 1, 0) : i + 1]).max()
                    assert cells.loss_error[i] < 2e-12 * (1 + t * t) * scale

    @staticmethod
    def outcome(x, q, t):
        factor = (1 - mpmath.mpf(q)) / mpmath.mpf(q) * mp_exp(mpmath.mpf(t) ** 2 / 2)
        x = mpmath.mpf(float(x))
        return (x / 2 + mpmath.asinh(factor * mpmath.sinh(x / 2))) / mpmath.mpf(t)

    @staticmethod
    def mass(a, b):
        return mpmath.ncdf(b) - mpmath.ncdf(a) if a + b < 0 else mpmath.ncdf(-a) - mpmath.ncdf(-b)

    def test_no_two_contributions_are_easier_to_tell_apart(self):
        """Random (u, v) in the plane, by a sum over a fine grid."""
        q, t, step = 0.3, 1.2, 0.04
        line = np.arange(-7.0, 7.0, step)
        x, y = np.meshgrid(line, line)
        rng = np.random.default_rng(3)
        worst = np.array([hockey_stick(ReplacedNormal(t, q), level) for level in LEVELS])
        removal = np.array([hockey_stick(Mixture(NormalNoise(t), q), level) for level in LEVELS])

        def law(u):
            drawn = np.exp(-0.5 * ((x - u[0]) ** 2 + (y - u[1]) ** 2))
            return ((1 - q) * np.exp(-0.5 * (x * x + y * y)) + q * drawn) * (step * step / (2 * math.pi))

        angles = [(0.0, math.pi), *rng.uniform(0.0, 2 * math.pi, (12, 2))]
        sizes = [(t, t), *(t * rng.uniform(0.0, 1.0, (12, 2)) ** 0.25)]
        found = [
            sticks(*(law((r * math.cos(a), r * math.sin(a))) for r, a in zip(size, angle, strict=True)))
            for size, angle in zip(sizes, angles, strict=True)
        ]
        assert np.allclose(found[0], worst, rtol=0.0, atol=2e-5)  # the worst case is attained
        assert np.all(np.array(found) <= worst + 2e-5)
        assert np.any(found[0] > removal + 1e-2)  # the pair for removal is no bound


class TestSamplesOfFixedSize:
    """Four records, samples of two; the mechanism adds noise to the sum of the sample."""

    SIZE, SAMPLE = 4, 2
    NOISE = np.exp(-np.abs(np.arange(-80, 81)) / 1.5) * math.tanh(1 / 3.0)

    def release(self, records):
        """The law of the noisy sum, on the integers from -100 to 100."""
        law = np.zeros(201)
        samples = list(itertools.combinations(records, self.SAMPLE))
        for sample in samples:
            start = 20 + sum(sample)
            law[start : start + self.NOISE.size] += self.NOISE / len(samples)
        return law

    def found(self, values, changed):
        """Hockey sticks, in both directions, of all data whose first record changes."""
        for rest in itertools.product(values, repeat=self.SIZE - 1):
            for first, second in changed:
                laws = [self.release((record, *rest)) for record in (first, second)]
                yield sticks(laws[0], laws[1])
                yield sticks(laws[1], laws[0])

    def test_replacement(self):
        known = dominance(SampledWithoutReplacement(DiscreteLaplace(1.5, 1), self.SIZE, self.SAMPLE), ONE)
        above, below = (np.array([hockey_stick(pair, r) for r in LEVELS]) for pair in known[:2])
        found = list(self.found((-1, 0, 1), [(-1, 1), (0, 1)]))
        assert np.all(np.array(found) <= above + 1e-12)
        assert any(np.allclose(one, below, rtol=0.0, atol=1e-12) for one in found)  # attained
        assert np.any(np.array(found) > below + 1e-4)  # but at levels below 1 it bounds nothing

    def test_zeroing_out(self):
        known = dominance(SampledWithoutReplacement(DiscreteLaplace(1.5, 1), self.SIZE, self.SAMPLE), ZERO)
        above, below = (np.array([hockey_stick(pair, r) for r in LEVELS]) for pair in known[:2])
        found = list(self.found((-1, 0, 1), [(-1, 0), (1, 0)]))
        assert np.all(np.array(found) <= above + 1e-12)
        assert any(np.allclose(one, below, rtol=0.0, atol=1e-12) for one in found)
        assert np.any(np.array(found) > below + 1e-4)

    @pytest.mark.parametrize(("share", "t"), [(0.3, 0.8), (0.05, 1.5), (0.8, 0.3)])
    def test_zeroing_out_under_gaussian_noise(self, share, t):
        """The laws with the unit against those with it zeroed, for all contributions on a line."""
        population = 1000
        event = SampledWithoutReplacement(Gaussian(1.0 / t), population, round(share * population))
        above, below = (
            np.array([hockey_stick(pair, r) for r in LEVELS]) for pair in dominance(event, ZERO)[:2]
        )
        z = np.arange(-12.0, 12.0, 1e-3)

        def law(mean, other):
            parts = [np.exp(-0.5 * (z - m) ** 2) for m in (other, mean)]
            return ((1 - share) * parts[0] + share * parts[1]) * (1e-3 / math.sqrt(2 * math.pi))

        found = []
        for unit, other in itertools.product(t * np.linspace(-1.0, 1.0, 9), repeat=2):
            found.append(sticks(law(unit, other), law(0.0, other)))
        best = np.max(found, axis=0)
        assert np.allclose(best, above, rtol=0.0, atol=1e-7)  # attained at every level by some data
        assert np.all(below <= above + 1e-12)

    @pytest.mark.parametrize(("q", "t"), [(0.01, 1.0), (1e-9, 0.5), (0.9, 3.0), (1e-4, 12.0)])
    def test_cells_of_a_zeroed_unit(self, q, t):
        pair = ZeroedNormal(t, q)
        x = np.concatenate(([0.0], np.geomspace(1e-3 * q, pair.range(1e-200)[1], 12)))
        cells = pair.cells(x)
        with mpmath.workdps(60):
            first, second = (
                lambda z, m=m: 1 - mpmath.mpf(q) + mpmath.mpf(q) * mpmath.exp(m * (z - m / 2))
                for m in (2 * mpmath.mpf(t), mpmath.mpf(t))
            )
            edges = pair._outcome(x)
            for a, b in zip(x, edges, strict=True):
                z = mpmath.mpf(float(b))
                assert abs(mpmath.log(first(z) / second(z)) - a) <= 1e-11 * (a + q * (1 + t * t))
            for i, (a, b) in enumerate(itertools.pairwise(edges)):
                own, there, other = (TestReplacedInAPoissonSample.mass(a - m, b - m) for m in (0, 2 * t, t))
                p_mass, q_mass = ((1 - mpmath.mpf(q)) * own + mpmath.mpf(q) * m for m in (there, other))
                assert abs(cells.p[i + 1] / p_mass - 1) <= cells.error[i + 1] + 1e-14
                assert abs(cells.q[i + 1] / q_mass - 1) <= cells.error[i + 1] + 1e-14
                assert abs(cells.loss[i + 1] - mpmath.log(p_mass / q_mass)) <= cells.loss_error[i + 1]

    @pytest.mark.parametrize(
        "event", [Gaussian(1.0), Laplace(0.7), RandomizedResponse(2.0), ApproximateDP(1.0, 1e-3)]
    )
    def test_glued_cells(self, event):
        """Positive losses of one pair, mirrored, and the rest at 0: whatever the edges, the same laws."""
        pair = dominance(SampledWithoutReplacement(event, 10, 3), ONE).above
        assert isinstance(pair, Glued)
        side = pair.above
        for x in (
            np.array([0.0]),
            np.array([-0.3, 0.2]),
            np.array([-0.3, 0.0, 0.2]),
            np.array([-np.inf, -0.1]),
        ):
            cells = pair.cells(x)
            assert cells.p.sum() + pair.infinite[0] == pytest.approx(1.0, abs=1e-14)
            assert cells.q.sum() + pair.infinite[1] == pytest.approx(1.0, abs=1e-14)
            known = np.isfinite(cells.loss_error)
            ratio = cells.p[known] / cells.q[known]
            assert np.allclose(cells.loss[known], np.log(ratio), rtol=0.0, atol=1e-13)
        above = side.cells(np.array([0.2]))
        cells = pair.cells(np.array([-0.2, 0.2]))
        assert (cells.p[2], cells.q[2], cells.loss[2]) == pytest.approx(
            (above.p[1], above.q[1], above.loss[1])
        )
        assert (cells.p[0], cells.q[0]) == pytest.approx((cells.q[2], cells.p[2]))
        tiny = pair.cells(np.array([-1e-9, 1e-9]))
        assert tiny.p[1] == pytest.approx(tiny.q[1], rel=1e-8)
        assert abs(tiny.loss[1]) < 1e-9


class TestTable:
    PLAIN = (
        Gaussian(1.0),
        Laplace(2.0),
        DiscreteGaussian(3.0, 1),
        DiscreteGaussianSum(2.0, 5, 1),
        Skellam(9.0, 1),
        DiscreteLaplace(2.0, 1),
        RandomizedResponse(1.0),
        ApproximateDP(1.0, 1e-5),
    )

    @pytest.mark.parametrize("event", PLAIN, ids=repr)
    @pytest.mark.parametrize("relation", NeighboringRelation)
    def test_plain_mechanisms(self, event, relation):
        known = dominance(event, relation)
        assert known.symmetric
        for level in (0.5, 1.0, 2.0, 20.0):
            truth = hockey_stick(known.above, level)
            assert 0.0 <= truth <= 1.0
            if known.below is not None:
                assert hockey_stick(known.below, level) <= truth + 1e-13

    @pytest.mark.parametrize("event", PLAIN, ids=repr)
    def test_samples_cost_less_than_the_whole(self, event):
        whole = dominance(event, ADD)
        sampled = dominance(PoissonSampled(event, 0.2), ADD)
        assert not sampled.symmetric
        for level in LEVELS[::8]:
            assert hockey_stick(sampled.above, level) <= hockey_stick(whole.above, level) + 1e-13
        assert hockey_stick(sampled.above, 1.0) == pytest.approx(0.2 * hockey_stick(whole.above, 1.0))

    def test_a_sample_of_a_sample(self):
        nested = dominance(PoissonSampled(PoissonSampled(Gaussian(1.0), 0.5), 0.25), ADD)
        assert nested == dominance(PoissonSampled(Gaussian(1.0), 0.125), ADD)

    @pytest.mark.parametrize("relation", NeighboringRelation)
    def test_an_empty_sample_costs_nothing(self, relation):
        known = dominance(PoissonSampled(PoissonSampled(Gaussian(1.0), 0.0), 0.5), relation)
        assert hockey_stick(known.above, 1.0) == 0.0

        if relation is not ADD:
            drawn = dominance(SampledWithoutReplacement(Gaussian(1.0), 10, 0), relation)
            assert hockey_stick(drawn.above, 1.0) == 0.0

    @pytest.mark.parametrize("relation", NeighboringRelation)
    @pytest.mark.parametrize("event", [PLAIN[0], *PLAIN[2:5]], ids=repr)
    def test_a_sample_of_everybody_costs_what_the_whole_does(self, event, relation):
        samples = [PoissonSampled(event, 1.0)]
        if relation is not ADD:
            samples.append(SampledWithoutReplacement(event, 10, 10))
        pairs = [dominance(made, relation).above for made in (event, *samples)]
        curves = [[hockey_stick(pair, level) for level in LEVELS[::8]] for pair in pairs]
        assert all(curve == curves[0] for curve in curves)

    @pytest.mark.parametrize("relation", NeighboringRelation)
    @pytest.mark.parametrize(
        "event",
        [
            NonPrivate(),
            PoissonSampled(NonPrivate(), 0.1),
            ApproximateDP(1.0, 1.0),
            Gaussian(1e-200),
            Laplace(1e-200),
            DiscreteLaplace(1e-200, 1),
            PoissonSampled(Gaussian(1e-200), 0.1),
        ],
        ids=repr,
    )
    def test_nothing_is_protected(self, event, relation):
        assert dominance(event, relation) is None

    @pytest.mark.parametrize(
        ("event", "relation", "words"),
        [
            (PoissonSampled(Laplace(1.0), 0.1), ONE, "Laplace.* under REPLACE_ONE; .* one of Gaussian"),
            (PoissonSampled(RandomizedResponse(1.0), 0.1), ONE, "RandomizedResponse.* under REPLACE_ONE"),
            (PoissonSampled(Repeated(Gaussian(1.0), 2), 0.1), ADD, "Repeated.* must be one of"),
            (
                PoissonSampled(SampledWithoutReplacement(Gaussian(1.0), 4, 2), 0.1),
                ZERO,
                "SampledWithoutReplacement",
            ),
            (SampledWithoutReplacement(Gaussian(1.0), 4, 2), ADD, "use REPLACE_ONE or REPLACE_SPECIAL"),
            (SampledWithoutReplacement(PoissonSampled(Gaussian(1.0), 0.5), 4, 2), ONE, "must be one of"),
            (SampledWithoutReplacement(RandomizedResponse(1.0), 4, 2), ZERO, "under REPLACE_SPECIAL"),
            (Event(), ADD, "no analysis"),
        ],
    )
    def test_refused_by_name(self, event, relation, words):
        with pytest.raises(UnsupportedError, match=words):
            dominance(event, relation)

    def test_a_sensitivity_beyond_exact_integers_is_pure_privacy(self):
        known = dominance(DiscreteLaplace(2.0**60, 2**60), ADD)
        assert known.below is None
        assert known.above.range(0.0) == (-1.0, 1.0)

    @pytest.mark.parametrize("relation", NeighboringRelation)
    def test_extreme_parameters(self, relation):
        """No warning, no NaN, and all of both laws in the cells."""
        plain = [
            *(kind(z) for kind in (Gaussian, Laplace) for z in (1e-3, 0.1, 1e4)),
            *(DiscreteGaussian(s, k, d) for s in (0.05, 1e4) for k in (0.5, 3.5, 1e3) for d in (None, 1)),
            *(Skellam(v, k, d) for v in (1e-3, 1e5) for k in (1, 1e3) for d in (None, 1)),
            *(DiscreteLaplace(b, s) for b in (0.01, 1e5, 1e300) for s in (1, 10**6)),
            *(ApproximateDP(e, d) for e in (0.0, 1e-9, 700.0) for d in (0.0, 1e-300, 0.5)),
        ]
        poisson = [PoissonSampled(event, q) for event in plain for q in (1e-9, 0.01, 1 - 1e-12)]
        fixed = [SampledWithoutReplacement(event, n, b) for event in plain for n, b in ((2, 1), (10**9, 1))]
        costed = 0
        for event in (*plain, *poisson, *fixed):
            try:
                known = dominance(event, relation)
            except UnsupportedError:
                continue
            for pair in filter(None, known[:2] if known else ()):
                self.check_all_there(pair)
                costed += 1
        assert costed > 100

    @staticmethod
    def check_all_there(pair):
        low, high = pair.range(1e-300)
        sketch = pair.sketch()
        assert low <= high
        assert np.all(np.diff(sketch) >= 0.0)
        assert math.isfinite(pair.anchor)
        x = np.unique(np.concatenate((sketch[:: max(1, sketch.size // 20)], np.linspace(low, high, 9))))
        cells = pair.cells(x)
        assert not any(np.isnan(part).any() for part in cells)
        assert cells.p.sum() + pair.infinite[0] == pytest.approx(1.0, abs=1e-8)
        assert cells.q.sum() + pair.infinite[1] == pytest.approx(1.0, abs=1e-8)
