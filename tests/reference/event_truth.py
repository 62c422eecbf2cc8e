"""The truth about an event of the package: which reference knows its delta, and asks it.

Only the event's own parameters are read; nothing of the package's analysis is used.
"""

from collections.abc import Sequence

import numpy as np

from fedsec.accounting import (
    ApproximateDP,
    DiscreteGaussian,
    DiscreteLaplace,
    Event,
    Gaussian,
    Laplace,
    NeighboringRelation,
    PoissonSampled,
    RandomizedResponse,
)
from reference import lattice_truth, pld_truth
from reference.pld_truth import NotConvergedError

ADD_OR_REMOVE = NeighboringRelation.ADD_OR_REMOVE_ONE
REPLACE_ONE = NeighboringRelation.REPLACE_ONE
Steps = Sequence[tuple[Event, int]]


def judge(steps: Steps, relation: NeighboringRelation, target: float, interval: tuple[float, float]) -> str:
    """What is wrong with an interval for epsilon at delta = target: an empty string if nothing is.

    Raises `NotConvergedError` where no reference knows. The truth is known to 5e-8 relative, in sums of
    doubles that may cancel to 1e-15.
    """
    lower, upper = interval
    if not 0.0 <= lower <= upper:
        return f"no interval: {interval}"
    asked = [epsilon for epsilon in (lower, upper) if 0.0 < epsilon < np.inf]
    truth = dict(zip(asked, deltas(steps, relation, asked), strict=True))
    if lower == np.inf:  # guarantees that give everything away with a probability above the target
        truth[lower] = delta(steps, relation, 1e4)
    if lower > 0.0 and truth[lower] < target * (1.0 - 1e-7) - 1e-15 * (target > 1e-9):
        return f"lower bound {lower!r} has delta {truth.get(lower)!r} < {target!r}"
    if upper == 0.0:
        truth[upper] = delta(steps, relation, 1e-12)
    if upper < np.inf and truth[upper] > target * (1.0 + 1e-7) + 1e-15 * (target > 1e-9):
        return f"upper bound {upper!r} has delta {truth[upper]!r} > {target!r}"
    return ""


def deltas(steps: Steps, relation: NeighboringRelation, epsilons: Sequence[float]) -> list[float]:
    """`delta` at one epsilon, or at two; inversion integrals serve both at once if they are neighbours."""
    if len(epsilons) == 2 and epsilons[1] < 1.02 * epsilons[0] and _direct(steps, relation, 1.0) is None:
        both = [_by_inversion(steps, relation, np.array(epsilons), sign) for sign in _signs(steps, relation)]
        return list(np.max(both, axis=0))
    return [delta(steps, relation, epsilon) for epsilon in epsilons]


def delta(steps: Steps, relation: NeighboringRelation, epsilon: float) -> float:
    """The delta of mechanisms with their counts; raises `NotConvergedError` where no reference knows it."""
    known = _direct(steps, relation, epsilon)
    if known is not None:
        return known
    signs = _signs(steps, relation)
    return max(float(_by_inversion(steps, relation, np.array([epsilon]), sign)[0]) for sign in signs)


def _signs(steps: Steps, relation: NeighboringRelation) -> tuple[int, ...]:
    """Both directions, or one if they are alike."""
    sampled = any(isinstance(event, PoissonSampled) for event, _ in steps)
    return (1, -1) if sampled and relation is not REPLACE_ONE else (1,)


def _direct(steps: Steps, relation: NeighboringRelation, epsilon: float) -> float | None:
    if all(isinstance(event, (RandomizedResponse, ApproximateDP)) for event, _ in steps):
        parts = [(event.epsilon, getattr(event, "delta", 0.0), count) for event, count in steps]
        return float(lattice_truth.guarantees(parts, epsilon))
    return _one_kind(*steps[0], relation, epsilon) if len(steps) == 1 else None


def _one_kind(event: Event, count: int, relation: NeighboringRelation, epsilon: float) -> float | None:
    """Closed forms and lattices, for many runs of one mechanism; None if there is none."""
    twice = 2 if relation is REPLACE_ONE else 1
    if isinstance(event, Gaussian):
        mu = twice * float(np.sqrt(count)) / event.noise_multiplier
        return float(pld_truth.gaussian_delta(mu, epsilon))
    if isinstance(event, DiscreteLaplace):
        return lattice_truth.discrete_laplace_delta(event.scale, twice * event.sensitivity, count, epsilon)
    if isinstance(event, DiscreteGaussian) and event.dimension == 1:
        shift = twice * int(event.l2_sensitivity)
        return lattice_truth.discrete_gaussian_delta(event.stddev, shift, count, epsilon)
    return _one_sample(event, count, relation, epsilon) if isinstance(event, PoissonSampled) else None


