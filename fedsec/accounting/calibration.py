"""The parameter that just meets a privacy target: one search, with an accountant as the judge.

Four questions share it: the least noise, and the most steps, the largest sampling probability or batch
size. What is returned was put to the very accountant that the caller would ask, and met the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from fedsec import _checks
from fedsec.accounting.accountant import RDPAccountant
from fedsec.accounting.events import (
    MAX_COUNT,
    Event,
    NeighboringRelation,
    check_count,
    check_event,
    check_relation,
    leaves,
)
from fedsec.accounting.pld_accountant import PLDAccountant
from fedsec.accounting.search import Search
from fedsec.errors import CalibrationError, InvalidTypeError, UnsupportedError

_LEAST, _MOST = 1e-12, 1e12  # noise multipliers that are tried; _LEAST also of probabilities
_ROUGH = 0.02  # tolerance of a first guess

_Made: TypeAlias = Callable[[float], tuple[Event, int]]


class _Accountant(Protocol):
    def compose(self, event: Event, count: int = 1) -> _Accountant: ...
    def epsilon(self, delta: float) -> float: ...


def calibrate_noise_multiplier(
    make_event: Callable[[float], Event],
    *,
    count: int = 1,
    target_epsilon: float,
    target_delta: float,
    neighboring_relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
    accountant: Callable[..., _Accountant] = PLDAccountant,
) -> float:
    """Return the least noise multiplier whose epsilon does not exceed the target.

    Parameters
    ----------
    make_event : callable
        From a noise multiplier (positive float) to the event it belongs to; more noise must not cost more.
    count : int
        How often the event runs, a whole number in [1, 2**53].
    target_epsilon : float
        Positive and finite.
    target_delta : float
        In (0, 1).
    neighboring_relation : NeighboringRelation
        Which data sets must not be told apart.
    accountant : callable
        The class of the accountant that judges; called with `neighboring_relation`.

    Returns
    -------
    float
        Its epsilon, as the accountant reports it, was checked: at most `target_epsilon`, and at least
        `target_epsilon` (1 - 1e-4) unless epsilon jumps there.

    Raises
    ------
    CalibrationError
        No noise multiplier up to 1e12 meets the target (the best epsilon is named), or every one down to
        1e-12 does, so that the noise does not matter.
    InvalidTypeError, InvalidArgumentError, UnsupportedError
        An argument is not what it should be, or the accountant refuses the event.
    """
    judge = _judge(target_epsilon, target_delta, neighboring_relation, accountant, make_event)
    runs = check_count(count)
    least = judge.boldest(
        "noise multiplier", lambda z: (make_event(z), runs), 1.0, safest=_MOST, boldest=_LEAST
    )
    if least == _LEAST:
        raise CalibrationError(
            f"every noise multiplier down to {_LEAST:g} meets target_epsilon {judge.target}: "
            "the event ignores it"
        )
    return least


def calibrate_steps(
    event: Event,
    *,
    target_epsilon: float,
    target_delta: float,
    neighboring_relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
    accountant: Callable[..., _Accountant] = PLDAccountant,
) -> int:
    """Return the largest number of runs of an event whose epsilon does not exceed the target.

    Parameters
    ----------
    event : Event
        One step.
    target_epsilon, target_delta, neighboring_relation, accountant
        As for `calibrate_noise_multiplier`.

    Returns
    -------
    int
        At least 1. That many runs meet the target, as the accountant reports it; one more does not.

    Raises
    ------
    CalibrationError
        A single run misses the target (its epsilon is named), or any number of runs meets it.
    InvalidTypeError, InvalidArgumentError, UnsupportedError
        An argument is not what it should be, or the accountant refuses the event.
    """
    judge = _judge(target_epsilon, target_delta, neighboring_relation, accountant)
    most = MAX_COUNT // _runs(check_event("event", event))
    start = min(1000, most)
    steps = judge.boldest(
        "number of steps", lambda n: (event, int(n)), start, safest=1, boldest=most, whole=True
    )
    if steps == most:
        raise CalibrationError(f"any number of steps meets target_epsilon {judge.target}, up to {most}")
    return int(steps)


def calibrate_sampling_probability(
    make_event: Callable[[float], Event],
    *,
    count: int = 1,
    target_epsilon: float,
    target_delta: float,
    neighboring_relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
    accountant: Callable[..., _Accountant] = PLDAccountant,
) -> float:
    """Return the largest sampling probability whose epsilon does not exceed the target.

    Parameters
    ----------
    make_event : callable
        From a sampling probability in (0, 1] to the event it belongs to; a smaller one must not cost more.
    count, target_epsilon, target_delta, neighboring_relation, accountant
        As for `calibrate_noise_multiplier`.

    Returns
    -------
    float
        In (0, 1], and 1 if all units may take part in every run. Otherwise its epsilon, as the accountant
        reports it, is within [(1 - 1e-4) `target_epsilon`, `target_epsilon`] unless epsilon jumps there.

    Raises
    ------
    CalibrationError
        No sampling probability down to 1e-12 meets the target; the best epsilon is named.
    InvalidTypeError, InvalidArgumentError, UnsupportedError
        An argument is not what it should be, or the accountant refuses the event.
    """
    judge = _judge(target_epsilon, target_delta, neighboring_relation, accountant, make_event)
    runs = check_count(count)
    return judge.boldest(
        "sampling probability", lambda q: (make_event(q), runs), 0.01, safest=_LEAST, boldest=1.0
    )


def calibrate_batch_size(
    make_event: Callable[[int], Event],
    *,
    population_size: int,
    count: int = 1,
    target_epsilon: float,
    target_delta: float,
    neighboring_relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
    accountant: Callable[..., _Accountant] = PLDAccountant,
) -> int:
    """Return the largest batch size whose epsilon does not exceed the target.

    Parameters
    ----------
    make_event : callable
        From a batch size (int), expected or fixed, to the event it belongs to, such as
        `lambda b: PoissonSampled(Gaussian(1.1), b / 60_000)`; a smaller one must not cost more. For a fixed
        number of epochs the event itself may hold a `Repeated` whose count depends on the batch size.
    population_size : int
        The largest batch size to try, at least 1.
    count, target_epsilon, target_delta, neighboring_relation, accountant
        As for `calibrate_noise_multiplier`.

    Returns
    -------
    int
        In [1, population_size]. It meets the target, as the accountant reports it; one more does not, unless
        it is `population_size`.

    Raises
    ------
    CalibrationError
        Even a batch of one misses the target; its epsilon is named.
    InvalidTypeError, InvalidArgumentError, UnsupportedError
        An argument is not what it should be, or the accountant refuses the event.
    """
    judge = _judge(target_epsilon, target_delta, neighboring_relation, accountant, make_event)
    runs = check_count(count)
    most = _checks.whole("population_size", population_size, minimum=1, maximum=MAX_COUNT)
    start = max(1, most // 100)
    size = judge.boldest(
        "batch size", lambda b: (make_event(int(b)), runs), start, safest=1, boldest=most, whole=True
    )
    return int(size)


@dataclass(frozen=True)
class _Judge:
    """A target, and the accountant that says what an event costs."""

    target: float
    delta: float
    relation: NeighboringRelation
    accountant: Callable[..., _Accountant]

    def boldest(self, name: str, made: _Made, start: float, *, whole: bool = False, **ends: float) -> float:
        """The boldest parameter whose event and count, as `made` of it, meet the target."""
        slope = 1.0
        if self.accountant is not RDPAccountant:
            start, slope = self._guessed(name, made, start, ends)
        search = Search(name, self._cost(self.accountant, made), self.target, whole=whole, **ends)
        return search.run(int(start) if whole else start, slope)

    def _guessed(self, name: str, made: _Made, start: float, ends: Any) -> tuple[float, float]:
        """Where to start and how cost rises there, by `RDPAccountant`: it is about right, and quick."""
        guide = Search(name, self._cost(RDPAccountant, made), self.target, tolerance=_ROUGH, **ends)
        try:
            return guide.run(start), guide.slope()
        except (CalibrationError, UnsupportedError):
            return start, 1.0

    def _cost(self, accountant: Callable[..., _Accountant], made: _Made) -> Callable[[float], float]:
        def epsilon(parameter: float) -> float:
            spent = accountant(neighboring_relation=self.relation).compose(*made(parameter))
            return spent.epsilon(self.delta)

        return epsilon


def _judge(
    target_epsilon: float,
    target_delta: float,
    neighboring_relation: NeighboringRelation,
    accountant: Callable[..., _Accountant],
    make_event: object = Event,
) -> _Judge:
    """Check what all four questions share."""
    for name, value in (("make_event", make_event), ("accountant", accountant)):
        if not callable(value):
            raise InvalidTypeError(f"{name} must be callable, got {value!r}")
    return _Judge(
        _checks.positive("target_epsilon", target_epsilon),
        _checks.open_unit("target_delta", target_delta),
        check_relation(neighboring_relation),
        accountant,
    )


def _runs(event: Event) -> int:
    """How often the busiest mechanism within an event runs, at least 1."""
    runs: Counter[Event] = Counter()
    for leaf, times in leaves(event):
        runs[leaf] += times
    return max(runs.values(), default=1)
