"""The ledger: a budget that outlives the process, charged before each release it pays for.

    ledger = Ledger("study.ledger", target_epsilon=3.0, target_delta=1e-5)
    ledger.charge(event, purpose="round 7")     # BudgetExceededError leaves the file as it was
    ...                                         # only now is the noisy sum of round 7 drawn and released

It stands at the end of the flow: `chain` says what an entry is, `ledger_file` stores it, a judge decides
whether it fits. The file is the truth: every decision reads in its own transaction what others have added,
and what this object remembers is only ever what it has read.

Three judges. By default charges may depend on whatever was released before, and a filter of fixed order
decides (`adaptive.RDPFilter`), or with `accountant="gdp"` a filter of Gaussian-DP (`adaptive.GDPFilter`).
With `accountant="pld"` the whole schedule is fixed when the ledger is created, its certified epsilon must
meet the target, and a charge must be part of what is left of it. Their order does not matter, even if chosen
as one goes: let V(S) be the most that can be lost with a set S of runs left. Whichever run comes first, by
induction the rest loses at most the product of its dominating pairs, so V(S) is the product of all of them
(adaptive composition of dominating pairs [ZDW22]). And whoever stops early has seen less.

References
----------
[ZDW22] Zhu, Dong, Wang, Optimal Accounting of Differential Privacy via Characteristic Function, AISTATS
        2022 (arXiv 2106.08567).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from reprlib import repr as short
from typing import Any, cast

from fedsec import _checks
from fedsec._kernels import fresh_bytes
from fedsec.accounting.accountant import RDPAccountant, tally
from fedsec.accounting.adaptive import GDPFilter, RDPFilter
from fedsec.accounting.chain import FORMAT, Entry, Terms, check_head, follow, link, now
from fedsec.accounting.codec import check_keys, parse
from fedsec.accounting.events import (
    MAX_COUNT,
    Composed,
    Event,
    NeighboringRelation,
    Repeated,
    check_count,
    check_event,
)
from fedsec.accounting.ledger_file import LedgerFile, Transaction
from fedsec.accounting.pld_accountant import PLDAccountant
from fedsec.errors import (
    BudgetExceededError,
    FedsecError,
    InvalidArgumentError,
    InvalidTypeError,
    LedgerError,
)

_TARGETS = ("target_epsilon", "target_delta", "neighboring_relation")
_ASKED = (*_TARGETS, "accountant", "schedule")


class Ledger:
    """A persisted budget (target_epsilon, target_delta), created or opened.

    Parameters
    ----------
    path : str or path
        A file on a local disk, which is created with mode 0600 if there is none.
    target_epsilon : float
        Positive and finite: what is charged up to any moment is (target_epsilon, target_delta)-private.
    target_delta : float
        In (0, 1).
    neighboring_relation : NeighboringRelation
        Which data sets must not be told apart; add or remove one by default.
    accountant : str
        `"rdp"`: charges may depend on what was released before; a filter of one Rényi order judges them.
        `"gdp"`: they may, too; exact for Gaussian noise and good for integer noise, and refuses all else.
        `"pld"`: only for a schedule that is fixed now; its epsilon is certified and tighter.
    schedule : Event, optional
        For `"pld"` all that may ever be charged. For `"rdp"` what is expected, which the order is chosen
        for, while anything may be charged; without it the order suits unsampled Gaussian noise.

    Raises
    ------
    LedgerError
        The file holds something else, is damaged, or was created on other terms; each is named.
    BudgetExceededError
        The schedule for `"pld"` does not meet the target.
    InvalidTypeError, InvalidArgumentError, UnsupportedError
        An argument is not what it should be, or the schedule has no valid analysis.

    Notes
    -----
    A charge that has returned is on the disk: a process killed at any instant, or a machine losing power,
    loses none of them, and at most the one in progress is recorded without having returned. Processes and
    threads may share a file, and threads a `Ledger`; together they never spend more than the target.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        target_epsilon: float,
        target_delta: float,
        neighboring_relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
        accountant: str = "rdp",
        schedule: Event | None = None,
    ) -> None:
        asked = Terms(
            ledger_id=fresh_bytes(16).hex(),
            created=now(),
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            neighboring_relation=neighboring_relation,
            accountant=accountant,
            order=None,
            schedule=schedule,
        )
        file = LedgerFile(path)
        if file.is_blank():
            file.create(_settled(asked).encode())
        self._attach(file)
        for name in _ASKED:
            theirs, ours = getattr(self._terms, name), getattr(asked, name)
            if theirs != ours:
                raise LedgerError(f"{file.path}: {name} of this ledger is {theirs!r}, got {ours!r}")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Ledger:
        """Open a ledger that is there, on the terms in its file; raise `LedgerError` if it is none."""
        ledger = cls.__new__(cls)
        ledger._attach(LedgerFile(path))
        return ledger

    def _attach(self, file: LedgerFile) -> None:
        self._file, self._lock = file, threading.Lock()
        with file.reading() as transaction:
            self._text = transaction.terms()
            self._terms = _read_terms(self._text)
            self._entries: list[Entry] = []
            self._judge = _judge(self._terms)
            self._catch_up(transaction)

    def __repr__(self) -> str:
        terms = self._terms
        return (
            f"<Ledger {str(self._file.path)!r}, epsilon {terms.target_epsilon!r} at {terms.target_delta!r}>"
        )

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._file.path

    @property
    def terms(self) -> Terms:
        """What was fixed when the ledger was created."""
        return self._terms

    @property
    def head(self) -> str:
        """The hash that stands for the terms and all entries: keep it elsewhere, and `verify` against it."""
        with self._current():
            return self._last

    def charge(self, event: Event, count: int = 1, *, purpose: str = "") -> Entry:
        """Record `count` runs of an event *before* the release that they pay for.

        Parameters
        ----------
        event : Event
            What is about to be done. For `"rdp"` its parameters may depend on everything released so far.
        count : int
            A whole number in [1, 2**53].
        purpose : str
            For readers of the ledger: at most 1000 printable characters.

        Returns
        -------
        Entry
            As recorded. If anything is raised instead, release nothing.

        Raises
        ------
        BudgetExceededError
            It does not fit; the file is as it was.
        InvalidTypeError, InvalidArgumentError, UnsupportedError
            An argument is not what it should be, or the event has no valid analysis; the file is as it was.
        LedgerError
            The file cannot be written, or is not what it was.
        """
        with self._lock:
            with self._file.writing() as transaction:
                self._catch_up(transaction)
                number = len(self._entries) + 1
                entry = link(self._last, number, time=now(), event=event, count=count, purpose=purpose)
                if not self._judge.allows(event, count):
                    raise BudgetExceededError(
                        f"{count} x {event!r} does not fit: {self._judge}; nothing was recorded"
                    )
                transaction.add(entry.encode())
            self._remember([entry])
        return entry

    def would_exceed(self, event: Event, count: int = 1) -> bool:
        """Whether `charge(event, count)` would raise `BudgetExceededError` just now; nothing is recorded."""
        with self._current():
            return not self._judge.allows(event, count)

    def remaining(self, event: Event) -> int:
        """Return the largest count of an event that could be charged just now, at most 2**53; 0 if none."""
        runs = tally(check_event("event", event), 1, {})
        with self._current():
            most = MAX_COUNT // max(runs.values(), default=1)
            return _largest(lambda count: self._judge.allows(event, count), most)

    def epsilon(self) -> float:
        """Return what the charges so far would cost at `target_delta`, had they been fixed beforehand.

        To follow along, by the accountant of the terms. It is no guarantee for charges that depended on what
        was released before; theirs is `target_epsilon`.
        """
        return _cost(self._terms, Composed([Repeated(entry.event, entry.count) for entry in self.entries()]))

    def entries(self) -> tuple[Entry, ...]:
        """Return all charges, oldest first."""
        with self._current():
            return tuple(self._entries)

    def verify(self, head: str | None = None, length: int | None = None) -> int:
        """Read the whole file anew, check every hash, and return the number of entries.

        Parameters
        ----------
        head : str, optional
            A head that was kept: it must still be one of the chain, or entries were removed or rewritten.
        length : int, optional
            How many entries there were at the time.

        Raises
        ------
        LedgerError
            Names the first entry that is not as it was recorded, or says what does not fit.
        """
        with self._lock, self._file.reading() as transaction:
            transaction.check_pages()
            self._catch_up(transaction)
            entries = follow(self._terms.hash, 1, transaction.records())
            check_head(self._terms, entries, head, length)
            return len(entries)

    def export(self) -> dict[str, Any]:
        """Return terms, entries and head as plain values that JSON can hold, for `verify_export`."""
        entries = self.entries()
        head = entries[-1].hash if entries else self._terms.hash
        listed = [entry.encode() for entry in entries]
        return {"format": FORMAT, "terms": self._terms.encode(), "entries": listed, "head": head}

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """Hold the lock while what is remembered is what the file says."""
        with self._lock:
            with self._file.reading() as transaction:
                self._catch_up(transaction)
            yield

    @property
    def _last(self) -> str:
        return self._entries[-1].hash if self._entries else self._terms.hash

    def _catch_up(self, transaction: Transaction) -> None:
        """Read what was added since the last time, and make sure that it was added to what is known."""
        if transaction.terms() != self._text:
            raise LedgerError("the terms are not what they were")
        known = len(self._entries)
        records = transaction.records(known) if known else transaction.records()
        if known and (not records or records.pop(0)["hash"] != self._last):
            raise LedgerError(f"entry {known} is not as it was recorded: it is gone, or another one")
        self._remember(follow(self._last, known + 1, records))

    def _remember(self, added: list[Entry]) -> None:
        """Take entries as read; an interruption leaves too much with the judge rather than too little."""
        self._judge.record(added)
        self._entries += added


