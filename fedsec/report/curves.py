"""What a schedule says about privacy: delta over epsilon, errors of any attack, epsilon over steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from fedsec.accounting import Event, PLDAccountant, RDPAccountant, Repeated
from fedsec.errors import UnsupportedError

Judge: TypeAlias = PLDAccountant | RDPAccountant
Schedule: TypeAlias = Sequence[tuple[Event, int]]

_EPSILONS, _MOMENTS = 61, 25  # points of curves
_FALSE_ALARMS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_BEYOND = 2.0  # how many times epsilon(delta) the first curve goes


def privacy_curves(events: Sequence[Event], judge: Callable[[], Judge], delta: float) -> dict[str, Any]:
    """The numbers of all three curves, of events in their order.

    Parameters
    ----------
    events : sequence of Event
        `Repeated` events count as many steps.
    judge : callable
        Makes a fresh accountant.
    delta : float in (0, 1)

    Raises
    ------
    UnsupportedError
        If epsilon is infinite.
    """
    schedule = [_step(event) for event in events]
    spent = _composed(judge(), schedule)
    if math.isinf(spent.epsilon(delta)):
        raise UnsupportedError(f"there is no curve: epsilon is infinite at delta {delta:g}")
    return {
        "delta": delta,
        "accountant": type(spent).__name__.removesuffix("Accountant").lower(),
        "delta_over_epsilon": _delta_over_epsilon(spent, delta),
        "tradeoff": _tradeoff(spent),
        "epsilon_over_steps": _epsilon_over_steps(schedule, judge, delta),
    }


def _step(event: Event) -> tuple[Event, int]:
    return (event.event, event.count) if isinstance(event, Repeated) else (event, 1)


def _composed(judge: Judge, schedule: Schedule) -> Judge:
    for event, count in schedule:
        judge.compose(event, count)
    return judge


def _delta_over_epsilon(spent: Judge, delta: float) -> dict[str, list[float]]:
    end = _BEYOND * spent.epsilon(delta) or 1.0
    epsilons = [end * i / (_EPSILONS - 1) for i in range(_EPSILONS)]
    lower, upper = spent.curve(epsilons)
    return {"epsilon": epsilons, "delta_lower": lower.tolist(), "delta_upper": upper.tolist()}


def _tradeoff(spent: Judge) -> dict[str, list[float]]:
    misses = [spent.tradeoff(alpha) for alpha in _FALSE_ALARMS]
    return {"false_alarms": list(_FALSE_ALARMS), "misses_at_least": misses}


def _epsilon_over_steps(
    schedule: Schedule, judge: Callable[[], Judge], delta: float
) -> dict[str, list[float]]:
    """Epsilon at moments of the schedule, its events in the order in which they were given."""
    total = sum(count for _, count in schedule)
    moments = sorted({max(1, total * i // (_MOMENTS - 1)) for i in range(_MOMENTS)})
    bounds = [_composed(judge(), _until(schedule, moment)).epsilon_interval(delta) for moment in moments]
    lower, upper = zip(*bounds, strict=True)
    return {"steps": moments, "epsilon_lower": list(lower), "epsilon_upper": list(upper)}


def _until(schedule: Schedule, moment: int) -> list[tuple[Event, int]]:
    """The first `moment` steps."""
    taken = []
    for event, count in schedule:
        if moment > 0:
            taken.append((event, min(count, moment)))
        moment -= count
    return taken
