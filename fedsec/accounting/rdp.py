"""Rényi differential privacy of single mechanisms: the price list of `RDPAccountant`.

For output distributions P and Q of neighbouring inputs and an order alpha > 1, the Rényi divergence is
D_alpha(P || Q) = log(A_alpha) / (alpha - 1) with A_alpha = E_Q[(P/Q)^alpha] [Mir17]. This module works
with beta = alpha - 1 and the *cumulant* log A_alpha = beta D_alpha, which adds up under composition, and
keeps all its digits as alpha -> 1. Each function takes all orders at once and returns, up to rounding,
the larger of D(P || Q) and D(Q || P).

Noise that is Gaussian-DP, and samples of it, have forms of their own. Everything else is priced by its
dominating pair (`pairs.table`), with masses moved to nodes as in `rounding`: spreading the mass of a cell
over its two ends, with P's and Q's mass kept, makes the mean of a convex function of the ratio larger,
and A_alpha is such a mean. It is summed without cancellation: (*) in `rdp_sampled`.

References
----------
[Mir17] Mironov, Rényi Differential Privacy, CSF 2017 (arXiv 1702.07476).
[CKS20] Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, 2020 (arXiv 2004.00010).
"""

from __future__ import annotations

from functools import lru_cache, singledispatch
from typing import NamedTuple

import numpy as np

from fedsec.accounting import integer_noise, rdp_sampled
from fedsec.accounting.events import (
    DiscreteGaussian,
    DiscreteGaussianSum,
    Event,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PoissonSampled,
    RandomAllocation,
    SampledWithoutReplacement,
    Skellam,
)
from fedsec.accounting.integer_noise import IntegerNoise
from fedsec.accounting.numbers import ROUNDING, Array
from fedsec.accounting.pairs.atoms import Atoms
from fedsec.accounting.pairs.base import Pair
from fedsec.accounting.pairs.table import dominance, flattened, gaussian_mu, shift

SLACK = 1e-10  # relative enlargement of every cumulant: far above quadrature and rounding errors (1e-12)
_SUBDIVISIONS = 64  # nodes between two losses of a pair's sketch


@singledispatch
def cumulant(event: Event, beta: Array, relation: NeighboringRelation) -> Array:
    """Return beta times the Rényi divergence of order 1 + beta of one mechanism.

    Parameters
    ----------
    event : Event
        One mechanism, as `events.leaves` yields them.
    beta : float64 array (m,)
        Orders minus one, positive.
    relation : NeighboringRelation
        Between the data sets that must not be told apart.

    Returns
    -------
    float64 array (m,)
        Accurate to 1e-12 relative, infinite where it exceeds the range of doubles.

    Raises
    ------
    UnsupportedError
        No valid analysis of this mechanism under this relation.
    """
    return _priced(event, beta, relation)


@cumulant.register
def _gaussian(event: Gaussian, beta: Array, relation: NeighboringRelation) -> Array:
    """[Mir17, Prop. 7]: D_alpha = alpha mu^2 / 2 for a shift by mu standard deviations."""
    mu = shift(relation) / event.noise_multiplier
    return beta * (0.5 * (beta + 1.0) * mu * mu)


@cumulant.register
def _laplace(event: Laplace, beta: Array, relation: NeighboringRelation) -> Array:
    """[Mir17, Prop. 6]: A = (alpha e^(beta s) + beta e^(-alpha s)) / (2 alpha - 1), regrouped as in (*).

    The cumulant is a log-sum-exp of functions linear in the shift s, hence convex in s and zero at 0:
    coordinates that share an L1 shift never cost more than one coordinate that carries all of it.
    """
    s = shift(relation) / event.noise_multiplier
    alpha = beta + 1.0
    excess = alpha * rdp_sampled.remainder(beta * s) + beta * rdp_sampled.remainder(-alpha * s) * np.exp(
        -beta * s
    )
    return np.asarray(np.logaddexp(0.0, beta * s + np.log(excess / (2.0 * beta + 1.0))))


@cumulant.register(DiscreteGaussian)
@cumulant.register(DiscreteGaussianSum)
@cumulant.register(Skellam)
def _integer_noise(event: IntegerNoise, beta: Array, relation: NeighboringRelation) -> Array:
    """Gaussian-DP with mu, or the bound published for this noise if it is smaller."""
    mu = integer_noise.gdp_mu(event, relation)
    bound = beta * (0.5 * (beta + 1.0) * mu * mu)
    return np.minimum(bound, beta * integer_noise.rdp(event, relation, beta + 1.0))


@cumulant.register
def _non_private(event: NonPrivate, beta: Array, relation: NeighboringRelation) -> Array:
    return np.full_like(beta, np.inf)


@cumulant.register
def _poisson_sampled(event: PoissonSampled, beta: Array, relation: NeighboringRelation) -> Array:
    """Closed under Gaussian-DP; zero-out costs what add-or-remove costs (`pairs.table`)."""
    inner, q = flattened(event)
    mu = gaussian_mu(inner, NeighboringRelation.ADD_OR_REMOVE_ONE)
    if mu is None or not 0.0 < q < 1.0:
        return _priced(event, beta, relation)
    exact = rdp_sampled.replaced if relation is NeighboringRelation.REPLACE_ONE else rdp_sampled.drawn
    return exact(q, mu, beta)


