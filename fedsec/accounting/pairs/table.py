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
    RandomizedResponse,
    Skellam,
)
from fedsec.accounting.pairs.atoms import Atoms, approximate_dp, randomized_response
from fedsec.accounting.pairs.base import Dominance, Pair
from fedsec.accounting.pairs.integers import GeometricNoise, discrete_gaussian, skellam
from fedsec.accounting.pairs.noise import LaplaceNoise, Mixture, NormalNoise
from fedsec.errors import UnsupportedError

ONE = NeighboringRelation.REPLACE_ONE
_FARTHEST = 1e150  # shifts beyond it, whose squares overflow, hide nothing
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
def _integer_noise(
    event: DiscreteGaussian | DiscreteGaussianSum | Skellam, relation: NeighboringRelation
) -> Dominance | None:
    """Exact in one dimension; in more, Gaussian-DP is above, and a unit that uses one coordinate is below.

    Vectors are whole: in one coordinate a unit can use the whole part of the sensitivity.
    """
    whole = math.floor(event.l2_sensitivity)
    line = _one_coordinate(event, shift(relation) * whole) if whole else None
    below = None if line is None else replace(line, infinite=(0.0, 0.0))
    if line is not None and event.dimension == 1 and whole == event.l2_sensitivity:
        return Dominance(line, below, symmetric=True)
    from fedsec.accounting.integer_noise import gdp_mu

    mu = gdp_mu(event, relation)
    return Dominance(NormalNoise(mu), below, symmetric=True) if mu < _FARTHEST else None


def _one_coordinate(event: DiscreteGaussian | DiscreteGaussianSum | Skellam, steps: int) -> Atoms | None:
    if isinstance(event, Skellam):
        return skellam(event.variance, steps)
    if isinstance(event, DiscreteGaussian) or event.num_shares == 1:
        return discrete_gaussian(event.stddev, steps)
    return None


@dominance.register
def _poisson_sampled(event: PoissonSampled, relation: NeighboringRelation) -> Dominance | None:
    """Mixtures with what an unsampled unit leaves behind [ZDW22, Prop. 30 and before].

    A zeroed unit may be drawn but adds nothing, and other units are drawn independently of it: the output
    without the unit's contribution has the same law under both relations.
    """
    inner, probability = _flattened(event)
    if probability == 0.0:
        return _exact(randomized_response(0.0))
    if isinstance(inner, NonPrivate):
        return None
    if relation is ONE:
        raise UnsupportedError(
            f"there is no analysis of {event!r} under REPLACE_ONE; "
            "use ADD_OR_REMOVE_ONE or REPLACE_SPECIAL for Poisson sampling"
        )
    _check_samplable(event, inner)
    known = dominance(inner, relation)
    if known is None or probability == 1.0:
        return known
    below = None if known.below is None else Mixture(known.below, probability)
    return Dominance(Mixture(known.above, probability), below, symmetric=False)


def _flattened(event: PoissonSampled) -> tuple[Event, float]:
    """A Poisson sample of a Poisson sample is one; rounding the product is within the errors of `Mixture`."""
    inner, probability = event.event, event.sampling_probability
    if not isinstance(inner, PoissonSampled):
        return inner, probability
    innermost, share = _flattened(inner)
    return innermost, probability * share


def _check_samplable(event: Event, inner: Event) -> None:
    """Only a mechanism whose one pair serves both directions can be sampled."""
    if not isinstance(inner, _PLAIN):
        names = ", ".join(kind.__name__ for kind in _PLAIN)
        raise UnsupportedError(f"there is no analysis of {event!r}: a sampler goes around one of {names}")


_PLAIN = (
    Gaussian,
    Laplace,
    DiscreteGaussian,
    DiscreteGaussianSum,
    Skellam,
    DiscreteLaplace,
    RandomizedResponse,
    ApproximateDP,
)
