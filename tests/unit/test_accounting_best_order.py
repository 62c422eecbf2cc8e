"""The search for the best order, on curves whose least value is known, and on compositions."""

import math

import numpy as np
import pytest

from fedsec.accounting import DiscreteGaussian, Gaussian, Laplace, PoissonSampled, RDPAccountant
from fedsec.accounting.accountant import _START, _minimum


@pytest.mark.parametrize("best", [1e-25, 1e-3, 0.7, 3.3, 900.0, 1e25])
@pytest.mark.parametrize("start", [_START, np.ones(1), np.array([2.0, 3.0])])
def test_a_smooth_valley_is_found_in_few_calls(best, start):
    calls = []

    def bound(beta):
        calls.append(beta.size)
        return 2.0 + np.cosh(np.minimum(np.abs(np.log(beta / best)), 300.0)) + beta / (beta + best)

    x = np.linspace(-1.0, 0.0, 1_000_001)
    truth = (2.0 + np.cosh(x) + 1.0 / (1.0 + np.exp(-x))).min()
    assert truth * (1.0 - 1e-12) <= _minimum(bound, start) <= truth * (1.0 + 1e-9)
    assert len(calls) <= 10


@pytest.mark.parametrize("kink", [0.1, 1.0, 2.0, 50.0])
@pytest.mark.parametrize("slope", [1e-3, 1.0, 1e3])
def test_a_kink_is_found(kink, slope):
    def bound(beta):
        x = np.log(beta / kink)
        return 1.0 + np.maximum(slope * x, -x)

    assert 1.0 <= _minimum(bound, _START) <= 1.0 + 1e-9 * max(1.0, slope)


def test_infinite_values_are_passed_by():
    assert _minimum(lambda beta: np.full_like(beta, np.inf), _START) == math.inf
    least = _minimum(lambda beta: np.where(beta < 5.0, (beta - 5.0) ** 2 + 1.0, np.inf), _START)
    assert 1.0 <= least <= 1.0 + 1e-9


@pytest.mark.parametrize(
    "events",
    [
        {PoissonSampled(Gaussian(1.1), 256 / 60_000): 3510},
        {Gaussian(60.0): 200, PoissonSampled(Gaussian(0.6), 1e-4): 50_000, DiscreteGaussian(22.0, 1): 1},
        {Laplace(0.3): 51, Gaussian(10.0): 3},
    ],
)
def test_no_order_gives_less(events):
    accountant = RDPAccountant()
    for event, count in events.items():
        accountant.compose(event, count)
    epsilon, delta = accountant.epsilon(1e-5), accountant.delta(1.0)
    orders = 1.0 + np.geomspace(1e-3, 1e4, 20_001)
    beta, cumulant = orders - 1.0, accountant.rdp(orders) * (orders - 1.0)
    gain = np.log1p(beta) + beta * np.log1p(1.0 / beta)
    assert epsilon <= ((cumulant - gain - math.log(1e-5)) / beta).min() * (1.0 + 1e-9)
    assert math.log(delta) <= (cumulant - gain - beta).min() * (1.0 - 1e-9) or delta == 1.0
