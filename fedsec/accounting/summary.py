"""What a curve of (epsilon, delta) says in other words: errors of a test, one number mu, groups of units.

It stands behind the methods of `accountant.Accountant` and asks that accountant for upper bounds on delta
only, so each answer here is a guarantee as well. Two facts carry it. With t = e^epsilon, delta is convex in t
(it is E[(dP - t dQ)+]), so between two points it lies below their chord. And each point is a line

    P(S) <= e^epsilon Q(S) + delta    for all sets S of outputs, and with P and Q exchanged,

above the largest power P(S) that a test of level Q(S) can have.

References
----------
[DRS22] Dong, Roth, Su, Gaussian Differential Privacy, JRSS B 84(1), 2022 (arXiv 1905.02383).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsec import _checks
from fedsec.accounting.events import (
    Event,
    Gaussian,
    NeighboringRelation,
    PoissonSampled,
    RandomAllocation,
    SampledWithoutReplacement,
)
from fedsec.accounting.numbers import ROUNDING, Array

if TYPE_CHECKING:
    from fedsec.accounting.accountant import Accountant

_POINTS = 513  # of a curve that is searched for mu or for a group
_BEND = 6.0  # how much denser these points lie at 0 than at their end: e^6
_CHOICES = 33  # of the slope, in each round of `tradeoff`,
_ROUNDS = 14  # and how many rounds at most
_LEAST_MU, _MOST_MU = 1e-8, 1e12
_MU_MARGIN = 1.0 + 1e-6  # above the rounding errors of `_normal_deltas`
_LARGEST = 700.0  # an exponent whose power is still a double
_LEAST_DELTA = 1e-300
_MOST_UNITS = 10_000

_UNITS = {
    NeighboringRelation.ADD_OR_REMOVE_ONE: "adding or removing {}",
    NeighboringRelation.REPLACE_ONE: "replacing {} by any other",
    NeighboringRelation.REPLACE_SPECIAL: "zeroing out {}",
}


@dataclass(frozen=True)
class PrivacySpent:
    """What was spent, and everything that has to be said with it.

    Attributes
    ----------
    epsilon, delta : float
        The guarantee; epsilon is an upper bound, rounded up.
    epsilon_lower : float
        No analysis of the same events can promise less than this at the same delta; 0.0 if unknown.
    neighboring_relation : NeighboringRelation
        Between the data sets that must not be told apart.
    accountant : str
        Name of the class that gave the bound.
    group_size : int
        How many units the data sets differ in.
    unit : str
        The relation in words. What a unit is (a record, a client) depends on what was clipped.
    samplers : tuple of str
        What the bound assumes of the sampling, one sentence for each sampled event; often no more than one.
    """

    epsilon: float
    epsilon_lower: float
    delta: float
    neighboring_relation: NeighboringRelation
    accountant: str
    group_size: int = 1
    unit: str = ""
    samplers: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"epsilon = {self.epsilon:.6g} at delta = {self.delta:.6g} for {self.unit} ({self.accountant})"
        return "; ".join((head, *self.samplers))


def unit_in_words(relation: NeighboringRelation, group_size: int = 1) -> str:
    """What the two data sets differ in."""
    return _UNITS[relation].format("one unit" if group_size == 1 else f"up to {group_size} units")


def samplers_in_words(counts: Mapping[Event, int]) -> tuple[str, ...]:
    """What each sampled event assumes."""
    sentences = (_sampler_in_words(event) for event in counts)
    return tuple(dict.fromkeys(sentence for sentence in sentences if sentence))


def _sampler_in_words(event: Event) -> str:
    if isinstance(event, PoissonSampled):
        return (
            f"Poisson sampling: each unit joins each step independently with probability "
            f"{event.sampling_probability:.6g}, which a shuffled loader of fixed batches does not do"
        )
    if isinstance(event, SampledWithoutReplacement):
        return (
            f"{event.sample_size} of {event.population_size} units drawn anew for each step, which a loader "
            "that shuffles once an epoch does not do"
        )
    if isinstance(event, RandomAllocation):
        return (
            f"each unit in {event.num_selected} of {event.num_steps} steps, drawn independently of other "
            "units, which a shuffled loader of fixed batches does not do"
        )
    return ""


def privacy_spent(accountant: Accountant, delta: float, group_size: int = 1) -> PrivacySpent:
    """The record that `Accountant.privacy_spent` returns."""
    size = _checks.whole("group_size", group_size, minimum=1, maximum=_MOST_UNITS)
    lower, upper = accountant.epsilon_interval(delta)
    if size > 1:
        lower, upper = _group_interval(accountant, delta, size, lower)
    return PrivacySpent(
        epsilon=upper,
        epsilon_lower=lower,
        delta=float(delta),
        neighboring_relation=accountant.neighboring_relation,
        accountant=type(accountant).__name__,
        group_size=size,
        unit=unit_in_words(accountant.neighboring_relation, size),
        samplers=samplers_in_words(accountant.counts),
    )


def normal_mu(counts: Mapping[Event, int], relation: NeighboringRelation) -> float | None:
    """Mu of Gaussian noise alone, to a few ulps: sqrt(sum count / z^2); None if there is anything else."""
    shift = 2.0 if relation is NeighboringRelation.REPLACE_ONE else 1.0
    normal = [(event, count) for event, count in counts.items() if isinstance(event, Gaussian)]
    if len(normal) < len(counts):
        return None
    return math.hypot(*(math.sqrt(count) * shift / event.noise_multiplier for event, count in normal))


# ---- the trade-off between the errors of a test


def tradeoff(accountant: Accountant, alpha: float) -> float:
    """The type II error that `Accountant.tradeoff` returns.

    Each line of the curve gives type II error >= 1 - delta - e^epsilon alpha, and, the exchanged one,
    >= e^-epsilon (1 - delta - alpha) [DRS22]. As a function of the slope e^s, where s = epsilon
    or -epsilon, the best line's value is concave, so s is found by zooming in; any s gives a bound.
    """
    level = _checks.probability("alpha", alpha)
    mu = normal_mu(accountant.counts, accountant.neighboring_relation)
    if mu is not None:
        return _normal_tradeoff(mu * (1.0 + 4.0 * ROUNDING), level)
    reach = 1.0 + accountant.epsilon(0.5)
    low, high = (-reach, reach) if reach < math.inf else (-1.0, 1.0)
    for _ in range(_ROUNDS):
        slopes = np.linspace(low, high, _CHOICES, dtype=np.float64)
        values = _lines(accountant, slopes, level)
        i = int(np.argmax(values))
        if values[i] - values[max(i - 1, 0) : i + 2].min() < 1e-8:  # by concavity the maximum is as near
            break
        low, high = _next_range(slopes, i)
    return max(0.0, float(values[i]))


def _next_range(slopes: Array, i: int) -> tuple[float, float]:
    """Between the neighbours of the best one, or further out where there is none."""
    width = float(slopes[-1] - slopes[0])
    low = float(slopes[0]) - 4.0 * width if i == 0 else float(slopes[i - 1])
    high = float(slopes[-1]) + 4.0 * width if i == slopes.size - 1 else float(slopes[i + 1])
    return low, high


def _lines(accountant: Accountant, s: Array, alpha: float) -> Array:
    """For each slope e^s the type II error it guarantees, rounded down; negative where it says nothing."""
    power = np.exp(np.minimum(s, _LARGEST))
    rest = 1.0 - accountant.curve(np.abs(s))[1]
    steep = rest - power * alpha - ROUNDING * (1.0 + power * alpha)
    return np.asarray(np.where(s >= 0.0, steep, power * (rest - alpha - ROUNDING)))


def _normal_tradeoff(mu: float, alpha: float) -> float:
    """Phi(Phi^-1(1 - alpha) - mu) [DRS22], rounded down."""
    from scipy.special import ndtr, ndtri

    threshold = -float(ndtri(alpha))  # infinite at the ends
    return max(0.0, float(ndtr(threshold - mu)) * (1.0 - 1e-9) - 1e-300)


# ---- one number for the whole curve


def mu(accountant: Accountant, delta_floor: float) -> float:
    """The Gaussian-DP summary that `Accountant.mu` returns.

    Between two points of a grid delta lies below the chord over t = e^epsilon, and the delta of the Gaussian
    is convex in t, so their least distance is where the slopes agree; behind the last point delta is below
    the floor. Enlarging mu raises the Gaussian's delta everywhere: bisection.
    """
    floor = _checks.open_unit("delta_floor", delta_floor)
    exact = normal_mu(accountant.counts, accountant.neighboring_relation)
    if exact is not None:
        return exact * (1.0 + 4.0 * ROUNDING)
    top = accountant.epsilon(0.9 * floor) * (1.0 + 1e-9)  # surely beyond where delta meets the floor
    if not 0.0 < top < math.inf:
        return top
    chords = _Chords(*_curve_to(accountant, top))
    if chords.delta[-1] > floor or not chords.below(_MOST_MU, floor):
        return math.inf
    low, high = math.log(_LEAST_MU), math.log(_MOST_MU)
    while high - low > 1e-7:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if chords.below(math.exp(middle), floor) else (middle, high)
    return math.exp(high) * _MU_MARGIN


def _curve_to(accountant: Accountant, top: float) -> tuple[Array, Array]:
    """Points on the curve from 0 to `top`, dense at 0; a bound on delta holds at every larger epsilon too."""
    epsilon = top * np.sinh(_BEND * np.linspace(0.0, 1.0, _POINTS)) / math.sinh(_BEND)
    delta = accountant.curve(epsilon)[1]
    delta[-1] = min(delta[-1], accountant.delta(float(epsilon[-1])))
    return epsilon, np.minimum.accumulate(delta)


class _Chords:
    """The chords of an upper bound on delta, over t = e^epsilon."""

    def __init__(self, epsilon: Array, delta: Array) -> None:
        self.epsilon, self.delta = epsilon, delta
        self.drop = -np.diff(delta)
        self.stride = -np.expm1(-np.diff(epsilon))  # of t, in units of t at the right end
        with np.errstate(divide="ignore"):
            self.log_slope = np.log(self.drop) - np.log(self.stride) - epsilon[1:]

    def below(self, mu: float, floor: float) -> bool:
        """Whether every chord is below the Gaussian's delta plus the floor."""
        from scipy.special import ndtri_exp

        # d delta_mu / dt = -Phi(-epsilon / mu - mu / 2)
        touching = -mu * (ndtri_exp(np.minimum(self.log_slope, -1e-12)) + 0.5 * mu)
        at = np.clip(touching, self.epsilon[:-1], self.epsilon[1:])
        share = np.exp(at - self.epsilon[1:]) * -np.expm1(self.epsilon[:-1] - at) / self.stride
        return bool(np.all(self.delta[:-1] - share * self.drop <= _normal_deltas(mu, at) + floor))


