"""Deltas by other roads than a grid of losses: closed forms in mpmath for one run, an inversion integral for many.

With A(s) = E_P[(P/Q)^s], P and Q the two laws of one run,

    delta(epsilon) = 1 / (2 pi i) int A(s)^count e^(-s epsilon) / (s (s + 1)) ds

along a line with a positive real part, because int e^(s y) / (s (s + 1)) ds / (2 pi i) = (1 - e^-y)_+.
"""

from collections.abc import Sequence

import mpmath
import numpy as np

Moments = "function from complex s (m,) to log E_P[(P/Q)^s]"


def gaussian_delta(mu: float, epsilon: float) -> mpmath.mpf:
    with mpmath.workdps(400):
        mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(mu / 2 - epsilon / mu) - mpmath.exp(epsilon) * mpmath.ncdf(-mu / 2 - epsilon / mu)


def one_run(noise: str, sigma: float, q: float, epsilon: float) -> mpmath.mpf:
    """Delta of one Poisson-sampled release, the worse of both directions, from tails of the densities.

    P/Q grows with the output, so the best test is a threshold on the noise's own loss y.
    """
    with mpmath.workdps(60):
        q, t, e = mpmath.mpf(q), 1 / mpmath.mpf(sigma), mpmath.exp(mpmath.mpf(epsilon))

        def sides(ratio: mpmath.mpf) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf, mpmath.mpf]:
            y = mpmath.log(ratio)
            if noise == "gaussian":
                z = y / t + t / 2
                return mpmath.ncdf(z), mpmath.ncdf(-z), mpmath.ncdf(z - t), mpmath.ncdf(t - z)
            if y < -t or y >= t:
                return (mpmath.mpf(y >= t), mpmath.mpf(y < -t)) * 2
            x = (y + t) / 2
            return 1 - mpmath.exp(-x) / 2, mpmath.exp(-x) / 2, mpmath.exp(x - t) / 2, 1 - mpmath.exp(x - t) / 2

        _, above_q, _, above_p = sides(1 + (e - 1) / q)
        remove = (1 - q) * above_q + q * above_p - e * above_q
        add = mpmath.mpf(0)
        if 1 + (1 / e - 1) / q > 0:
            below_q, _, below_p, _ = sides(1 + (1 / e - 1) / q)
            add = below_q - e * ((1 - q) * below_q + q * below_p)
        return max(remove, add)


def sampled_gaussian_moments(sigma: float, q: float, sign: int) -> Moments:
    t = 1.0 / sigma
    z, step = np.linspace(-14.0, 14.0 + 40.0 * t, 6001, retstep=True)
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
    with np.errstate(over="ignore", invalid="ignore"):
        height = np.nan_to_num(np.real(exponent(line.astype(complex))), nan=np.inf)
    c = float(line[np.argmin(height)])
    curve = (exponent(np.array([0.99 * c + 0j, c + 0j, 1.01 * c + 0j])) @ [1.0, -2.0, 1.0]).real / (0.01 * c) ** 2
    width = 1.0 / np.sqrt(curve)
    s = c + 1j * np.arange(0.0, 60.0 * width, 0.05 * min(width, c))
    values = []
    for block in np.array_split(s, max(1, s.size // 500)):
        values.append(np.exp(exponent(block) - height.min()) / (block * (block + 1.0)))
    total = np.real(np.concatenate(values))
    return float((total.sum() - 0.5 * total[0]) * (s[1] - s[0]).imag / np.pi * np.exp(height.min()))
