"""Laws on the integers as exact samplers need them: weights, in integers, to as many bits as it takes.

Weights are probabilities up to a common factor. They are log-concave: they rise to the mode, and then fall.
Parameters are the exact values of their doubles.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

from fedsec._exact import PRECISION, Bounds, exp_minus, log_near_one, scaled_bessel, stirling

WIDE = 2.0**14  # the least mean or variance of laws whose weights have a series


class Law(ABC):
    """A law that is even, or of the integers from 0 on; a value."""

    even: ClassVar[bool] = True
    formula: ClassVar[Literal["gaussian", "skellam", "poisson"] | None] = None  # in csrc/bell.c

    @property
    @abstractmethod
    def variance(self) -> Fraction:
        """Of the law, or nearly."""

    @property
    def middle(self) -> int:
        """Weights fall from here to the right, and from the integer before it to the left."""
        return 0

    @property
    def margin(self) -> float:
        """What double precision decides is further apart: by more than its error [csrc/bell.c]."""
        return 2.0**-36

    @abstractmethod
    def weight(self, y: int, bits: int) -> Bounds:
        """Bounds on the weight of y in units of 2^-bits, a few units apart."""


class NarrowLaw(Law):
    """A law whose weights are all in a table."""

    @abstractmethod
    def weights(self, first: int, last: int) -> list[Bounds]:
        """Bounds on those of first .. last, around the middle, in units of 2^-256."""


@dataclass(frozen=True)
class DiscreteGaussian(Law):
    """exp(-y^2 / (2 stddev^2)), for a stddev from 0.1 to 2^40."""

    stddev: float
    formula = "gaussian"

    @property
    def variance(self) -> Fraction:
        return Fraction(self.stddev) ** 2

    def weight(self, y: int, bits: int) -> Bounds:
        twice = 2 * self.variance
        return exp_minus(y * y * twice.denominator, twice.numerator, bits)


@dataclass(frozen=True)
class WideSkellam(Law):
    """sqrt(2 pi v) exp(-v) I_|y|(v), for a variance v from 2^14 to 2^41."""

    parameter: float
    formula = "skellam"

    @property
    def variance(self) -> Fraction:
        return Fraction(self.parameter)

    @property
    def margin(self) -> float:
        """Debye's expansion is off by 1 / v^2 [docs/noise.md]."""
        return 2.0**-36 + 2.0 / self.parameter**2

    def weight(self, y: int, bits: int) -> Bounds:
        return scaled_bessel(abs(y), self.variance.numerator, self.variance.denominator, bits)


@dataclass(frozen=True)
class NarrowSkellam(NarrowLaw):
    """I_|y|(v) / I_0(v), for a variance v below 2^14."""

    parameter: float

    @property
    def variance(self) -> Fraction:
        return Fraction(self.parameter)

    def _ratios(self, last: int, bits: int) -> Iterator[Bounds]:
        """Bounds on I_n(v) / I_(n-1)(v) = 1 / (2 n / v + I_(n+1) / I_n), for n from `last` down to 1.

        They begin far beyond, between 0 and 1. Each step shrinks their distance by the square of the ratio.
        """
        one, v = 1 << bits, self.variance
        low, high = 0, one
        beyond = (math.isqrt(bits) + 1) * (math.isqrt(math.ceil(v)) + 1) + bits // 2
        for n in range(last + beyond, 0, -1):
            step = 2 * n * v.denominator * one // v.numerator
            low, high = one * one // (step + 1 + high), one * one // (step + low) + 1
            if n <= last:
                yield low, high

    def _halves(self, last: int, bits: int) -> list[Bounds]:
        """Weights of 0 .. last: products of the ratios' bounds."""
        work = bits + 64
        low = high = 1 << work
        found = [(low, high)]
        for least, most in [*self._ratios(last, work)][::-1]:
            low, high = low * least >> work, (high * most >> work) + 1
            found.append((low, high))
        return [(low >> 64, (high >> 64) + 1) for low, high in found]

    def weight(self, y: int, bits: int) -> Bounds:
        return self._halves(abs(y), bits)[-1]

    def weights(self, first: int, last: int) -> list[Bounds]:
        half = self._halves(max(-first, last), PRECISION)
        return [half[abs(y)] for y in range(first, last + 1)]


@dataclass(frozen=True)
class NarrowPoisson(NarrowLaw):
    """exp(-mean) mean^y / y!, divided by that of the integer next to the mean, for a mean below 2^14."""

    parameter: float
    even = False

    @property
    def variance(self) -> Fraction:
        return Fraction(self.parameter)

    @property
    def middle(self) -> int:
        return round(self.parameter)

    def weight(self, y: int, bits: int) -> Bounds:
        """A fraction."""
        if y < 0:
            return 0, 0
        factorials = math.prod(range(min(y, self.middle) + 1, max(y, self.middle) + 1))
        power = abs(y - self.middle)
        p, q = self.variance.numerator**power, self.variance.denominator**power
        number = (p << bits) // (q * factorials) if y > self.middle else (factorials * q << bits) // p
        return number, number + 1

    def weights(self, first: int, last: int) -> list[Bounds]:
        """By ratios from the middle down to either side, whose roundings add up to less than a unit."""
        work = PRECISION + 64
        p, q = self.variance.numerator, self.variance.denominator
        above, below = [1 << work], [1 << work]
        for y in range(self.middle + 1, last + 1):
            above.append(above[-1] * p // (q * y))
        for y in range(self.middle, first, -1):
            below.append(below[-1] * q * y // p)
        products = [*below[:0:-1], *above]
        return [(w >> 64, (w >> 64) + 2) if y >= 0 else (0, 0) for y, w in enumerate(products, first)]


@dataclass(frozen=True)
class WidePoisson(Law):
    """exp(-mean) mean^y / y! times sqrt(2 pi mean) exp(-1 / 1024), below 1, for a mean from 2^14 to 2^40."""

    parameter: float
    even = False
    formula = "poisson"

    @property
    def variance(self) -> Fraction:
        return Fraction(self.parameter)

    @property
    def middle(self) -> int:
        return round(self.parameter)

    def weight(self, y: int, bits: int) -> Bounds:
        """By Stirling's series, in [mean / 2, 2 mean]; further out a weight is below exp(-mean / 7)."""
        mean = self.variance
        if not mean < 2 * y < 4 * mean:
            if bits * 7 > mean:
                raise ArithmeticError(f"the weight of {y} for a mean of {self.parameter!r} to {bits} bits")
            return 0, 1
        guard = bits + 64
        p, q = mean.numerator, mean.denominator
        log = log_near_one(y * q, p, guard + 48)  # times y < 2^41
        rest = stirling(y, guard)
        difference = (y * q - p << guard) // q
        # -ln weight = y ln(y / L) - (y - L) + ln(y / L) / 2 + what Stirling's series adds
        below_one = 1 << guard - 10
        low = ((2 * y + 1) * log[0] >> 49) - difference + rest[0] + below_one - 1
        high = ((2 * y + 1) * log[1] >> 49) - difference + rest[1] + below_one + 1
        return exp_minus(high, 1 << guard, bits)[0], exp_minus(low, 1 << guard, bits)[1]
