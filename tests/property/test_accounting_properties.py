"""Laws of privacy accounting over random mechanisms, far beyond sensible settings.

Intervals are certified, not exact: where the truth of one composition is at most that of another, what
follows, and is tested, is that the lower bound of the first is at most the upper bound of the second.
"""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import rdp_mpmath

from fedsec.accounting import (
    ApproximateDP,
    Composed,
    DiscreteGaussian,
    DiscreteGaussianSum,
    DiscreteLaplace,
    Gaussian,
    Laplace,
    NeighboringRelation,
    PLDAccountant,
    PoissonSampled,
    RandomAllocation,
    RandomizedResponse,
    RDPAccountant,
    Repeated,
    SampledWithoutReplacement,
    Skellam,
)
from fedsec.errors import UnsupportedError

ADD, REPLACE, ZERO = NeighboringRelation


def powers(low, high):
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


noise = powers(-3.0, 4.0)
probability = powers(-9.0, 0.0)
delta = powers(-300.0, -0.05)
counts = st.integers(1, 10**9)
mechanisms = st.one_of(
    st.builds(Gaussian, noise),
    st.builds(Laplace, noise),
    st.builds(PoissonSampled, st.builds(Gaussian, noise), probability),
)
events = st.recursive(
    mechanisms,
    lambda inner: st.one_of(
        st.builds(Composed, st.lists(inner, max_size=3)), st.builds(Repeated, inner, st.integers(1, 1000))
    ),
    max_leaves=4,
)
NEARLY = 1 + 1e-8  # the search for the best order ends at 1e-9

# Settings that a training may have, for the numerical accountant, which has to compute something there.
usual_noise = powers(-0.5, 1.5)
usual_rate = powers(-4.0, -0.1)
usual_counts = powers(0.0, 5.0).map(int)
usual_delta = powers(-14.0, -2.0)
scales = powers(0.0, 1.5)
whole = st.integers(1, 4)
inner = st.one_of(
    st.builds(Gaussian, usual_noise),
    st.builds(Laplace, usual_noise),
    st.builds(DiscreteLaplace, scales, whole),
    st.builds(RandomizedResponse, powers(-1.5, 0.5)),
    st.builds(DiscreteGaussian, powers(0.0, 1.2), whole, st.none() | st.just(1)),
    st.builds(Skellam, powers(0.7, 2.5), whole, st.none() | st.just(1)),
    st.builds(DiscreteGaussianSum, powers(0.2, 1.2), st.integers(1, 20), whole),
)
sampled = st.one_of(
    st.builds(PoissonSampled, inner, usual_rate),
    st.builds(SampledWithoutReplacement, st.builds(Gaussian, usual_noise), st.just(100), st.integers(1, 99)),
    st.builds(RandomAllocation, st.builds(Gaussian, powers(-0.2, 1.0)), st.integers(2, 12)),
)
everything = st.one_of(
    inner, sampled, st.builds(ApproximateDP, powers(-1.5, 0.5), powers(-12.0, -4.0)), st.just(Composed([]))
)
relations = st.sampled_from(NeighboringRelation)


def spent(event, count, delta):
    return RDPAccountant().compose(event, count).epsilon(delta)


def composed(event, count=1, relation=ADD):
    """A numerical accountant; what is refused by name is left to other draws."""
    try:
        return PLDAccountant(neighboring_relation=relation).compose(event, count)
    except UnsupportedError:
        assume(False)


