"""What a mechanism does, apart from what it costs.

An event is an immutable description, checked when it is built; an accountant puts a price on it. Every
event is one mechanism (noise, a response, a guarantee), a sampler around one, or a bracket around others
(`Composed`, `Repeated`); `leaves` opens the brackets, so that an accountant only ever prices mechanisms.

References
----------
[AKL21] Agarwal, Kairouz, Liu, The Skellam Mechanism for Differentially Private Federated Learning, 2021
        (arXiv 2110.04995).
[CKS20] Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, 2020 (arXiv 2004.00010).
[KLS21] Kairouz, Liu, Steinke, The Distributed Discrete Gaussian Mechanism for Federated Learning with
        Secure Aggregation, ICML 2021 (arXiv 2102.06387).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fedsec import _checks
from fedsec.errors import InvalidTypeError

MAX_COUNT = 2**53  # beyond it a count is no longer exact in double precision


class NeighboringRelation(enum.Enum):
    """How two data sets differ that must not be told apart.

    `ADD_OR_REMOVE_ONE`: one holds a unit (a record, or all records of a client) that the other lacks.
    `REPLACE_ONE`: one unit of the first stands for another one in the second.
    `REPLACE_SPECIAL`: one unit of the first is zeroed out in the second, where it contributes nothing.
    """

    ADD_OR_REMOVE_ONE = "add or remove one"
    REPLACE_ONE = "replace one"
    REPLACE_SPECIAL = "replace one by nothing (zero-out)"


class Event:
    """The base of all events; equal events have equal fields, and events can be dictionary keys."""


def check_event(name: str, value: object) -> Event:
    """Return `value` if it is an event; raise `InvalidTypeError` naming it otherwise."""
    if not isinstance(value, Event):
        raise InvalidTypeError(f"{name} must be an event such as Gaussian(1.1), got {value!r}")
    return value


def check_relation(value: object) -> NeighboringRelation:
    """Return `value` if it is a `NeighboringRelation`; raise `InvalidTypeError` naming it otherwise."""
    if not isinstance(value, NeighboringRelation):
        raise InvalidTypeError(f"neighboring_relation must be a NeighboringRelation, got {value!r}")
    return value


def check_count(value: object) -> int:
    """A whole number in [1, 2**53]; zero is refused, for it is more often a slip than a wish."""
    return _checks.whole("count", value, minimum=1, maximum=MAX_COUNT)


def _store(event: Event, **values: object) -> None:
    """Put checked values into a frozen event."""
    for name, value in values.items():
        object.__setattr__(event, name, value)


@dataclass(frozen=True)
class _AdditiveNoise(Event):
    noise_multiplier: float

    def __post_init__(self) -> None:
        _store(self, noise_multiplier=_checks.positive("noise_multiplier", self.noise_multiplier))


class Gaussian(_AdditiveNoise):
    """Gaussian noise added to a vector-valued sum.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise in each coordinate, divided by the L2 sensitivity to adding,
        removing or zeroing one unit. Positive and finite.
    """


class Laplace(_AdditiveNoise):
    """Laplace noise added to a vector-valued sum.

    Parameters
    ----------
    noise_multiplier : float
        Scale (not standard deviation) of the noise in each coordinate, divided by the L1 sensitivity to
        adding, removing or zeroing one unit. Positive and finite.
    """


def _store_vector(event: DiscreteGaussian | DiscreteGaussianSum | Skellam) -> None:
    """Check and store what integer noise on vectors has in common."""
    sensitivity = _checks.positive("l2_sensitivity", event.l2_sensitivity)
    dimension = None if event.dimension is None else _checks.whole("dimension", event.dimension, minimum=1)
    _store(event, l2_sensitivity=sensitivity, dimension=dimension)


@dataclass(frozen=True)
class DiscreteGaussian(Event):
    """Discrete Gaussian noise added to each coordinate of a vector of integers [CKS20].

    Parameters
    ----------
    stddev : float
        sigma of the probabilities, which are proportional to exp(-k^2 / (2 sigma^2)); in integer steps.
    l2_sensitivity : float
        L2 norm of the most that adding, removing or zeroing one unit changes the vector; in integer steps.
    dimension : int, optional
        Length of the vector; None means any. Dimension 1 with a whole sensitivity is analysed exactly.
    """

    stddev: float
    l2_sensitivity: float
    dimension: int | None = None

    def __post_init__(self) -> None:
        _store(self, stddev=_checks.positive("stddev", self.stddev))
        _store_vector(self)


@dataclass(frozen=True)
class Skellam(Event):
    """Skellam noise, the difference of two Poisson variables, added to each coordinate [AKL21].

    Parameters
    ----------
    variance : float
        Of the noise in each coordinate; each of the two Poisson variables has half of it as its mean.
    l2_sensitivity, dimension
        As for `DiscreteGaussian`.
    """

    variance: float
    l2_sensitivity: float
    dimension: int | None = None

    def __post_init__(self) -> None:
        _store(self, variance=_checks.positive("variance", self.variance))
        _store_vector(self)


@dataclass(frozen=True)
class DiscreteGaussianSum(Event):
    """The sum of independent discrete Gaussian shares, added to each coordinate [KLS21].

    Parameters
    ----------
    stddev : float
        sigma of each share, in integer steps.
    num_shares : int
        How many shares are sure to be added, at least 1; `stddev * sqrt(num_shares)` is about the total's.
    l2_sensitivity, dimension
        As for `DiscreteGaussian`.
    """

    stddev: float
    num_shares: int
    l2_sensitivity: float
    dimension: int | None = None

    def __post_init__(self) -> None:
        shares = _checks.whole("num_shares", self.num_shares, minimum=1)
        _store(self, stddev=_checks.positive("stddev", self.stddev), num_shares=shares)
        _store_vector(self)


@dataclass(frozen=True)
class DiscreteLaplace(Event):
    """Discrete Laplace (two-sided geometric) noise added to each coordinate of a vector of integers.

    Parameters
    ----------
    scale : float
        b of the probabilities, which are proportional to exp(-|k| / b); in integer steps.
    sensitivity : int
        L1 norm of the most that adding, removing or zeroing one unit changes the vector; at least 1.
    """

    scale: float
    sensitivity: int

    def __post_init__(self) -> None:
        sensitivity = _checks.whole("sensitivity", self.sensitivity, minimum=1)
        _store(self, scale=_checks.positive("scale", self.scale), sensitivity=sensitivity)


@dataclass(frozen=True)
class RandomizedResponse(Event):
    """A bit that is reported truly with odds e^epsilon to 1.

    Parameters
    ----------
    epsilon : float
        Zero or above, finite; it bounds the loss between the two data sets of the accountant's relation.
    """

    epsilon: float

    def __post_init__(self) -> None:
        _store(self, epsilon=_checks.non_negative("epsilon", self.epsilon))


@dataclass(frozen=True)
class ApproximateDP(Event):
    """Any mechanism of which no more is known than that it is (epsilon, delta)-private.

    Parameters
    ----------
    epsilon : float
        Zero or above, finite; under the accountant's relation.
    delta : float
        In [0, 1].
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        _store(self, epsilon=_checks.non_negative("epsilon", self.epsilon))
        _store(self, delta=_checks.probability("delta", self.delta))


