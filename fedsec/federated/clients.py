"""A round as its clients see it: the model in, a contribution out, in whichever process they are.

`Configuration` is what a round hands out, all of it public; `ClientSide` turns what a client has trained, or
its records, into a contribution. `Round` is a client's side and the server's in one; a worker process of the
simulator has the client's side alone.
"""

from __future__ import annotations

import abc
import copy
import time
from dataclasses import dataclass
from typing import Any

import torch

from fedsec._checks import positive
from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError, UnsupportedError
from fedsec.federated import contributions
from fedsec.federated.contributions import Contribution
from fedsec.federated.mechanism import Mechanism
from fedsec.federated.parameters import ParameterSpace
from fedsec.federated.plan import Plan
from fedsec.federated.records import Loss, RecordSums, require_records


@dataclass(frozen=True, repr=False)
class Configuration:
    """What a round hands out to its clients."""

    round_id: int
    cohort: tuple[int, ...]
    model: torch.nn.Module
    space: ParameterSpace
    plan: Plan
    mechanism: Mechanism  # of this round


class ClientSide(abc.ABC):
    """What a client does in a round; whose turn it is, and where its contribution goes, is the subclass's."""

    def __init__(self, configuration: Configuration, sums: RecordSums | None) -> None:
        self.round_id = configuration.round_id
        self.cohort = configuration.cohort
        self.mechanism = configuration.mechanism
        self.configuration = configuration
        self.training_seconds = 0.0
        self._sums = sums
        self._records_seen = 0

    def model(self) -> torch.nn.Module:
        """A fresh copy of the global model, for one client to train."""
        return copy.deepcopy(self.configuration.model)

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
        plan, space = self.configuration.plan, self.configuration.space
        if plan.unit == "record":
            raise UnsupportedError("unit='record' clips the gradient of each record: use submit_records")
        if plan.private and plan.max_weight is None and weight != 1.0:
            raise InvalidArgumentError(
                f"weight must be 1 under differential privacy without max_weight, got {weight!r}"
            )
        update = space.difference(local, self.configuration.model)
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
        plan, sums = self.configuration.plan, self._sums
        if plan.records is None or sums is None:
            raise UnsupportedError("submit_records needs unit='record', here the unit is the client")
        self._require_declared(require_records(dataset))
        started = time.perf_counter()
        try:
            contribution = self._of_records(sums, dataset, loss)
        except (NonFiniteError, UnsupportedError):  # what a release would be like hung on one record
            self.close()
            raise
        self.training_seconds += time.perf_counter() - started
        self._accept(client, contribution)

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the round; nothing of it is released unless it has been."""

    @abc.abstractmethod
    def _require_awaited(self, client: int) -> int:
        """Refuses a client that may not submit now."""

    @abc.abstractmethod
    def _accept(self, client: int, contribution: Contribution) -> None:
        """Where a contribution goes."""

    def _of_records(self, sums: RecordSums, dataset: Any, loss: Loss) -> Contribution:
        c = self.configuration
        if c.plan.noise == "local":
            return contributions.privately_trained(
                c.plan, self.mechanism, c.space, sums, c.model, dataset, loss
            )
        return contributions.summed(c.plan, self.mechanism, sums, c.model, dataset, loss)

    def _require_declared(self, num_records: int) -> None:
        """Refuses records beyond what all clients of the round hold together."""
        records = self.configuration.plan.records
        seen = self._records_seen + num_records
        if records is not None and seen > records.num_records:
            raise InvalidArgumentError(
                f"num_records was declared as {records.num_records}, "
                f"but the data sets of this round hold {seen}"
            )
