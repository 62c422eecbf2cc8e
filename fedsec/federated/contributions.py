"""The client's side of a round: from a trained model or a data set to the integers that are masked.

Four kinds, one for each plan: a weighted update (no privacy), a clipped update (unit: client), a sum of
clipped record gradients (unit: record), and the outcome of the client's own private training (record,
local noise). Local noise is added here, before anything leaves the client.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsec import noise, sampling
from fedsec.clipping import UpdateClipper
from fedsec.clipping.updates import floating_tensors
from fedsec.errors import InvalidArgumentError, InvalidTypeError
from fedsec.federated.parameters import ParameterSpace
from fedsec.federated.plan import Plan, RecordPlan

Integers = npt.NDArray[np.int64]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, repr=False)
class Contribution:
    """A client's integers, and figures about it that no guarantee covers."""

    integers: Integers
    l2_norm: float | None = None
    num_units: int = 1
    num_clipped: int = 0


def weighted(
    plan: Plan, space: ParameterSpace, update: Mapping[str, torch.Tensor], weight: float
) -> Contribution:
    """The weighted update, and the weight as one more coordinate, so that it too travels masked."""
    vector = space.flatten(floating_tensors(update)).astype(np.float64) * weight
    largest, allowed = max(weight, float(np.abs(vector).max())), plan.quantizer.max_abs
    if largest > allowed:
        raise InvalidArgumentError(
            f"weight, and weight times update, must be within {allowed:g} of zero in every coordinate, "
            f"got {largest!r} with weight {weight!r}"
        )
    return Contribution(plan.quantizer.quantize(np.append(vector, weight)))


def clipped(
    plan: Plan, clipper: UpdateClipper, space: ParameterSpace, update: Mapping[str, torch.Tensor]
) -> Contribution:
    """The clipped update, stochastically rounded, with the client's own noise where noise is local."""
    result = clipper.clip(update)
    integers = plan.quantizer.quantize(space.flatten(result.tensors))
    if plan.noise == "local":
        integers += noise.discrete_gaussian(integers.size, plan.integer_stddev)
    return Contribution(integers, result.l2_norm, num_clipped=int(result.clipped))


def summed(records: RecordPlan, model: torch.nn.Module, dataset: Any, loss: Loss) -> Contribution:
    """Minus the sum of clipped gradients over a Poisson sample: the direction of descent."""
    inputs, targets = draw(dataset, records.sampling_probability)
    result = records.clipper.sum(model, inputs, targets, loss)
    return Contribution(-result.integers.numpy(), None, result.num_records, result.num_clipped)


def privately_trained(
    plan: Plan, records: RecordPlan, space: ParameterSpace, model: torch.nn.Module, dataset: Any, loss: Loss
) -> Contribution:
    """The change of the model over the client's own steps of private SGD, each with its own noise."""
    local = copy.deepcopy(model)
    scale = records.local_learning_rate * records.clipper.granularity / records.expected_batch
    num_units = num_clipped = 0
    for _ in range(records.local_steps):
        step = summed(records, local, dataset, loss)
        space.add_(
            local, scale * (step.integers + noise.discrete_gaussian(step.integers.size, plan.integer_stddev))
        )
        num_units, num_clipped = num_units + step.num_units, num_clipped + step.num_clipped
    update = space.flatten(space.difference(local, model))
    return Contribution(plan.quantizer.quantize(update), None, num_units, num_clipped)


def draw(dataset: Any, sampling_probability: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A Poisson sample of a data set, drawn from the operating system, as stacked tensors."""
    indices = sampling.poisson(len(dataset), sampling_probability)
    if isinstance(dataset, torch.utils.data.TensorDataset):
        pair = dataset[torch.from_numpy(indices)]
    else:
        pair = _stacked(dataset, indices)
    if len(pair) != 2:
        raise InvalidTypeError(f"a data set must give (input, target) pairs, got {len(pair)} values")
    return pair[0], pair[1]


def require_records(dataset: Any) -> int:
    """The number of records of a data set; refuses what has none, or no length."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InvalidTypeError(f"a data set must have a length and items, got {type(dataset).__name__}")
    if len(dataset) == 0:
        raise InvalidArgumentError("a data set must have at least one record, got 0")
    return len(dataset)


def _stacked(dataset: Any, indices: npt.NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
    # An empty draw still needs the shape of a record: one is read and none of it kept.
    rows = [dataset[int(i)] for i in (indices if len(indices) else [0])]
    columns = torch.utils.data.default_collate(rows)
    return tuple(column[: len(indices)] for column in columns)