def _normal_deltas(mu: float, epsilon: Array) -> Array:
    """Delta of Gaussian noise at each epsilon, as in `gaussian`, to about 1e-15 / min(mu, 1) relative."""
    from scipy.special import erfcx, ndtr

    a, b = epsilon / mu - 0.5 * mu, epsilon / mu + 0.5 * mu
    density = 0.5 * np.exp(-0.5 * a * a)
    tail = density * erfcx(b / math.sqrt(2.0))  # e^epsilon Phi(-b)
    near = ndtr(-a) - tail
    return np.asarray(np.where(a < 0.0, near, density * erfcx(np.maximum(a, 0.0) / math.sqrt(2.0)) - tail))


# ---- groups


def _group_interval(accountant: Accountant, delta: float, size: int, lower: float) -> tuple[float, float]:
    """Bounds on epsilon for data sets that differ in up to `size` units.

    Gaussian noise alone is exact: the shift is `size` times as large. Otherwise the lower bound for one unit
    serves, and the upper bound comes from the curve.
    """
    mu = normal_mu(accountant.counts, accountant.neighboring_relation)
    if mu is None:
        return lower, _group_epsilon(accountant, delta, size)
    grown = type(accountant)(neighboring_relation=accountant.neighboring_relation)
    for event, count in accountant.counts.items():
        if isinstance(event, Gaussian):
            grown.compose(Gaussian(event.noise_multiplier / size), count)
    return grown.epsilon_interval(delta)


