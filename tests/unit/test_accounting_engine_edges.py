"""Places where rounding once decided: a law, its bounds, and sums written out with many digits."""

import math

import mpmath
import numpy as np
import pytest
from reference.lattice_truth import sampled_guarantees

from fedsec.accounting import (
    DiscreteLaplace,
    Gaussian,
    Laplace,
    PLDAccountant,
    PoissonSampled,
    RandomizedResponse,
    RDPAccountant,
    accountant,
)
from fedsec.accounting.grid import Grid
from fedsec.accounting.lattice import Law, moved, tilted
from fedsec.accounting.pairs.atoms import Atoms, approximate_dp, randomized_response
from fedsec.accounting.pairs.noise import LaplaceNoise, Mixture, NormalNoise
from fedsec.accounting.pld import OneRun
from fedsec.accounting.rounding import Atoms as Rounded
from fedsec.accounting.rounding import lower, upper


def hockey(losses, masses, epsilon):
    with mpmath.workdps(50):
        losses, masses = map(float, losses), map(float, masses)
        parts = ((mpmath.mpf(x), mpmath.mpf(m)) for x, m in zip(losses, masses, strict=True))
        e = mpmath.mpf(float(epsilon))
        return mpmath.fsum(m * (1 - mpmath.exp(e - x)) for x, m in parts if x > e)


def responses(epsilon, q, count):
    """Losses and masses of the sampled response, composed, in both directions."""
    with mpmath.workdps(60):
        yes = 1 / (1 + mpmath.exp(-mpmath.mpf(epsilon)))
        mixed = (1 - mpmath.mpf(q)) * (1 - yes) + q * yes
        for first, second in ((mixed, 1 - yes), (1 - yes, mixed)):
            up, down = mpmath.log(first / second), mpmath.log((1 - first) / (1 - second))
            yield [
                (
                    i * up + (count - i) * down,
                    mpmath.binomial(count, i) * first**i * (1 - first) ** (count - i),
                )
                for i in range(count + 1)
            ]


@pytest.mark.parametrize("q", [0.3, 1e-8, 1e-16, 1e-17, 1e-20])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_however_rarely_a_unit_is_drawn(q, count):
    delta = 0.01 * q
    event = PoissonSampled(RandomizedResponse(1.0), q)
    low, high = PLDAccountant().compose(event, count).epsilon_interval(delta)
    with mpmath.workdps(60):
        for epsilon, side in ((low, 1), (high, -1)):
            worst = max(
                mpmath.fsum(m * (1 - mpmath.exp(epsilon - x)) for x, m in law if x > epsilon)
                for law in responses(1.0, q, count)
            )
            assert side * (worst - delta) >= -1e-9 * delta
    assert high <= low * (1 + 1e-4)


@pytest.mark.parametrize("q", [1e-5, 1e-3, 1e-2])
@pytest.mark.parametrize("epsilon", [8.0, 13.0, 30.0])
def test_atoms_that_are_far_apart_are_seen_apart(epsilon, q):
    """A coarse view that merged them, rounding being what it is, tilted the law beyond all sense."""
    event = PoissonSampled(RandomizedResponse(epsilon), q)
    low, high = PLDAccountant().compose(event, 18).epsilon_interval(1e-8)
    assert sampled_guarantees(epsilon, q, 18, low, 1) >= 1e-8 >= sampled_guarantees(epsilon, q, 18, high, 1)
    assert high <= low * (1 + 1e-6)


@pytest.mark.parametrize("q", [1e-17, 1e-100, 1e-300])
@pytest.mark.parametrize(
    "inner", [NormalNoise(1.0), NormalNoise(900.0), LaplaceNoise(2.0), randomized_response(900.0)]
)
def test_inverse_of_sampling_at_any_rate(q, inner):
    pair = Mixture(inner, q)
    y = np.array([-3.0, 1e-9, 0.5, 40.0, 700.0, 5000.0])
    x = pair.loss(y)
    assert pair._inner_loss(x)[2:] == pytest.approx(y[2:], rel=1e-9)
    cells = pair.cells(np.array([1e-12, 1.0, 25.0]))
    assert np.isfinite(cells.p).all()
    assert not np.isnan(cells.loss_error).any()


@pytest.mark.parametrize("q", [0.3, 1e-9, 1e-30, 1e-100, 1e-300])
def test_edges_of_a_sample_are_off_by_no_more_than_is_charged(q):
    """What lies beside an edge may be counted on its other side, but no farther from it than `loss_error`."""
    pair = Mixture(NormalNoise(1.0), q)
    for x in np.geomspace(1e-2 * q, 100.0, 60):
        y = float(pair._inner_loss(np.array([x]))[0])
        with mpmath.workdps(60):
            truth = mpmath.log1p(mpmath.expm1(mpmath.mpf(x)) / q)
            moved = abs(y - truth) * mpmath.exp(truth + mpmath.log(q) - x)
        charged = pair.cells(np.array([x * (1.0 - 1e-6), x * (1.0 + 1e-6)])).loss_error[1]
        assert moved <= charged


