"""Rényi divergences straight from their definition, in mpmath at many digits: slow, obvious, independent.

`quadrature` integrates p(x)^alpha q(x)^(1 - alpha) over the real line with no formula beyond the two
densities; `sampled_gaussian_binomial` is the finite sum for integer orders [MTZ19, sec. 3.3].
"""

from collections.abc import Callable, Sequence

import mpmath

Density = Callable[[mpmath.mpf], mpmath.mpf]


def normal(x: mpmath.mpf, mean: mpmath.mpf, sigma: mpmath.mpf) -> mpmath.mpf:
    return mpmath.exp(-(((x - mean) / sigma) ** 2) / 2) / (sigma * mpmath.sqrt(2 * mpmath.pi))


def divergence(p: Density, q: Density, alpha: float, points: Sequence[float]) -> mpmath.mpf:
    """D_alpha(P || Q) = log(int p^alpha q^(1 - alpha)) / (alpha - 1), integrated between the points."""
    a = mpmath.mpf(alpha)
    moment = mpmath.quad(lambda x: p(x) ** a * q(x) ** (1 - a), sorted(points))
    return mpmath.log(moment) / (a - 1)


def sampled_gaussian(q: float, sigma: float, alpha: float, *, reverse: bool = False) -> mpmath.mpf:
    """Poisson-sampled Gaussian noise, one order, by quadrature in 50 digits."""
    with mpmath.workdps(50):
        prob, sd = mpmath.mpf(q), mpmath.mpf(sigma)

        def absent(x: mpmath.mpf) -> mpmath.mpf:
            return normal(x, mpmath.mpf(0), sd)

        def present(x: mpmath.mpf) -> mpmath.mpf:
            return (1 - prob) * normal(x, mpmath.mpf(0), sd) + prob * normal(x, mpmath.mpf(1), sd)

        kink = mpmath.mpf(1) / 2 + sd**2 * mpmath.log((1 - prob) / prob)
        first, last = -16 * sd, max(mpmath.mpf(alpha), 2) + 16 * sd
        pieces = int((last - first) / (2 * sd)) + 1
        points = [first + (last - first) * k / pieces for k in range(pieces + 1)]
        points += [kink] if first < kink < last else []
        return (
            divergence(absent, present, alpha, points)
            if reverse
            else divergence(present, absent, alpha, points)
        )


def sampled_gaussian_binomial(q: float, sigma: float, alpha: int) -> mpmath.mpf:
    """At an integer order: A = sum_k C(alpha, k) (1 - q)^(alpha - k) q^k e^(k (k - 1) / 2 sigma^2)."""
    with mpmath.workdps(60):
        prob, variance = mpmath.mpf(q), mpmath.mpf(sigma) ** 2
        odds, growth = prob / (1 - prob), mpmath.exp(1 / variance)
        term = power = mpmath.mpf(1)  # term k of the sum over (1-q)^alpha; e^(k / sigma^2)
        total = mpmath.mpf(1)
        for k in range(alpha):
            term *= odds * power * (alpha - k) / (k + 1)
            power *= growth
            total += term
        return (mpmath.log(total) + alpha * mpmath.log1p(-prob)) / (alpha - 1)


def laplace(scale: float, alpha: float) -> mpmath.mpf:
    """Laplace noise under a unit shift, one order, by quadrature in 40 digits."""
    with mpmath.workdps(40):
        b = mpmath.mpf(scale)

        def density(mean: int) -> Density:
            return lambda x: mpmath.exp(-abs(x - mean) / b) / (2 * b)

        tail = 100 * b
        return divergence(density(1), density(0), alpha, [-tail, -10 * b, 0, 0.5, 1, 1 + 10 * b, 1 + tail])
