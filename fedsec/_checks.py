"""Checks that public entries share: each returns the checked value or raises an error that names it."""

from __future__ import annotations

import math
import operator
from typing import SupportsFloat, SupportsIndex, cast

from fedsec.errors import InvalidArgumentError, InvalidTypeError


def real(name: str, value: object) -> float:
    """A finite or infinite float; refuses NaN, booleans, strings and whatever is not a real number."""
    if isinstance(value, (bool, str, bytes, complex)):
        raise InvalidTypeError(f"{name} must be a real number, got {value!r}")
    try:
        number = float(cast(SupportsFloat, value))
    except (TypeError, ValueError, OverflowError):
        raise InvalidTypeError(f"{name} must be a real number, got {value!r}") from None
    if math.isnan(number):
        raise InvalidArgumentError(f"{name} must be a number, got nan")
    return number


def positive(name: str, value: object) -> float:
    """A finite number above zero."""
    number = real(name, value)
    if not 0.0 < number < math.inf:
        raise InvalidArgumentError(f"{name} must be positive and finite, got {number!r}")
    return number


def non_negative(name: str, value: object) -> float:
    """A finite number, zero or above."""
    number = real(name, value)
    if not 0.0 <= number < math.inf:
        raise InvalidArgumentError(f"{name} must be zero or positive, and finite, got {number!r}")
    return number


def probability(name: str, value: object) -> float:
    """A number in [0, 1], ends included."""
    number = real(name, value)
    if not 0.0 <= number <= 1.0:
        raise InvalidArgumentError(f"{name} must be in [0, 1], got {number!r}")
    return number


def open_unit(name: str, value: object) -> float:
    """A number in (0, 1), ends excluded."""
    number = real(name, value)
    if not 0.0 < number < 1.0:
        raise InvalidArgumentError(f"{name} must be in (0, 1), ends excluded, got {number!r}")
    return number


def whole(name: str, value: object, *, minimum: int, maximum: int | None = None) -> int:
    """A whole number (int or numpy integer, never a float or a boolean) within [minimum, maximum]."""
    if isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be a whole number, got {value!r}")
    try:
        number = operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise InvalidTypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < minimum or (maximum is not None and number > maximum):
        allowed = f"at least {minimum}" if maximum is None else f"in [{minimum}, {maximum}]"
        raise InvalidArgumentError(f"{name} must be {allowed}, got {number}")
    return number


def within(name: str, value: object, minimum: float, maximum: float) -> float:
    """A number in [minimum, maximum]."""
    number = real(name, value)
    if not minimum <= number <= maximum:
        raise InvalidArgumentError(f"{name} must be in [{minimum:g}, {maximum:g}], got {number!r}")
    return number
