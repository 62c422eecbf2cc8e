"""One round: a cohort, a fresh model for each of its clients, contributions in, one release at the end.

Nothing is released before `Round.finish`; a round that is left without it releases nothing. Figures
that the guarantee does not cover are `operator_only`: kept apart, shown only when asked for.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from fedsec._checks import positive
from fedsec.errors import InvalidArgumentError, ProtocolError, UnsupportedError
from fedsec.federated import contributions
from fedsec.federated.contributions import Contribution
from fedsec.federated.parameters import ParameterSpace
from fedsec.federated.plan import Guarantee, Plan

PHASES = ("advertise", "share", "upload", "unmask")


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
        finish: Callable[[Round], RoundReport],
    ) -> None:
        self.round_id = round_id
        self.cohort = cohort
        self.contributions: dict[int, Contribution] = {}
        self.drops: dict[int, str] = {}
        self.training_seconds = 0.0
        self._model = model
        self._space = space
        self._plan = plan
        self._finish = finish
        self._records_seen = 0
        self._open = True

    def __repr__(self) -> str:
        return f"Round({self.round_id}, {len(self.cohort)} clients, {'open' if self._open else 'closed'})"

    def model(self) -> torch.nn.Module:
        """A fresh copy of the global model, for one client to train."""
        return copy.deepcopy(self._model)

    def submit(self, client: int, local: object, weight: float = 1.0) -> None:
        """Takes a client's trained model: a Module, or a state dict with the global model's names.

        Without privacy, `weight` is the client's weight in the mean, its number of examples or of local
        rounds. With privacy the mean is uniform over the public expected count, and any other weight is
        refused: it would scale the update outside of what is clipped.

        Raises
        ------
        InvalidArgumentError
            A client outside the cohort or one that has submitted, other names or shapes, a changed
            frozen parameter, a weight that is not allowed.
        NonFiniteError
            NaN or infinity in the update.
        """
        self._require_awaited(client)
        positive("weight", weight)
        if self._plan.unit == "record":
            raise UnsupportedError("unit='record' clips the gradient of each record: use submit_records")
        update = self._space.difference(local, self._model)
        if self._plan.clipper is None:
            self.contributions[client] = contributions.weighted(self._plan, self._space, update, weight)
        elif weight == 1.0:
            self.contributions[client] = contributions.clipped(
                self._plan, self._plan.clipper, self._space, update
            )
        else:
            raise InvalidArgumentError(f"weight must be 1 under differential privacy, got {weight!r}")

    def submit_records(self, client: int, dataset: Any, loss: contributions.Loss) -> None:
        """Draws the client's Poisson sample, clips each record's gradient and submits their sum.

        With local noise the client instead trains privately by itself, `local_steps` such steps each
        with its own noise, and submits the change of its model.

        Parameters
        ----------
        client : int
        dataset : sized and indexable
            ``dataset[i]`` is an (input, target) pair; a `TensorDataset` is read at once.
        loss : callable
            ``loss(output, target)`` for a batch of one record: a single number.
        """
        self._require_awaited(client)
        records = self._plan.records
        if records is None:
            raise UnsupportedError("submit_records needs unit='record', here the unit is the client")
        seen = self._require_declared(contributions.require_records(dataset), records.num_records)
        started = time.perf_counter()
        self.contributions[client] = (
            contributions.privately_trained(self._plan, records, self._space, self._model, dataset, loss)
            if self._plan.noise == "local"
            else contributions.summed(records, self._model, dataset, loss)
        )
        self.training_seconds += time.perf_counter() - started
        self._records_seen = seen

    def drop(self, client: int, phase: str = "upload") -> None:
        """Says that a client is lost: it never sends the message of `phase`.

        Who is lost while unmasking has uploaded before: its contribution counts. Who neither submits
        nor is dropped here is lost at "upload".
        """
        self._require_member(client)
        if phase not in PHASES:
            raise InvalidArgumentError(f"phase must be one of {', '.join(PHASES)}, got {phase!r}")
        self.drops[client] = phase

    def finish(self) -> RoundReport:
        """Aggregates, charges, adds noise, releases, and steps the model. Ends the round in any case.

        Raises
        ------
        AggregationAborted
            Too few clients are left. Nothing was released and nothing is charged; the round counts as
            one of the planned rounds.
        """
        self._require_open()
        self._open = False
        try:
            return self._finish(self)
        finally:
            self.close()

    def close(self) -> None:
        """Ends the round without a release."""
        self._open = False
        self.contributions.clear()

    @property
    def dropped(self) -> dict[int, str]:
        """The lost clients, each with the phase whose message it never sends."""
        return {client: "upload" for client in self.cohort if client not in self.contributions} | self.drops

    def _require_open(self) -> None:
        if not self._open:
            raise ProtocolError(f"round {self.round_id} has ended")

    def _require_member(self, client: int) -> None:
        self._require_open()
        if client not in self.cohort:
            raise InvalidArgumentError(
                f"client must be in the cohort of round {self.round_id}, got {client!r}"
            )

    def _require_awaited(self, client: int) -> None:
        self._require_member(client)
        if client in self.contributions:
            raise InvalidArgumentError(f"client {client} has submitted in round {self.round_id} already")

    def _require_declared(self, num_records: int, declared: int) -> int:
        seen = self._records_seen + num_records
        if seen > declared:
            raise InvalidArgumentError(
                f"num_records was declared as {declared}, but the data sets of this round hold {seen}"
            )
        return seen
