"""Inversion integrals: each charge covers the error that is really made, and without it bounds are wrong."""

import math

import mpmath
import numpy as np
import pytest
from reference import pld_bracket, pld_truth
from scipy.special import ndtri_exp

from fedsec import Gaussian, NeighboringRelation, PLDAccountant, PoissonSampled
from fedsec.accounting import contour
from fedsec.accounting.pairs.noise import LaplaceNoise, Mixture, NormalNoise
from fedsec.accounting.pld import gain

ZERO = np.zeros(1)
SETTINGS = [  # noise, q, count, theta
    (1.1, 256 / 60_000, 3510, 5.0),
    (0.5, 0.02, 400, 1.0),
    (3.0, 0.1, 2500, 1.5),
    (50.0, 0.9, 10**4, 2.0),
    (1.0, 1e-7, 10**8, 15.0),
]


def sample(noise, q, count, sign, theta):
    return contour.Sample(Mixture(NormalNoise(1.0 / noise), q), 1.0 / noise, count, sign, theta)


def moment(noise, q, s, sign):
    """A(s) - 1 by Gauss and Legendre's rule on short pieces, in long doubles."""
    x, weight = np.polynomial.legendre.leggauss(24)
    t = 1.0 / noise
    beta = s + 1 if sign > 0 else -s
    far = 12.0 + t * max(1.0, abs(beta.real))
    ends = np.linspace(-far, far, 400)
    middle, half = 0.5 * (ends[1:] + ends[:-1])[:, None], 0.5 * np.diff(ends)[:, None]
    z = (middle + half * x).ravel().astype(np.longdouble)
    density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.longdouble(np.pi))
    rest = np.longdouble(q) * np.expm1(t * z - 0.5 * np.longdouble(t) * t)
    loss = np.log1p(rest)
    real, angle = beta.real * loss, beta.imag * loss
    power = np.expm1(real) - 2.0 * np.exp(real) * np.sin(0.5 * angle) ** 2 + 1j * np.exp(real) * np.sin(angle)
    return complex(((half * weight).ravel() * density) @ (power - beta * rest))


def inverted(noise, q, count, theta, sign=1):
    return contour.inversion([(Mixture(NormalNoise(1.0 / noise), q), count)], sign, theta)


def truth(noise, q, count, epsilon, sign=1):
    return pld_truth.many_runs([(pld_truth.sampled_gaussian_moments(noise, q, sign), count)], epsilon, 3e-9)


def missed(bounds, noise, q, count, sign=1):
    """By how much the worse of both bounds is on the wrong side, relative to delta, where the law is."""
    far = 0.0
    for place in (-0.5, 0.5):
        epsilon = bounds.mean + place * bounds.deviation
        delta = truth(noise, q, count, epsilon, sign)
        far = max(far, 1.0 - bounds.delta(epsilon, 1) / delta, bounds.delta(epsilon, -1) / delta - 1.0)
    return far


