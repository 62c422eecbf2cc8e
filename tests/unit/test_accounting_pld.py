"""Certified intervals against truths that know no grid: closed forms, and an inversion integral."""

import math

import mpmath
import numpy as np
import pytest
from reference.pld_truth import (
    gaussian_delta,
    laplace_moments,
    many_runs,
    one_direction,
    one_run,
    sampled_gaussian_moments,
)

from fedsec.accounting import (
    Composed,
    Gaussian,
    Laplace,
    NeighboringRelation,
    PLDAccountant,
    PoissonSampled,
    RDPAccountant,
    pld_accountant,
    rounding,
)
from fedsec.accounting.pairs.noise import LaplaceNoise, Mixture, NormalNoise
from fedsec.errors import InvalidArgumentError, UnsupportedError

MNIST = 256 / 60_000


def sampled(z, q, count):
    return PLDAccountant().compose(PoissonSampled(Gaussian(z), q), count)


def sampled_delta(z, q, count, epsilon, accuracy=1e-8):
    """The worse of both directions."""
    return max(
        many_runs([(sampled_gaussian_moments(z, q, sign), count)], epsilon, accuracy) for sign in (1, -1)
    )


class TestGaussian:
    def test_random_mixes_hold_the_truth(self):
        rng = np.random.default_rng(3)
        for _ in range(100):
            mu, delta = 10 ** rng.uniform(-6, 2), 10 ** rng.uniform(-290, -0.05)
            accountant = PLDAccountant().compose(Gaussian(2.0 / mu), 4)
            lower, upper = accountant.epsilon_interval(delta)
            assert gaussian_delta(mu, upper) <= delta
            assert lower == 0.0 or gaussian_delta(mu, lower) >= delta
            assert upper - lower <= 1e-7 * upper
            low, high = accountant.delta_interval(upper)
            assert low <= gaussian_delta(mu, upper) <= high

    def test_fifty_different_ones_are_one(self):
        events = [Gaussian(1.0 + i / 50) for i in range(50)]
        mu = math.sqrt(sum(event.noise_multiplier**-2 for event in events))
        upper = PLDAccountant().compose(Composed(events)).epsilon(1e-6)
        assert 1e-6 * (1 - 1e-10) <= gaussian_delta(mu, upper) <= 1e-6

    def test_tiny_noise_and_tiny_delta(self):
        upper = PLDAccountant().compose(Gaussian(0.1)).epsilon(1e-15)
        assert 0.999e-15 < gaussian_delta(10.0, upper) <= 1e-15

    def test_replacement_halves_the_noise(self):
        accountant = PLDAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
        upper = accountant.compose(Gaussian(1.0)).epsilon(1e-5)
        assert 0.999e-5 < gaussian_delta(2.0, upper) <= 1e-5

    def test_epsilon_zero_is_never_negative(self):
        assert PLDAccountant().compose(Gaussian(100.0)).epsilon_interval(0.1) == (0.0, 0.0)
        assert sampled(50.0, 0.01, 1).epsilon_interval(0.1) == (0.0, 0.0)


class TestOneRun:
    @pytest.mark.parametrize("noise", ["gaussian", "laplace"])
    def test_random_draws_hold_the_truth(self, noise):
        rng = np.random.default_rng(5)
        event = {"gaussian": Gaussian, "laplace": Laplace}[noise]
        for _ in range(40):
            z, q = 10 ** rng.uniform(-0.7, 1.5), 10 ** rng.uniform(-6, -0.01)
            delta = q * 10 ** rng.uniform(-9, -0.5)
            lower, upper = PLDAccountant().compose(PoissonSampled(event(z), q)).epsilon_interval(delta)
            assert one_run(noise, z, q, upper) <= delta, (z, q, delta)
            assert lower == 0.0 or one_run(noise, z, q, lower) >= delta, (z, q, delta)

    @pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.3, 2.0])
    def test_delta_holds_the_truth(self, epsilon):
        low, high = sampled(0.8, 0.2, 1).delta_interval(epsilon)
        truth = one_run("gaussian", 0.8, 0.2, epsilon)
        assert low <= truth <= high <= 1.02 * truth

    def test_cells_whose_means_drown_in_rounding(self):
        """Found by random draws: a lower bound 7 % of delta above the truth."""
        z, q, delta = 1.579941664282146, 1.8672325585705953e-06, 4.8488522699003285e-15
        lower, upper = sampled(z, q, 1).epsilon_interval(delta)
        assert one_run("gaussian", z, q, lower) >= delta >= one_run("gaussian", z, q, upper)
        pair = Mixture(NormalNoise(1.0 / z), q)
        x = np.arange(-2e-6, 2e-5, 2e-10)
        assert rounding.lower(pair, x, 1).mass.sum() <= 1.0

    def test_laplace_has_a_closed_form(self):
        lower, upper = PLDAccountant().compose(Laplace(1.0)).epsilon_interval(1e-5)
        truth = 1.0 + 2.0 * mpmath.log1p(mpmath.mpf("-1e-5"))
        assert lower <= truth <= upper < truth + 1e-6