class TestRenyi:
    @settings(max_examples=60, deadline=None)
    @given(powers(-6.0, -1e-9), powers(math.log10(0.3), 2.0), st.integers(2, 1024))
    def test_divergence_against_the_binomial_sum(self, q, z, order):
        """The whole range that is promised: never below the truth, and at most 1e-8 above it."""
        value = float(RDPAccountant().compose(PoissonSampled(Gaussian(z), q)).rdp([order])[0])
        truth = rdp_mpmath.sampled_gaussian_binomial(q, z, order)
        assert truth <= value <= truth * (1 + 1e-8)

    @settings(max_examples=60, deadline=None)
    @given(events, counts, delta)
    def test_always_an_answer(self, event, count, delta):
        assert 0.0 <= spent(event, count, delta) < math.inf

    @settings(max_examples=40, deadline=None)
    @given(events, st.integers(1, 1000), delta)
    def test_repeating_is_composing_again(self, event, count, delta):
        assert spent(Repeated(event, count), 1, delta) == spent(event, count, delta)

    @settings(max_examples=40, deadline=None)
    @given(noise, probability, counts, delta, st.floats(1.0, 100.0))
    def test_noise_helps_and_use_costs(self, z, q, count, delta, factor):
        base = spent(PoissonSampled(Gaussian(z), q), count, delta)
        assert spent(PoissonSampled(Gaussian(z * factor), q), count, delta) <= base * NEARLY
        assert spent(PoissonSampled(Gaussian(z), q / factor), count, delta) <= base * NEARLY
        assert spent(PoissonSampled(Gaussian(z), q), int(count * factor), delta) * NEARLY >= base
        assert base <= spent(Gaussian(z), count, delta) * NEARLY

    @settings(max_examples=40, deadline=None)
    @given(mechanisms, mechanisms, counts, delta)
    def test_composing_more_never_costs_less(self, one, other, count, delta):
        both = spent(Composed([one, other]), count, delta)
        assert both * NEARLY >= max(spent(one, count, delta), spent(other, count, delta))
        assert both == spent(Composed([other, one]), count, delta)

    @settings(max_examples=40, deadline=None)
    @given(mechanisms, st.integers(1, 10**6), powers(-12.0, -1.0), powers(-2.0, 2.0))
    def test_delta_falls_with_epsilon(self, event, count, delta, epsilon):
        accountant = RDPAccountant().compose(event, count)
        smaller, larger = accountant.delta(epsilon), accountant.delta(2 * epsilon)
        assert 0.0 <= larger <= smaller * NEARLY <= NEARLY
        if 0.0 < smaller < 1.0:
            assert accountant.epsilon(smaller) <= epsilon * (1 + 1e-6)


