"""What a ledger says, as a chain of hashes: its terms, and one entry for every charge.

Each hash is the SHA-256 of a canonical JSON text (`codec.canonical`) that holds the hash before it, beginning
with the terms. So the last one, the head, stands for everything: who kept it sees any later change of what it
covers, be it an edit, a removal or another order. Without a head that was kept elsewhere the chain shows
accidents and clumsy edits only, for whoever can write a ledger can compute all its hashes anew.

`ledger_file` stores these records, `ledger` decides which may be added; here nothing is read or written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from fedsec import _checks
from fedsec.accounting.codec import canonical, check_keys, decode, encode
from fedsec.accounting.events import Event, NeighboringRelation, check_count, check_event, check_relation
from fedsec.errors import InvalidArgumentError, InvalidTypeError, LedgerError

FORMAT = 1
_ACCOUNTANTS = ("rdp", "gdp", "pld")
_LONGEST_PURPOSE = 1000


@dataclass(frozen=True)
class Terms:
    """What a ledger is about, fixed when it is created."""

    ledger_id: str
    """Random hexadecimal digits, so that no two ledgers share a hash."""
    created: str
    """When, in UTC: ISO 8601 with microseconds."""
    target_epsilon: float
    target_delta: float
    neighboring_relation: NeighboringRelation
    accountant: str
    """`"rdp"`, `"gdp"` or `"pld"`."""
    order: float | None
    """The Rényi order at which charges are judged, for `"rdp"`; else None."""
    schedule: Event | None
    """For `"pld"` all that may ever be charged, for `"rdp"` what the order was chosen for; else None."""

    def __post_init__(self) -> None:
        check_text("ledger_id", self.ledger_id)
        check_time("created", self.created)
        object.__setattr__(self, "target_epsilon", _checks.positive("target_epsilon", self.target_epsilon))
        object.__setattr__(self, "target_delta", _checks.open_unit("target_delta", self.target_delta))
        if self.order is not None:
            object.__setattr__(self, "order", _checks.real("order", self.order))
        check_relation(self.neighboring_relation)
        if self.accountant not in _ACCOUNTANTS:
            raise InvalidArgumentError(
                f"accountant must be one of {', '.join(_ACCOUNTANTS)}, got {self.accountant!r}"
            )
        if self.schedule is not None:
            check_event("schedule", self.schedule)
        if self.accountant == "gdp" and (self.schedule is not None or self.order is not None):
            raise InvalidArgumentError(
                "accountant 'gdp' has neither a schedule nor an order, "
                f"got schedule={self.schedule!r}, order={self.order!r}"
            )
        if self.accountant == "pld" and (self.schedule is None or self.order is not None):
            raise InvalidArgumentError(
                "accountant 'pld' needs the whole schedule, for its bounds hold for schedules fixed "
                f"beforehand, and no order; got schedule={self.schedule!r}, order={self.order!r}"
            )

    def encode(self) -> dict[str, Any]:
        """Return the terms as plain values."""
        schedule = None if self.schedule is None else encode(self.schedule)
        return vars(self) | {"neighboring_relation": self.neighboring_relation.name, "schedule": schedule}

    @classmethod
    def decode(cls, mapping: object) -> Terms:
        """Return the terms that plain values describe; raise an error that names what is wrong with them."""
        given = dict(check_keys("terms", mapping, cls.__annotations__))
        relation, schedule = given["neighboring_relation"], given["schedule"]
        if not isinstance(relation, str) or relation not in NeighboringRelation.__members__:
            raise InvalidArgumentError(
                f"neighboring_relation must name a NeighboringRelation, got {relation!r}"
            )
        given["neighboring_relation"] = NeighboringRelation[relation]
        return cls(**given | {"schedule": None if schedule is None else decode(schedule)})

    @property
    def hash(self) -> str:
        """Where the chain begins."""
        return _hash({"format": FORMAT, "terms": self.encode()})


@dataclass(frozen=True)
class Entry:
    """One charge."""

    number: int
    """1 for the first."""
    time: str
    """When it was recorded, in UTC: ISO 8601 with microseconds."""
    event: Event
    count: int
    purpose: str
    hash: str
    """SHA-256 over this entry and the hash before it, in hexadecimal digits."""

    def encode(self) -> dict[str, Any]:
        """Return the entry as plain values."""
        return vars(self) | {"event": encode(self.event)}


def link(previous: str, number: int, *, time: str, event: Event, count: int, purpose: str) -> Entry:
    """Return the entry that follows the hash `previous`.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        A value that no entry has.
    """
    check_time("time", time)
    check_text("purpose", purpose)
    entry = Entry(number, time, check_event("event", event), check_count(count), purpose, "")
    return replace(entry, hash=_hash(entry.encode() | {"hash": previous}))


def follow(previous: str, number: int, records: Iterable[object]) -> list[Entry]:
    """Return the entries that plain values describe, the first of which is `number` and follows `previous`.

    Raises
    ------
    LedgerError
        Names the first entry that is missing, out of place, malformed, or does not fit its hash.
    """
    entries = []
    for expected, record in enumerate(records, start=number):
        entry = _read(previous, expected, record)
        entries.append(entry)
        previous = entry.hash
    return entries


def _read(previous: str, number: int, record: object) -> Entry:
    try:
        given = dict(check_keys("it", record, Entry.__annotations__))
        stated = given.pop("number"), given.pop("hash")
        entry = link(previous, number, **given | {"event": decode(given["event"])})
    except (InvalidArgumentError, InvalidTypeError) as error:
        raise LedgerError(f"entry {number} is not as it was recorded: {error}") from None
    if stated[0] != number:
        raise LedgerError(f"entry {number} is missing, or another one stands in its place: {stated[0]!r}")
    if stated[1] != entry.hash:
        raise LedgerError(f"entry {number} is not as it was recorded: its hash fits other values")
    return entry


def check_head(terms: Terms, entries: Sequence[Entry], head: object, length: int | None = None) -> None:
    """Raise `LedgerError` unless `head` was the head when there were `length` entries, or at some time."""
    heads = [terms.hash, *(entry.hash for entry in entries)]
    if length is not None:
        if _checks.whole("length", length, minimum=0) > len(entries):
            raise LedgerError(f"there were {length} entries and are {len(entries)}: some were removed")
        heads = [heads[length]]
    if head is not None and head not in heads:
        raise LedgerError(f"the head was {head!r} and is not, or no more: entries were removed or rewritten")


def _hash(record: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical(record).encode()).hexdigest()


def now() -> str:
    """Return the time of this machine's clock, as entries have it."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def check_time(name: str, value: object) -> str:
    """Return `value` if it is a time as `now` returns it; raise an error naming it otherwise."""
    try:
        time = datetime.fromisoformat(check_text(name, value)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        time = None
    if time is None or time.isoformat(timespec="microseconds") != value:
        raise InvalidArgumentError(f"{name} must be a time in UTC with microseconds, got {value!r}")
    return str(value)


def check_text(name: str, value: object) -> str:
    """Return `value` if it is a printable text that is not too long; raise an error naming it otherwise."""
    allowed = f"a string of at most {_LONGEST_PURPOSE} printable characters"
    if not isinstance(value, str):
        raise InvalidTypeError(f"{name} must be {allowed}, got {value!r}")
    if len(value) > _LONGEST_PURPOSE or not value.isprintable():
        raise InvalidArgumentError(f"{name} must be {allowed}, got {value[:80]!r}")
    return value
