"""What a mechanism does, apart from what it costs.

An event is an immutable description, checked when it is built; an accountant puts a price on it. Every
event is either one mechanism (`Gaussian`, `Laplace`, `PoissonSampled`, `NonPrivate`) or a bracket around
others (`Composed`, `Repeated`), and `leaves` opens the brackets, so that an accountant only ever prices
mechanisms.
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


@dataclass(frozen=True)
class _AdditiveNoise(Event):
    noise_multiplier: float

    def __post_init__(self) -> None:
        checked = _checks.positive("noise_multiplier", self.noise_multiplier)
        object.__setattr__(self, "noise_multiplier", checked)


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
        checked = _checks.probability("sampling_probability", self.sampling_probability)
        object.__setattr__(self, "sampling_probability", checked)


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
        parts = tuple(check_event("each of events", part) for part in given)
        object.__setattr__(self, "events", parts)


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
        object.__setattr__(self, "count", check_count(self.count))


def leaves(event: Event, count: int = 1) -> Iterator[tuple[Event, int]]:
    """Yield the mechanisms within an event, each with how often it runs; what costs nothing is left out."""
    if isinstance(event, Repeated):
        yield from leaves(event.event, count * event.count)
    elif isinstance(event, Composed):
        for part in event.events:
            yield from leaves(part, count)
    elif isinstance(event, PoissonSampled) and event.sampling_probability in (0.0, 1.0):
        if event.sampling_probability == 1.0:
            yield from leaves(event.event, count)
    else:
        yield event, count