@dataclass(frozen=True)
class NonPrivate(Event):
    """A release without protection: its epsilon is infinite for every delta below 1."""


@dataclass(frozen=True)
class PoissonSampled(Event):
    """A mechanism run on a Poisson sample: each unit joins independently with the same probability.

    A loader that shuffles and cuts batches of fixed size does *not* draw such a sample.

    Parameters
    ----------
    event : Event
        What is done with the sample.
    sampling_probability : float
        In [0, 1]. At 0 the event costs nothing; at 1 it costs what `event` costs.
    """

    event: Event
    sampling_probability: float

    def __post_init__(self) -> None:
        check_event("event", self.event)
        _store(
            self, sampling_probability=_checks.probability("sampling_probability", self.sampling_probability)
        )


@dataclass(frozen=True)
class SampledWithoutReplacement(Event):
    """A mechanism run on a sample of fixed size, drawn anew for each run, all samples equally likely.

    Shuffling once and cutting batches from the shuffled data is something else.

    Parameters
    ----------
    event : Event
        What is done with the sample.
    population_size : int
        How many units there are; at least 1, and public.
    sample_size : int
        How many of them are drawn, in [0, population_size].
    """

    event: Event
    population_size: int
    sample_size: int

    def __post_init__(self) -> None:
        check_event("event", self.event)
        population = _checks.whole("population_size", self.population_size, minimum=1)
        sample = _checks.whole("sample_size", self.sample_size, minimum=0, maximum=population)
        _store(self, population_size=population, sample_size=sample)


