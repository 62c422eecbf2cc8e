"""One round: a cohort, a fresh model for each of its clients, contributions in, one release at the end.

Nothing is released before `Round.finish`; a round that is left without it releases nothing. Figures
that the guarantee does not cover are `operator_only`: kept apart, shown only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from fedsec import secagg
from fedsec._checks import whole
from fedsec.errors import InvalidArgumentError, InvalidTypeError, ProtocolError
from fedsec.federated.aggregation import Collector, Waiting, collector, uploads
from fedsec.federated.clients import ClientSide, Configuration
from fedsec.federated.contributions import Contribution
from fedsec.federated.plan import Guarantee
from fedsec.federated.records import RecordSums

PHASES = tuple(phase.value for phase in secagg.PHASES)


@dataclass(frozen=True)
class OperatorFigures:
    """Exact figures about participants: for whoever runs the round, covered by no guarantee.

    `seconds` are of "training", "masking" (one client, the mean), "unmasking" and "noise" (the server);
    `phases` are those of the protocol, where it was run: seconds of one "client" and of the "server".
    """

    survivors: tuple[int, ...]
    dropped: tuple[int, ...]
    l2_norms: dict[int, float]
    clipped_fraction: float
    bytes_per_client: float
    seconds: dict[str, float]
    phases: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundReport:
    """What a finished round released, and apart from it what only the operator should see."""

    round_id: int
    released: Guarantee
    operator_only: OperatorFigures = field(repr=False)


class Round(ClientSide):
    """One round of a federation: made by `Federation.rounds`, finished once or not at all."""

    def __init__(
        self,
        configuration: Configuration,
        sums: RecordSums | None,
        lost: Mapping[int, str] | None,
        finish: Callable[[Round], RoundReport],
    ) -> None:
        super().__init__(configuration, sums)
        plan, cohort = configuration.plan, configuration.cohort
        self.drops: dict[int, str] = {}
        self.report: RoundReport | None = None
        self._contributions: dict[int, Contribution] = {}
        self._finish = finish
        self._open = True
        self._collector: Collector | None = None if lost is not None else Waiting(plan, cohort)
        self._streams = False
        for client, phase in (lost or {}).items():
            self.drop(client, phase)
        self._streams = lost is not None

    def __repr__(self) -> str:
        return f"Round({self.round_id}, {'open' if self._open else 'closed'})"

    def __reduce__(self) -> NoReturn:
        raise InvalidTypeError("a Round holds private contributions and cannot be pickled or copied")

    @property
    def is_open(self) -> bool:
        """Whether the round has yet to end."""
        return self._open

    def drop(self, client: int, phase: str = "upload") -> None:
        """Says that a client is lost: it never sends the message of `phase`.

        Who is lost after the upload ("agree", "unmask") is in the sum. Who does not submit is lost at
        "upload", unless dropped at an earlier phase. Where contributions are added as they come, what was
        submitted stays in the sum.
        """
        client = self._require_member(client)
        if phase not in PHASES:
            raise InvalidArgumentError(f"phase must be one of {', '.join(PHASES)}, got {phase!r}")
        if self._streams and phase not in secagg.AFTER_UPLOAD:
            if client in self._contributions:
                raise ProtocolError(
                    f"client {client} has uploaded, and is in the sum of round {self.round_id}"
                )
            phase = "upload"
        self.drops[client] = phase

    def finish(self) -> RoundReport:
        """Aggregates, charges, adds noise, releases, and steps the model. Ends the round in any case.

        Raises
        ------
        AggregationAborted
            Too few clients are left. Nothing was released; the round counts as one of the planned rounds.
            Central noise is then not charged; local noise is, for it had left the clients; distributed noise
            is if shares had left them, which open the sum.
        BudgetExceededError
            What other rounds have spent since this one began leaves too little. Nothing was released.
        """
        self._require_open()
        self._open = False
        try:
            self.report = self._finish(self)
        finally:
            self.close()
        return self.report

    def close(self) -> None:
        """Ends the round; without `finish` before, nothing of it is ever released."""
        self._open = False
        for contribution in self._contributions.values():
            contribution.integers.fill(0)
        self._contributions.clear()

    # The server's side, for the federation.

    def receive(self, client: int, contribution: Contribution, seconds: float = 0.0) -> None:
        """Takes a contribution that was made in another process, from this round's `configuration`."""
        client = self._require_awaited(client)
        self._require_declared(contribution.num_held)
        self.training_seconds += seconds
        self._accept(client, contribution)

    def lost(self) -> dict[int, str]:
        """The lost clients, each with the phase whose message it never sends."""
        return {
            c: self._phase_of_loss(c) for c in self.cohort if c in self.drops or c not in self._contributions
        }

    @property
    def collector(self) -> Collector:
        """What adds the contributions up; with losses that are known, made when the first one comes."""
        if self._collector is None:
            self._collector = collector(self.configuration.plan, self.cohort, dict(self.drops))
        return self._collector

    def uploaders(self) -> list[int]:
        """The clients whose contribution leaves them."""
        lost = self.lost()
        return [client for client in self.cohort if uploads(client, lost)]

    def opened(self) -> bool:
        """Whether enough clients have lived to sign the survivors, so that shares leave them."""
        p, lost = self.configuration.plan.secagg_parameters, self.lost()
        last = secagg.Phase.UNMASK.value
        signers = [client for client in self.cohort if client not in lost or lost[client] == last]
        return p is not None and len(signers) >= p.min_survivors

    def figures(self) -> dict[str, Any]:
        """What the contributions say about participants, for `OperatorFigures`."""
        given = self._contributions
        units = sum(c.num_units for c in given.values())
        return {
            "l2_norms": {client: c.l2_norm for client, c in given.items() if c.l2_norm is not None},
            "clipped_fraction": sum(c.num_clipped for c in given.values()) / units if units else 0.0,
        }

    def _phase_of_loss(self, client: int) -> str:
        said = self.drops.get(client, "upload")
        return "upload" if said in secagg.AFTER_UPLOAD and client not in self._contributions else said

    def _accept(self, client: int, contribution: Contribution) -> None:
        self.collector.add(client, contribution.integers)
        if self._streams:
            contribution.integers.fill(0)
            contribution = replace(contribution, integers=contribution.integers[:0].copy())
        self._contributions[client] = contribution
        self._records_seen += contribution.num_held

    def _require_open(self) -> None:
        if not self._open:
            raise ProtocolError(f"round {self.round_id} has ended")

    def _require_member(self, client: int) -> int:
        self._require_open()
        number = whole("client", client, minimum=0)
        if number not in self.cohort:
            raise InvalidArgumentError(f"client must be in the cohort of round {self.round_id}, got {number}")
        return number

    def _require_awaited(self, client: int) -> int:
        number = self._require_member(client)
        if number in self._contributions:
            raise InvalidArgumentError(f"client {number} has submitted in round {self.round_id} already")
        if number in self.drops and self.drops[number] not in secagg.AFTER_UPLOAD:
            raise InvalidArgumentError(f"client {number} has dropped out of round {self.round_id}")
        return number
