"""The privacy report of a run: what a data-protection officer would file, in words and with its evidence.

What the guarantee covers stands apart from what it does not: exact figures about participants enter a report
only where the operator asks for them, and are marked there.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from fedsec._checks import whole
from fedsec.accounting import Event, Ledger, NeighboringRelation, PLDAccountant, Repeated
from fedsec.errors import InvalidArgumentError, MissingExtraError
from fedsec.report import page, plots
from fedsec.report.curves import privacy_curves
from fedsec.report.files import Report, Table, require_target, write_all

_PACKAGES = ("fedsec", "torch", "numpy", "scipy", "cryptography")
_FALSE_ALARM = 0.01
_NEIGHBOURS = {
    NeighboringRelation.ADD_OR_REMOVE_ONE: "one {} added or removed",
    NeighboringRelation.REPLACE_ONE: "one {} replaced by another",
    NeighboringRelation.REPLACE_SPECIAL: "one {} that contributes nothing instead",
}
_NOISES = {
    "central": "added by the server to the sum",
    "distributed": "a share added by each client before the sum",
    "local": "added by each client before anything leaves it",
}
_NOT_COVERED = (
    "who takes part, when, and how much is sent",
    "what was declared public",
    "results in this report that were computed on private records",
    "what holds of people in general: a model is meant to learn it, and it may be surmised of anybody",
    "wrong contributions: a participant can submit what it likes, within the clipping bound",
)


class Accounted(Protocol):
    """What a report is made of: a `Federation`, or the `Privacy` that `attach` returns."""

    def spent(self) -> Any:
        """The guarantee so far."""
        ...

    def charged(self) -> tuple[Event | None, int]:
        """What one charge costs (None without privacy), and how many there were."""
        ...


@dataclass(frozen=True)
class PrivacyReport:
    """The guarantee of a run with all that has to be said with it.

    Attributes
    ----------
    title : str
    sentence : str
        The guarantee in plain words.
    tables : mapping of str to mapping of str to str
        Named figures under headings.
    not_covered, warnings : tuple of str
        What the guarantee leaves out, always and in this run.
    curves : mapping, or None
        As `curves.privacy_curves` computes them; None while nothing was charged.
    record : mapping
        Everything for machines; without what only the operator should see.
    operator : mapping of str to mapping of str to str
        Exact figures about participants, by round.
    """

    title: str
    sentence: str
    tables: Mapping[str, Table]
    not_covered: tuple[str, ...]
    warnings: tuple[str, ...]
    curves: Mapping[str, Any] | None
    record: Mapping[str, Any]
    operator: Mapping[str, Table]

    @classmethod
    def of(
        cls,
        run: Accounted,
        *,
        title: str = "Privacy report",
        results: Mapping[str, object] | None = None,
        ledger: Ledger | None = None,
        rounds: Iterable[Any] = (),
    ) -> PrivacyReport:
        """The report of a run as it stands.

        Parameters
        ----------
        run : Federation or Privacy
        title : str
        results : mapping, optional
            What else to show, by name, such as the accuracy on public test records.
        ledger : Ledger, optional
            The budget that was charged: its hash goes into the report.
        rounds : iterable of RoundReport or RoundMetrics
            Of `Round.finish`, or the history of `simulate`, whose aborted rounds have nothing to show; their
            exact figures are shown with `include_operator_data` alone.
        """
        spent = run.spent()
        event, count = run.charged()
        if event is None:
            raise InvalidArgumentError("a run without noise has no guarantee to report")
        named = spent.neighboring_relation
        relation = NeighboringRelation[getattr(named, "name", named)]
        judge = partial(PLDAccountant, neighboring_relation=relation)
        curves = None
        if whole("charges", count, minimum=0):
            curves = privacy_curves([Repeated(event, count)], judge, spent.delta)
        unit = spent.unit.removeprefix("one ")
        tables = {
            "Guarantee": _guarantee(spent, unit, relation, count),
            "What it means": _meaning(unit, curves),
            "Declared public": dict.fromkeys(spent.declared_public, ""),
            "Results": {name: _shown(value) for name, value in (results or {}).items()},
            "Made with": _provenance(ledger),
        }
        return cls(
            title=title,
            sentence=_sentence(spent, unit),
            tables={heading: table for heading, table in tables.items() if table},
            not_covered=_NOT_COVERED,
            warnings=tuple(spent.warnings),
            curves=curves,
            record=_record(spent, relation, count, results or {}, ledger, curves),
            operator={
                f"round {one.round_id}": _operator(one.operator_only) for one in rounds if one.operator_only
            },
        )

    def html(self, *, include_operator_data: bool = False) -> str:
        """One self-contained page; with pictures where matplotlib is installed."""
        try:
            pictures = {} if self.curves is None else plots.privacy_curves_svg(self.curves)
        except MissingExtraError:
            pictures = {}
        return page.html(
            title=self.title,
            lead=self.sentence,
            warnings=self.warnings,
            tables=self.tables,
            lists={"Not covered by the guarantee": self.not_covered},
            pictures=pictures,
            restricted=self.operator if include_operator_data else {},
        )

    def markdown(self, *, include_operator_data: bool = False) -> str:
        """The same as a Markdown document, without pictures."""
        return self._plain(include_operator_data).markdown()

    def json(self, *, include_operator_data: bool = False) -> str:
        """The record as one JSON object; infinity, which JSON lacks, becomes null."""
        return self._plain(include_operator_data).json()

    def write(self, path: str | Path, *, include_operator_data: bool = False) -> Path:
        """Writes a .html, .md or .json file, all or nothing, and returns its path.

        Raises
        ------
        InvalidArgumentError
            Another suffix, or a directory that cannot be written.
        """
        target = require_target(path)
        render = {".html": self.html, ".md": self.markdown, ".json": self.json}[target.suffix]
        write_all({target: render(include_operator_data=include_operator_data).encode()})
        return target

    def _plain(self, include_operator_data: bool) -> Report:
        operator = self.operator if include_operator_data else {}
        restricted = {f"Operator only: {name}": table for name, table in operator.items()}
        notes = [f"Note: {warning}." for warning in self.warnings]
        notes += [f"Not covered: {'; '.join(self.not_covered)}."]
        record = {**self.record, "operator_only": operator} if operator else self.record
        return Report(self.title, {**self.tables, **restricted}, (self.sentence, *notes), record)


def _sentence(spent: Any, unit: str) -> str:
    return (
        f"Whoever sees everything that was released learns at most epsilon = {_up(spent.epsilon)} "
        f"(delta = {spent.delta:g}) about whether any one {unit} took part."
    )


def _guarantee(spent: Any, unit: str, relation: NeighboringRelation, count: int) -> dict[str, str]:
    return {
        "epsilon": f"at most {_up(spent.epsilon)}; no analysis of the same steps gives less than "
        f"{_down(spent.epsilon_lower)}",
        "epsilon of the whole plan": f"at most {_up(spent.planned_epsilon)}; it holds wherever one stops",
        "delta": f"{spent.delta:g}",
        "unit": f"one {unit}",
        "neighbours": _NEIGHBOURS[relation].format(unit),
        "sampler": spent.sampler,
        "noise": _NOISES.get(spent.noise, spent.noise),
        "noise multiplier": f"{spent.noise_multiplier:.6g}",
        "charges": str(count),
    }


def _meaning(unit: str, curves: Mapping[str, Any] | None) -> dict[str, str]:
    """How well any attack can tell with from without: bounds that need no prior and no choice of delta."""
    if curves is None:
        return {}
    advantage = curves["delta_over_epsilon"]["delta_upper"][0]  # at epsilon 0: the total variation
    errors = curves["tradeoff"]
    missed = errors["misses_at_least"][errors["false_alarms"].index(_FALSE_ALARM)]
    return {
        "guessing at even odds": f"whether one {unit} took part is right in at most "
        f"{_percent(0.5 + 0.5 * advantage)} of cases",
        "an attack with 1 % false alarms": f"finds at most {_percent(1.0 - missed)} of those who took part",
    }


def _provenance(ledger: Ledger | None) -> dict[str, str]:
    found = {name: _version(name) for name in _PACKAGES}
    found |= {"python": platform.python_version(), "time": _now()}
    if ledger is not None:
        found |= {"ledger": f"{len(ledger.entries())} entries, head {ledger.head}"}
    return {name: value for name, value in found.items() if value}


def _record(
    spent: Any,
    relation: NeighboringRelation,
    count: int,
    results: Mapping[str, object],
    ledger: Ledger | None,
    curves: Mapping[str, Any] | None,
) -> dict[str, Any]:
    names = ("epsilon", "epsilon_lower", "planned_epsilon", "delta", "sampler", "noise", "noise_multiplier")
    return {
        **{name: getattr(spent, name) for name in names},
        "unit": spent.unit.removeprefix("one "),
        "neighboring_relation": relation.name,
        "charges": count,
        "declared_public": list(spent.declared_public),
        "warnings": list(spent.warnings),
        "not_covered": list(_NOT_COVERED),
        "results": dict(results),
        "made_with": _provenance(ledger),
        "curves": curves,
    }


def _operator(figures: Any) -> dict[str, str]:
    norms = list(figures.l2_norms.values())
    return {
        "survivors": f"{len(figures.survivors)}: {', '.join(map(str, figures.survivors))}",
        "dropped": f"{len(figures.dropped)}: {', '.join(map(str, figures.dropped))}",
        "clipped": _percent(figures.clipped_fraction),
        "norms": f"{min(norms):.4g} to {max(norms):.4g}" if norms else "none",
        "bytes a client": f"{figures.bytes_per_client:,.0f}",
        "seconds": ", ".join(f"{name} {value:.2f}" for name, value in figures.seconds.items()),
    }


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _percent(share: float) -> str:
    """Upwards, so that no attack is made to look weaker than it may be."""
    return f"{math.ceil(1000.0 * share) / 10.0:.1f} %"


def _up(epsilon: float) -> str:
    return f"{math.ceil(epsilon * 1e4) / 1e4:.4f}" if math.isfinite(epsilon) else "infinite"


def _down(epsilon: float) -> str:
    return f"{math.floor(epsilon * 1e4) / 1e4:.4f}" if math.isfinite(epsilon) else "infinite"