class TestManyRuns:
    @pytest.mark.parametrize(
        ("z", "q", "count", "delta"),
        [
            (1.1, MNIST, 3510, 1e-5),
            (0.6, MNIST, 3510, 1e-5),
            (1.0, 0.01, 1000, 1e-12),
            (1.0, 0.3, 30, 1e-8),
            (2.0, 0.01, 100_000, 1e-7),
        ],
    )
    def test_sampled_gaussian(self, z, q, count, delta):
        accountant = sampled(z, q, count)
        lower, upper = accountant.epsilon_interval(delta)
        assert upper <= 1.001 * lower
        assert sampled_delta(z, q, count, lower) >= delta * (1 - 1e-7)
        assert sampled_delta(z, q, count, upper) <= delta * (1 + 1e-7)
        assert lower <= RDPAccountant().compose(PoissonSampled(Gaussian(z), q), count).epsilon(delta)
        assert accountant.delta(upper) <= delta * (1 + 1e-7)

    def test_a_million_steps_at_a_small_rate(self):
        lower, upper = sampled(1.0, 1e-5, 10**6).epsilon_interval(1e-9)
        assert upper <= 1.002 * lower
        assert sampled_delta(1.0, 1e-5, 10**6, lower, accuracy=1e-6) >= 1e-9 * (1 - 1e-6)
        assert sampled_delta(1.0, 1e-5, 10**6, upper, accuracy=1e-6) <= 1e-9 * (1 + 1e-6)

    def test_laplace_where_round_off_misled_others(self):
        lower, upper = PLDAccountant().compose(Laplace(5.0), 1000).epsilon_interval(1e-10)
        parts = [(laplace_moments(5.0), 1000)]
        assert upper <= 1.001 * lower
        assert many_runs(parts, lower) >= 1e-10 * (1 - 1e-7)
        assert many_runs(parts, upper) <= 1e-10 * (1 + 1e-7)

    def test_laplace_noise_far_below_the_sensitivity(self):
        lower, upper = PLDAccountant().compose(Laplace(0.0102), 243).epsilon_interval(6e-12)
        assert 0.0 < lower <= upper < 243 / 0.0102
        assert upper <= 1.001 * lower

    def test_different_mechanisms(self):
        events = [PoissonSampled(Gaussian(1.0), 0.02), PoissonSampled(Gaussian(2.0), 0.05)]
        lower, upper = PLDAccountant().compose(Composed(events), 400).epsilon_interval(1e-6)
        truth = {
            epsilon: max(
                many_runs(
                    [
                        (sampled_gaussian_moments(1.0, 0.02, sign), 400),
                        (sampled_gaussian_moments(2.0, 0.05, sign), 400),
                    ],
                    epsilon,
                )
                for sign in (1, -1)
            )
            for epsilon in (lower, upper)
        }
        assert truth[lower] >= 1e-6 * (1 - 1e-7)
        assert truth[upper] <= 1e-6 * (1 + 1e-7)
        assert upper <= 1.001 * lower

    def test_the_order_does_not_matter(self):
        a, b = PoissonSampled(Gaussian(1.0), 0.02), Laplace(9.0)
        one = PLDAccountant().compose(a, 30).compose(b, 20).epsilon_interval(1e-6)
        assert one == PLDAccountant().compose(Composed([b, a]), 20).compose(a, 10).epsilon_interval(1e-6)

    def test_a_narrower_interval_on_request(self):
        event = PoissonSampled(Gaussian(1.1), MNIST)
        wide = PLDAccountant().compose(event, 3510).epsilon_interval(1e-5)
        lower, upper = PLDAccountant(tolerance=2e-5).compose(event, 3510).epsilon_interval(1e-5)
        assert wide[0] <= lower <= upper <= wide[1]
        assert upper - lower <= 2e-5 * upper