@cumulant.register
def _without_replacement(
    event: SampledWithoutReplacement, beta: Array, relation: NeighboringRelation
) -> Array:
    q = event.sample_size / event.population_size
    mu = gaussian_mu(event.event, NeighboringRelation.REPLACE_ONE)
    if mu is None or not 0.0 < q < 1.0 or relation is NeighboringRelation.ADD_OR_REMOVE_ONE:
        return _priced(event, beta, relation)
    return rdp_sampled.fixed_size(q, mu, beta)


@cumulant.register
def _random_allocation(event: RandomAllocation, beta: Array, relation: NeighboringRelation) -> Array:
    """What the pair leaves out of both laws, w at most, adds sqrt(w A_(2 alpha - 1)) to A (Cauchy, Schwarz).

    There A belongs to the selected steps when they are known, which is a bound itself.
    """
    known = dominance(event, relation)
    if known is None:
        return np.full_like(beta, np.inf)
    told: Array = event.num_selected * cumulant(event.event, beta, relation)
    if not isinstance(known.above, Atoms):
        return told
    twice = event.num_selected * cumulant(event.event, 2.0 * beta, relation)
    with np.errstate(divide="ignore"):
        left_out = 0.5 * (np.log(max(known.above.infinite)) + twice)
    return np.asarray(np.minimum(told, np.logaddexp(_finite(known.above, beta), left_out)))


def _priced(event: Event, beta: Array, relation: NeighboringRelation) -> Array:
    """The larger cumulant of both directions of the dominating pair."""
    known = dominance(event, relation)
    if known is None or max(known.above.infinite) > 0.0:
        return np.full_like(beta, np.inf)
    return _finite(known.above, beta)


def _finite(pair: Pair, beta: Array) -> Array:
    """The larger cumulant of both directions of a pair, without its infinite losses."""
    nodes = _nodes(pair)
    return np.maximum(_of_nodes(nodes, beta), _of_nodes(nodes.mirrored(), beta))


class _Nodes(NamedTuple):
    """Masses at losses x; for losses above 0 those of P count, below 0 those of Q."""

    x: Array
    p: Array
    q: Array

    def mirrored(self) -> _Nodes:
        """The other direction."""
        return _Nodes(-self.x, self.q, self.p)


@lru_cache(maxsize=16)
def _nodes(pair: Pair) -> _Nodes:
    """Atoms as they are, and any other bounded losses spread; P's and Q's masses are kept, or rounded up."""
    if isinstance(pair, Atoms):
        x = pair.loss + np.copysign(pair.loss_error + ROUNDING * np.abs(pair.loss), pair.loss)
        heavier = (1.0 + pair.error) * (1.0 + ROUNDING * (2.0 + np.abs(np.minimum(pair.log_p, pair.log_q))))
        return _Nodes(x, np.exp(pair.log_p) * heavier, np.exp(pair.log_q) * heavier)
    return _spread(pair)


def _spread(pair: Pair) -> _Nodes:
    """Share the mass of each cell between fine nodes with P's and Q's mass kept."""
    sketch = pair.sketch()
    inner = np.linspace(sketch[:-1], sketch[1:], _SUBDIVISIONS, endpoint=False, axis=1).ravel()
    ends = np.array(pair.range(0.0)) + np.array([-1e-12, 1e-12]) * np.abs(pair.range(0.0))
    x = np.unique(np.concatenate((inner, sketch[-1:], ends)))
    p, q, error, loss, doubt = (part[1:-1] for part in pair.cells(x))
    width, known = np.diff(x), np.isfinite(doubt)
    offset = np.clip(loss + np.copysign(doubt, loss) - x[:-1], 0.0, width, where=known, out=width.copy())
    right = np.expm1(-offset) / np.expm1(-width)  # of P's mass; of Q's it is less
    masses = []
    for mass, share in ((p, right), (q, right * np.exp(offset - width))):
        heavy = mass * (1.0 + error)
        at_left = np.append(heavy * np.where(known, 1.0 - share, 1.0), 0.0)
        masses.append(at_left + np.insert(heavy * share, 0, 0.0))
    return _Nodes(x, *masses)


def _of_nodes(nodes: _Nodes, beta: Array) -> Array:
    """Cumulants of the first law against the second: a sum of (*) over nodes."""
    exponent, factor = rdp_sampled.terms(nodes.x, beta[:, None])
    with np.errstate(divide="ignore"):
        weight = np.where(nodes.x > 0.0, np.log(nodes.p) - nodes.x, np.log(nodes.q))
        exponent += weight + np.log(factor)
    top = np.maximum(exponent.max(axis=1), -1e300)
    return np.asarray(np.logaddexp(0.0, top + np.log(np.exp(exponent - top[:, None]).sum(axis=1))))
