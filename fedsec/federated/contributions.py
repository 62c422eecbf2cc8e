"""The client's side of a round: from a trained model or a data set to the integers that are masked.

Four kinds, one for each plan: a weighted update (no privacy), a clipped update (unit: client), a sum of
clipped record gradients (unit: record), and the outcome of the client's own private training (record,
local noise). What leaves is what the round's mechanism makes of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from fedsec import noise
from fedsec.clipping import UpdateClipper
from fedsec.clipping.updates import floating_tensors
from fedsec.errors import InvalidArgumentError
from fedsec.federated.mechanism import OPEN_RANGE, Integers, Mechanism
from fedsec.federated.parameters import ParameterSpace
from fedsec.federated.plan import Plan, RecordPlan
from fedsec.federated.records import Loss, RecordSums


@dataclass(frozen=True, repr=False)
class Contribution:
    """A client's integers, and figures about it that no guarantee covers."""

    integers: Integers
    l2_norm: float | None = None
    num_units: int = 1
    num_clipped: int = 0
    num_held: int = 0  # records of the client, drawn or not


def weighted(
    plan: Plan, mechanism: Mechanism, space: ParameterSpace, update: Mapping[str, torch.Tensor], weight: float
) -> Contribution:
    """The weighted update, and the weight as one more coordinate, so that it too travels masked."""
    vector = np.append(space.flatten(update).astype(np.float64), 1.0) * weight
    largest = float(max(vector.max(), -vector.min()))
    if not largest <= OPEN_RANGE:
        floating_tensors(update)  # names what is not finite
        raise InvalidArgumentError(
            f"weight, and weight times update, must be within {OPEN_RANGE:g} of zero in every coordinate, "
            f"got {largest!r} with weight {weight!r}"
        )
    return Contribution(mechanism.encode(vector))


def clipped(
    plan: Plan, mechanism: Mechanism, space: ParameterSpace, update: Mapping[str, torch.Tensor], weight: float
) -> Contribution:
    """The clipped update times its share of the largest weight."""
    result = UpdateClipper(plan.rule.l2_clip_norm).clip(update)
    vector = space.flatten(result.tensors)
    if plan.max_weight is not None:
        vector = vector * np.float64(min(1.0, weight / plan.max_weight))
    counted = plan.with_count(vector, 1, int(result.clipped))
    return Contribution(mechanism.encode(counted), result.l2_norm, num_clipped=int(result.clipped))


def summed(
    plan: Plan, mechanism: Mechanism, sums: RecordSums, model: torch.nn.Module, dataset: Any, loss: Loss
) -> Contribution:
    """Minus the sum of clipped gradients over a Poisson sample: the direction of descent."""
    drawn = sums.draw(model, dataset, loss, plan.rule)
    vector = plan.with_count(-drawn.vector, drawn.num_records, drawn.num_clipped)
    return Contribution(mechanism.encode(vector), None, drawn.num_records, drawn.num_clipped, len(dataset))


def privately_trained(
    plan: Plan, mechanism: Mechanism, space: ParameterSpace, sums: RecordSums, model: torch.nn.Module,
    dataset: Any, loss: Loss,
) -> Contribution:  # fmt: skip
    """The change of the model over the client's own steps of private SGD, each with its own noise."""
    local, records = copy.deepcopy(model), cast(RecordPlan, plan.records)
    scale = -records.local_learning_rate / records.expected_records
    num_units = num_clipped = 0
    for _ in range(records.local_steps):
        step = sums.draw(local, dataset, loss, plan.rule)
        noisy = noise.release(step.vector, plan.rule.l2_sensitivity, plan.noise_multiplier)
        space.add_(local, scale * noisy)
        num_units, num_clipped = num_units + step.num_records, num_clipped + step.num_clipped
    update = space.flatten(space.difference(local, model))
    return Contribution(mechanism.encode(update), None, num_units, num_clipped, len(dataset))
