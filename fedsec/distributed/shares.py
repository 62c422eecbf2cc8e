"""What each client adds: independent integer noise, of which any set of shares has a known sum.

Shares are drawn on the client, from its operating system's randomness, and only their sum under masks ever
leaves it. What the honest survivors' shares add up to is what protects; the event says how well.

References
----------
[AKL21] Agarwal, Kairouz, Liu. The Skellam Mechanism for Differentially Private Federated Learning. NeurIPS
        2021 (arXiv 2110.04995).
[CKS20] Canonne, Kamath, Steinke. The Discrete Gaussian for Differential Privacy. NeurIPS 2020.
[KLS21] Kairouz, Liu, Steinke. The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
        Aggregation. ICML 2021 (arXiv 2102.06387).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedsec import noise
from fedsec._checks import positive, whole
from fedsec.accounting import DiscreteGaussianSum, NeighboringRelation, Skellam
from fedsec.accounting.integer_noise import IntegerNoise, gdp_mu
from fedsec.distributed.encoding import Levels
from fedsec.errors import UnsupportedError

LAWS = ("skellam", "discrete_gaussian")
MIN_SHARE_STDDEV = 1.0  # below it a sum of discrete Gaussians is hardly one [KLS21]

_RELATION = NeighboringRelation.REPLACE_SPECIAL  # for which a shift is one sensitivity
_PRECISION = 2.0**-40


class Shares(Protocol):
    """The law of one client's share of noise, in integer steps."""

    @property
    def law(self) -> str:
        """Its name, one of `LAWS`."""
        ...

    @property
    def variance(self) -> float:
        """Of one share in one coordinate; for discrete Gaussians an upper bound, close from stddev 1 on."""
        ...

    def draw(self, length: int) -> Levels:
        """A fresh share (length,), int32 or int64."""
        ...

    def event(self, num_shares: int, l2_sensitivity: float, dimension: int | None) -> IntegerNoise:
        """What hides behind the sum of so many shares; nothing is rounded in favour of privacy."""
        ...

    def log_moment(self, num_shares: int, t: float) -> float:
        """The logarithm of E[exp(t X)] for the sum X of so many shares, at most."""
        ...


@dataclass(frozen=True)
class SkellamShares:
    """Skellam noise: sums of it are Skellam again, exactly, whoever is lost [AKL21, sec. 3].

    Parameters
    ----------
    variance : float
        Of one share in each coordinate, in squared steps; within the sampler's range, 2^-10 to 2^41.
    """

    variance: float
    law = "skellam"

    def __post_init__(self) -> None:
        positive("variance", self.variance)
        if not noise.MIN_MEAN <= self.variance <= max(noise.MAX_SKELLAM_VARIANCE.values()):
            raise UnsupportedError(
                f"a share's variance must be in [2**-10, 2**41] squared steps, got {self.variance!r}: "
                "choose another granularity"
            )

    def draw(self, length: int) -> Levels:
        """A fresh share."""
        return noise.skellam(length, self.variance, np.int32)

    def event(self, num_shares: int, l2_sensitivity: float, dimension: int | None) -> Skellam:
        """Skellam noise of the summed variance."""
        total = math.nextafter(whole("num_shares", num_shares, minimum=1) * self.variance, 0.0)
        return Skellam(total, l2_sensitivity, dimension)

    def log_moment(self, num_shares: int, t: float) -> float:
        """V (cosh(t) - 1) for variance V: Skellam noise is not subgaussian."""
        return num_shares * self.variance * 2.0 * math.sinh(0.5 * t) ** 2


@dataclass(frozen=True)
class DiscreteGaussianShares:
    """Discrete Gaussian noise; its sums are nearly, but not quite, discrete Gaussian [KLS21].

    Parameters
    ----------
    stddev : float
        sigma of one share in each coordinate, in steps; at least 1.
    """

    stddev: float
    law = "discrete_gaussian"

    def __post_init__(self) -> None:
        positive("stddev", self.stddev)
        if not MIN_SHARE_STDDEV <= self.stddev <= max(noise.MAX_DISCRETE_STDDEV.values()):
            raise UnsupportedError(
                f"a share's stddev must be in [{MIN_SHARE_STDDEV:g}, 2**40] steps, got {self.stddev!r}: "
                "choose another granularity, or Skellam shares"
            )

    @property
    def variance(self) -> float:
        """The parameter's square: the law's own variance is below it, by less than 1e-6 of it [CKS20]."""
        return self.stddev * self.stddev

    def draw(self, length: int) -> Levels:
        """A fresh share."""
        narrow = self.stddev <= noise.MAX_DISCRETE_STDDEV[np.dtype(np.int32)]
        return noise.discrete_gaussian(length, self.stddev, np.int32 if narrow else np.int64)

    def event(self, num_shares: int, l2_sensitivity: float, dimension: int | None) -> DiscreteGaussianSum:
        """The sum of so many discrete Gaussians."""
        return DiscreteGaussianSum(self.stddev, num_shares, l2_sensitivity, dimension)

    def log_moment(self, num_shares: int, t: float) -> float:
        """Subgaussian with its parameter [CKS20, Cor. 17]."""
        return 0.5 * num_shares * self.variance * t * t


def shares_for(law: str, noise_multiplier: float, num_shares: int, l2_sensitivity: float) -> Shares:
    """The smallest shares of which `num_shares` are at least as private as a Gaussian of `noise_multiplier`.

    That is, slope * l2_sensitivity <= 1 / noise_multiplier for their sum (docs/accounting.md); up to a
    relative 2^-40.
    """
    target = 1.0 / positive("noise_multiplier", noise_multiplier)
    ideal = (noise_multiplier * l2_sensitivity) ** 2
    if law == "skellam":
        return _smallest(lambda v: SkellamShares(v / num_shares), ideal, num_shares, l2_sensitivity, target)
    return _smallest(
        lambda v: DiscreteGaussianShares(math.sqrt(v / num_shares)), ideal, num_shares, l2_sensitivity, target
    )


def _smallest(
    make: Callable[[float], Shares], ideal: float, num_shares: int, l2_sensitivity: float, target: float
) -> Shares:
    """By bisection over the total variance, from the Gaussian's on; what is returned was checked."""

    def suffices(variance: float) -> bool:
        event = make(variance).event(num_shares, l2_sensitivity, None)
        return gdp_mu(event, _RELATION) <= target

    low, high = ideal, ideal * (1.0 + _PRECISION)
    while not suffices(high):
        low, high = high, ideal + 2.0 * (high - ideal) + 2.0**-12
    while high - low > _PRECISION * high:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return make(high)
