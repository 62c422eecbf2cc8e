"""Signed texts: JSON with one spelling, so that whoever signs and whoever checks mean the same bytes.

A statement is one JSON object whose member "format" names its kind and version. In a file it is written for
people, with sorted names, one member a line; no other spelling is read. What is signed is the format, as a
prefix, and then the object without its signatures, with sorted names, no spaces, in ASCII.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from fedsec.errors import IdentityError, InvalidArgumentError, InvalidTypeError

MAX_TEXT = 200  # characters of a name or a reason

# Letters and marks that nothing is seen of, and that Python counts as printable (Unicode's
# Default_Ignorable_Code_Point, and the empty Braille pattern).
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def to_sign(kind: str, members: Mapping[str, Any]) -> bytes:
    """The bytes that a signature of a statement is over."""
    text = json.dumps({"format": kind, **members}, sort_keys=True, separators=(",", ":"))
    return f"{kind}{text}".encode("ascii")


def spell(kind: str, members: Mapping[str, Any]) -> bytes:
    """A statement as its file has it."""
    return _spelled({"format": kind, **members})


def parse(kind: str, data: bytes, names: set[str]) -> dict[str, Any]:
    """The members of a statement but for the format; their values are the caller's to check.

    Raises
    ------
    IdentityError
        Anything but a statement of this kind, with exactly these members, in its one spelling.
    """
    try:
        members = json.loads(data.decode("ascii"))
        spelled = _spelled(members)
    except (ValueError, RecursionError):
        raise IdentityError(f"it holds no {kind!r}, or one that was damaged") from None
    if not isinstance(members, dict) or members.get("format") != kind:
        raise IdentityError(f"it holds no {kind!r}, but another text")
    if members.keys() != names | {"format"}:
        odd = sorted(members.keys() ^ (names | {"format"}))
        raise IdentityError(f"a {kind!r} must have exactly its members, differs in {', '.join(odd)}")
    if spelled != data:
        raise IdentityError(f"the {kind!r} is not spelled in its one way: it was changed, or damaged")
    del members["format"]
    return members


def _spelled(members: object) -> bytes:
    return (json.dumps(members, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


@contextmanager
def reading() -> Iterator[None]:
    """A value outside its domain is the file's fault here, not the caller's."""
    try:
        yield
    except (InvalidArgumentError, InvalidTypeError) as error:
        raise IdentityError(str(error)) from None


def from_hex(name: str, value: object, length: int) -> bytes:
    """`length` bytes from lower-case hexadecimal digits."""
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != length or data.hex() != value:
        raise InvalidArgumentError(
            f"{name} must be {2 * length} lower-case hexadecimal digits, got {value!r}"
        )
    return data


def line(name: str, value: object, minimum: int = 1) -> str:
    """A short text that shows what it is: no control characters, and none that reorder or hide others."""
    if not isinstance(value, str):
        raise InvalidTypeError(f"{name} must be a text, got {type(value).__name__}")
    seen = value.isprintable() and value == value.strip() and not _UNSEEN.search(value)
    if not minimum <= len(value) <= MAX_TEXT or not seen:
        raise InvalidArgumentError(
            f"{name} must be {minimum} to {MAX_TEXT} printable characters, no spaces around, got {value!r}"
        )
    return value


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).strftime(_TIME)


def time(name: str, value: object) -> str:
    """A time in UTC, to the second, such as 2026-01-31T12:00:00Z."""
    try:
        known = isinstance(value, str) and datetime.strptime(value, _TIME).strftime(_TIME) == value
    except ValueError:
        known = False
    if not known:
        raise InvalidArgumentError(f"{name} must be a time such as 2026-01-31T12:00:00Z, got {value!r}")
    return str(value)