class TestMomentsOfOneRun:
    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("setting", SETTINGS, ids=repr)
    def test_within_the_error_they_state(self, setting, sign):
        noise, q, count, theta = setting
        law = sample(noise, q, count, sign, theta)
        deviation = math.sqrt(count * law.mean_and_variance(theta)[1])
        u = np.array([0.0, 1.0, 5.0, 12.0]) / deviation
        found = law.moments(np.array([theta]), u)
        for excess, error, frequency in zip(found.excess, found.error, u, strict=True):
            assert abs(excess - moment(noise, q, complex(theta, frequency), sign)) <= error
        assert count * found.error[0] <= 1e-7

    @pytest.mark.parametrize("sign", [1, -1])
    def test_beside_mpmath(self, sign):
        """Whether the rule of these tests is right."""
        with mpmath.workdps(25):
            q, t, s = mpmath.mpf(0.1), mpmath.mpf(1) / 2, mpmath.mpc(2, 3)

            def power(z):
                return mpmath.npdf(z) * (1 + q * mpmath.expm1(t * z - t * t / 2)) ** (
                    s + 1 if sign > 0 else -s
                )

            wanted = complex(mpmath.quad(power, mpmath.linspace(-11, 13, 7)) - 1)
        assert moment(2.0, 0.1, 2 + 3j, sign) == pytest.approx(wanted, rel=1e-15, abs=1e-16)
        law = sample(2.0, 0.1, 100, sign, 2.0)
        found = law.moments(np.array([2.0]), np.array([3.0, 3.0]))
        assert abs(found.excess[0] - wanted) <= found.error[0] < 1e-12

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("setting", SETTINGS[:4], ids=repr)
    @pytest.mark.parametrize("digits", [2.0, 5.0, 10.0])
    def test_errors_that_are_really_made_are_covered(self, monkeypatch, setting, sign, digits):
        monkeypatch.setattr(contour, "_DIGITS", digits)
        noise, q, _, theta = setting
        law = sample(noise, q, 1, sign, theta)
        u = np.array([0.0, 1.0, 4.0, 20.0]) / math.sqrt(law.mean_and_variance(theta)[1])
        found = law.moments(np.array([theta]), u)
        errors = [
            abs(excess - moment(noise, q, complex(theta, frequency), sign))
            for excess, frequency in zip(found.excess, u, strict=True)
        ]
        assert np.all(errors <= found.error)
        assert max(errors) > 100.0 * law._rounding(*_rows(law, theta, u)).max()  # so it was not rounding

    def test_the_curve_is_needed_besides_the_ends(self, monkeypatch):
        """Control: without the integral along the curve a coarse step is not covered."""
        monkeypatch.setattr(contour, "_DIGITS", 5.0)
        monkeypatch.setattr(contour.Sample, "_quadrature", lambda self, b, v: 0.0 * b[:, 0])
        monkeypatch.setattr(contour.Sample, "_left_out", lambda self, b, v: 0.0 * b[:, 0])
        law = sample(1.0, 0.2, 1, 1, 2.0)
        found = law.moments(np.array([2.0]), ZERO)
        assert abs(found.excess[0] - moment(1.0, 0.2, 2 + 0j, 1)) > found.error[0]


def _rows(law, theta, u):
    b, v = law._beta(np.array([theta]))[:, None], u[:, None]
    return b, v, np.exp(b * law._r)


class TestFrequenciesBeyondTheLast:
    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("setting", [*SETTINGS, (0.3, 1e-3, 1, 3.0), (0.2, 0.5, 1, 1.0)], ids=repr)
    def test_moments_are_below_their_bound(self, setting, sign):
        noise, q, _, theta = setting
        law = sample(noise, q, 100, sign, theta)
        deviation = math.sqrt(law.mean_and_variance(theta)[1])
        u = np.geomspace(0.01, 30.0, 25) / deviation
        bound = contour._Composition([(law, 1)], 0.0).decay(theta, u)
        size = [abs(1.0 + moment(noise, q, complex(theta, frequency), sign)) for frequency in (0.0, *u)]
        size = np.log(size[1:]) - math.log(size[0])
        assert np.all(size <= bound + 1e-11)
        assert np.all(np.diff(bound) <= 0.0)
        assert bound[-1] < -0.05

    def test_the_layers_hold_no_more_than_the_law(self):
        """Control: twice the density is no bound."""
        law = sample(1.0, 0.1, 100, 1, 1.0)
        total = float(law.moments(np.ones(1), ZERO).log_size[0])
        mass, width = law.layers(1.0, total - math.log(2.0))
        assert mass.sum() > 1.5
        u = 1.0 / math.sqrt(law.mean_and_variance(1.0)[1])
        claimed = math.log1p(-float(mass @ (1.0 - np.sinc(0.5 * width * u / math.pi))))
        found = law.moments(np.ones(1), np.array([0.0, u]))
        assert claimed < float(np.diff(found.log_size)[0])


