"""Rényi divergences of Gaussian noise on samples, by quadrature; `rdp` hands such mechanisms on to it.

`drawn` is for Poisson samples that a unit may join, `replaced` for Poisson samples in which a unit may stand
for another one, `fixed_size` for samples of fixed size. All hold for any Gaussian-DP mechanism (docs).

One identity carries the module. With loss l = log(P/Q), alpha = 1 + beta and phi(x) = e^x - 1 - x >= 0,

    A_alpha - 1 = E_Q[f(l)],   f(l) = e^l (phi(beta l) + beta phi(-l)),                                  (*)

for f(l) = e^(alpha l) - 1 - alpha (e^l - 1) and E_Q[e^l - 1] = 0. Nothing in (*) cancels, however close
A_alpha is to 1.

For Poisson samples the trapezoidal rule sums (*) over z, in C (csrc/renyi.c):

- The step h. On the line shifted by i a, |integrand| is at most e^(a^2/2) times what it is on the real line,
  and the first singularity lies at a = pi/t (where P/Q = 0): the relative error is at most
  2 e^(a^2/2 - 2 pi a/h) of the integral of (P/Q)^alpha [TW14, Thm. 5.1]. It is below 2 e^-34 for
  h = 2 / (34 t/pi^2 + 1/(2 t)); for t <= 0.38 the best a is 2 pi/h, and h = 0.75 will do. With the mirror
  image for Q, |1/Q| grows by 1 / cos(a t / 2) at most, about e^(a^2 t^2 / 8), so the integrand grows by
  e^(a^2 (1 + beta t^2 / 4) / 2): there h is at most 0.75 / sqrt(1 + beta t^2 / 4).
- The points z. In `drawn` they are -8.5, -8.5 + h, ... for every order, so that the losses at the first few
  hundred are computed once. Windows reach 8.5 standard deviations around the stationary points, and further
  until the integrand is below e^-34 of the highest value met.
- Rounding. Each exponent is raised by 2^-50 ((beta + 1)(t |z| + |l|) + z^2 / 2): eight units of round-off for
  each term, above its rounding error even if expm1 and log1p err by two units in the last place.

References
----------
[MTZ19] Mironov, Talwar, Zhang, Rényi Differential Privacy of the Sampled Gaussian Mechanism, 2019
        (arXiv 1908.10530).
[TW14]  Trefethen, Weideman, The Exponentially Convergent Trapezoidal Rule, SIAM Review 56, 2014.
"""

from __future__ import annotations

import math

import numpy as np

from fedsec import _kernels
from fedsec.accounting.numbers import Array

_REACH = 8.5  # standard deviations around a peak; what lies beyond is below e^-31 of it
_PANEL = 16  # points of a Gauss-Legendre rule


def terms(loss: Array, beta: Array) -> tuple[Array, Array]:
    """Return exponent and factor of f(l) in (*), e^exponent factor; neither overflows."""
    tilt, back = np.maximum(beta * loss, 0.0), np.maximum(-loss, 0.0)
    top = np.maximum(tilt, back)
    factor = remainder(beta * loss) * np.exp(tilt - top) + beta * remainder(-loss) * np.exp(back - top)
    return loss + top, factor


def remainder(x: Array) -> Array:
    """e^(-max(x, 0)) phi(x) with phi(x) = e^x - 1 - x, to full relative accuracy; never overflows."""
    decay = np.exp(-np.abs(x))
    value = np.where(x > 0.0, 1.0 - (1.0 + x) * decay, decay - 1.0 - x)
    near = np.abs(x) < 0.3
    y = x[near]
    series = np.full_like(y, 1.0 / math.factorial(12))
    for k in range(11, 1, -1):
        series = series * y + 1.0 / math.factorial(k)
    value[near] = series * y * y * np.where(y > 0.0, decay[near], 1.0)
    return np.asarray(value)


def mixed(q: float, y: Array) -> Array:
    """log(1 - q + q e^y), to full relative accuracy near 0."""
    log: Array = np.log1p(q * np.expm1(np.minimum(y, 600.0)))
    large = y > 600.0
    if large.any():
        log[large] = y[large] + np.log(q + (1.0 - q) * np.exp(-y[large]))
    return log


