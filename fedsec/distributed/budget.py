"""A client's own account of what its contributions have cost it, which no server can talk it out of.

    budget = ClientBudget(plan, Ledger("me.ledger", target_epsilon=3.0, target_delta=1e-5, ...))
    client = secagg.Client(config, me, identity, policy=policy, store=store, budget=budget)

A vector that was uploaded is in the sum if the *others* open their shares of its mask: the client need not be
asked again, and may be told that the round has failed. So what a round costs in the worst case, with the
fewest survivors, is reserved before the upload leaves. Once enough clients have signed one set of survivors,
no other set can be opened any more; then, before the client's first share leaves, what that set costs is
charged to the ledger in place of the reservation. A reservation that is never settled counts in full, for
ever.

A reservation says what the session costs for every number of survivors. So whichever process goes on with the
session can settle it, without the plan. Beside the reservations stands which entries the ledger had when this
budget last charged it: a ledger that is gone, or was put back to before, is noticed.

References
----------
[FZ21] Feldman, Zrnic. Individual Privacy Accounting via a Rényi Filter. NeurIPS 2021 (arXiv 2108.11193).
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedsec._sqlite import Layout, RecordFile
from fedsec.accounting import Composed, Event, Ledger, NeighboringRelation
from fedsec.accounting.codec import canonical, decode, encode, parse
from fedsec.distributed.plan import Plan
from fedsec.errors import (
    BudgetExceededError,
    FedsecError,
    InvalidArgumentError,
    InvalidTypeError,
    LedgerError,
    ProtocolError,
)

_SESSION_BYTES = 32
_ADAPTIVE = ("rdp", "gdp")  # which accountants judge charges that depend on what was released
_LAYOUT = Layout(
    what="list of reservations",
    application=0x66535276,  # "fSRv"
    version=1,
    schema=(
        # What the session costs with the fewest survivors, with one more, and so on.
        "CREATE TABLE reservations (session TEXT PRIMARY KEY, events TEXT NOT NULL)",
        # Of the ledger, as it was after the last charge: one row.
        "CREATE TABLE seen (entries INTEGER NOT NULL, head TEXT NOT NULL)",
    ),
    error=LedgerError,
)


class Thresholds(Protocol):
    """How many take part, must survive and may be corrupt; `secagg.Parameters` are such."""

    @property
    def num_clients(self) -> int:
        """Who takes part."""
        ...

    @property
    def min_survivors(self) -> int:
        """With fewer nothing is opened."""
        ...

    @property
    def max_corrupt(self) -> int:
        """Who may work for the server."""
        ...


class Session(Protocol):
    """What a budget has to know of a session; `secagg.Config` is one."""

    @property
    def session_id(self) -> bytes:
        """Fresh for every session."""
        ...

    @property
    def round_id(self) -> int:
        """The round."""
        ...

    @property
    def vector_length(self) -> int:
        """Of the integer vectors."""
        ...

    @property
    def modulus_bits(self) -> int:
        """Of the ring."""
        ...

    @property
    def parameters(self) -> Thresholds:
        """Who may be missing."""
        ...


@dataclass(frozen=True)
class FixedCost:
    """In place of a plan, for noise of which nothing is lost with a client: its own in full, or the server's.

    Parameters
    ----------
    event : Event
        What one contribution costs, whoever survives.
    relation : NeighboringRelation
        Between whom it is priced.
    """

    event: Event
    relation: NeighboringRelation


class ClientBudget:
    """Reserves before an upload, charges before a share is opened; what `secagg.Client` takes as `budget`.

    Parameters
    ----------
    plan : Plan, FixedCost or None
        What the client's own software does, and what that costs. None where it comes with the request for
        the upload (`adopt`): until then sessions are settled and none is reserved.
    ledger : Ledger
        The client's, under the plan's relation, with the accountant "rdp" or "gdp": how many survive is known
        only as one goes. Reservations are kept beside it, in a file of its name with ".reserved" behind it.

    Raises
    ------
    InvalidArgumentError, InvalidTypeError
        Another relation or accountant; not a plan or ledger.
    LedgerError
        At any time: a file that is foreign, damaged or cannot be written; a ledger that is not the one that
        was charged before, or has lost entries since. Then nothing may leave.

    Guarantees
    ----------
    With every contribution under one budget, all that is ever revealed of them is (target_epsilon,
    target_delta)- private against a server and up to `max_corrupt` clients who do what they like: whatever
    they claim, repeat or keep from the client, and wherever it is killed. Threads and processes may share the
    files. Not covered: both files put back to an earlier state, and charges to the ledger by others than its
    budgets, which see no reservations.
    """

    def __init__(self, plan: Plan | FixedCost | None, ledger: Ledger) -> None:
        if not isinstance(ledger, Ledger):
            raise InvalidTypeError(f"ledger must be a Ledger, got {ledger!r}")
        if ledger.terms.accountant not in _ADAPTIVE:
            raise InvalidArgumentError(
                f"ledger must have the accountant 'rdp' or 'gdp', got {ledger.terms.accountant!r}"
            )
        self._plan: Plan | FixedCost | None = None
        self._ledger = ledger
        if plan is not None:
            self.adopt(plan)
        self._file = RecordFile(Path(f"{ledger.path}.reserved"), _LAYOUT)
        if self._file.is_blank():
            seen = (len(ledger.entries()), ledger.head)
            self._file.create(lambda rows: rows.execute("INSERT INTO seen VALUES (?, ?)", seen))
        with self._file.reading() as rows:
            self._require_whole(rows)

    def __repr__(self) -> str:
        return f"<ClientBudget of {self._ledger!r}>"

    def adopt(self, plan: Plan | FixedCost) -> None:
        """Goes by this plan from the next reservation on; `InvalidArgumentError` for another relation."""
        if not isinstance(plan, (Plan, FixedCost)):
            raise InvalidTypeError(f"plan must be a Plan or a FixedCost, got {plan!r}")
        relation = self._ledger.terms.neighboring_relation
        if relation is not plan.relation:
            raise InvalidArgumentError(
                f"ledger must have the plan's relation {plan.relation.name}, got {relation.name}"
            )
        self._plan = plan

    def require(self, session: Session) -> None:
        """Raises what `reserve` would raise just now: to be asked before work is done; records nothing."""
        with self._file.reading() as rows:
            self._priced(rows, session)

    def reserve(self, session: Session) -> None:
        """Before an upload leaves: sets aside what the session costs at worst; on the disk when it returns.

        Raises
        ------
        BudgetExceededError
            It does not fit beside what was charged and reserved. Nothing has changed; nothing may leave.
        ProtocolError
            The session is not what the plan was made for, or was reserved before.
        """
        with self._file.writing() as rows:
            events = self._priced(rows, session)
            rows.execute(
                "INSERT INTO reservations VALUES (?, ?)",
                (session.session_id.hex(), canonical([encode(event) for event in events])),
            )

    def settle(self, session: Session, survivors: tuple[int, ...]) -> None:
        """Before a share is opened: charges what these survivors cost, in place of the reservation.

        They must be certain: signed by so many that no other set can be. A process that is killed in between
        has charged both, never neither.

        Raises
        ------
        ProtocolError
            Nothing was reserved for the session, or it was settled before.
        InvalidArgumentError
            Fewer survivors than the session allows.
        """
        least, count = session.parameters.min_survivors, len(survivors)
        if count < least:
            raise InvalidArgumentError(f"survivors must be at least {least}, got {count}")
        with self._file.writing() as rows:
            events = _all(rows).get(session.session_id)
            if events is None:
                raise ProtocolError(f"session {session.session_id.hex()} has no reservation to settle")
            event = events[min(count - least, len(events) - 1)]
            self._charge(rows, session.session_id, event, f"round {session.round_id}, {count} survivors")

    def reserved(self) -> dict[bytes, Event]:
        """What is reserved and not settled, by session id: the cost with the fewest survivors."""
        with self._file.reading() as rows:
            return {session: events[0] for session, events in _all(rows).items()}

    def write_off(self) -> None:
        """Charges all reservations as they stand: for sessions of which nothing more will be heard.

        The budget has counted them since they were made; now the ledger shows them, too.
        """
        with self._file.writing() as rows:
            for session, events in _all(rows).items():
                purpose = f"session {session.hex()}, uploaded and never settled"
                self._charge(rows, session, events[0], purpose)

    def _priced(self, rows: sqlite3.Connection, session: Session) -> list[Event]:
        """What a session costs, by its survivors; refused if the worst of it does not fit."""
        events, others = self._events(session), _all(rows)
        if session.session_id in others:
            raise ProtocolError(f"session {session.session_id.hex()} has its reservation already")
        self._require_whole(rows)
        if self._ledger.would_exceed(Composed([*(other[0] for other in others.values()), events[0]])):
            raise BudgetExceededError(
                f"{events[0]!r} does not fit beside what was charged and reserved in {self._ledger!r}; "
                "nothing leaves"
            )
        return events

    def _charge(self, rows: sqlite3.Connection, session_id: bytes, event: Event, purpose: str) -> None:
        """In place of a reservation; the ledger first, so that a kill in between counts both."""
        self._require_whole(rows)
        entry = self._ledger.charge(event, purpose=purpose)
        rows.execute("UPDATE seen SET entries = ?, head = ?", (entry.number, entry.hash))
        rows.execute("DELETE FROM reservations WHERE session = ?", (session_id.hex(),))

    def _require_whole(self, rows: sqlite3.Connection) -> None:
        """Refuses a ledger without the entries that it had when it was charged last."""
        seen = rows.execute("SELECT entries, head FROM seen").fetchall()
        if len(seen) != 1:
            raise LedgerError(f"it must say once what the ledger had, and does {len(seen)} times")
        ((length, head),) = seen
        try:
            self._ledger.verify(head, length)
        except FedsecError as error:
            raise LedgerError(
                f"{self._ledger.path}: it is not the ledger that was charged before, or was put back: {error}"
            ) from None

    def _events(self, session: Session) -> list[Event]:
        """With the fewest survivors, with one more, and so on; the last for all beyond."""
        if self._plan is None:
            raise ProtocolError("a budget reserves nothing without a plan: call adopt first")
        if isinstance(self._plan, FixedCost):
            return [self._plan.event]
        self._require_planned(self._plan, session)
        least, most = session.parameters.min_survivors, session.parameters.num_clients
        return [self._plan.event(survivors) for survivors in range(least, most + 1)]

    @staticmethod
    def _require_planned(plan: Plan, session: Session) -> None:
        given = session.parameters
        for name, wanted, got in (
            ("num_clients", plan.cohort.num_clients, given.num_clients),
            ("vector_length", plan.encoding.length, session.vector_length),
            ("modulus_bits", plan.modulus_bits, session.modulus_bits),
        ):
            if got != wanted:
                raise ProtocolError(f"the plan of this client is for a {name} of {wanted}, got {got}")
        for name in ("min_survivors", "max_corrupt"):
            wanted, got = getattr(plan.cohort, name), getattr(given, name)
            if got < wanted:
                raise ProtocolError(f"the plan of this client wants {name} of at least {wanted}, got {got}")


def _all(rows: sqlite3.Connection) -> dict[bytes, list[Event]]:
    """All reservations; what cannot be read refuses everything."""
    found = rows.execute("SELECT session, events FROM reservations ORDER BY session").fetchall()
    try:
        return {_session_id(session): _events(text) for session, text in found}
    except (FedsecError, ValueError, TypeError) as error:
        raise LedgerError(f"a reservation is damaged: {error}") from None


def _session_id(text: str) -> bytes:
    session_id = bytes.fromhex(text)
    if len(session_id) != _SESSION_BYTES or session_id.hex() != text:
        raise ValueError(f"a session has an id of {_SESSION_BYTES} bytes, got {text!r}")
    return session_id


def _events(text: object) -> list[Event]:
    values = parse(text)
    if not isinstance(values, list) or not values:
        raise InvalidArgumentError(f"a reservation must be a list of events, got {values!r}")
    return [decode(value) for value in values]