class TestCharges:
    """With so little depth that each of the charges counts."""

    CASE = (1.0, 0.1, 200)

    def shallow(self, monkeypatch, depth=3.0, sign=1):
        monkeypatch.setattr(contour, "_DEPTH", depth)
        return inverted(*self.CASE, 1.0, sign)

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("depth", [0.5, 1.5, 3.0, 6.0, 32.0])
    def test_bounds_hold_at_any_depth(self, monkeypatch, depth, sign):
        assert missed(self.shallow(monkeypatch, depth, sign), *self.CASE, sign) <= 1e-8

    @pytest.mark.parametrize("faded", [0.5, 2.0, 6.0])
    def test_frequencies_that_are_left_out_are_covered(self, monkeypatch, faded):
        monkeypatch.setattr(contour, "_FADED", faded)
        assert missed(inverted(*self.CASE, 1.0), *self.CASE) <= 1e-8

    def test_laws_that_seem_smoother_than_they_are_give_wrong_bounds(self, monkeypatch):
        """Control."""
        decay = contour._Composition.decay
        monkeypatch.setattr(contour._Composition, "decay", lambda *args: 20.0 * decay(*args))
        assert missed(inverted(*self.CASE, 1.0), *self.CASE) > 1e-6

    def test_without_the_aliases_the_lower_bound_is_wrong(self, monkeypatch):
        bounds = self.shallow(monkeypatch)
        places = [bounds.mean + place * bounds.deviation for place in (-1.0, -0.5, 0.0, 0.5, 1.0)]
        deltas = [truth(*self.CASE, epsilon) for epsilon in places]
        assert all(
            bounds.delta(epsilon, -1) <= delta * (1 + 1e-8)
            for epsilon, delta in zip(places, deltas, strict=True)
        )
        monkeypatch.setattr(contour.Inversion, "_aliases", lambda *_: 0.0)
        assert any(
            bounds.delta(epsilon, -1) > delta * (1 + 1e-6)
            for epsilon, delta in zip(places, deltas, strict=True)
        )

    def test_bounds_are_never_above_chernoffs(self):
        bounds = inverted(*self.CASE, 1.0)
        for place in (-6.0, 0.0, 6.0):
            epsilon = max(bounds.mean + place * bounds.deviation, 0.0)
            chernoff = math.exp(bounds.scale - epsilon) * gain(1.0)
            assert bounds.delta(epsilon, 1) <= min(chernoff, 1.0) * (1.0 + 1e-12)


class TestBounds:
    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("setting", SETTINGS[:4], ids=repr)
    def test_close_to_the_truth_from_both_sides(self, setting, sign):
        noise, q, count, theta = setting
        bounds = inverted(noise, q, count, theta, sign)
        for place in (-0.5, 0.5):
            epsilon = bounds.mean + place * bounds.deviation
            if epsilon > 0.0:
                low, high = (bounds.delta(epsilon, side) for side in (-1, 1))
                assert low * (1 - 1e-8) <= truth(noise, q, count, epsilon, sign) <= high * (1 + 1e-8)
                assert high <= low * (1 + 1e-7)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_within_the_bracket_of_rounded_losses(self, sign):
        bounds = inverted(1.0, 0.2, 200, 0.5, sign)
        epsilon = bounds.mean
        reach = epsilon + 30.0 * bounds.deviation
        low, high = pld_bracket.bracket(pld_bracket.sampled_gaussian(1.0, 0.2, sign), 200, epsilon, reach)
        assert low <= bounds.delta(epsilon, 1)
        assert bounds.delta(epsilon, -1) <= high

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("delta", [1e-3, 1e-9, 1e-30])
    def test_samples_of_nearly_all_are_the_closed_form(self, sign, delta):
        """q = 1 - 1e-15 moves no digit that is looked at."""
        mu = math.sqrt(200) / 30.0
        theta = -float(ndtri_exp(math.log(delta))) / mu
        bounds = inverted(30.0, 1.0 - 1e-15, 200, theta, sign)
        low, high = (bounds.epsilon(delta, side) for side in (-1, 1))
        assert high <= low * (1 + 1e-9)
        assert pld_truth.gaussian_delta(mu, high * (1 + 1e-12)) <= delta
        assert pld_truth.gaussian_delta(mu, low * (1 - 1e-12)) >= delta

    def test_noise_beside_samples(self):
        """Samples so rare that they cost nothing, and noise without sampling."""
        steps = [(Mixture(NormalNoise(1.0), 1e-12), 10), (NormalNoise(0.5), 4)]
        bounds = contour.inversion(steps, 1, 4.0)
        low, high = (bounds.epsilon(1e-6, side) for side in (-1, 1))
        assert high <= low * (1 + 1e-9)
        assert pld_truth.gaussian_delta(1.0, high * (1 + 1e-10)) <= 1e-6
        assert pld_truth.gaussian_delta(1.0, low * (1 - 1e-10)) >= 1e-6

    @pytest.mark.parametrize("seed", range(60))
    def test_within_the_interval_of_the_lattices(self, monkeypatch, seed):
        """Which share nothing with it but the pairs and the tilt."""
        rng = np.random.default_rng(seed)
        accountants = [PLDAccountant() for _ in range(2)]
        for _ in range(1 + seed % 2):
            z, q, count = 10.0 ** rng.uniform((-0.4, -4.0, 1.5), (1.3, -0.05, 5.0))
            for accountant in accountants:
                accountant.compose(PoissonSampled(Gaussian(z), q), round(count))
        if seed % 3 == 0:
            z = 10.0 ** rng.uniform(0.0, 2.0)
            for accountant in accountants:
                accountant.compose(Gaussian(z))
        delta = 10.0 ** rng.uniform(-20.0, -2.0)
        ours = accountants[0].epsilon_interval(delta)
        monkeypatch.setattr(contour, "fits", lambda steps: False)
        other = accountants[1].epsilon_interval(delta)
        assert ours[0] <= other[1]
        assert other[0] <= ours[1]

    def test_delta_and_epsilon_agree(self):
        accountant = PLDAccountant().compose(PoissonSampled(Gaussian(1.1), 0.01), 2000)
        low, high = accountant.epsilon_interval(1e-5)
        assert high <= low * (1 + 1e-9)
        least, most = accountant.delta_interval(high)
        assert least <= most <= 1e-5
        assert least >= 1e-5 * (1 - 1e-7)


