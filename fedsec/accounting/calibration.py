"""The least noise that meets a privacy target: a root search with an accountant as the judge."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Protocol

from fedsec import _checks
from fedsec.accounting.accountant import RDPAccountant
from fedsec.accounting.events import Event, NeighboringRelation, check_count, check_relation
from fedsec.errors import CalibrationError, InvalidTypeError

_TOLERANCE = 1e-6  # how far below the target, relative, the epsilon of the result may lie
_LEAST_NOISE, _MOST_NOISE = 1e-12, 1e12  # noise multipliers that are tried


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
    accountant: Callable[..., _Accountant] = RDPAccountant,
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
        `target_epsilon` (1 - 1e-6) unless epsilon jumps there.

    Raises
    ------
    CalibrationError
        No noise multiplier up to 1e12 meets the target (the best epsilon is named), or every one down to
        1e-12 does, so that the noise does not matter.
    InvalidTypeError, InvalidArgumentError, UnsupportedError
        An argument is not what it should be, or the accountant refuses the event.
    """
    if not callable(make_event):
        raise InvalidTypeError(f"make_event must be callable, got {make_event!r}")
    count = check_count(count)
    target = _checks.positive("target_epsilon", target_epsilon)
    delta = _checks.open_unit("target_delta", target_delta)
    relation = check_relation(neighboring_relation)

    @functools.cache
    def epsilon(z: float) -> float:
        return accountant(neighboring_relation=relation).compose(make_event(z), count).epsilon(delta)

    return _least(epsilon, target, *_bracket(epsilon, target))


def _bracket(epsilon: Callable[[float], float], target: float) -> tuple[float, float]:
    """Two noise multipliers a factor of eight apart: the first misses the target, the second meets it."""
    z, missed = 1.0, epsilon(1.0) > target
    while _LEAST_NOISE < z < _MOST_NOISE:
        before, z = z, z * (8.0 if missed else 0.125)
        if (epsilon(z) > target) != missed:
            return min(before, z), max(before, z)
    if missed:
        raise CalibrationError(
            f"no noise multiplier up to {z:.3g} meets target_epsilon {target}: the best reachable epsilon is "
            f"{epsilon(z):.6g}"
        )
    raise CalibrationError(
        f"every noise multiplier down to {z:.3g} meets target_epsilon {target}: the event ignores it"
    )


def _least(epsilon: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Close in on the least z that meets the target; the end that is returned always does.

    The Illinois variant of regula falsi, on logarithms. The secant aims half a tolerance below the
    target, so that it lands on the safe side; an end that stays put twice in a row counts half.
    """
    aim = target * (1.0 - 0.5 * _TOLERANCE)
    above, below = _log_ratio(epsilon(low), aim), _log_ratio(epsilon(high), aim)
    moved = 0
    while epsilon(high) < target * (1.0 - _TOLERANCE) and high > low * (1.0 + 1e-12):
        z = low * (high / low) ** (above / (above - below))
        if epsilon(z) <= target:
            high, below, above = z, _log_ratio(epsilon(z), aim), above / (2.0 if moved == 1 else 1.0)
            moved = 1
        else:
            low, above, below = z, _log_ratio(epsilon(z), aim), below / (2.0 if moved == -1 else 1.0)
            moved = -1
    return high


def _log_ratio(value: float, aim: float) -> float:
    """log(value / aim), kept within [-50, 50]: epsilon may be zero or infinite."""
    return math.log(min(max(value / aim, math.exp(-50.0)), math.exp(50.0)))