def drawn(q: float, t: float, beta: Array) -> Array:
    """Cumulants of P = (1 - q) N(0, 1) + q N(t, 1) against Q = N(0, 1), for 0 < q < 1 and t = 1/sigma > 0.

    This pair is the worst one, in this direction: [MTZ19, Thm. 4] (the pair), [MTZ19, Thm. 5, Cor. 7]
    (D(P || Q) >= D(Q || P) at all orders). Integer and fractional orders go the same way: the trapezoidal
    rule on (*), in windows around the one or two peaks of the integrand.

    Where squares of z would drown its unit width in rounding, t > 1e5 or alpha t > 1e7, a bound steps in:
    A_alpha <= 1 - q + q e^(alpha beta t^2 / 2), from the convexity of x^alpha. It is within 1e-8 of the truth
    for t > 1e5 and q > 1e-10, and of no use to anyone at orders above 1e7 / t.
    """
    value = _kernels.sampled_cumulants("drawn", q, t, beta)
    beyond = np.isinf(value)
    if beyond.any():
        rest = beta[beyond]
        value[beyond] = mixed(q, rest * (0.5 * (rest + 1.0) * t * t))
    return value


def replaced(q: float, t: float, beta: Array) -> Array:
    """Cumulants of P = (1 - q) N(0, 1) + q N(t, 1) against its mirror image Q, which has N(-t, 1).

    Where quadrature would take too many points, 20,000 or any for t > 20, two bounds step in:
    A_alpha <= 1 - q + q e^(2 alpha beta t^2) by joint convexity, and, as Q >= (1 - q) N(0, 1),
    A_alpha <= (1 - q)^-beta times that of `drawn`.
    """
    value = _kernels.sampled_cumulants("replaced", q, t, beta)
    beyond = np.isinf(value)
    if beyond.any():
        rest = beta[beyond]
        convex, without = mixed(q, 2.0 * rest * (rest + 1.0) * t * t), drawn(q, t, rest)
        value[beyond] = np.minimum(convex, without - rest * math.log1p(-q))
    return value


def fixed_size(q: float, t: float, beta: Array) -> Array:
    """Cumulants of the pair that takes positive losses from `drawn` and negative ones from its mirror image.

    E[f] over both: all of `drawn`, less its part with negative losses (z < t/2, where the loss changes its
    sign), plus its mirror image's. Where t is large the first is left in, and the second is at most beta
    times the mass there: below a hundredth of the total.
    """
    whole = drawn(q, t, beta)
    if t > 18.0:
        less, more = np.zeros_like(beta), beta * q
    else:
        less, more = _halves(q, t, beta)
    near = np.log1p(np.expm1(np.minimum(whole, 30.0)) - less + more)
    far = np.logaddexp(whole, np.log(more))
    return np.asarray(np.where(whole < 30.0, near, far))


def _halves(q: float, t: float, beta: Array) -> tuple[Array, Array]:
    """E_Q[f(l); l < 0] and E_P[f(-l); l > 0] of the pair of `drawn`, by Gauss-Legendre rules.

    Panels shrink towards t/2, where large orders bend f most.
    """
    distance, width = _panels(min(1.0, 2.0 / t), 0.5 * t + _REACH)
    halves = []
    for side in (-1.0, 1.0):
        z = 0.5 * t + side * distance
        loss = mixed(q, t * (z - 0.5 * t))
        exponent, factor = terms(-np.abs(loss)[:, None], beta[None, :])
        density = np.exp(np.maximum(side, 0.0) * loss - 0.5 * z * z) / math.sqrt(2.0 * math.pi)
        halves.append((width * density) @ (np.exp(exponent) * factor))
    return halves[0] * (1.0 - 1e-7), halves[1] * (1.0 + 1e-7)


def _panels(widest: float, end: float) -> tuple[Array, Array]:
    """Points in (0, end) and their weights."""
    dyadic = widest * np.exp2(np.arange(-30.0, 0.0))
    edges = np.concatenate(([0.0], dyadic, np.arange(widest, end + widest, widest)))
    node, weight = np.polynomial.legendre.leggauss(_PANEL)
    half = 0.5 * np.diff(edges)
    points = (edges[:-1] + half)[:, None] + half[:, None] * node
    return points.ravel(), (half[:, None] * weight).ravel()
