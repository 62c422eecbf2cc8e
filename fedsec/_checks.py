"""Checks that public entries share: each returns the checked value or raises an error that names it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from reprlib import repr as short
from typing import Any, SupportsFloat, SupportsIndex, cast

import numpy as np

from fedsec.errors import InvalidArgumentError, InvalidTypeError

# Lists among them: of rows of unequal length numpy would not even say the dimension.
_NO_NUMBERS = (bool, np.bool_, str, bytes, bytearray, complex, list, tuple)


def real(name: str, value: object, allowed: str = "") -> float:
    """A float, possibly infinite; refuses NaN, booleans, strings, arrays, and what is no real number."""
    if type(value) is float and not math.isnan(value):  # no message for these
        return value
    refusal = f"{name} must be a real number{allowed and ', ' + allowed}, got {value!r}"
    if isinstance(value, _NO_NUMBERS) or np.ndim(cast(Any, value)):
        raise InvalidTypeError(refusal)
    try:
        number = float(cast(SupportsFloat, value))
    except (TypeError, ValueError, OverflowError):
        raise InvalidTypeError(refusal) from None
    if math.isnan(number):
        raise InvalidArgumentError(refusal)
    return number


def positive(name: str, value: object) -> float:
    """A finite number above zero."""
    return _within(name, value, "positive and finite", lambda number: 0.0 < number < math.inf)


def non_negative(name: str, value: object) -> float:
    """A finite number, zero or above."""
    return _within(name, value, "zero or positive, and finite", lambda number: 0.0 <= number < math.inf)


def probability(name: str, value: object) -> float:
    """A number in [0, 1], ends included."""
    return _within(name, value, "in [0, 1]", lambda number: 0.0 <= number <= 1.0)


def open_unit(name: str, value: object) -> float:
    """A number in (0, 1), ends excluded."""
    return _within(name, value, "in (0, 1), ends excluded", lambda number: 0.0 < number < 1.0)


def _within(name: str, value: object, allowed: str, holds: Callable[[float], bool]) -> float:
    number = real(name, value, allowed)
    if not holds(number):
        raise InvalidArgumentError(f"{name} must be {allowed}, got {number!r}")
    return number


def whole(name: str, value: object, *, minimum: int, maximum: int | None = None) -> int:
    """A whole number (int or numpy integer, never a float or a boolean) within [minimum, maximum]."""
    if type(value) is int and value >= minimum and (maximum is None or value <= maximum):
        return value
    allowed = f"at least {minimum}" if maximum is None else f"in [{minimum}, {maximum}]"
    try:
        number = operator.index(cast(SupportsIndex, value))
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be a whole number {allowed}, got {value!r}")
    if number < minimum or (maximum is not None and number > maximum):
        raise InvalidArgumentError(f"{name} must be {allowed}, got {number}")
    return number


def mapping(name: str, value: object) -> Mapping[Any, Any]:
    """A mapping, whatever is in it."""
    if not isinstance(value, Mapping):
        raise InvalidTypeError(f"{name} must be a mapping, got {type(value).__name__}")
    return value


def same_as_saved(what: str, saved: object, mine: Mapping[str, Any]) -> None:
    """Refuses saved settings that are not mine, whatever stands in their place."""
    theirs = mapping(f"what the saved {what} was set to", saved)
    for key in [*mine, *(key for key in theirs if key not in mine)]:
        if not _equal(theirs.get(key), mine.get(key)):
            raise InvalidArgumentError(
                f"{key} of the saved {what} is {short(theirs.get(key))}, and {mine.get(key)!r} now"
            )


def _equal(theirs: object, mine: object) -> bool:
    try:
        return bool(theirs == mine)
    except (RuntimeError, ValueError, TypeError):  # a tensor's or an array's answer is not one
        return False


def within(name: str, value: object, minimum: float, maximum: float) -> float:
    """A number in [minimum, maximum]."""
    return _within(name, value, f"in [{minimum:g}, {maximum:g}]", lambda number: minimum <= number <= maximum)
