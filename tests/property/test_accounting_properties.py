"""Laws of privacy accounting over random mechanisms, far beyond sensible settings."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from reference import rdp_mpmath

from fedsec.accounting import Composed, Gaussian, Laplace, PoissonSampled, RDPAccountant, Repeated


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


def spent(event, count, delta):
    return RDPAccountant().compose(event, count).epsilon(delta)


@settings(max_examples=60, deadline=None)
@given(powers(-6.0, -1e-9), powers(math.log10(0.3), 2.0), st.integers(2, 1024))
def test_divergence_against_the_binomial_sum(q, z, order):
    """The whole range that is promised: never below the truth, and at most 1e-8 above it."""
    value = float(RDPAccountant().compose(PoissonSampled(Gaussian(z), q)).rdp([order])[0])
    truth = rdp_mpmath.sampled_gaussian_binomial(q, z, order)
    assert truth <= value <= truth * (1 + 1e-8)


@settings(max_examples=60, deadline=None)
@given(events, counts, delta)
def test_always_an_answer(event, count, delta):
    assert 0.0 <= spent(event, count, delta) < math.inf


@settings(max_examples=40, deadline=None)
@given(events, st.integers(1, 1000), delta)
def test_repeating_is_composing_again(event, count, delta):
    assert spent(Repeated(event, count), 1, delta) == spent(event, count, delta)


@settings(max_examples=40, deadline=None)
@given(noise, probability, counts, delta, st.floats(1.0, 100.0))
def test_noise_helps_and_use_costs(z, q, count, delta, factor):
    base = spent(PoissonSampled(Gaussian(z), q), count, delta)
    assert spent(PoissonSampled(Gaussian(z * factor), q), count, delta) <= base * NEARLY
    assert spent(PoissonSampled(Gaussian(z), q / factor), count, delta) <= base * NEARLY
    assert spent(PoissonSampled(Gaussian(z), q), int(count * factor), delta) * NEARLY >= base
    assert base <= spent(Gaussian(z), count, delta) * NEARLY


@settings(max_examples=40, deadline=None)
@given(mechanisms, mechanisms, counts, delta)
def test_composing_more_never_costs_less(one, other, count, delta):
    both = spent(Composed([one, other]), count, delta)
    assert both * NEARLY >= max(spent(one, count, delta), spent(other, count, delta))
    assert both == spent(Composed([other, one]), count, delta)


@settings(max_examples=40, deadline=None)
@given(mechanisms, st.integers(1, 10**6), powers(-12.0, -1.0), powers(-2.0, 2.0))
def test_delta_falls_with_epsilon(event, count, delta, epsilon):
    accountant = RDPAccountant().compose(event, count)
    smaller, larger = accountant.delta(epsilon), accountant.delta(2 * epsilon)
    assert 0.0 <= larger <= smaller * NEARLY <= NEARLY
    if 0.0 < smaller < 1.0:
        assert accountant.epsilon(smaller) <= epsilon * (1 + 1e-6)