def verify_export(export: Mapping[str, Any], head: str | None = None, length: int | None = None) -> int:
    """Check an exported ledger on its own, and return the number of its entries.

    Parameters
    ----------
    export : mapping
        As `Ledger.export` returns it, possibly by way of JSON.
    head, length
        As for `Ledger.verify`; without a head that was kept elsewhere, only accidents are seen.

    Raises
    ------
    LedgerError
        Names the first entry that is not as it was recorded, or says what does not fit.
    """
    try:
        check_keys("the export", export, ("format", "terms", "entries", "head"))
        terms, records = Terms.decode(export["terms"]), export["entries"]
    except (InvalidArgumentError, InvalidTypeError) as error:
        raise LedgerError(str(error)) from None
    if export["format"] != FORMAT or not isinstance(records, list):
        raise LedgerError(f"format must be {FORMAT}, and entries a list; got format {export['format']!r}")
    entries = follow(terms.hash, 1, records)
    check_head(terms, entries, str(export["head"]), len(entries))
    check_head(terms, entries, head, length)
    return len(entries)


def charged_since(ledger: Ledger | None, head: object) -> tuple[Entry, ...]:
    """The charges that are not in a state, which was saved with this head of its ledger, or None without one.

    Raises
    ------
    InvalidArgumentError
        There is a ledger and was none, or the other way round: it does not hold all that was released.
    LedgerError
        It is another ledger, or an older copy of the one that was charged.
    """
    if ledger is None and head is None:
        return ()
    if ledger is None:
        raise InvalidArgumentError(
            "ledger must be the one that was charged before the state was saved, got None"
        )
    if head is None:
        raise InvalidArgumentError(
            f"ledger must be None, as when the state was saved, got {ledger!r}: what was released before is "
            "not in it"
        )
    entries = ledger.entries()
    heads = [ledger.terms.hash, *(entry.hash for entry in entries)]
    if not isinstance(head, str) or head not in heads:
        raise LedgerError(
            f"{ledger.path}: another ledger than the one that was charged before the state was saved, or an "
            f"older copy of it: that one's head was {short(head)}"
        )
    return entries[heads.index(head) :]


