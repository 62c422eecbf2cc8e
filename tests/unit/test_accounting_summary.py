"""Trade-off, mu, whole curves, groups and the record: against closed forms, and against single answers."""

import dataclasses
import math

import mpmath
import numpy as np
import pytest

from fedsec.accounting import (
    ApproximateDP,
    Composed,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PLDAccountant,
    PoissonSampled,
    PrivacySpent,
    RandomAllocation,
    RandomizedResponse,
    RDPAccountant,
    SampledWithoutReplacement,
    gaussian,
    summary,
)
from fedsec.accounting.accountant import Accountant
from fedsec.errors import InvalidArgumentError, InvalidTypeError

ACCOUNTANTS = [RDPAccountant, PLDAccountant]
ALPHAS = [0.0, 1e-9, 1e-4, 0.05, 0.3, 0.5, 0.9, 0.999999, 1.0]
SGD = PoissonSampled(Gaussian(1.1), 256 / 60_000)


class Known(Accountant):
    """An accountant for a curve that is known exactly, which summaries may not see through."""

    def __init__(self, curve, noise=None):
        super().__init__(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
        self._known = curve
        self._counts = {Laplace(1.0): 1}

    def _check(self, mechanism):
        raise NotImplementedError

    def delta(self, epsilon):
        return self._known(epsilon)

    def delta_interval(self, epsilon):
        return self._known(epsilon), self._known(epsilon)

    def epsilon(self, delta):
        if self._known(0.0) <= delta:
            return 0.0
        low, high = 0.0, 1e4
        for _ in range(80):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self._known(middle) > delta else (low, middle)
        return high

    def epsilon_interval(self, delta):
        return self.epsilon(delta), self.epsilon(delta)


def normal(mu):
    return Known(lambda epsilon: gaussian.delta(mu, epsilon, 1))


def laplace(s):
    return Known(lambda epsilon: max(0.0, -math.expm1(min(0.0, 0.5 * (epsilon - s)))))


def response(s):
    return Known(lambda epsilon: max(0.0, -math.expm1(min(0.0, epsilon - s))) / (1.0 + math.exp(-s)))


def grid_of(accountant):
    return summary._curve_to(accountant, 1.0)


def normal_tradeoff(mu, alpha):
    if alpha in (0.0, 1.0):
        return 1.0 - alpha
    with mpmath.workdps(40):
        alpha = mpmath.mpf(alpha)
        threshold = mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * alpha)
        return float(mpmath.ncdf(threshold - mu))


def laplace_tradeoff(s, alpha):
    """Of a shift by s scales: Dong, Roth, Su (2022), by integrating the densities."""
    if alpha < 0.5 * math.exp(-s):
        return 1.0 - math.exp(s) * alpha
    return math.exp(-s) / (4.0 * alpha) if alpha < 0.5 else math.exp(-s) * (1.0 - alpha)


