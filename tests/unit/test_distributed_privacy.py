"""Exact epsilons of small cases lie at or below what is charged, and that at or below what was published.

Exact: the honest shares' law by convolution, every shift that the counted bound allows, every outcome.
"""

import math

import pytest
from reference import distributed_truth as truth

import fedsec
from fedsec import distributed
from fedsec.accounting import NeighboringRelation

ZEROED = NeighboringRelation.REPLACE_SPECIAL
LAWS = ["skellam", "discrete_gaussian"]
# clients, fewest survivors, colluders
COHORTS = [(3, 3, 0), (5, 4, 1), (10, 8, 2), (20, 16, 3), (20, 11, 1)]


def small_plan(cohort, dimension, law, z=0.8):
    """Coarse steps, so that noise is small and its lattice plain to see."""
    length = distributed.ClientEncoding(dimension, 1.0).length
    fineness = 2.0 if law == "discrete_gaussian" else 1.0  # shares of discrete Gaussians have to be wide
    return distributed.plan_clients(
        distributed.Cohort(*cohort),
        dimension=dimension,
        l2_clip_norm=1.0,
        noise_multiplier=z,
        law=law,
        granularity=1.0 / (fineness * math.sqrt(length)),
    )


def charged(event, delta, accountant=fedsec.PLDAccountant):
    return accountant(neighboring_relation=ZEROED).compose(event).epsilon(delta)


@pytest.mark.parametrize(
    ("law", "dimension", "cohort"),
    [
        *((law, d, cohort) for law in LAWS for d in (1, 2) for cohort in COHORTS),
        ("discrete_gaussian", 3, COHORTS[1]),
        ("skellam", 3, COHORTS[3]),
        ("skellam", 4, COHORTS[1]),
    ],
)
def test_exact_epsilon_is_at_most_what_is_charged(law, cohort, dimension):
    z = 0.8 if law == "skellam" else 3.0
    plan = small_plan(cohort, dimension, law, z)
    share = truth.share_law(plan.shares)
    n, fewest, corrupt = cohort
    for survivors in sorted({fewest, n}):
        honest = truth.summed(share, survivors - max(1, corrupt))  # the others' shares are known
        event = plan.event(survivors)
        for delta in (1e-2, 1e-5):
            exact = truth.worst_epsilon(honest, plan.encoding.length, plan.encoding.squared_bound, delta)
            assert 0.0 < exact <= charged(event, delta) * (1 + 1e-9)
            assert exact <= charged(event, delta, fedsec.RDPAccountant)
            # ... and what is charged is no more than a Gaussian of the slope would cost by much
            assert charged(event, delta) < 3.0 * exact + 0.1


@pytest.mark.parametrize("law", LAWS)
def test_control_counting_the_colluders_shares_is_caught(law):
    plan = small_plan((20, 16, 8), 1, law, 0.8 if law == "skellam" else 3.0)
    honest = truth.summed(truth.share_law(plan.shares), 16 - 8)
    exact = truth.worst_epsilon(honest, 1, plan.encoding.squared_bound, 1e-5)
    counted = plan.shares.event(16, plan.encoding.l2_sensitivity, 1)
    assert charged(counted, 1e-5) < exact


def test_control_the_clip_norm_in_steps_is_no_sensitivity():
    """Rounding lengthens a vector: charging c / granularity instead of the counted bound is caught."""
    plan = small_plan((10, 8, 1), 4, "skellam")
    honest = truth.summed(truth.share_law(plan.shares), 7)
    exact = truth.worst_epsilon(honest, 4, plan.encoding.squared_bound, 1e-5)
    assert charged(plan.shares.event(7, plan.encoding.steps, 4), 1e-5) < exact


@pytest.mark.parametrize("law", LAWS)
def test_two_rounds_exactly(law):
    plan = small_plan((5, 4, 1), 1, law, 0.8 if law == "skellam" else 3.0)
    honest = truth.summed(truth.share_law(plan.shares), 3)
    step = math.isqrt(plan.encoding.squared_bound)
    exact = truth.epsilon(*truth.losses(honest, (step, step)), 1e-5)  # two rounds, one coordinate each
    ours = fedsec.PLDAccountant(neighboring_relation=ZEROED).compose(plan.event(), 2).epsilon(1e-5)
    assert 0.9 * ours < exact <= ours * (1 + 1e-9)


@pytest.mark.parametrize("z", [0.3, 3.0])
@pytest.mark.parametrize("dimension", [4, 10**5])
@pytest.mark.parametrize("fineness", [0.5, 8.0])
def test_never_above_the_published_skellam_bound(z, dimension, fineness):
    length = distributed.ClientEncoding(dimension, 1.0).length
    plan = distributed.plan_clients(
        distributed.Cohort(100, 80, 5),
        dimension=dimension,
        l2_clip_norm=1.0,
        noise_multiplier=z,
        granularity=1.0 / (fineness * math.sqrt(length)),
    )
    event = plan.event()
    l1 = min(math.sqrt(length) * event.l2_sensitivity, event.l2_sensitivity**2)
    for count, delta in ((1, 1e-5), (100, 1e-8)):
        published = truth.epsilon_of_rdp(
            lambda a, count=count: (
                count * truth.published_skellam_rdp(event.variance, l1, event.l2_sensitivity, a)
            ),
            [*range(2, 50), *(int(50 * 1.05**k) for k in range(80))],
            delta,
        )
        ours = fedsec.RDPAccountant(neighboring_relation=ZEROED).compose(event, count).epsilon(delta)
        assert ours <= published * (1 + 1e-9)


@pytest.mark.parametrize("z", [0.3, 3.0])
@pytest.mark.parametrize("dimension", [1000, 10**5])
@pytest.mark.parametrize("cohort", [(10, 8, 1), (1000, 800, 50)])
def test_never_above_the_published_discrete_gaussian_bound(z, dimension, cohort):
    plan = distributed.plan_clients(
        distributed.Cohort(*cohort),
        dimension=dimension,
        l2_clip_norm=1.0,
        noise_multiplier=z,
        law="discrete_gaussian",
    )
    event = plan.event()
    orders = [1.0 + 2.0 ** (k / 16) for k in range(-160, 240)]
    for count, delta in ((1, 1e-5), (100, 1e-8)):
        published = truth.epsilon_of_rdp(
            lambda a, count=count: (
                count
                * truth.published_sum_rdp(
                    event.stddev, event.num_shares, event.dimension, event.l2_sensitivity, a
                )
            ),
            orders,
            delta,
        )
        tight = fedsec.PLDAccountant(neighboring_relation=ZEROED).compose(event, count).epsilon(delta)
        assert tight <= published