def require_ledger(ledger: object, relation: NeighboringRelation) -> None:
    """Refuses what is no ledger, or one that charges for other neighbours than a plan is priced for."""
    if not isinstance(ledger, Ledger):
        raise InvalidTypeError(f"ledger must be a fedsec.Ledger, got {type(ledger).__name__}")
    theirs = ledger.terms.neighboring_relation
    if theirs is not relation:
        raise InvalidArgumentError(f"neighboring_relation of the ledger is {theirs}, and {relation} here")


class _Filter:
    """Judges charges that may depend on what was released before."""

    def __init__(self, terms: Terms) -> None:
        targets: dict[str, Any] = {name: getattr(terms, name) for name in _TARGETS}
        if terms.accountant == "rdp":
            targets["order"] = _checks.real("order", terms.order)
        self._filter = (RDPFilter if terms.accountant == "rdp" else GDPFilter)(**targets)
        self._closed = False

    def __str__(self) -> str:
        if self._closed:
            return f"more than the budget of {self._filter!r} has been charged"
        return f"{self._filter!r} has spent {self._filter.fraction_spent:.6g} of its budget"

    def allows(self, event: Event, count: int) -> bool:
        return not (self._filter.would_exceed(event, count) or self._closed)

    def record(self, entries: Iterable[Entry]) -> None:
        """Spend what was charged; if that cannot be (another version's prices, say), nothing more fits."""
        try:
            self._filter.spend(Composed([Repeated(entry.event, entry.count) for entry in entries]))
        except FedsecError:
            self._closed = True