class TestTradeoff:
    @pytest.mark.parametrize("kind", ACCOUNTANTS)
    @pytest.mark.parametrize("z", [0.2, 1.0, 50.0])
    def test_gaussian_noise_is_exact(self, kind, z):
        accountant = kind().compose(Gaussian(2.0 * z), 3).compose(Gaussian(2.0 * z))
        for alpha in ALPHAS:
            bound, exact = accountant.tradeoff(alpha), normal_tradeoff(1.0 / z, alpha)
            assert exact - 1e-6 <= bound <= exact

    @pytest.mark.parametrize("mu", [1e-3, 0.3, 3.0, 20.0])
    def test_the_search_finds_the_best_line(self, mu):
        accountant = normal(mu)
        for alpha in ALPHAS:
            bound, exact = accountant.tradeoff(alpha), normal_tradeoff(mu, alpha)
            assert exact - 1e-6 <= bound <= exact

    @pytest.mark.parametrize("s", [0.01, 1.0, 5.0])
    def test_laplace(self, s):
        accountant, renyi = laplace(s), RDPAccountant().compose(Laplace(1.0 / s))
        for alpha in ALPHAS:
            exact = laplace_tradeoff(s, alpha)
            assert exact - 1e-6 <= accountant.tradeoff(alpha) <= exact
            assert renyi.tradeoff(alpha) <= exact

    @pytest.mark.parametrize("alpha", [0.01, 0.7])
    def test_numeric_accounting_is_tight(self, alpha):
        exact = laplace_tradeoff(1.0, alpha)
        assert exact - 1e-3 <= PLDAccountant().compose(Laplace(1.0)).tradeoff(alpha) <= exact

    def test_randomized_response(self):
        """Its only tests are: trust the bit, or toss coins between that and certain answers."""
        lie = 1.0 / (1.0 + math.e)
        accountant = response(1.0)
        for alpha in ALPHAS:
            exact = 1.0 - math.e * alpha if alpha <= lie else math.exp(-1.0) * (1.0 - alpha)
            assert exact - 1e-6 <= accountant.tradeoff(alpha) <= exact + 1e-15

    @pytest.mark.parametrize(
        ("kind", "points"), [(RDPAccountant, [-3.0, 0.5, 2.0, 4.0]), (PLDAccountant, [2.0])]
    )
    def test_sampled_noise_lies_below_both_directions(self, kind, points):
        """One step, whose likelihood ratio is monotone: thresholds are the best tests."""
        q, t = 0.1, 1.25
        accountant = kind().compose(PoissonSampled(Gaussian(1.0 / t), q))
        for x in points:
            out = float(mpmath.ncdf(x))
            within = float((1.0 - q) * mpmath.ncdf(x) + q * mpmath.ncdf(x - t))
            assert accountant.tradeoff(1.0 - out) <= within + 1e-12
            assert accountant.tradeoff(within) <= 1.0 - out + 1e-12

    @pytest.mark.parametrize("kind", ACCOUNTANTS)
    def test_extremes(self, kind):
        assert kind().tradeoff(0.3) == pytest.approx(0.7, abs=1e-8)
        assert kind().compose(NonPrivate()).tradeoff(0.0) == 0.0
        assert kind().compose(NonPrivate()).tradeoff(0.5) == 0.0

    @pytest.mark.parametrize("alpha", [-1e-9, 1.1, math.nan, math.inf])
    def test_alpha_is_a_probability(self, alpha):
        with pytest.raises(InvalidArgumentError, match="alpha must be"):
            PLDAccountant().tradeoff(alpha)


@pytest.mark.parametrize("mu", [0.1, 1.0, 10.0])
def test_advantage(mu):
    """Of a threshold halfway between the two means."""
    advantage = PLDAccountant().compose(Gaussian(1.0 / mu)).advantage()
    assert advantage == pytest.approx(float(2 * mpmath.ncdf(mu / 2) - 1), rel=1e-12)
    assert RDPAccountant().compose(Gaussian(1.0 / mu)).advantage() >= advantage


class TestMu:
    @pytest.mark.parametrize("kind", ACCOUNTANTS)
    def test_gaussian_noise_of_any_mix(self, kind):
        accountant = kind().compose(Composed([Gaussian(3.0), Gaussian(0.5)]), 4)
        assert accountant.mu() == pytest.approx(math.sqrt(4.0 * (1.0 / 9.0 + 4.0)), rel=1e-13)
        assert accountant.mu() >= math.sqrt(4.0 * (1.0 / 9.0 + 4.0))
        doubled = kind(neighboring_relation=NeighboringRelation.REPLACE_ONE).compose(Gaussian(4.0))
        assert doubled.mu() == pytest.approx(0.5, rel=1e-13)

    @pytest.mark.parametrize("mu", [1e-3, 0.3, 1.0, 5.0, 30.0])
    def test_what_is_gaussian_is_found_to_be(self, mu):
        found = normal(mu).mu()
        assert 0.9999 * mu <= found <= 1.01 * mu

    @pytest.mark.parametrize("floor", [1e-12, 1e-5])
    @pytest.mark.parametrize(
        "accountant",
        [
            laplace(0.1),
            laplace(4.0),
            response(1.5),
            RDPAccountant().compose(SGD, 3510),
            RDPAccountant().compose(Laplace(10.0), 50),
        ],
        ids=["Laplace 10", "Laplace 1/4", "response", "sgd", "many Laplace"],
    )
    def test_it_holds_everywhere_and_no_smaller_one_does(self, accountant, floor):
        mu = accountant.mu(floor)
        epsilons = np.linspace(0.0, 1.2 * accountant.epsilon(floor), 3001)
        needed = accountant.curve(epsilons)[1] - floor

        def exceeds(mu):
            return (needed > [gaussian.delta(mu, float(epsilon), -1) for epsilon in epsilons]).any()

        assert not exceeds(mu)
        assert exceeds(0.985 * mu)

    def test_the_floor_matters_for_sampled_noise(self):
        """Without a floor the far tail decides: that of noise which was not sampled."""
        accountant = RDPAccountant().compose(PoissonSampled(Gaussian(1.0), 1e-3), 1000)
        assert accountant.mu(1e-100) > 3.0 * accountant.mu(1e-6)

    @pytest.mark.parametrize("kind", ACCOUNTANTS)
    def test_extremes(self, kind):
        assert kind().mu() == 0.0
        assert kind().compose(NonPrivate()).mu() == math.inf
        assert kind().compose(RandomizedResponse(1e-15)).mu(0.5) == 0.0

    @pytest.mark.parametrize("floor", [0.0, 1.0, math.nan])
    def test_floor_out_of_range(self, floor):
        with pytest.raises(InvalidArgumentError, match="delta_floor must be"):
            RDPAccountant().mu(floor)


