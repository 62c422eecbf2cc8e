"""Filters and odometers: their guarantee against every plan on small trees, and what fails it."""

import copy
import math

import numpy as np
import pytest
from reference import adaptive_plans

from fedsec.accounting import (
    Composed,
    DiscreteGaussian,
    DiscreteGaussianSum,
    Gaussian,
    GDPFilter,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PLDAccountant,
    PoissonSampled,
    RandomizedResponse,
    RDPAccountant,
    RDPFilter,
    RDPOdometer,
    Repeated,
    Skellam,
    gaussian,
    integer_noise,
)
from fedsec.errors import BudgetExceededError, InvalidArgumentError, InvalidTypeError, UnsupportedError

DELTA = 1e-5
# Three responses on a Poisson sample. The first is a coin that is rarely surprising; after a surprise the
# third costs as much as the second costs without one, but for Rényi divergences at quite different orders.
MENU = [(7.645662526625849, 1.9747625848329697e-4), (16.669451585432036, 3.594077348269558e-5),
        (6.07880590885152, 0.7465030971716412)]  # fmt: skip
EVENTS = [PoissonSampled(RandomizedResponse(epsilon), q) for epsilon, q in MENU]
PLANS = [adaptive_plans.sampled_response(epsilon, q) for epsilon, q in MENU]
ROUNDS = 4
EPSILON = max(adaptive_plans.renyi_epsilon([PLANS[0], PLANS[i]], DELTA) for i in (1, 2))


def allowed_by(fresh, events=EVENTS):
    return lambda done: not fresh().would_exceed(Composed([events[i] for i in done]))


def read_below(fresh, level):
    return lambda done: fresh().spend(Composed([EVENTS[i] for i in done])).epsilon() <= level


class TestEveryPlanOnSmallTrees:
    """The largest delta of all plans that a rule allows, by enumeration."""

    @pytest.mark.parametrize("planned", [None, *EVENTS], ids=["default", "coin", "second", "third"])
    def test_the_filter_keeps_its_promise(self, planned):
        def fresh():
            return RDPFilter(target_epsilon=EPSILON, target_delta=DELTA, planned=planned)

        assert adaptive_plans.worst_delta(PLANS, allowed_by(fresh), EPSILON, ROUNDS) <= DELTA

    def test_the_filter_is_not_empty_handed(self):
        """What it allows comes within a factor of three of the target, so that doubling it would show."""

        def fresh():
            return RDPFilter(target_epsilon=EPSILON, target_delta=DELTA, planned=EVENTS[1])

        assert adaptive_plans.worst_delta(PLANS, allowed_by(fresh), EPSILON, ROUNDS) > DELTA / 3.0

    def test_the_best_order_afterwards_breaks_it(self):
        """Negative control: each branch meets the target at its best order, the plan does not."""

        def allows(done):
            return adaptive_plans.renyi_epsilon([PLANS[i] for i in done], DELTA) <= EPSILON

        assert adaptive_plans.worst_delta(PLANS, allows, EPSILON, ROUNDS) > 1.9 * DELTA

    def test_exact_accounting_of_what_was_run_breaks_it(self):
        """Negative control: no better without any slack in the accounting of each branch."""
        menu = [(6.98, 0.0091), (21.7, 1e-5), (8.63, 0.001)]
        plans = [adaptive_plans.sampled_response(epsilon, q) for epsilon, q in menu]
        level = max(adaptive_plans.exact_epsilon([plans[0], plans[i]], DELTA) for i in (1, 2))

        def allows(done):
            return adaptive_plans.exact_epsilon([plans[i] for i in done], DELTA) <= level

        assert adaptive_plans.worst_delta(plans, allows, level, ROUNDS) > 1.9 * DELTA

    def test_plans_of_random_responses(self):
        """Menus drawn with a fixed seed; on the whole the filter lets plans spend a good part of delta."""
        rng = np.random.default_rng(3)
        spent = []
        for _ in range(10):
            menu = rng.uniform(0.05, 1.0, 3)
            events = [RandomizedResponse(float(epsilon)) for epsilon in menu]
            plans = [adaptive_plans.sampled_response(epsilon) for epsilon in menu]

            def fresh():
                return RDPFilter(target_epsilon=1.0, target_delta=0.05)

            spent.append(adaptive_plans.worst_delta(plans, allowed_by(fresh, events), 1.0, ROUNDS))
        assert max(spent) <= 0.05
        assert max(spent) > 0.005

    def test_the_odometer_keeps_its_promise(self):
        """What is released while it reads at most a level is (level, delta)-private, for every level."""

        def fresh():
            return RDPOdometer(target_delta=2.0 * DELTA)

        for level in (0.5, 2.0, EPSILON, 9.0):
            assert adaptive_plans.worst_delta(PLANS, read_below(fresh, level), level, ROUNDS) <= 2.0 * DELTA

    def test_the_odometer_pays_for_the_choice_of_orders(self):
        """With the two orders that suit the two branches, its delta is used up to a tenth; without the price
        of log(2) it would be half of it, and missed."""

        def fresh():
            return RDPOdometer(target_delta=2.0 * DELTA, orders=[3.67, 100.0])

        level = max(fresh().spend(Composed([EVENTS[0], EVENTS[i]])).epsilon() for i in (1, 2))
        worst = adaptive_plans.worst_delta(PLANS, read_below(fresh, level), level, ROUNDS)
        assert 1.8 * DELTA < worst <= 2.0 * DELTA


