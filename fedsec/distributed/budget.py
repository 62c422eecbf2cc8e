"""A client's own account of what its contributions have cost it, which no server can talk it out of.

    budget = ClientBudget(plan, Ledger("me.ledger", target_epsilon=3.0, target_delta=1e-5, ...))
    client = secagg.Client(config, me, identity, policy=policy, store=store, budget=budget)

A vector that was uploaded is in the sum if the *others* open their shares of its mask: the client need not be
asked again, and may be told that the round has failed. So what a round costs in the worst case, with the
fewest survivors, is reserved before the upload leaves. Once enough clients have signed one set of survivors,
no other set can be opened any more; then, before the client's first share leaves, what that set costs is
charged to the ledger in place of the reservation. A reservation that is never settled counts in full, for
ever.

References
----------
[FZ21] Feldman, Zrnic. Individual Privacy Accounting via a Rényi Filter. NeurIPS 2021 (arXiv 2108.11193).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Protocol

from fedsec._sqlite import Layout, RecordFile
from fedsec.accounting import Composed, Event, Ledger
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
_LAYOUT = Layout(
    what="list of reservations",
    application=0x66535276,  # "fSRv"
    version=1,
    schema=("CREATE TABLE reservations (session TEXT PRIMARY KEY, event TEXT NOT NULL)",),
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


class ClientBudget:
    """Reserves before an upload, charges before a share is opened; what `secagg.Client` takes as `budget`.

    Parameters
    ----------
    plan : Plan
        What the client's own software does, and what that costs.
    ledger : Ledger
        The client's, under the plan's relation, with the accountant "rdp": how many survive is known only as
        one goes. Reservations are kept beside it, in a file of its name with ".reserved" behind it.

    Raises
    ------
    InvalidArgumentError, InvalidTypeError
        Another relation or accountant; not a plan or ledger.
    LedgerError
        At any time: a file that is foreign, damaged or cannot be written. Then nothing may leave.

    Guarantees
    ----------
    With every contribution under one budget, all that is ever revealed of them is (target_epsilon,
    target_delta)- private against a server and up to `max_corrupt` clients who do what they like: whatever
    they claim, repeat or keep from the client, and wherever it is killed. Threads and processes may share the
    files. Not covered: files that are put back to an earlier state, and charges to the ledger by others than
    its budgets, which see no reservations.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        if not isinstance(plan, Plan):
            raise InvalidTypeError(f"plan must be a Plan, got {plan!r}")
        if not isinstance(ledger, Ledger):
            raise InvalidTypeError(f"ledger must be a Ledger, got {ledger!r}")
        terms = ledger.terms
        if terms.accountant != "rdp" or terms.neighboring_relation is not plan.relation:
            raise InvalidArgumentError(
                f"ledger must have the accountant 'rdp' and the plan's relation {plan.relation.name}, "
                f"got {terms.accountant!r} and {terms.neighboring_relation.name}"
            )
        self._plan, self._ledger = plan, ledger
        self._file = RecordFile(Path(f"{ledger.path}.reserved"), _LAYOUT)
        if self._file.is_blank():
            self._file.create()

    def __repr__(self) -> str:
        return f"<ClientBudget of {self._ledger!r}>"

    def reserve(self, session: Session) -> None:
        """Before an upload leaves: sets aside what the session costs at worst; on the disk when it returns.

        Raises
        ------
        BudgetExceededError
            It does not fit beside what was charged and reserved. Nothing has changed; nothing may leave.
        ProtocolError
            The session is not what the plan was made for, or was reserved before.
        """
        self._require_planned(session)
        event = self._plan.event()
        with self._file.writing() as rows:
            if _get(rows, session.session_id) is not None:
                raise ProtocolError(f"session {session.session_id.hex()} has its reservation already")
            if self._ledger.would_exceed(Composed([*_all(rows).values(), event])):
                raise BudgetExceededError(
                    f"{event!r} does not fit beside what was charged and reserved in {self._ledger!r}; "
                    "nothing leaves"
                )
            rows.execute(
                "INSERT INTO reservations VALUES (?, ?)",
                (session.session_id.hex(), canonical(encode(event))),
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
            Fewer survivors than the plan has.
        """
        with self._file.writing() as rows:
            if _get(rows, session.session_id) is None:
                raise ProtocolError(f"session {session.session_id.hex()} has no reservation to settle")
            event = self._plan.event(len(survivors))
            self._ledger.charge(
                event, purpose=f"round {session.round_id}, {len(survivors)} survivors, distributed noise"
            )
            rows.execute("DELETE FROM reservations WHERE session = ?", (session.session_id.hex(),))

    def reserved(self) -> dict[bytes, Event]:
        """What is reserved and not settled, by session id."""
        with self._file.reading() as rows:
            return _all(rows)

    def write_off(self) -> None:
        """Charges all reservations as they stand: for sessions of which nothing more will be heard.

        The budget has counted them since they were made; now the ledger shows them, too.
        """
        with self._file.writing() as rows:
            for session, event in _all(rows).items():
                self._ledger.charge(event, purpose=f"session {session.hex()}, uploaded and never settled")
            rows.execute("DELETE FROM reservations")

    def _require_planned(self, session: Session) -> None:
        plan, given = self._plan, session.parameters
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


def _get(rows: sqlite3.Connection, session_id: bytes) -> object:
    query = "SELECT event FROM reservations WHERE session = ?"
    return rows.execute(query, (session_id.hex(),)).fetchone()


def _all(rows: sqlite3.Connection) -> dict[bytes, Event]:
    """All reservations; what cannot be read refuses everything."""
    found = rows.execute("SELECT session, event FROM reservations ORDER BY session").fetchall()
    try:
        return {_session_id(session): _event(text) for session, text in found}
    except (FedsecError, ValueError, TypeError) as error:
        raise LedgerError(f"a reservation is damaged: {error}") from None


def _session_id(text: str) -> bytes:
    session_id = bytes.fromhex(text)
    if len(session_id) != _SESSION_BYTES or session_id.hex() != text:
        raise ValueError(f"a session has an id of {_SESSION_BYTES} bytes, got {text!r}")
    return session_id


def _event(text: object) -> Event:
    values = parse(text)
    if not isinstance(values, dict):
        raise InvalidArgumentError(f"an event must be an object, got {values!r}")
    return decode(values)