EXTREMES = [
    Laplace(1e-6),
    Laplace(1e12),
    Composed([Gaussian(1e-3), Laplace(1.0)]),
    PoissonSampled(Gaussian(1e-3), 1e-9),
    PoissonSampled(Gaussian(1e4), 1e-9),
    PoissonSampled(Gaussian(0.5), 0.999),
    Gaussian(1e-200),
    Gaussian(1e300),
]


@pytest.mark.parametrize("count", [1, 10**9])
@pytest.mark.parametrize("event", EXTREMES, ids=repr)
def test_far_from_all_comfort(event, count):
    """Everywhere an answer, and one that agrees with the others."""
    accountant = RDPAccountant().compose(event, count)
    for floor in (1e-12, 1e-3):
        mu = accountant.mu(floor)
        assert 0.0 <= mu < math.inf
        if not isinstance(event, Gaussian):
            assert (gaussian.delta(mu, 0.0, 1) if mu else 0.0) + floor >= accountant.advantage()
    errors = [accountant.tradeoff(alpha) for alpha in (0.0, 1e-5, 0.5, 1.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1.0 - 1e-8
    assert errors[3] == 0.0
    assert accountant.privacy_spent(1e-6, 2).epsilon >= accountant.epsilon(1e-6)
    upper = accountant.curve([0.0, 1e-300, 1.0, 1e300])[1]
    assert upper.tolist() == sorted(upper, reverse=True)


class TestCurve:
    @pytest.mark.parametrize("kind", ACCOUNTANTS)
    @pytest.mark.parametrize("event", [Gaussian(0.7), Laplace(3.0), Composed([])], ids=repr)
    def test_it_holds_single_answers(self, kind, event):
        accountant = kind().compose(event)
        epsilons = [0.0, 1e-9, 0.1, 0.3, 1.0, 5.0, 50.0]
        lower, upper = accountant.curve(epsilons)
        for epsilon, low, high in zip(epsilons, lower, upper, strict=True):
            one_low, one_high = accountant.delta_interval(epsilon)
            assert low <= one_high * (1.0 + 1e-12)
            assert one_low <= high
            assert one_high * (1.0 - 1e-9) <= high <= (one_high + 1e-300) ** 0.999

    def test_renyi_curve_is_that_of_single_answers(self):
        accountant = RDPAccountant().compose(SGD, 3510).compose(Laplace(30.0), 7)
        epsilons = np.linspace(0.0, 9.0, 40)
        single = np.array([accountant.delta(float(epsilon)) for epsilon in epsilons])
        upper = accountant.curve(epsilons)[1]
        assert (upper >= single * (1.0 - 1e-8)).all()
        assert (upper <= single**0.99).all()

    @pytest.mark.parametrize(
        ("epsilons", "error"),
        [([], InvalidTypeError), (1.0, InvalidTypeError), ("ab", InvalidTypeError),
         ([[0.0]], InvalidTypeError), (["1"], InvalidTypeError), ([True], InvalidTypeError),
         ([10**400], InvalidTypeError), ([1.0, -1.0], InvalidArgumentError),
         ([math.nan], InvalidArgumentError), ([math.inf], InvalidArgumentError)],
    )  # fmt: skip
    def test_epsilons(self, epsilons, error):
        with pytest.raises(error, match="epsilons must be"):
            RDPAccountant().curve(epsilons)


class TestGroups:
    @pytest.mark.parametrize("size", [2, 7, 1000])
    def test_gaussian_noise_is_shifted_exactly(self, size):
        spent = PLDAccountant().compose(Gaussian(20.0), 4).privacy_spent(1e-6, group_size=size)
        exact = gaussian.epsilon(size / 10.0, 1e-6, 1)
        assert spent.epsilon == pytest.approx(exact, rel=1e-12)
        assert spent.epsilon_lower == pytest.approx(exact, rel=1e-12)

    def test_renyi_bounds_of_gaussian_groups_are_those_of_the_shift(self):
        spent = RDPAccountant().compose(Gaussian(20.0), 4).privacy_spent(1e-6, group_size=5)
        assert spent.epsilon == RDPAccountant().compose(Gaussian(4.0), 4).epsilon(1e-6)

    @pytest.mark.parametrize("delta", [1e-3, 1e-9])
    @pytest.mark.parametrize("size", [2, 5, 30])
    @pytest.mark.parametrize("mu", [1e-3, 0.1, 0.6])
    def test_the_curve_alone_loses_little_of_a_gaussian(self, mu, size, delta):
        """Chains through the curve of one unit are exact for Gaussian and Laplace noise, but for the grid."""
        exact = gaussian.epsilon(size * mu, delta, 1)
        assert exact <= normal(mu).privacy_spent(delta, size).epsilon <= 1.01 * exact

    @pytest.mark.parametrize("delta", [1e-3, 1e-9])
    @pytest.mark.parametrize("size", [2, 5, 100])
    @pytest.mark.parametrize("s", [0.01, 0.5, 3.0])
    def test_laplace_noise_is_shifted(self, s, size, delta):
        exact = size * s + 2.0 * math.log1p(-delta)
        assert exact * (1.0 - 1e-9) <= laplace(s).privacy_spent(delta, size).epsilon <= 1.001 * exact

    def test_numeric_accounting_of_a_group_is_tight(self):
        exact = 3.0 + 2.0 * math.log1p(-1e-6)
        spent = PLDAccountant().compose(Laplace(1.0)).privacy_spent(1e-6, 3)
        assert exact <= spent.epsilon <= 1.001 * exact
        assert 0.999 * (1.0 + 2.0 * math.log1p(-1e-6)) <= spent.epsilon_lower <= exact

    @pytest.mark.parametrize("size", [2, 4, 16])
    def test_sampled_noise_lies_above_the_exact_one(self, size):
        """One step; how many of the group are drawn is binomial, and all of them shift the same way."""
        q, t, delta = 0.05, 0.8, 1e-6
        epsilon = (
            RDPAccountant().compose(PoissonSampled(Gaussian(1.0 / t), q)).privacy_spent(delta, size).epsilon
        )
        z, step = np.linspace(-12.0, 12.0 + size * t, 400_001, retstep=True)
        density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
        ratio = sum(
            math.comb(size, k) * q**k * (1.0 - q) ** (size - k) * np.exp(k * t * z - 0.5 * (k * t) ** 2)
            for k in range(size + 1)
        )
        exact = (np.maximum(ratio - math.exp(epsilon), 0.0) * density).sum() * step
        assert exact <= delta

    @pytest.mark.parametrize("size", [2, 3, 10])
    def test_no_worse_than_one_point_for_all_hops(self, size):
        """(g epsilon, delta (e^(g epsilon) - 1) / (e^epsilon - 1)) from the best point of the curve."""
        accountant = RDPAccountant().compose(SGD, 500)

        points = np.linspace(0.01, 4.0, 400)
        deltas = accountant.curve(points)[1] * np.expm1(size * points) / np.expm1(points)
        simple = size * points[np.argmax(deltas <= 1e-5)]
        found = accountant.privacy_spent(1e-5, size).epsilon
        assert accountant.epsilon(1e-5) < found <= simple * 1.001

    def test_a_probability_of_failure_is_multiplied(self):
        accountant = PLDAccountant().compose(ApproximateDP(0.0, 1e-6))
        assert accountant.privacy_spent(5.001e-6, 5).epsilon == 0.0
        assert accountant.privacy_spent(5.001e-6, 6).epsilon == math.inf

    def test_failures_add_up_with_what_was_paid_before_them(self):
        """(epsilon, delta) for one unit, and nothing better: 2 epsilon and delta (1 + e^epsilon) for two."""
        accountant = Known(lambda epsilon: 1e-6 if epsilon >= 0.5 else 1.0)
        enough = 1e-6 * (1.0 + math.exp(0.5)) * 1.01
        assert 1.0 <= summary._Hops(*grid_of(accountant)).epsilon(enough, 2) <= 1.02
        assert summary._Hops(*grid_of(accountant)).epsilon(0.98 * enough, 2) == math.inf

    @pytest.mark.parametrize("kind", ACCOUNTANTS)
    def test_extremes(self, kind):
        assert kind().privacy_spent(1e-6, 9).epsilon == 0.0
        assert kind().compose(NonPrivate()).privacy_spent(1e-6, 9).epsilon == math.inf

    def test_larger_groups_cost_more(self):
        accountant = RDPAccountant().compose(SGD, 100)
        spent = [accountant.privacy_spent(1e-5, size).epsilon for size in (1, 2, 3, 10, 100)]
        assert spent == sorted(spent)

    @pytest.mark.parametrize(
        ("size", "error"),
        [
            (0, InvalidArgumentError),
            (10_001, InvalidArgumentError),
            (2.0, InvalidTypeError),
            (True, InvalidTypeError),
        ],
    )
    def test_group_size(self, size, error):
        with pytest.raises(error, match="group_size must be"):
            RDPAccountant().privacy_spent(1e-5, size)


class TestRecord:
    def test_one_unit(self):
        accountant = PLDAccountant().compose(Gaussian(1.0))
        spent = accountant.privacy_spent(1e-5)
        assert (spent.epsilon_lower, spent.epsilon) == accountant.epsilon_interval(1e-5)
        assert (spent.delta, spent.accountant, spent.group_size) == (1e-5, "PLDAccountant", 1)
        assert spent.neighboring_relation is NeighboringRelation.ADD_OR_REMOVE_ONE
        assert spent.samplers == ()
        assert str(spent) == (
            f"epsilon = {spent.epsilon:.6g} at delta = 1e-05 for adding or removing one unit (PLDAccountant)"
        )

    def test_it_is_frozen_and_compares_by_value(self):
        spent = RDPAccountant().compose(Gaussian(1.0)).privacy_spent(1e-5)
        assert spent == RDPAccountant().compose(Gaussian(1.0)).privacy_spent(1e-5)
        assert isinstance(spent, PrivacySpent)
        with pytest.raises(dataclasses.FrozenInstanceError):
            spent.epsilon = 0.0

    @pytest.mark.parametrize("relation", NeighboringRelation)
    def test_units_in_words(self, relation):
        words = {
            "ADD_OR_REMOVE_ONE": "adding or removing up to 3 units",
            "REPLACE_ONE": "replacing up to 3 units by any other",
            "REPLACE_SPECIAL": "zeroing out up to 3 units",
        }
        spent = RDPAccountant(neighboring_relation=relation).compose(Gaussian(9.0)).privacy_spent(1e-5, 3)
        assert spent.unit == words[relation.name]

    def test_samplers_in_words(self):
        counts = {
            PoissonSampled(Gaussian(1.0), 0.01): 7,
            PoissonSampled(Gaussian(2.0), 0.01): 7,
            SampledWithoutReplacement(Gaussian(1.0), 100, 5): 1,
            RandomAllocation(Gaussian(1.0), 50, 2): 1,
            Gaussian(1.0): 3,
        }
        poisson, fixed, allocated = summary.samplers_in_words(counts)
        assert "probability 0.01, which a shuffled loader" in poisson
        assert fixed.startswith("5 of 100 units")
        assert allocated.startswith("each unit in 2 of 50 steps")