@dataclass(frozen=True)
class RandomAllocation(Event):
    """`num_steps` runs of a mechanism, in exactly `num_selected` of which a unit takes part.

    Each unit's steps are drawn uniformly and independently of the other units'. Fixed-size batches of
    shuffled data are something else: there the units' places depend on each other.

    Parameters
    ----------
    event : Event
        What is done in one step.
    num_steps : int
        At least 1; all these steps together are one run of this event.
    num_selected : int
        In [0, num_steps].
    """

    event: Event
    num_steps: int
    num_selected: int = 1

    def __post_init__(self) -> None:
        check_event("event", self.event)
        steps = _checks.whole("num_steps", self.num_steps, minimum=1, maximum=MAX_COUNT)
        selected = _checks.whole("num_selected", self.num_selected, minimum=0, maximum=steps)
        _store(self, num_steps=steps, num_selected=selected)


@dataclass(frozen=True)
class Composed(Event):
    """Several events on the same data, in any order; an empty sequence costs nothing.

    Parameters
    ----------
    events : sequence of Event
        Fixed beforehand: which events come later may not depend on the outcome of earlier ones.
    """

    events: Sequence[Event]

    def __post_init__(self) -> None:
        given: object = self.events
        if not isinstance(given, Iterable):
            raise InvalidTypeError(f"events must be a sequence of events, got {given!r}")
        _store(self, events=tuple(check_event("each of events", part) for part in given))


@dataclass(frozen=True)
class Repeated(Event):
    """The same event `count` times, with fresh randomness each time.

    Parameters
    ----------
    event : Event
        What is repeated.
    count : int
        A whole number in [1, 2**53].
    """

    event: Event
    count: int

    def __post_init__(self) -> None:
        check_event("event", self.event)
        _store(self, count=check_count(self.count))


def leaves(event: Event, count: int = 1) -> Iterator[tuple[Event, int]]:
    """Yield the mechanisms within an event, each with how often it runs; what costs nothing is left out."""
    if isinstance(event, Repeated):
        yield from leaves(event.event, count * event.count)
    elif isinstance(event, Composed):
        for part in event.events:
            yield from leaves(part, count)
    elif isinstance(event, _SAMPLERS):
        share, times = _participation(event)
        if share == 1:
            yield from leaves(event.event, count * times)
        elif share > 0:
            yield event, count
    else:
        yield event, count


_SAMPLERS = (PoissonSampled, SampledWithoutReplacement, RandomAllocation)


def _participation(event: PoissonSampled | SampledWithoutReplacement | RandomAllocation) -> tuple[float, int]:
    """How likely a unit takes part in a step, and how many steps a run has."""
    if isinstance(event, PoissonSampled):
        return event.sampling_probability, 1
    if isinstance(event, SampledWithoutReplacement):
        return event.sample_size / event.population_size, 1
    return event.num_selected / event.num_steps, event.num_steps
