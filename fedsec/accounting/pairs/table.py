"""Which pair dominates which mechanism, under which relation; what has no valid analysis is refused by name.

It stands between `events` (one mechanism, as `leaves` yields it) and the engines that compose pairs.

Under ADD_OR_REMOVE_ONE and REPLACE_SPECIAL the outputs of additive noise differ by one sensitivity, under
REPLACE_ONE by two: a unit leaves and another enters. `RandomizedResponse` and `ApproximateDP` promise
their epsilon under whichever relation the accountant has.

References
----------
[BBG18] Balle, Barthe, Gaboardi, Privacy Amplification by Subsampling, NeurIPS 2018 (arXiv 1807.01647).
[ZDW22] Zhu, Dong, Wang, Optimal Accounting of Differential Privacy via Characteristic Function, AISTATS
        2022 (arXiv 2106.08567).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import singledispatch

from fedsec.accounting.events import (
    ApproximateDP,
    DiscreteGaussian,
    DiscreteGaussianSum,
    DiscreteLaplace,
    Event,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PoissonSampled,
    RandomAllocation,
    RandomizedResponse,
    SampledWithoutReplacement,
    Skellam,
)
from fedsec.accounting.integer_noise import IntegerNoise, gdp_mu
from fedsec.accounting.pairs.atoms import Atoms, approximate_dp, randomized_response
from fedsec.accounting.pairs.base import Dominance, Pair
from fedsec.accounting.pairs.integers import GeometricNoise, discrete_gaussian, skellam
from fedsec.accounting.pairs.noise import LaplaceNoise, Mixture, NormalNoise
from fedsec.accounting.pairs.replace import Glued, ReplacedNormal, ZeroedNormal
from fedsec.errors import UnsupportedError

ONE = NeighboringRelation.REPLACE_ONE

Kinds = tuple[type[Event], ...]
_NORMAL: Kinds = (Gaussian, DiscreteGaussian, DiscreteGaussianSum, Skellam, NonPrivate)  # Gaussian-DP
_NOISE: Kinds = (*_NORMAL, Laplace, DiscreteLaplace)
_GUARANTEES: Kinds = (RandomizedResponse, ApproximateDP)

_FARTHEST = 1e150  # shifts beyond it, whose squares overflow, hide nothing
_SLIGHT = 1e-6  # noise so wide that an epsilon of twice the size is as good, and digits are scarce
_WHOLE = 2**50  # whole numbers beyond it leave no room for rounding


@singledispatch
def dominance(event: Event, relation: NeighboringRelation) -> Dominance | None:
    """Return the dominating pairs of one mechanism; None where nothing is protected.

    Parameters
    ----------
    event : Event
        One mechanism, as `events.leaves` yields them.
    relation : NeighboringRelation
        Between the data sets that must not be told apart.

    Raises
    ------
    UnsupportedError
        No valid analysis of this mechanism under this relation; the message names both.
    """
    raise UnsupportedError(f"there is no analysis of {event!r}")


def shift(relation: NeighboringRelation) -> int:
    """By how many sensitivities the outputs of unsampled noise differ."""
    return 2 if relation is ONE else 1


def gaussian_mu(event: Event, relation: NeighboringRelation) -> float | None:
    """The mu of noise that is Gaussian-DP, or None."""
    if isinstance(event, Gaussian):
        return shift(relation) / event.noise_multiplier
    return gdp_mu(event, relation) if isinstance(event, IntegerNoise) else None


def _exact(pair: Pair) -> Dominance:
    return Dominance(pair, pair, symmetric=True)


@dominance.register
def _non_private(event: NonPrivate, relation: NeighboringRelation) -> None:
    return None


@dominance.register
def _gaussian(event: Gaussian, relation: NeighboringRelation) -> Dominance | None:
    distance = shift(relation) / event.noise_multiplier
    return _exact(NormalNoise(distance)) if distance < _FARTHEST else None


@dominance.register
def _laplace(event: Laplace, relation: NeighboringRelation) -> Dominance | None:
    distance = shift(relation) / event.noise_multiplier
    return _exact(LaplaceNoise(distance)) if distance < _FARTHEST else None


@dominance.register
def _randomized_response(event: RandomizedResponse, relation: NeighboringRelation) -> Dominance:
    return _exact(randomized_response(event.epsilon))


@dominance.register
def _approximate_dp(event: ApproximateDP, relation: NeighboringRelation) -> Dominance | None:
    return _exact(approximate_dp(event.epsilon, event.delta)) if event.delta < 1.0 else None


@dominance.register
def _discrete_laplace(event: DiscreteLaplace, relation: NeighboringRelation) -> Dominance | None:
    """One coordinate that carries all of the sensitivity is the worst case: `pairs.integers`."""
    steps = shift(relation) * event.sensitivity
    if steps > _FARTHEST or steps / event.scale > _FARTHEST:
        return None
    if steps > _WHOLE:
        return Dominance(randomized_response(steps / event.scale), None, symmetric=True)
    return _exact(GeometricNoise(event.scale, steps))


@dominance.register(DiscreteGaussian)
@dominance.register(DiscreteGaussianSum)
@dominance.register(Skellam)
def _integer_noise(event: IntegerNoise, relation: NeighboringRelation) -> Dominance | None:
    """Exact in one dimension; in more, Gaussian-DP is above, and a unit that uses one coordinate is below.

    Vectors are whole: in one coordinate a unit can use the whole part of the sensitivity.
    """
    whole = math.floor(event.l2_sensitivity)
    line = _one_coordinate(event, shift(relation) * whole) if whole else None
    below = None if line is None else replace(line, infinite=(0.0, 0.0))
    if line is not None and event.dimension == 1 and whole == event.l2_sensitivity:
        return Dominance(line, below, symmetric=True)
    mu = gdp_mu(event, relation)
    return Dominance(NormalNoise(mu), below, symmetric=True) if mu < _FARTHEST else None


def _one_coordinate(event: IntegerNoise, steps: int) -> Atoms | None:
    if isinstance(event, Skellam):
        return skellam(event.variance, steps)
    if isinstance(event, DiscreteGaussian) or event.num_shares == 1:
        return discrete_gaussian(event.stddev, steps)
    return None


@dominance.register
def _poisson_sampled(event: PoissonSampled, relation: NeighboringRelation) -> Dominance | None:
    """Mixtures with what an undrawn unit leaves behind [ZDW22].

    A zeroed unit may be drawn but adds nothing, and other units are drawn independently of it: the output
    without the unit's contribution has the same law under both relations.
    """
    inner, probability = flattened(event)
    if probability == 0.0:
        return _exact(randomized_response(0.0))
    _check_samplable(event, inner, relation, _NORMAL if relation is ONE else _NOISE + _GUARANTEES)
    if probability == 1.0:
        return dominance(inner, relation)
    if relation is ONE:
        return _replaced_in_poisson(inner, probability)
    known = dominance(inner, relation)
    return None if known is None else Dominance(*_mixtures(known, probability), symmetric=False)


def flattened(event: PoissonSampled) -> tuple[Event, float]:
    """A Poisson sample of a Poisson sample is one; rounding the product is within the errors of `Mixture`."""
    inner, probability = event.event, event.sampling_probability
    if not isinstance(inner, PoissonSampled):
        return inner, probability
    innermost, share = flattened(inner)
    return innermost, probability * share


def _check_samplable(event: Event, inner: Event, relation: NeighboringRelation, kinds: Kinds) -> None:
    if not isinstance(inner, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise UnsupportedError(
            f"there is no analysis of {event!r} under {relation.name}; what it samples must be one of {names}"
        )


def _mixtures(known: Dominance, probability: float) -> tuple[Mixture, Mixture | None]:
    below = None if known.below is None else Mixture(known.below, probability)
    return Mixture(known.above, probability), below


def _replaced_in_poisson(inner: Event, probability: float) -> Dominance | None:
    """Exact for Gaussian noise; else below is a unit that is replaced by one that contributes nothing."""
    removal = NeighboringRelation.ADD_OR_REMOVE_ONE
    known, mu = dominance(inner, removal), gaussian_mu(inner, removal)
    if known is None or mu is None:
        return None
    pair = ReplacedNormal(mu, probability)
    if isinstance(inner, Gaussian):
        return _exact(pair)
    return Dominance(pair, _mixtures(known, probability)[1], symmetric=False)


@dominance.register
def _without_replacement(event: SampledWithoutReplacement, relation: NeighboringRelation) -> Dominance | None:
    """Glued mixtures of the pair for a replaced unit: `pairs.replace`.

    A zeroed unit is replaced by one that contributes nothing. Guarantees for zeroed units say nothing of
    the exchange of two units that makes a sample without the unit one with it.
    """
    if relation is NeighboringRelation.ADD_OR_REMOVE_ONE:
        raise UnsupportedError(
            f"there is no analysis of {event!r} under ADD_OR_REMOVE_ONE: the size of the population is fixed "
            "and public; use REPLACE_ONE or REPLACE_SPECIAL"
        )
    share = event.sample_size / event.population_size
    if share == 0.0:
        return _exact(randomized_response(0.0))
    kinds = _NOISE + _GUARANTEES if relation is ONE else _NOISE
    _check_samplable(event, event.event, relation, kinds)
    known, attained = dominance(event.event, ONE), dominance(event.event, relation)
    if known is None or attained is None or share == 1.0:
        return attained
    mu = None if relation is ONE else gaussian_mu(event.event, relation)
    if mu is None or mu < _SLIGHT:
        above = Glued(Mixture(known.above, share), Mixture(known.above, share))
    else:
        above = Glued(ZeroedNormal(mu, share), Mixture(NormalNoise(mu), share))
    return Dominance(above, _mixtures(attained, share)[1], symmetric=False)


@dominance.register
def _random_allocation(event: RandomAllocation, relation: NeighboringRelation) -> Dominance | None:
    from fedsec.accounting.pairs.allocation import allocation

    return allocation(event, relation)
