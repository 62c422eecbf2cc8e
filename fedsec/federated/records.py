"""The sum of a client's clipped record gradients, from one forward and one backward a micro-batch.

A Poisson sample in random order, in micro-batches of one size: what the sensitivity of the clipping rules
rests on (docs/training.md, "Rounding"). The book-keeping engine works on a copy: the global model gets no
hooks and no gradients. The loss is called for each record alone, through `torch.func.vmap`, and so cannot mix
records; that the model does not, either, is tried once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsec import sampling
from fedsec._checks import whole
from fedsec._kernels import fresh_seed
from fedsec.clipping import BookKeeper, ClippingRule, RecordGradients, clipped_sum
from fedsec.errors import InvalidArgumentError, InvalidTypeError, UnsupportedError
from fedsec.federated.parameters import ParameterSpace
from fedsec.federated.plan import Plan
from fedsec.training import draws, trial
from fedsec.training.batches import most_records

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_ROWS = 64  # of a micro-batch: one block of the engine's sums


@dataclass(frozen=True, repr=False)
class RecordSum:
    """A sum of clipped gradients, (d,) float64, and figures that no guarantee covers."""

    vector: npt.NDArray[np.float64]
    num_records: int
    num_clipped: int


class RecordSums:
    """Draws, clips and adds up the records of clients, of one federation."""

    def __init__(self, space: ParameterSpace, sampling_probability: float, expected_records: float) -> None:
        self._space = space
        self._probability = sampling_probability
        self._rows = min(_ROWS, max(1, round(expected_records)))
        self._tried = False

    @classmethod
    def of(cls, plan: Plan, space: ParameterSpace) -> RecordSums | None:
        """What a plan asks for; None where the unit is the client."""
        records = plan.records
        if records is None:
            return None
        return cls(space, records.sampling_probability, records.expected_records)

    def draw(self, model: torch.nn.Module, dataset: Any, loss: Loss, rule: ClippingRule) -> RecordSum:
        """The sum over a Poisson sample of a client's records, drawn from the operating system.

        Parameters
        ----------
        model : Module
            Not changed. In the mode (train or eval) that it is in.
        dataset : sized and indexable
            Of (input, target) pairs.
        loss : callable
            ``loss(model(inputs), targets)`` for one record, a batch of one: a single number.
        rule : ClippingRule
            Adding or removing one record changes the sum by at most ``rule.l2_sensitivity`` in L2 norm.

        Raises
        ------
        NonFiniteError
            A record's loss or gradient is NaN or infinite.
        InvalidArgumentError, InvalidTypeError, UnsupportedError
            No such data set or loss; a model that mixes records, or has other parameters by now.
        """
        self._space.require_trainable(model)
        local = copy.deepcopy(model)
        for name, parameter in local.named_parameters():
            parameter.requires_grad_(name in self._space.shapes)
        keeper = BookKeeper(local)
        if not self._tried:
            self._tried = self._try(keeper, dataset, loss)
        drawn = draws.shuffled(sampling.poisson(len(dataset), self._probability))
        whole("the number of records drawn", len(drawn), minimum=0, maximum=most_records(self._rows))
        total, num_clipped = np.zeros(self._space.dimension), 0
        for part in draws.micro_batches(drawn, self._rows) if len(drawn) else ():
            gradients = _gradients(keeper, _read(dataset, part.indices), part.num_records, loss)
            _require_silent(gradients, part.num_records)
            total += self._space.flatten(clipped_sum(keeper, gradients, rule, part.num_records))
            num_clipped += rule.clipped(gradients.squared_norms[:, : part.num_records])
        return RecordSum(total, len(drawn), num_clipped)

    def _try(self, keeper: BookKeeper, dataset: Any, loss: Loss) -> bool:
        """One record is replaced, and no other record's gradient may change; nothing of it is kept.

        False where it cannot be told yet, because the client has one record alone.
        """
        if self._rows == 1:
            return True
        if len(dataset) == 1:
            return False
        count = self._rows + trial.SPARE
        chosen = np.resize(draws.shuffled(np.arange(len(dataset)))[:count], count)
        seed, first = fresh_seed(), None
        for batch in trial.variants(_read(dataset, chosen), self._rows):
            gradients = _gradients(keeper, batch, self._rows, loss, seed)
            norms = trial.Norms(gradients.names, gradients.squared_norms.sqrt())
            if first is None:
                first = norms
            else:
                trial.compare(first, norms)
        return True


def require_records(dataset: Any) -> int:
    """The number of records of a data set; refuses what has none, or no length."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InvalidTypeError(f"a data set must have a length and items, got {type(dataset).__name__}")
    if len(dataset) == 0:
        raise InvalidArgumentError("a data set must have at least one record, got 0")
    return len(dataset)


def _read(dataset: Any, indices: npt.NDArray[np.int64]) -> tuple[Any, Any]:
    """Records as a batch; a TensorDataset, or a Subset of one, is read at once."""
    while type(dataset) is torch.utils.data.Subset:
        dataset, indices = dataset.dataset, np.asarray(dataset.indices)[indices]
    if type(dataset) is torch.utils.data.TensorDataset:
        pair = dataset[torch.from_numpy(indices)]
    else:
        pair = torch.utils.data.default_collate([dataset[int(i)] for i in indices])
    if len(pair) != 2:
        raise InvalidTypeError(f"a data set must give (input, target) pairs, got {len(pair)} values")
    return pair[0], pair[1]


def _gradients(
    keeper: BookKeeper, batch: tuple[Any, Any], num_records: int, loss: Loss, seed: int | None = None
) -> RecordGradients:
    inputs, targets = batch
    rows = len(targets)
    keeper.begin(rows, seed=seed)
    losses = _each(loss, keeper.model(inputs), targets)
    weights = torch.zeros(rows)
    weights[:num_records] = 1.0
    keeper.backward(losses, weights)
    return keeper.collect()


def _each(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of each record by itself, (rows,): whatever it does with a batch, a batch is one record."""

    def of_one(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        value = loss(output.unsqueeze(0), target.unsqueeze(0))
        if value.numel() != 1:
            raise InvalidArgumentError(
                f"the loss of one record must be one number, got shape {tuple(value.shape)}"
            )
        return value.sum()

    if len(outputs) != len(targets):
        raise InvalidArgumentError(
            f"the model must return one row a record, got {len(outputs)} for {len(targets)} records"
        )
    losses: torch.Tensor = torch.func.vmap(of_one, randomness="error")(outputs, targets)
    return losses


def _require_silent(gradients: RecordGradients, num_records: int) -> None:
    """Stand-ins have weight 0: a gradient that reaches one comes from another record."""
    if bool((gradients.squared_norms[:, num_records:] != 0).any()):
        raise UnsupportedError("a stand-in of weight 0 has a gradient: the model mixes records")
