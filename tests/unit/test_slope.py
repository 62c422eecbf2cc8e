"""The slope bound: above the truth, as proved; and what it promises, against exact privacy curves."""

import mpmath as mp
import numpy as np
import pytest
from reference import discrete_gaussian_reference as reference
from scipy.special import ndtr

from fedsec._slope import discrete_gaussian_slope, stddev_for_inverse_slope
from fedsec.errors import InvalidArgumentError, InvalidTypeError

STDDEVS = [2.0, 2.5, 4.0, 16.0, 100.0]


def closed_bound(stddev):
    """The positive root of x^2 (1 - x^2 / 12) = 1 / stddev^2 below sqrt(6), at 50 digits."""
    with mp.workdps(50):
        return mp.sqrt(6 * (1 - mp.sqrt(1 - 1 / (3 * mp.mpf(stddev) ** 2))))


def enumerated_steps(stddev):
    """Every step up to 12 stddev; for large ones, past 4 stddev, every tenth of a stddev."""
    dense = int(4 * stddev)
    return [*range(1, dense), *range(dense, int(12 * stddev) + 1, 1 + int(stddev) // 10)]


@pytest.mark.parametrize("stddev", STDDEVS)
def test_never_below_the_enumerated_slope_and_close_to_it(stddev):
    truth = reference.slope(stddev, enumerated_steps(stddev))
    bound = discrete_gaussian_slope(stddev)
    assert truth <= bound <= truth * (1 + 0.003 / stddev**4 + 2.0**-48)


@pytest.mark.parametrize("stddev", STDDEVS)
def test_without_the_correction_it_would_be_too_small(stddev):
    """The negative control of the enumeration: 1 / stddev, the continuous Gaussian's slope, is no bound."""
    assert reference.slope(stddev, [1, 2]) > 1 / mp.mpf(stddev)


@pytest.mark.parametrize("stddev", [2.0, 4.0])
def test_steps_in_the_tail_tend_to_the_continuous_slope(stddev):
    far = [200, 1000]
    x = reference.quantiles(stddev, [m - d for m in far for d in (0, 1)])
    errors = [abs((x[m] - x[m - 1]) * stddev - 1) for m in far]
    assert errors[1] < errors[0] < 1e-3
    assert errors[1] < 1e-4


@pytest.mark.parametrize("stddev", [2.0, 2.0000001, 3.3, 16.0, 1e3, 1e6 + 0.1, 2.0**40, 1e150])
def test_the_bound_is_rounded_up_and_by_little(stddev):
    with mp.workdps(400):
        exact = closed_bound(stddev) if stddev < 1e100 else 1 / mp.mpf(stddev)
        assert exact <= mp.mpf(discrete_gaussian_slope(stddev)) <= exact * (1 + mp.mpf(2) ** -48)


@pytest.mark.parametrize("inverse", [2.0, 2.1, 3.0, 17.5, 1e3, 123456.789, 2.0**40])
def test_inverse_is_on_the_safe_side_and_minimal(inverse):
    stddev = stddev_for_inverse_slope(inverse)
    assert closed_bound(stddev) * mp.mpf(inverse) <= 1
    assert discrete_gaussian_slope(stddev) * inverse <= 1.0
    assert closed_bound(stddev * (1 - 2.0**-45)) * mp.mpf(inverse) > 1


@pytest.mark.parametrize("width", [0.1, 0.5, 1.0, 2.4])
@pytest.mark.parametrize("tilt", [0.0, 0.3, 2.0, 10.0])
def test_the_proofs_lemma_on_the_variance(width, tilt):
    """Var(H) <= width^2 / 12 for the density prop. to exp(-tilt h - h^2 / 2) on an interval of this width."""
    ends = [-width / 2, 0, width / 2]
    moments = [mp.quad(lambda h, k=k: h**k * mp.exp(-tilt * h - h * h / 2), ends) for k in range(3)]
    variance = moments[2] / moments[0] - (moments[1] / moments[0]) ** 2
    assert variance < width**2 / 12


@pytest.mark.parametrize("stddev", [2.0, 2.5, 4.0, 16.0])
def test_the_proofs_bound_from_before(stddev):
    x = reference.quantiles(stddev, range(int(12 * stddev)))
    assert 2 * x[0] < 0.51
    assert max(x[m] - x[m - 1] for m in range(1, len(x))) < 1.85


def gaussian_delta(epsilon, mu):
    return ndtr(-epsilon / mu + mu / 2) - np.exp(epsilon) * ndtr(-epsilon / mu - mu / 2)


def exact_delta(epsilon, stddev, shift):
    """The hockey-stick divergence of integer noise in len(shift) dimensions and the same noise shifted."""
    reach = int(14 * stddev) + max(map(abs, shift))
    p, q = np.ones(1), np.ones(1)
    for k in shift:
        mass = reference.mass(stddev, reach)
        p, q = np.multiply.outer(p, mass).ravel(), np.multiply.outer(q, np.roll(mass, k)).ravel()
    return np.maximum(q - np.exp(epsilon) * p, 0.0).sum()


CASES = [(2.0, (1,)), (2.0, (3,)), (3.1, (1,)), (2.0, (1, 1)), (2.5, (2, -1)), (3.0, (4, 3))]


@pytest.mark.parametrize(("stddev", "shift"), CASES)
def test_integer_shifts_are_at_least_as_private_as_the_gaussian_of_the_slope(stddev, shift):
    mu = discrete_gaussian_slope(stddev) * np.linalg.norm(shift)
    for epsilon in np.linspace(0, 4, 41):
        assert exact_delta(epsilon, stddev, shift) <= gaussian_delta(epsilon, mu) + 1e-14


@pytest.mark.parametrize(("stddev", "shift"), [(2.0, (1,)), (2.0, (1, 1))])
def test_a_smaller_slope_would_understate_the_privacy_loss(stddev, shift):
    """The negative control: in one dimension even the continuous 1 / stddev is caught."""
    mu = (1.0 if len(shift) == 1 else 0.98) / stddev * np.linalg.norm(shift)
    assert any(
        exact_delta(epsilon, stddev, shift) > gaussian_delta(epsilon, mu) + 1e-5
        for epsilon in np.linspace(0, 1, 41)
    )


@pytest.mark.parametrize("function", [discrete_gaussian_slope, stddev_for_inverse_slope])
@pytest.mark.parametrize("value", [1.999, 1.5, 0.0, -3.0, float("nan"), float("inf")])
def test_refuses_below_two(function, value):
    with pytest.raises(InvalidArgumentError, match=str(value)):
        function(value)


def test_refuses_what_is_not_a_number():
    with pytest.raises(InvalidTypeError, match="'3'"):
        discrete_gaussian_slope("3")