@pytest.mark.parametrize("delta", [1e-20, 1e-300])
@pytest.mark.parametrize("q", [1.0, 0.6, 1e-4, 1e-9])
@pytest.mark.parametrize(
    ("event", "numerator", "denominator"),
    [
        (Laplace(0.6396269193181706), 1, 0.6396269193181706),
        (Laplace(0.018191293593146165), 1, 0.018191293593146165),
        (DiscreteLaplace(0.7481274985187727, 5), 5, 0.7481274985187727),
        (RandomizedResponse(45.11061546036907), 45.11061546036907, 1),
    ],
)
def test_the_largest_loss_is_not_rounded_down(event, numerator, denominator, q, delta):
    """For a tiny delta that is epsilon; the nearest double may be below it, and then it is no bound."""
    accountant = PLDAccountant().compose(PoissonSampled(event, q))
    low, high = accountant.epsilon_interval(delta)
    with mpmath.workdps(60):
        most = mpmath.log1p(q * mpmath.expm1(mpmath.mpf(numerator) / mpmath.mpf(denominator)))
        mass = mpmath.mpf(q) / 2  # at least that much lies there
        assert low <= most
        assert high >= most + mpmath.log1p(-delta / mass)
        assert accountant.delta(float(most)) >= -mpmath.expm1(float(most) - most) * mass
    assert high <= low * (1.0 + 1e-9)


def test_tiny_rates_never_cost_more_than_they_may():
    assert PLDAccountant().compose(PoissonSampled(Gaussian(1.0), 1e-17)).epsilon(1e-22) < 1e-14
    assert PLDAccountant().compose(PoissonSampled(Gaussian(1 / 900), 1e-300)).delta(25.0) <= 1e-299
    upper_bound = PLDAccountant().compose(PoissonSampled(Laplace(1.0), 1e-20), 2).epsilon(1e-22)
    assert upper_bound >= PLDAccountant().compose(PoissonSampled(Laplace(1.0), 1e-20)).epsilon(1e-22)


def test_a_unit_that_is_nearly_always_drawn():
    pair = Mixture(approximate_dp(1.0, 0.1), 1 - 1e-8)
    low, high = (OneRun(pair, side, -1).epsilon(1e-4) for side in (-1, 1))
    with mpmath.workdps(60):
        q, yes = mpmath.mpf(1 - 1e-8), mpmath.mpf("0.9") / (1 + mpmath.exp(-1))
        atom = -mpmath.log(1 - q)
        truth = atom + mpmath.log(1 - mpmath.mpf("1e-4") / mpmath.mpf(0.1))
    assert yes > 0
    assert low <= truth <= high


def test_nodes_far_apart_do_not_lend_height():
    x = np.array([-250.80089898306704, 12.501762235906044, 59.77606136384077, 225.50418379427052])
    loss = np.array([-155.17040864582535, 12.501762235906044])
    pair = Atoms(loss, np.log([0.5, 0.5]), np.log([0.5, 0.5]) - loss)
    below = lower(pair, x, 1)
    for epsilon in (*loss, -200.0, 0.0, 10.0):
        assert hockey(x - below.shift, below.mass, epsilon) <= hockey(loss, [0.5, 0.5], epsilon) + 1e-15


def test_coarse_lattices_do_not_lend_height():
    mass = np.array([6.56e-11, 0.03815, 0.33231, 0.23951, 0.02393, 0.36610])
    h0, h, theta = 7.589775509595784, 150.62873517610245, 8.30593563926077e-06
    index = np.array([-23, -13, 14, 24, 25, 30])
    before = Law(0.0, h0, index, mass / mass.sum(), 0.0, 0.0, 0.0, 0.0, 1)
    for step in (h, 75.0, 20.0, 9.0 * h0):
        after = moved(before, step, theta, -1)
        for epsilon in np.concatenate((before.x, after.x, [-1000.0])):
            scaled = hockey(after.x, after.mass * np.exp(after.scale - theta * after.x), epsilon)
            assert scaled <= hockey(before.x, before.mass * np.exp(-theta * before.x), epsilon) * (1 + 1e-9)


def test_a_light_mass_beside_a_heavy_one_is_not_lost():
    node = 9.837647191363715e-09
    loss = np.array([np.nextafter(node, 1.0), 1.2723050777673762e-07])
    log_p = np.array([0.0, -289.5640480402062])
    above = upper(Atoms(loss, log_p, log_p - loss), np.array([node, 1.5142369143668202e-07]), 1)
    nodes = np.array([node, 1.5142369143668202e-07]) - above.shift
    assert hockey(nodes, above.mass, 9.1e-8) >= hockey(loss, np.exp(log_p), 9.1e-8)


def test_masses_that_are_no_numbers_are_refused():
    with pytest.raises(FloatingPointError):
        tilted(Grid(0.0, np.arange(2), 1.0), Rounded(np.array([0.5, math.nan]), 0.0), 1.0)


def test_noise_beyond_the_squares_of_doubles():
    assert PLDAccountant().compose(Gaussian(1e170), 3).epsilon(1e-5) == 0.0


def test_an_unknown_cost_is_not_free(monkeypatch):
    assert 899.0 < RDPAccountant().compose(RandomizedResponse(900.0)).epsilon(1e-5) <= 900.0 * (1 + 1e-6)
    monkeypatch.setattr(accountant, "cumulant", lambda event, beta, relation: np.full_like(beta, math.nan))
    assert RDPAccountant().compose(RandomizedResponse(1.0)).epsilon(1e-5) == math.inf