class TestWhereItIsOfNoUse:
    @pytest.mark.filterwarnings("error")
    def test_far_from_the_line_bounds_are_loose_but_silent(self):
        bounds = inverted(7.0, 1.6e-4, 10**6, 400.0)
        assert bounds.delta(1e4 * bounds.mean, -1) == 0.0
        assert bounds.delta(0.0, -1) <= bounds.delta(0.0, 1) <= 1.0
        curve = PLDAccountant().compose(PoissonSampled(Gaussian(7.0), 1.6e-4), 10**6)
        low, high = curve.epsilon_interval(1e-180)
        curve.curve(np.array([0.0, 0.5 * high, high, 30.0 * high + 50.0]))
        assert 0.0 <= low <= high

    def test_other_mechanisms_are_left_to_the_lattices(self):
        assert not contour.fits([(Mixture(LaplaceNoise(1.0), 0.1), 10)])
        assert not contour.fits([(NormalNoise(1.0), 1), (LaplaceNoise(1.0), 10)])
        assert contour.fits([(NormalNoise(1.0), 1), (Mixture(NormalNoise(1.0), 0.1), 10)])

    def test_a_few_runs_are_not_smooth_enough(self):
        with pytest.raises(FloatingPointError):
            inverted(1.0, 0.01, 2, 5.0)
        low, high = PLDAccountant().compose(PoissonSampled(Gaussian(1.0), 0.01), 2).epsilon_interval(1e-6)
        assert 0.0 < low <= high <= low * (1 + 1e-3)

    @pytest.mark.parametrize("relation", list(NeighboringRelation))
    @pytest.mark.parametrize(
        ("noise", "q", "count", "delta"),
        [
            (1e-3, 0.5, 10**6, 1e-5),
            (1e4, 1e-9, 10**9, 1e-300),
            (1e-160, 0.5, 100, 1e-5),
            (1e160, 0.5, 100, 1e-5),
            (1.0, 1e-300, 10**9, 1e-5),
            (0.3, 1.0 - 2**-53, 100, 0.5),
        ],
    )
    def test_extremes_get_an_answer(self, noise, q, count, delta, relation):
        event = PoissonSampled(Gaussian(noise), q)
        low, high = PLDAccountant(neighboring_relation=relation).compose(event, count).epsilon_interval(delta)
        assert 0.0 <= low <= high