class TestIntervals:
    @settings(max_examples=60, deadline=None)
    @given(everything, st.integers(1, 300), usual_delta, relations)
    def test_every_event_under_every_relation(self, event, count, delta, relation):
        """Ordered ends; delta just above the upper one is at most what was asked; Rényi divergences agree.

        At the upper end itself the certified delta may exceed it by what was charged for rounding.
        """
        accountant = composed(event, count, relation)
        lower, upper = accountant.epsilon_interval(delta)
        assert 0.0 <= lower <= upper
        if upper < math.inf:
            low, high = accountant.delta_interval(upper * 1.001)
            assert 0.0 <= low <= high <= 1.0
            assert low <= delta
            assert high <= delta * 1.3
        try:
            renyi = RDPAccountant(neighboring_relation=relation).compose(event, count)
        except UnsupportedError:
            return
        assert lower <= renyi.epsilon(delta)
        assert upper <= renyi.epsilon(delta) * NEARLY

    @settings(max_examples=12, deadline=None)
    @given(
        st.sampled_from([Gaussian, Laplace]), usual_noise, usual_rate, usual_counts, usual_delta, relations,
        st.floats(1.0, 4.0),
    )  # fmt: skip
    def test_noise_helps_and_use_costs(self, kind, z, q, count, delta, relation, factor):
        lower, upper = composed(PoissonSampled(kind(z), q), count, relation).epsilon_interval(delta)
        less = (PoissonSampled(kind(z * factor), q), count), (PoissonSampled(kind(z), q / factor), count)
        more = (PoissonSampled(kind(z), q), int(count * factor)), (kind(z), count)
        for event, times in less:
            assert composed(event, times, relation).epsilon_interval(delta)[0] <= upper
        for event, times in more:
            assert composed(event, times, relation).epsilon_interval(delta)[1] >= lower

    @settings(max_examples=12, deadline=None)
    @given(everything, st.integers(1, 200), usual_delta, relations)
    def test_nothing_added_changes_no_bit(self, event, count, delta, relation):
        plain = composed(event, count, relation).epsilon_interval(delta)
        nothing = [PoissonSampled(Laplace(1.0), 0.0), Composed([]), Repeated(Composed([]), 5)]
        assert composed(Composed([event, *nothing]), count, relation).epsilon_interval(delta) == plain
        assert composed(nothing[0], 9, relation).compose(event, count).epsilon_interval(delta) == plain

    @settings(max_examples=12, deadline=None)
    @given(everything, everything, st.integers(1, 50), usual_delta, relations)
    def test_order_and_grouping_change_no_bit(self, one, other, count, delta, relation):
        together = composed(Composed([one, other]), count + 1, relation).epsilon_interval(delta)
        apart = composed(other, count + 1, relation).compose(one, count + 1)
        assert apart.epsilon_interval(delta) == together
        piecemeal = composed(one, count, relation).compose(Repeated(Composed([other]), count))
        assert piecemeal.compose(Composed([other, one])).epsilon_interval(delta) == together

    @settings(max_examples=12, deadline=None)
    @given(everything, everything, st.integers(1, 50), usual_delta, relations)
    def test_composing_more_never_costs_less(self, one, other, count, delta, relation):
        upper = composed(Composed([one, other]), count, relation).epsilon_interval(delta)[1]
        assert upper >= composed(one, count, relation).epsilon_interval(delta)[0]

    @settings(max_examples=12, deadline=None)
    @given(everything, st.integers(1, 200), usual_delta, st.floats(1.0, 1e4), relations)
    def test_more_delta_needs_less_epsilon(self, event, count, delta, factor, relation):
        accountant = composed(event, count, relation)
        lower = accountant.epsilon_interval(min(delta * factor, 0.9))[0]
        assert lower <= accountant.epsilon_interval(delta)[1]

    @settings(max_examples=15, deadline=None)
    @given(usual_noise, usual_rate, usual_counts, usual_delta)
    def test_asking_before_changes_no_promise(self, z, q, count, delta):
        """What was computed for one question serves the next; fresh and used accountants never contradict."""
        event = PoissonSampled(Gaussian(z), q)
        used = composed(event, count)
        used.delta_interval(1.0)
        used.epsilon_interval(0.5 * delta)
        fresh, later = (each.epsilon_interval(delta) for each in (composed(event, count), used))
        assert max(fresh[0], later[0]) <= min(fresh[1], later[1])

    @settings(max_examples=12, deadline=None)
    @given(everything, st.integers(1, 100), usual_delta)
    def test_zeroing_costs_no_more_than_replacing(self, event, count, delta):
        """A zeroed unit is a replaced one whose contribution is nothing, wherever both are analysed."""
        assume(not isinstance(event, RandomizedResponse | ApproximateDP))
        zeroed, replaced = (composed(event, count, relation) for relation in (ZERO, REPLACE))
        assert zeroed.epsilon_interval(delta)[0] <= replaced.epsilon_interval(delta)[1]


@settings(max_examples=40, deadline=None)
@given(noise, probability, counts, powers(-300.0, -3.0))
def test_numerical_accountant_always_answers(z, q, count, delta):
    lower, upper = PLDAccountant().compose(PoissonSampled(Gaussian(z), q), count).epsilon_interval(delta)
    assert 0.0 <= lower <= upper < math.inf
    assert upper <= RDPAccountant().compose(PoissonSampled(Gaussian(z), q), count).epsilon(delta) * NEARLY


@pytest.mark.parametrize("relation", NeighboringRelation)
def test_true_epsilon_zero(relation):
    for event in (RandomizedResponse(0.0), ApproximateDP(0.0, 0.0), Composed([])):
        accountant = PLDAccountant(neighboring_relation=relation).compose(event, 1000)
        assert accountant.epsilon_interval(1e-9) == (0.0, 0.0)