def hockey_stick(mu, epsilon):
    """E_P[(1 - e^(epsilon - loss))+] of Gaussian noise, for an epsilon of either sign."""
    from scipy.special import ndtr

    return ndtr(0.5 * mu - epsilon / mu) - np.exp(epsilon) * ndtr(-0.5 * mu - epsilon / mu)


def two_rounds(mu, second, epsilon):
    """Exact delta of a Gaussian release x with mu, then one with second(x); by the trapezoidal rule."""
    x, step = np.linspace(-12.0 + mu, 12.0 + mu, 200_001, retstep=True)  # under P, x ~ N(mu, 1)
    loss = mu * (x - 0.5 * mu)
    inner = np.array(hockey_stick(second(x), epsilon - loss))
    return float((np.exp(-0.5 * (x - mu) ** 2) * inner).sum() * step / math.sqrt(2.0 * math.pi))


class TestGaussianPlans:
    def test_all_that_fits_the_rdp_filter_is_within_the_exact_target(self):
        """Gaussian steps compose exactly, adaptively too; the filter leaves some of the target unused."""
        filter_ = RDPFilter(target_epsilon=1.0, target_delta=DELTA)
        mu_squared = 0.0
        for noise in (3.0, 10.0, 30.0, 100.0, 1000.0):
            while not filter_.would_exceed(Gaussian(noise)):
                filter_.spend(Gaussian(noise))
                mu_squared += noise**-2
        exact = gaussian.delta(math.sqrt(mu_squared), 1.0, 1)
        assert 0.05 * DELTA < exact <= DELTA

    @pytest.mark.parametrize("epsilon", [0.0, 1.0, 4.0])
    def test_the_gdp_filter_is_exact(self, epsilon):
        """A second scale that depends on the first release, as far as the filter lets it: nothing is lost."""
        filter_ = GDPFilter(target_mu=1.0).spend(Gaussian(2.0), 2)
        assert not filter_.would_exceed(Gaussian(math.sqrt(2.0)))
        assert filter_.would_exceed(Gaussian(math.sqrt(2.0) * (1.0 - 1e-9)))
        used_up = two_rounds(math.sqrt(0.5), lambda x: np.full_like(x, math.sqrt(0.5)), epsilon)
        chosen = two_rounds(math.sqrt(0.5), lambda x: np.where(x > 1.0, math.sqrt(0.5), 1e-3), epsilon)
        assert used_up == pytest.approx(gaussian.delta(1.0, epsilon, 1), rel=1e-7)
        assert chosen <= used_up * (1.0 + 1e-9)

    def test_a_budget_kept_on_average_is_no_budget(self):
        """Negative control: the mu^2 that is spent is 1 at most in expectation, under P and Q."""
        from scipy.special import ndtr

        threshold = 2.5
        chance = ndtr(math.sqrt(0.5) - threshold)  # the larger of the two chances that x exceeds it
        spent = lambda x: np.where(x > threshold, math.sqrt(0.5 / chance), 1e-9)  # noqa: E731
        assert two_rounds(math.sqrt(0.5), spent, 4.0) > 2.0 * gaussian.delta(1.0, 4.0, 1)

    def test_integer_noise_in_a_gdp_filter(self):
        events = [DiscreteGaussian(5.0, 1.0), Skellam(25.0, 1.0), DiscreteGaussianSum(2.0, 6, 1.0)]
        squares = [integer_noise.gdp_mu(e, NeighboringRelation.ADD_OR_REMOVE_ONE) ** 2 for e in events]
        filter_ = GDPFilter(target_mu=1.0)
        for event in events:
            filter_.spend(event, 3)
        assert filter_.fraction_spent == pytest.approx(3.0 * sum(squares), rel=1e-9)

    def test_replacement_counts_double(self):
        relation = NeighboringRelation.REPLACE_ONE
        assert GDPFilter(target_mu=1.0, neighboring_relation=relation).would_exceed(Gaussian(1.9))
        assert not GDPFilter(target_mu=1.0, neighboring_relation=relation).would_exceed(Gaussian(2.0))

    @pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-12), (1.0, 1e-5), (8.0, 1e-3), (0.5, 0.4)])
    def test_targets_of_a_gdp_filter(self, epsilon, delta):
        filter_ = GDPFilter(target_epsilon=epsilon, target_delta=delta)
        assert gaussian.delta(filter_.target_mu * (1.0 + 1e-12), epsilon, 1) <= delta * (1.0 + 1e-14)
        assert gaussian.delta(filter_.target_mu * (1.0 + 1e-9), epsilon, -1) > delta * (1.0 - 1e-6)
        assert filter_.epsilon(delta) == pytest.approx(epsilon, rel=1e-6)
        assert filter_.spent().epsilon == filter_.epsilon(delta)


