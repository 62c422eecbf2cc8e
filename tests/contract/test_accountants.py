"""What every accountant owes its callers; a new one joins the list and inherits the suite."""

import copy
import math

import pytest

from fedsec.accounting import (
    Composed,
    DiscreteGaussian,
    DiscreteLaplace,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PLDAccountant,
    PoissonSampled,
    RandomAllocation,
    RandomizedResponse,
    RDPAccountant,
    Repeated,
    SampledWithoutReplacement,
    Skellam,
)
from fedsec.errors import InvalidArgumentError, InvalidTypeError, UnsupportedError

ACCOUNTANTS = [RDPAccountant, PLDAccountant]
EVENTS = [
    Gaussian(1.0),
    Laplace(4.0),
    PoissonSampled(Gaussian(0.9), 0.02),
    PoissonSampled(Laplace(4.0), 1.0),
    Composed([Gaussian(3.0), Laplace(8.0)]),
    Repeated(Gaussian(2.0), 3),
    DiscreteGaussian(3.0, 1, dimension=1),
    Skellam(9.0, 1),
    DiscreteLaplace(4.0, 2),
    RandomizedResponse(0.5),
    PoissonSampled(DiscreteLaplace(4.0, 2), 0.1),
    RandomAllocation(Gaussian(2.0), 5),
]


@pytest.fixture(params=ACCOUNTANTS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.mark.parametrize("event", EVENTS, ids=repr)
class TestEveryEvent:
    def test_count_is_multiplied(self, kind, event):
        repeated = kind().compose(Repeated(event, 7)).epsilon(1e-6)
        counted = kind().compose(event, 7).epsilon(1e-6)
        listed = kind().compose(Composed([event] * 7)).epsilon(1e-6)
        one_by_one = kind()
        for _ in range(7):
            one_by_one.compose(event)
        assert repeated == counted == listed == one_by_one.epsilon(1e-6)
        assert counted > kind().compose(event).epsilon(1e-6)

    def test_bounds_are_ordered(self, kind, event):
        accountant = kind().compose(event, 5)
        lower, upper = accountant.epsilon_interval(1e-6)
        assert 0.0 <= lower <= upper == accountant.epsilon(1e-6) < math.inf
        assert 0.0 < accountant.delta(upper) <= 1e-6 * (1 + 1e-6)
        assert accountant.delta(0.0) <= 1.0

    def test_more_delta_needs_less_epsilon(self, kind, event):
        accountant = kind().compose(event)
        spent = [accountant.epsilon(delta) for delta in (1e-300, 1e-12, 1e-3, 0.5)]
        assert spent == sorted(spent, reverse=True)

    def test_nothing_added_changes_nothing(self, kind, event):
        nothing = PoissonSampled(event, 0.0)
        assert kind().compose(event).compose(nothing, 9).epsilon(1e-6) == kind().compose(event).epsilon(1e-6)

    def test_all_sampled_is_unsampled(self, kind, event):
        everyone = PoissonSampled(event, 1.0)
        assert kind().compose(everyone).epsilon(1e-6) == kind().compose(event).epsilon(1e-6)


def test_compose_returns_the_accountant(kind):
    accountant = kind()
    assert accountant.compose(Gaussian(1.0)) is accountant


@pytest.mark.parametrize(
    ("event", "count", "error"),
    [
        (1.1, 1, InvalidTypeError),
        (None, 1, InvalidTypeError),
        (Gaussian(1.0), 0, InvalidArgumentError),
        (Gaussian(1.0), -1, InvalidArgumentError),
        (Gaussian(1.0), 2.0, InvalidTypeError),
        (Gaussian(1.0), True, InvalidTypeError),
        (PoissonSampled(Repeated(Gaussian(1.0), 2), 0.5), 1, UnsupportedError),
        (Composed([Gaussian(1.0), PoissonSampled(Repeated(Gaussian(1.0), 2), 0.5)]), 1, UnsupportedError),
    ],
)
def test_a_rejected_event_leaves_the_ledger_as_it_was(kind, event, count, error):
    accountant = kind().compose(Gaussian(2.0), 3)
    before = accountant.epsilon(1e-5)
    with pytest.raises(error):
        accountant.compose(event, count)
    assert accountant.epsilon(1e-5) == before


def test_a_copy_goes_its_own_way(kind):
    accountant = kind().compose(Gaussian(2.0))
    before = accountant.epsilon(1e-5)
    for duplicate in (copy.copy(accountant), copy.deepcopy(accountant)):
        assert duplicate.compose(Gaussian(2.0)).epsilon(1e-5) > before
    assert accountant.epsilon(1e-5) == before


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 1.5, math.nan, math.inf])
def test_delta_out_of_range(kind, delta):
    for call in (kind().epsilon, kind().epsilon_interval, kind().compose(Gaussian(1.0)).epsilon):
        with pytest.raises(InvalidArgumentError, match=r"delta must be .*, got"):
            call(delta)


