"""What one session sums, and the two ends of it: a client's numbers to integers, a sum to means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsec.clipping import UpdateClipper
from fedsec.errors import AggregationAborted, InvalidArgumentError
from fedsec.federated.plan import Plan
from fedsec.integrations.metrics import Metrics
from fedsec.secagg import Parameters, Schema

Arrays = Mapping[str, npt.NDArray[Any]]
Reals = npt.NDArray[np.float64]


def schema_of(arrays: Arrays) -> Schema:
    """Floating-point arrays take part; integers, such as BatchNorm's counter, stay as the server has them."""
    return Schema.of(arrays, integers="leave_out")


@dataclass(frozen=True)
class Mean:
    """What came of a session.

    Attributes
    ----------
    update : (d,) of how much the model moves; none of an evaluation
    metrics : by name
    total : what the sum was divided by: weights, or clients
    plan : of the next round, where a bound follows what was released
    """

    update: Reals
    metrics: dict[str, float]
    total: float
    plan: Plan


@dataclass(frozen=True)
class Task:
    """An update and metrics, or metrics alone, of which a session sums as many as there are clients.

    A client's vector is its update, its metrics, and its weight: without privacy all of it times the weight,
    under privacy clipped as a whole. A private update has no weight beside it, for it is divided by a public
    number; private metrics have a one, so that with noise they are divided by how many there are.

    Attributes
    ----------
    plan : Plan
        What is run and what it costs.
    metrics : Metrics
    schema : Schema or None
        Of the model's arrays, where it is trained.
    """

    plan: Plan
    metrics: Metrics
    schema: Schema | None

    @property
    def ring(self) -> tuple[int, int]:
        """How many numbers travel, and mod 2 to which power."""
        return self.plan.mechanism.vector_length, self.plan.mechanism.modulus_bits

    def allows(self, parameters: Parameters) -> bool:
        """Whether a session has the survivors that noise in shares is sized for; other noise needs none."""
        needed = self.plan.secagg_parameters
        return needed is None or (
            parameters.min_survivors >= needed.min_survivors and parameters.max_corrupt >= needed.max_corrupt
        )

    def contribution(
        self, before: Arrays, after: Arrays, values: Sequence[float], weight: float, public_key: bytes
    ) -> npt.NDArray[np.integer[Any]]:
        """The client's side: the integers that are masked.

        Parameters
        ----------
        before, after : arrays by name
            The model as it came and as it was trained; of an evaluation `after` plays no part.
        values : its metrics, in the order of `metrics`
        weight : positive, and of no account under privacy
        public_key : 32 random bytes, the same for all clients of the round

        Raises
        ------
        InvalidArgumentError, InvalidTypeError, NonFiniteError
            Other names, shapes or dtypes than before, a value that is not finite, a weight not above 0.
        """
        numbers = np.append(self._update(before, after), self.metrics.scaled(values))
        mechanism = self.plan.mechanism.of_round(public_key)
        if self.plan.private:
            return mechanism.encode(self._clipped(np.append(numbers, 1.0) if self.metrics else numbers))
        if not 0.0 < weight < np.inf:
            raise InvalidArgumentError("the weight of a client must be a positive number")
        return mechanism.encode(np.append(numbers * weight, weight))

    def mean(self, residues: npt.NDArray[Any], public_key: bytes) -> Mean:
        """The server's side: the means of a sum.

        Noise is added here where it is the server's; nothing else of the sum is to be kept.

        Raises
        ------
        AggregationAborted
            The weights of all, or with noise the number of clients, are not above zero.
        """
        mechanism = self.plan.mechanism.of_round(public_key)
        released = mechanism.release(mechanism.lift(residues))
        if self.plan.private and not self.metrics:
            return Mean(self.plan.mean(released), {}, self.plan.expected_count, self.plan.following(released))
        total = float(released[-1])
        if total <= 0.0:
            raise AggregationAborted(f"the weights of all survivors must sum to more than 0, got {total}")
        means, size = released[:-1] / total, self.schema.size if self.schema else 0
        return Mean(means[:size], self.metrics.unscaled(means[size:]), total, self.plan)

    def moved(self, before: Arrays, update: Reals) -> dict[str, npt.NDArray[Any]]:
        """The model after a step, in the dtypes that it had."""
        if self.schema is None:
            return dict(before)
        return {**before, **self.schema.unflatten(self.schema.flatten(before).astype(np.float64) + update)}

    def _update(self, before: Arrays, after: Arrays) -> Reals:
        if self.schema is None:
            return np.empty(0)
        return self.schema.flatten(after).astype(np.float64) - self.schema.flatten(before)

    def _clipped(self, vector: Reals) -> Reals:
        result = UpdateClipper(self.plan.rule.l2_clip_norm).clip({"vector": torch.from_numpy(vector)})
        return self.plan.with_count(result.tensors["vector"].numpy(), 1, int(result.clipped))