class _Schedule:
    """Judges charges of a schedule that was fixed beforehand."""

    def __init__(self, schedule: Event) -> None:
        self._left = tally(schedule, 1, {})

    def __str__(self) -> str:
        runs, kinds = sum(self._left.values()), sum(count > 0 for count in self._left.values())
        return f"a charge must be part of the schedule, of which {runs} runs of {kinds} mechanisms are left"

    def allows(self, event: Event, count: int) -> bool:
        runs = tally(check_event("event", event), check_count(count), {})
        kept = min(self._left.values(), default=0) >= 0
        return kept and all(times <= self._left.get(mechanism, 0) for mechanism, times in runs.items())

    def record(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            for mechanism, times in tally(entry.event, entry.count, {}).items():
                self._left[mechanism] = self._left.get(mechanism, 0) - times


def _judge(terms: Terms) -> _Filter | _Schedule:
    return _Schedule(cast(Event, terms.schedule)) if terms.accountant == "pld" else _Filter(terms)


def _settled(asked: Terms) -> Terms:
    """Fix the order at which charges will be judged, and make sure that a schedule meets the target."""
    if asked.accountant != "pld":
        targets = {name: getattr(asked, name) for name in _TARGETS}
        order = RDPFilter(**targets, planned=asked.schedule).order if asked.accountant == "rdp" else None
        settled = replace(asked, order=order)
        _judge(settled)
        return settled
    epsilon = _cost(asked, cast(Event, asked.schedule))
    if not epsilon <= asked.target_epsilon:
        raise BudgetExceededError(
            f"target_epsilon must be at least the schedule's {epsilon!r}, got {asked.target_epsilon!r}"
        )
    return asked


def _cost(terms: Terms, event: Event) -> float:
    """Return the epsilon of something fixed beforehand, by the accountant of the terms."""
    kind = RDPAccountant if terms.accountant == "rdp" else PLDAccountant
    accountant = kind(neighboring_relation=terms.neighboring_relation)
    return accountant.compose(event).epsilon(terms.target_delta)


def _read_terms(text: object) -> Terms:
    """Return the terms in a file, if a judge can work with them."""
    try:
        terms = Terms.decode(parse(text))
        _judge(terms)
    except FedsecError as error:
        raise LedgerError(f"its terms are damaged: {error}") from None
    return terms


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest count in [0, most] that fits, where all below it do."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