@pytest.mark.parametrize("epsilon", [-1e-9, math.nan, math.inf, -math.inf])
def test_epsilon_out_of_range(kind, epsilon):
    with pytest.raises(InvalidArgumentError, match=r"epsilon must be .*, got"):
        kind().compose(Gaussian(1.0)).delta(epsilon)


@pytest.mark.parametrize("value", ["1e-5", None, True])
def test_numbers_of_a_wrong_type(kind, value):
    accountant = kind().compose(Gaussian(1.0))
    for call in (accountant.epsilon, accountant.delta):
        with pytest.raises(InvalidTypeError, match="must be a real number"):
            call(value)


def test_replacement_costs_more_than_removal(kind):
    spent = {
        relation: kind(neighboring_relation=relation).compose(Gaussian(1.0)).epsilon(1e-5)
        for relation in NeighboringRelation
    }
    assert spent[NeighboringRelation.REPLACE_ONE] > 1.9 * spent[NeighboringRelation.ADD_OR_REMOVE_ONE]
    assert spent[NeighboringRelation.REPLACE_SPECIAL] == spent[NeighboringRelation.ADD_OR_REMOVE_ONE]


def test_replacement_under_poisson_sampling_is_refused_or_dearer(kind):
    accountant = kind(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    event = PoissonSampled(Gaussian(1.0), 0.1)
    try:
        spent = accountant.compose(event, 10).epsilon(1e-5)
    except UnsupportedError:
        assert accountant.epsilon(1e-5) == 0.0
    else:
        assert spent > kind().compose(event, 10).epsilon(1e-5)


def test_the_record_agrees_with_the_interval(kind):
    accountant = kind().compose(Gaussian(2.0), 3)
    spent = accountant.privacy_spent(1e-5)
    assert (spent.epsilon_lower, spent.epsilon) == accountant.epsilon_interval(1e-5)
    assert spent.accountant == kind.__name__
    assert accountant.privacy_spent(1e-5, group_size=2).epsilon > spent.epsilon


def test_summaries_agree_with_delta(kind):
    """The line of slope 1 is one of those under the trade-off curve, and mu allows at least delta(0)."""
    accountant = kind().compose(Gaussian(2.0), 3)
    assert accountant.advantage() == accountant.delta(0.0)
    assert accountant.tradeoff(0.1) >= 1.0 - accountant.delta(0.0) - 0.1 - 1e-9
    assert accountant.mu() == pytest.approx(math.sqrt(3.0) / 2.0, rel=1e-13)
    lower, upper = accountant.curve([0.0, 1.0])
    assert (lower <= upper).all()


def test_without_protection_nothing_is_promised(kind):
    assert kind().compose(NonPrivate()).epsilon(0.999) == math.inf
    assert kind().compose(NonPrivate()).delta(100.0) == 1.0


@pytest.mark.parametrize(
    "event",
    [
        SampledWithoutReplacement(Gaussian(2.0), 100, 5),
        SampledWithoutReplacement(DiscreteLaplace(4.0, 1), 100, 5),
    ],
    ids=repr,
)
def test_samples_of_fixed_size_have_a_replacement(kind, event):
    with pytest.raises(UnsupportedError, match="use REPLACE_ONE or REPLACE_SPECIAL"):
        kind().compose(event)
    spent = {}
    for relation in (NeighboringRelation.REPLACE_ONE, NeighboringRelation.REPLACE_SPECIAL):
        accountant = kind(neighboring_relation=relation).compose(event, 20)
        lower, upper = accountant.epsilon_interval(1e-6)
        whole = kind(neighboring_relation=relation).compose(event.event, 20).epsilon(1e-6)
        assert 0.0 <= lower <= upper < whole
        spent[relation] = upper
    assert spent[NeighboringRelation.REPLACE_SPECIAL] <= spent[NeighboringRelation.REPLACE_ONE]