def _one_sample(
    event: PoissonSampled, count: int, relation: NeighboringRelation, epsilon: float
) -> float | None:
    """One or two Poisson samples of noise, and any number of samples of randomised response."""
    inner, q = event.event, event.sampling_probability
    if relation is REPLACE_ONE:
        one = isinstance(inner, Gaussian) and count == 1
        return float(pld_truth.replaced_one_run(inner.noise_multiplier, q, epsilon)) if one else None
    if isinstance(inner, RandomizedResponse):
        both = (lattice_truth.sampled_guarantees(inner.epsilon, q, count, epsilon, sign) for sign in (1, -1))
        return float(max(both))
    if count == 1:
        return float(pld_truth.one_run(type(inner).__name__.lower(), inner.noise_multiplier, q, epsilon))
    if count == 2 and isinstance(inner, Gaussian):
        z = inner.noise_multiplier
        return max(pld_truth.two_runs((z, z), (q, q), epsilon, sign) for sign in (1, -1))
    return None


def _by_inversion(steps: Steps, relation: NeighboringRelation, epsilons: np.ndarray, sign: int) -> np.ndarray:
    parts = [(_moments(event, relation, sign), count) for event, count in steps]
    return pld_truth.curve(parts, epsilons, accuracy=5e-8)


def _moments(event: Event, relation: NeighboringRelation, sign: int) -> pld_truth.Maker:
    inner, q = (
        (event.event, event.sampling_probability) if isinstance(event, PoissonSampled) else (event, 1.0)
    )
    if isinstance(inner, Gaussian) and relation is REPLACE_ONE:
        return pld_truth.replaced_gaussian_moments(inner.noise_multiplier, q)
    if isinstance(inner, Gaussian):
        return pld_truth.sampled_gaussian_moments(inner.noise_multiplier, q, sign)
    if isinstance(inner, Laplace) and (relation is not REPLACE_ONE or q == 1.0):
        half = 0.5 if relation is REPLACE_ONE else 1.0
        return pld_truth.sampled_laplace_moments(half * inner.noise_multiplier, q, sign)
    raise NotConvergedError(f"no reference for {event!r}")


def draw(rng: np.random.Generator) -> tuple[list[tuple[Event, int]], NeighboringRelation, float]:
    """A random composition that some reference may know, a relation, and a delta."""
    kind = _KINDS[rng.integers(len(_KINDS))]
    relation = list(NeighboringRelation)[rng.integers(3)] if kind is not _sampled_laplace else ADD_OR_REMOVE
    size = 2 if kind in (_sampled_gaussian, _laplace) and rng.random() < 0.2 else 1
    most = {_lattice: 2.3, _guarantee: 2.3}.get(kind, 6.0)
    steps = {kind(rng): _count(rng, most) for _ in range(size)}
    return list(steps.items()), relation, _power(rng, -15.0, -2.0)


def _power(rng: np.random.Generator, low: float, high: float) -> float:
    return float(10.0 ** rng.uniform(low, high))


def _count(rng: np.random.Generator, most: float) -> int:
    return int(_power(rng, 0.0, most))


def _gaussian(rng: np.random.Generator) -> Event:
    return Gaussian(_power(rng, -2.0, 2.0))


def _sampled_gaussian(rng: np.random.Generator) -> Event:
    return PoissonSampled(Gaussian(_power(rng, -0.5, 1.5)), _power(rng, -4.0, -0.05))


def _laplace(rng: np.random.Generator) -> Event:
    return Laplace(_power(rng, -0.3, 1.5))


def _sampled_laplace(rng: np.random.Generator) -> Event:
    return PoissonSampled(Laplace(_power(rng, -0.3, 1.5)), _power(rng, -4.0, -0.05))


def _guarantee(rng: np.random.Generator) -> Event:
    epsilon = _power(rng, -2.0, 0.5)
    return RandomizedResponse(epsilon) if rng.random() < 0.5 else ApproximateDP(epsilon, _power(rng, -12, -3))


def _lattice(rng: np.random.Generator) -> Event:
    if rng.random() < 0.5:
        return DiscreteLaplace(_power(rng, -0.3, 1.5), int(rng.integers(1, 6)))
    return DiscreteGaussian(_power(rng, -0.2, 0.8), int(rng.integers(1, 4)), dimension=1)


_KINDS = [*[_sampled_gaussian] * 6, _gaussian, _laplace, _laplace, _sampled_laplace, _guarantee, _lattice]