SGD = PoissonSampled(Gaussian(1.1), 256 / 60_000)


def filters():
    return [
        RDPFilter(target_epsilon=1.0, target_delta=DELTA),
        GDPFilter(target_mu=0.3),
        RDPOdometer(target_delta=DELTA),
    ]


@pytest.mark.parametrize("spending", filters(), ids=lambda f: type(f).__name__)
class TestEveryKind:
    def test_count_is_multiplied(self, spending):
        once, often = copy.deepcopy(spending), copy.deepcopy(spending)
        once.spend(Repeated(Gaussian(50.0), 6), 2)
        for _ in range(12):
            often.spend(Gaussian(50.0))
        assert reading(once) == pytest.approx(reading(often), rel=1e-12)
        assert reading(once) > 2.0 * reading(copy.deepcopy(spending).spend(Gaussian(50.0)))

    @pytest.mark.parametrize(
        "stranger", [PLDAccountant, RDPAccountant, lambda: RDPOdometer(target_delta=0.1)]
    )
    def test_what_an_accountant_added_up_is_refused_by_name(self, spending, stranger):
        accountant = stranger()
        with pytest.raises(
            InvalidTypeError, match=f"event must be an event, got a {type(accountant).__name__}"
        ):
            copy.deepcopy(spending).spend(accountant)

    @pytest.mark.parametrize(
        ("event", "count", "error"),
        [
            (1.1, 1, InvalidTypeError),
            (Gaussian(100.0), 0, InvalidArgumentError),
            (Gaussian(100.0), 1.0, InvalidTypeError),
            (Gaussian(100.0), 2**53, InvalidArgumentError),
            (PoissonSampled(Repeated(Gaussian(1.0), 2), 0.5), 1, UnsupportedError),
        ],
    )
    def test_a_failed_call_records_nothing(self, spending, event, count, error):
        spending = copy.deepcopy(spending).spend(Gaussian(100.0))
        before = reading(spending)
        with pytest.raises(error if count < 2**53 else (error, BudgetExceededError)):
            spending.spend(event, count)
        assert reading(spending) == before
        assert reading(spending.spend(PoissonSampled(Gaussian(1.0), 0.0), 7)) == before

    def test_one_more_ulp_never_gets_lost(self, spending):
        """Spending is rounded up: a sum never falls behind its terms, however small."""
        spending = copy.deepcopy(spending)
        spending.spend(Gaussian(50.0))
        for _ in range(100):
            before = spending._spent.copy()
            spending.spend(Gaussian(1e12))
            assert (spending._spent > before).all()