class TestRounding:
    """Both roundings against exact hockey sticks of one run, at nodes and between."""

    @pytest.mark.parametrize("noise", [NormalNoise(1.3), NormalNoise(0.02), LaplaceNoise(0.7)])
    @pytest.mark.parametrize("q", [1.0, 0.3, 1e-5])
    @pytest.mark.parametrize("step", [0.02, 0.4, 3.0])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_never_on_the_wrong_side(self, noise, q, step, sign):
        pair = Mixture(noise, q) if q < 1.0 else noise
        x = q * noise.shift * np.cumsum(np.where(np.arange(-60, 61) % 7, step, 2.7 * step))
        loss = x - x[60] - sign * 0.1 * q * noise.shift
        below, above = rounding.lower(pair, loss, sign), rounding.upper(pair, loss, sign)
        kind = "gaussian" if isinstance(noise, NormalNoise) else "laplace"
        for epsilon in np.linspace(0.0, 1.1 * loss.max(), 23):
            gain = -np.expm1(np.minimum(epsilon - loss, 0.0))
            lowered = -np.expm1(np.minimum(epsilon - loss + below.shift, 0.0))
            truth = float(one_direction(kind, 1.0 / noise.shift, q, epsilon, sign))
            assert below.mass @ lowered <= truth * (1 + 1e-12) + 1e-18
            assert above.mass @ gain + above.infinite >= truth * (1 - 1e-12) - 1e-18


def test_an_interruption_leaves_no_answers_that_lack_an_event(monkeypatch):
    accountant = PLDAccountant().compose(Laplace(9.0))
    before = accountant.epsilon(1e-6), accountant.state_dict()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pld_accountant, "_Answers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            accountant.compose(Gaussian(1.0))
    assert (accountant.epsilon(1e-6), accountant.state_dict()) == before


def test_refusals():
    with pytest.raises(InvalidArgumentError, match=r"tolerance must be in \[1e-06, 1\], got 0"):
        PLDAccountant(tolerance=0.0)
    accountant = PLDAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    with pytest.raises(UnsupportedError, match="REPLACE_ONE"):
        accountant.compose(PoissonSampled(Laplace(1.0), 0.1))
    assert accountant.epsilon(1e-5) == 0.0


def test_noise_far_below_the_sensitivity():
    event = PoissonSampled(Gaussian(0.01), 0.1)
    lower, upper = PLDAccountant().compose(event).epsilon_interval(1e-5)
    assert one_run("gaussian", 0.01, 0.1, lower) >= 1e-5 >= one_run("gaussian", 0.01, 0.1, upper)
    assert upper <= lower * (1 + 1e-9)
    lower, upper = PLDAccountant().compose(event, 100).epsilon_interval(1e-5)
    assert 0.99 * upper <= lower <= upper <= RDPAccountant().compose(event, 100).epsilon(1e-5)


@pytest.mark.parametrize(
    ("z", "q", "count", "delta"),
    [
        (1e-3, 1e-5, 10**9, 1e-200),
        (1e4, 1.0, 10**9, 1e-300),
        (1e4, 0.5, 10**9, 1e-300),
        (1.0, 1e-9, 10**9, 1e-12),
        (0.5, 1e-7, 10, 1e-100),
        (0.7, 1e-7, 4 * 10**6, 1e-13),
        (1e-3, 1e-9, 1, 1e-5),
    ],
)
def test_far_away_there_is_an_answer(z, q, count, delta):
    event = PoissonSampled(Gaussian(z), q)
    lower, upper = PLDAccountant().compose(event, count).epsilon_interval(delta)
    assert 0.0 <= lower <= upper <= RDPAccountant().compose(event, count).epsilon(delta)
    assert upper < math.inf
