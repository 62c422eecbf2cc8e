"""Deltas without a grid of losses: closed forms in mpmath for one run, an inversion integral for many.

With A(s) = E_P[(P/Q)^s], P and Q the two laws of one run,

    delta(epsilon) = 1 / (2 pi i) int A(s)^count e^(-s epsilon) / (s (s + 1)) ds

along a line with a positive real part, because int e^(s y) / (s (s + 1)) ds / (2 pi i) = (1 - e^-y)_+.
"""

from collections.abc import Sequence

import mpmath
import numpy as np

Moments = "function from complex s (m,) to log E_P[(P/Q)^s]"


def gaussian_delta(mu: float, epsilon: float) -> mpmath.mpf:
    with mpmath.workdps(60):
        mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(mu / 2 - epsilon / mu) - mpmath.exp(epsilon) * mpmath.ncdf(-mu / 2 - epsilon / mu)


def one_run(noise: str, sigma: float, q: float, epsilon: float) -> mpmath.mpf:
    """Delta of one Poisson-sampled release: the worse of both directions."""
    return max(one_direction(noise, sigma, q, epsilon, sign) for sign in (1, -1))


def one_direction(noise: str, sigma: float, q: float, epsilon: float, sign: int) -> mpmath.mpf:
    """One direction of it, from tails of the densities.

    P/Q grows with the output, so the best test is a threshold on the noise's own loss.
    """
    with mpmath.workdps(60):
        q, t, e = mpmath.mpf(q), 1 / mpmath.mpf(sigma), mpmath.exp(mpmath.mpf(float(epsilon)))
        threshold = 1 + (e**sign - 1) / q
        if threshold <= 0:
            return mpmath.mpf(0)
        below_q, above_q, below_p, above_p = _sides(noise, t, mpmath.log(threshold))
        if sign > 0:
            return (1 - q) * above_q + q * above_p - e * above_q
        return below_q - e * ((1 - q) * below_q + q * below_p)


def _sides(noise: str, t: mpmath.mpf, y: mpmath.mpf) -> tuple[mpmath.mpf, ...]:
    """Q(loss <= y), Q(loss > y), P(loss <= y), P(loss > y)."""
    if noise == "gaussian":
        z = y / t + t / 2
        return mpmath.ncdf(z), mpmath.ncdf(-z), mpmath.ncdf(z - t), mpmath.ncdf(t - z)
    if y < -t or y >= t:
        return (mpmath.mpf(y >= t), mpmath.mpf(y < -t)) * 2
    x = (y + t) / 2
    return 1 - mpmath.exp(-x) / 2, mpmath.exp(-x) / 2, mpmath.exp(x - t) / 2, 1 - mpmath.exp(x - t) / 2


def sampled_gaussian_moments(sigma: float, q: float, sign: int) -> Moments:
    t = 1.0 / sigma
    z, step = np.linspace(-11.0, 11.0 + t, 3001, retstep=True)  # beyond lies less than 1e-27 of either law
    loss = np.log1p(q * np.expm1(np.minimum(t * z - 0.5 * t * t, 600.0)))
    weight = np.exp(-0.5 * z * z) * step / np.sqrt(2.0 * np.pi)
    first = weight * np.exp(loss) if sign > 0 else weight
    return lambda s: np.log1p(np.expm1(np.multiply.outer(s, sign * loss)) @ first)


def laplace_moments(scale: float) -> Moments:
    t = 1.0 / scale
    return lambda s: np.log(((s + 1.0) * np.exp(s * t) + s * np.exp(-(s + 1.0) * t)) / (2.0 * s + 1.0))


def many_runs(parts: Sequence[tuple[Moments, int]], epsilon: float) -> float:
    """Delta of a composition by the trapezoidal rule on a line through about the saddle point."""

    def exponent(s: np.ndarray) -> np.ndarray:
        return sum(count * moments(s) for moments, count in parts) - s * epsilon

    line = np.geomspace(1e-3, 1e4, 400)
    with np.errstate(all="ignore"):
        height = np.nan_to_num(np.real(exponent(line.astype(complex))), nan=np.inf)
    if height.min() < -200.0:  # Chernoff: as good as zero
        return 0.0
    c = float(line[np.argmin(height)])
    around = exponent(c * np.array([0.99 + 0j, 1.0 + 0j, 1.01 + 0j])).real
    width = 0.01 * c / np.sqrt(around @ [1.0, -2.0, 1.0])
    s = c + 1j * np.arange(0.0, 60.0 * width, 0.05 * min(width, c))
    blocks = np.array_split(s, max(1, s.size // 500))
    total = np.concatenate([np.exp(exponent(b) - height.min()) / (b * (b + 1.0)) for b in blocks]).real
    return float((total.sum() - 0.5 * total[0]) * (s[1] - s[0]).imag / np.pi * np.exp(height.min()))