def reading(spending):
    return spending.epsilon() if isinstance(spending, RDPOdometer) else spending.fraction_spent


class TestRDPFilter:
    def test_refusal_comes_before_anything_is_recorded(self):
        filter_ = RDPFilter(target_epsilon=1.0, target_delta=DELTA).spend(Gaussian(10.0))
        before = filter_.fraction_spent
        assert filter_.would_exceed(Gaussian(1.0))
        with pytest.raises(BudgetExceededError, match=r"1 x Gaussian\(.*target_epsilon=1.0"):
            filter_.spend(Gaussian(1.0))
        assert filter_.fraction_spent == before
        assert not filter_.would_exceed(Gaussian(10.0))

    def test_would_exceed_records_nothing(self):
        filter_ = RDPFilter(target_epsilon=1.0, target_delta=DELTA)
        assert not filter_.would_exceed(Gaussian(10.0), 3)
        assert filter_.fraction_spent == 0.0

    @pytest.mark.parametrize("event", [SGD, Gaussian(7.0), Laplace(20.0)])
    def test_what_was_planned_costs_no_more_than_beforehand(self, event):
        """For the event it was made for, the filter allows 99.9 % of the runs of a fixed schedule."""
        filter_ = RDPFilter(target_epsilon=3.0, target_delta=DELTA, planned=event)
        count = next(
            n for n in (2**k for k in range(40)) if RDPAccountant().compose(event, n).epsilon(DELTA) > 3.0
        )
        low, high = 0, count
        while high - low > 1:
            middle = (low + high) // 2
            fits = RDPAccountant().compose(event, middle).epsilon(DELTA) <= 3.0
            low, high = (middle, high) if fits else (low, middle)
        assert not filter_.would_exceed(event, math.floor(0.999 * low))
        assert filter_.would_exceed(event, high)

    def test_without_a_plan_the_order_suits_gaussian_noise_of_any_scale(self):
        default = RDPFilter(target_epsilon=3.0, target_delta=DELTA)
        for noise in (0.1, 1e4):
            assert (
                RDPFilter(target_epsilon=3.0, target_delta=DELTA, planned=Gaussian(noise)).order
                == default.order
            )

    def test_the_order_is_kept(self):
        filter_ = RDPFilter(target_epsilon=3.0, target_delta=DELTA, order=8)
        assert filter_.spend(Laplace(50.0)).spend(SGD, 100).order == 8.0

    def test_nothing_is_had_for_free_at_the_edges(self):
        for epsilon, delta in ((1e-6, 1e-12), (1e3, 1e-300), (1e-3, 0.9)):
            filter_ = RDPFilter(target_epsilon=epsilon, target_delta=delta)
            assert filter_.would_exceed(Gaussian(1e-6))
            assert filter_.would_exceed(NonPrivate())
            assert not filter_.would_exceed(Gaussian(1e9))

    def test_the_record(self):
        spent = RDPFilter(target_epsilon=3.0, target_delta=DELTA).spend(SGD, 100).spent()
        assert (spent.epsilon, spent.delta, spent.accountant) == (3.0, DELTA, "RDPFilter")
        assert "a shuffled loader" in spent.samplers[0]

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ({"target_epsilon": 0.0}, InvalidArgumentError, "target_epsilon must be positive"),
            ({"target_epsilon": math.nan}, InvalidArgumentError, "target_epsilon must be"),
            ({"target_delta": 0.0}, InvalidArgumentError, "target_delta must be in"),
            ({"neighboring_relation": "add"}, InvalidTypeError, "neighboring_relation"),
            ({"order": 1.0}, InvalidArgumentError, "above 1, got 1.0"),
            ({"order": 1.1}, InvalidArgumentError, "order must be large enough .* got 1.1"),
            ({"order": "two"}, InvalidTypeError, "orders must be"),
            ({"order": 8.0, "planned": SGD}, InvalidArgumentError, "order or planned, not both"),
            (
                {"planned": NonPrivate()},
                InvalidArgumentError,
                "planned must have a positive and finite",
            ),
            ({"planned": PoissonSampled(SGD.event, 0.0)}, InvalidArgumentError, "planned must have"),
            ({"planned": 1.1}, InvalidTypeError, "planned must be an event"),
            ({"planned": PLDAccountant()}, InvalidTypeError, "planned must be an event, got a PLDAccountant"),
        ],
    )
    def test_arguments(self, arguments, error, words):
        with pytest.raises(error, match=words):
            RDPFilter(**{"target_epsilon": 1.0, "target_delta": DELTA, **arguments})


