"""One round: a cohort, a fresh model for each of its clients, contributions in, one release at the end.

Nothing is released before `Round.finish`; a round that is left without it releases nothing. Figures
that the guarantee does not cover are `operator_only`: kept apart, shown only when asked for.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch

from fedsec import secagg
from fedsec._checks import positive, whole
from fedsec.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
    ProtocolError,
    UnsupportedError,
)
from fedsec.federated import contributions
from fedsec.federated.aggregation import Collector, Waiting, collector, uploads
from fedsec.federated.contributions import Contribution
from fedsec.federated.parameters import ParameterSpace
from fedsec.federated.plan import Guarantee, Plan
from fedsec.federated.records import Loss, RecordSums, require_records

PHASES = tuple(phase.value for phase in secagg.PHASES)


@dataclass(frozen=True)
class OperatorFigures:
    """Exact figures about participants: for whoever runs the round, covered by no guarantee."""

    survivors: tuple[int, ...]
    dropped: tuple[int, ...]
    l2_norms: dict[int, float]
    clipped_fraction: float
    bytes_per_client: float
    seconds: dict[str, float]


@dataclass(frozen=True)
class RoundReport:
    """What a finished round released, and apart from it what only the operator should see."""

    round_id: int
    released: Guarantee
    operator_only: OperatorFigures = field(repr=False)


class Round:
    """One round of a federation: made by `Federation.rounds`, finished once or not at all."""

    def __init__(
        self,
        round_id: int,
        cohort: tuple[int, ...],
        model: torch.nn.Module,
        space: ParameterSpace,
        plan: Plan,
        sums: RecordSums | None,
        lost: Mapping[int, str] | None,
        finish: Callable[[Round], RoundReport],
    ) -> None:
        self.round_id = round_id
        self.cohort = cohort
        self.drops: dict[int, str] = {}
        self.report: RoundReport | None = None
        self.training_seconds = 0.0
        self._contributions: dict[int, Contribution] = {}
        self._model = model
        self._space = space
        self._plan = plan
        self._sums = sums
        self._finish = finish
        # Public, and drawn when who takes part is known: no contribution can be made to suit it.
        self.mechanism = plan.mechanism.of_round(os.urandom(32))
        self._records_seen = 0
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

    def model(self) -> torch.nn.Module:
        """A fresh copy of the global model, for one client to train."""
        return copy.deepcopy(self._model)

    def submit(self, client: int, local: object, weight: float = 1.0) -> None:
        """Takes a client's trained model: a Module, or a state dict with the global model's names.

        Where `parameters` chose what is exchanged, the chosen names are enough, and what else there is stays
        with the client.

        Without privacy, `weight` is the client's weight in the mean, its number of examples or of local
        rounds. With privacy the mean is uniform over the public expected count, and any other weight is
        refused: it would scale the update outside of what is clipped. With `max_weight` a weight beyond it
        counts as `max_weight`.

        Raises
        ------
        InvalidArgumentError
            A client outside the cohort or one that has submitted, other names or shapes, a changed
            frozen parameter, a weight that is not allowed.
        InvalidTypeError
            Not a model or state dict, or tensors of other dtypes.
        NonFiniteError
            NaN or infinity in the update.
        """
        client = self._require_awaited(client)
        positive("weight", weight)
        plan, space = self._plan, self._space
        if plan.unit == "record":
            raise UnsupportedError("unit='record' clips the gradient of each record: use submit_records")
        if plan.private and plan.max_weight is None and weight != 1.0:
            raise InvalidArgumentError(
                f"weight must be 1 under differential privacy without max_weight, got {weight!r}"
            )
        update = space.difference(local, self._model)
        make = contributions.clipped if plan.private else contributions.weighted
        self._accept(client, make(plan, self.mechanism, space, update, weight))

    def submit_records(self, client: int, dataset: Any, loss: Loss) -> None:
        """Draws the client's Poisson sample, clips each record's gradient and submits their sum.

        With local noise the client instead trains privately by itself, `local_steps` such steps each
        with its own noise, and submits the change of its model.

        Gradients are taken at the global model. Layers of a client's own have no place here: had they learnt
        from the records, one record would change the gradients of the others, which nothing bounds.

        Parameters
        ----------
        client : int
        dataset : sized and indexable
            ``dataset[i]`` is an (input, target) pair; a `TensorDataset` is read at once.
        loss : callable
            ``loss(output, target)`` for a batch of one record: a single number. It runs under
            `torch.func.vmap`, for each record alone.

        Raises
        ------
        NonFiniteError
            A record's gradient is NaN or infinite. The round ends, and nothing of it is released: without the
            client the sum would lack all its records because of one, and another draw would select among
            samples by what is in them.
        InvalidArgumentError, InvalidTypeError, UnsupportedError
            As for `submit`; a data set without records or with more than declared; a model that mixes
            records.
        """
        client = self._require_awaited(client)
        if not callable(loss):
            raise InvalidTypeError(f"loss must be callable, got {loss!r}")
        records = self._plan.records
        if records is None or self._sums is None:
            raise UnsupportedError("submit_records needs unit='record', here the unit is the client")
        seen = self._require_declared(require_records(dataset), records.num_records)
        started = time.perf_counter()
        try:
            contribution = (
                contributions.privately_trained(
                    self._plan, self.mechanism, records, self._space, self._sums, self._model, dataset, loss
                )
                if self._plan.noise == "local"
                else contributions.summed(self._plan, self.mechanism, self._sums, self._model, dataset, loss)
            )
        except (NonFiniteError, UnsupportedError):  # what a release would be like hung on one record
            self.close()
            raise
        self.training_seconds += time.perf_counter() - started
        self._accept(client, contribution)
        self._records_seen = seen

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

    def lost(self) -> dict[int, str]:
        """The lost clients, each with the phase whose message it never sends."""
        return {
            c: self._phase_of_loss(c) for c in self.cohort if c in self.drops or c not in self._contributions
        }

    @property
    def collector(self) -> Collector:
        """What adds the contributions up; with losses that are known, made when the first one comes."""
        if self._collector is None:
            self._collector = collector(self._plan, self.cohort, dict(self.drops))
        return self._collector

    def uploaders(self) -> list[int]:
        """The clients whose contribution leaves them."""
        lost = self.lost()
        return [client for client in self.cohort if uploads(client, lost)]

    def opened(self) -> bool:
        """Whether enough clients have lived to sign the survivors, so that shares leave them."""
        p, lost = self._plan.secagg_parameters, self.lost()
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

    def _require_declared(self, num_records: int, declared: int) -> int:
        seen = self._records_seen + num_records
        if seen > declared:
            raise InvalidArgumentError(
                f"num_records was declared as {declared}, but the data sets of this round hold {seen}"
            )
        return seen
