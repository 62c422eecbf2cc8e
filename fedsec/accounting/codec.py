"""Events as plain values and back: what accountants save and the ledger stores.

`encode` turns an event into dictionaries, lists, numbers and strings; `decode` turns them back through the
events' own constructors, so that nothing comes in that could not have been built. `canonical` writes such
values in the one way that is hashed, `parse` reads JSON and takes nothing that JSON does not have. There is
one table of events, made from their fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from reprlib import repr as short
from typing import Any, NoReturn

from fedsec.accounting import events
from fedsec.accounting.events import Event, check_event
from fedsec.errors import InvalidArgumentError, InvalidTypeError

_MAX_DEPTH = 64
_KINDS: dict[str, type[Event]] = {
    name: kind
    for name, kind in vars(events).items()
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event and not name.startswith("_")
}


def encode(event: Event) -> dict[str, Any]:
    """Return an event as a dictionary that JSON and TOML can hold.

    Parameters
    ----------
    event : Event
        One of fedsec's own events, at most 64 events deep.

    Returns
    -------
    dict
        `type` is the name of the event; its fields follow, with events as such dictionaries and sequences
        as lists. Fields at their default are left out, so that a field with a default that comes to be
        later changes no text. `decode` gives back an equal event.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Not an event, an event of somebody else's class, or one that is nested too deep.
    """
    return _encoded(check_event("event", event), _MAX_DEPTH)


def _encoded(event: Event, depth: int) -> dict[str, Any]:
    kind = type(event)
    if _KINDS.get(kind.__name__) is not kind:
        raise InvalidTypeError(f"event must be one of {', '.join(_KINDS)}, got {event!r}")
    _check_depth(depth)
    values = {field.name: getattr(event, field.name) for field in _fields(kind)}
    said = [field.name for field in _fields(kind) if values[field.name] != field.default]
    return {"type": kind.__name__, **{name: _plain(values[name], depth - 1) for name in said}}


def _plain(value: object, depth: int) -> object:
    if isinstance(value, Event):
        return _encoded(value, depth)
    return [_plain(part, depth) for part in value] if isinstance(value, tuple) else value


def decode(mapping: Mapping[str, Any]) -> Event:
    """Return the event that a dictionary describes.

    Parameters
    ----------
    mapping : mapping
        As `encode` makes them; fields with a default may be left out.

    Returns
    -------
    Event
        Checked by its own constructor.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        An unknown event, an unknown or missing field, or a value that the event refuses, each named; more
        than 64 events within each other.
    """
    return _decoded(mapping, _MAX_DEPTH)


def _decoded(given: object, depth: int) -> Event:
    if not isinstance(given, Mapping):
        raise InvalidTypeError(f"an event must be a mapping with a type, got {short(given)}")
    _check_depth(depth)
    name = given.get("type")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InvalidArgumentError(f"type must be one of {', '.join(_KINDS)}, got {short(name)}")
    known = _fields(kind)
    required = [field.name for field in known if field.default is MISSING]
    check_keys(str(name), given, ["type", *required], optional=[field.name for field in known])
    return kind(**{key: _rebuilt(value, depth - 1) for key, value in given.items() if key != "type"})


def _rebuilt(value: object, depth: int) -> object:
    if isinstance(value, Mapping):
        return _decoded(value, depth)
    return [_decoded(part, depth) for part in value] if isinstance(value, list) else value


def _fields(kind: type[Event]) -> tuple[Field[Any], ...]:
    return fields(kind)  # type: ignore[arg-type]  # every kind of the table is a dataclass


def _check_depth(depth: int) -> None:
    if depth == 0:
        raise InvalidArgumentError(f"events may be nested at most {_MAX_DEPTH} deep, got more")


def check_keys(
    name: str, given: object, required: Iterable[str], *, optional: Iterable[str] = ()
) -> Mapping[str, Any]:
    """Return `given` if it is a mapping with these keys and no others; raise an error naming it otherwise."""
    if not isinstance(given, Mapping):
        raise InvalidTypeError(f"{name} must be a mapping, got {short(given)}")
    wanted = set(required)
    missing, unknown = wanted - given.keys(), given.keys() - wanted - set(optional)
    for what, keys in (("misses", missing), ("has the unknown", unknown)):
        if keys:
            raise InvalidArgumentError(f"{name} {what} {', '.join(sorted(map(repr, keys)))}")
    return given


def canonical(value: object) -> str:
    """Return the JSON text of plain values that is hashed and stored: one text for equal values.

    Keys are sorted, nothing is spaced, everything is ASCII, and a float is the shortest text that reads back
    as the same bits.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        What JSON cannot hold: other types, NaN, infinity.
    """
    try:
        return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"))
    except TypeError as error:
        raise InvalidTypeError(f"only plain values can be written: {error}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"only finite and flat values can be written: {error}") from None


def parse(text: object) -> object:
    """Return the plain values of a JSON text.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Not a string; not JSON; NaN or infinity, which JSON has not; a key that is given twice; brackets in
        thousands.
    """
    if not isinstance(text, str):
        raise InvalidTypeError(f"a JSON text must be a string, got {short(text)}")
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"not a JSON text: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError(f"a key is given twice among {', '.join(key for key, _ in pairs)}")
    return mapping