def _group_epsilon(accountant: Accountant, delta: float, size: int) -> float:
    """An upper bound on epsilon for a group, from the curve for one unit.

    The first hop's delta counts e^(epsilon of all others) times, so the curve is needed as far as delta is
    small enough for that, or drops to nothing; where it never is, far out.
    """
    alone = accountant.epsilon(delta / size * (1.0 - ROUNDING))
    if alone in (0.0, math.inf):
        return alone
    smallest = delta * math.exp(-min(20.0 + 3.0 * size * alone, _LARGEST))
    top = accountant.epsilon(max(smallest, _LEAST_DELTA))
    if top == math.inf:
        top = 16.0 * alone
    return _Hops(*_curve_to(accountant, min(top, _LARGEST))).epsilon(delta, size)


def _hull(t: Array, delta: Array) -> list[int]:
    """The points that are best for some x: the lower convex hull over t - 1, from left to right."""

    def slope(i: int, j: int) -> float:
        return float((delta[j] - delta[i]) / (t[j] - t[i]))

    kept: list[int] = []
    for j in range(t.size):
        while len(kept) > 1 and slope(kept[-1], j) <= slope(kept[-2], kept[-1]):
            kept.pop()
        kept.append(j)
    return kept


class _Hops:
    """Group privacy by a chain of neighbours: P_0(S) <= F(P_1(S)) <= ... <= F(...F(P_g(S))).

    F(x) is the least of e^epsilon x + delta over the curve [DRS22]. Whatever point each hop
    takes, the chain of lines is a line: (sum of epsilons, delta_1 + e^epsilon_1 (delta_2 + ...)), and a
    guarantee. The best chain for one x takes the best point at each hop; x is what is searched.
    """

    def __init__(self, epsilon: Array, delta: Array) -> None:
        best = _hull(np.exp(epsilon), delta)
        self.epsilon_at, self.delta_at = epsilon[best], delta[best]
        self.power = np.exp(self.epsilon_at)
        self.breaks = (-np.diff(self.delta_at) / np.diff(self.power))[
            ::-1
        ]  # below it the next point is better

    def chain(self, x: Array, size: int) -> tuple[Array, Array]:
        """Epsilon and delta, rounded up, of the chains that begin at each x."""
        epsilon, delta = np.zeros_like(x), np.zeros_like(x)
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(size):
                j = self._points(x)
                epsilon, delta = epsilon + self.epsilon_at[j], self.power[j] * delta + self.delta_at[j]
                x = np.minimum(self.power[j] * x + self.delta_at[j], 1.0)
        return epsilon * (1.0 + size * ROUNDING), delta * (1.0 + size * ROUNDING)

    def _points(self, x: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
        """Which point each x takes."""
        return np.asarray(self.breaks.size - np.searchsorted(self.breaks, x, side="right"))

    def epsilon(self, target: float, size: int) -> float:
        """The least epsilon of a chain whose delta is at most the target.

        What is between the last chain that meets the target and the next one that does not is met by
        their mean: two guarantees hold together.
        """
        low, high = -_LARGEST, 0.0
        for _ in range(5):
            x = np.linspace(low, high, 65, dtype=np.float64)
            epsilon, delta = self.chain(np.exp(x), size)
            met = np.flatnonzero(delta <= target)
            if met.size == 0:
                return math.inf
            i = int(met[-1])
            if i == x.size - 1:
                return float(epsilon[i])
            low, high = float(x[i]), float(x[i + 1])
        weight = (delta[i + 1] - target) / (delta[i + 1] - delta[i])
        between = epsilon[i + 1] + math.log1p(weight * math.expm1(epsilon[i] - epsilon[i + 1]))
        return min(float(epsilon[i]), float(between) * (1.0 + ROUNDING) + ROUNDING)