class TestGDPFilter:
    @pytest.mark.parametrize("event", [Laplace(9.0), SGD, NonPrivate(), RandomizedResponse(0.1)])
    def test_other_events_are_refused_by_name(self, event):
        with pytest.raises(UnsupportedError, match=rf"GDPFilter takes .*{type(event).__name__}"):
            GDPFilter(target_mu=5.0).spend(event)

    def test_without_a_target_delta_the_record_needs_one(self):
        filter_ = GDPFilter(target_mu=1.0)
        assert filter_.spent(1e-6).epsilon == filter_.epsilon(1e-6)
        with pytest.raises(InvalidTypeError, match="delta must be"):
            filter_.spent()

    @pytest.mark.parametrize(
        "arguments",
        [{}, {"target_epsilon": 1.0}, {"target_delta": 1e-5}, {"target_mu": 1.0, "target_delta": 1e-5}],
    )
    def test_one_kind_of_target(self, arguments):
        with pytest.raises(InvalidArgumentError, match="give target_mu, or target_epsilon and target_delta"):
            GDPFilter(**arguments)

    @pytest.mark.parametrize("mu", [0.0, 1e-200, math.inf, math.nan])
    def test_target_mu_out_of_range(self, mu):
        with pytest.raises(InvalidArgumentError, match="target_mu must be"):
            GDPFilter(target_mu=mu)

    def test_nothing_is_free_and_nothing_overflows(self):
        filter_ = GDPFilter(target_mu=1.0)
        assert filter_.spend(Gaussian(1e300), 2**53).fraction_spent > 0.0
        assert filter_.would_exceed(Gaussian(1e-200), 2)


class TestRDPOdometer:
    def test_nothing_spent_reads_nothing(self):
        assert RDPOdometer(target_delta=DELTA).epsilon() == 0.0

    @pytest.mark.parametrize(("event", "count"), [(Gaussian(1.0), 1), (SGD, 3510), (Laplace(5.0), 100)])
    def test_its_price(self, event, count):
        """Above what a schedule fixed beforehand costs, by the price of twenty orders to choose from."""
        fixed = RDPAccountant().compose(event, count).epsilon(DELTA)
        reading = RDPOdometer(target_delta=DELTA).spend(event, count).epsilon()
        assert fixed < reading < 1.35 * fixed

    def test_one_order_costs_what_the_filter_costs(self):
        filter_ = RDPFilter(target_epsilon=1.0, target_delta=DELTA)
        odometer = RDPOdometer(target_delta=DELTA, orders=[filter_.order])
        while not filter_.would_exceed(Gaussian(20.0)):
            filter_.spend(Gaussian(20.0))
            odometer.spend(Gaussian(20.0))
        assert odometer.epsilon() <= 1.0 < odometer.spend(Gaussian(20.0)).epsilon()

    def test_it_never_falls(self):
        odometer = RDPOdometer(target_delta=DELTA)
        readings = [odometer.spend(event).epsilon() for event in (SGD, Gaussian(50.0), SGD, Laplace(30.0))]
        assert readings == sorted(readings)
        assert odometer.spent().epsilon == readings[-1]
        assert odometer.spend(NonPrivate()).epsilon() == math.inf

    @pytest.mark.parametrize("orders", [[], [1.0], [2.0, math.nan], 3.0])
    def test_orders(self, orders):
        with pytest.raises((InvalidArgumentError, InvalidTypeError), match="orders must be"):
            RDPOdometer(target_delta=DELTA, orders=orders)
