"""What all rounds of a run have in common, and the two ends of one: arrays to integers, a sum to arrays.

Server and clients build the same plan (`fedsec.federated`) from the same terms. The digest of a round's
model covers the terms too, so that clients that were told others derive unrelated masks and never agree on
a set of survivors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsec.clipping import clip_update
from fedsec.errors import AggregationAborted, InvalidArgumentError
from fedsec.federated.plan import Plan, make_plan
from fedsec.federated.settings import Settings
from fedsec.secagg import Parameters, Schema, model_digest

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Terms:
    """The terms of a run, with clients as units; the arguments are those of `Federation`.

    Parameters
    ----------
    max_clients : int of at least 3
        So many take part in a round at most: the public number that private sums are divided by.
    num_rounds : int
    l2_clip_norm, noise_multiplier, target_epsilon, target_delta : float, optional
    noise : "central", "distributed" or "local"
    corrupt_fraction, dropout_fraction : float, optional
        For distributed noise, whose shares are sized for the fewest survivors that are honest.
    weighted_by : str
        The metric that weighs updates without privacy: the same for all, as one client that was told
        another could be made to outweigh the rest.
    """

    max_clients: int
    num_rounds: int
    l2_clip_norm: float | None = None
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    target_delta: float | None = None
    noise: str = "central"
    corrupt_fraction: float | None = None
    dropout_fraction: float | None = None
    weighted_by: str = "num-examples"

    def plan(self, schema: Schema) -> Plan:
        """What is run and what it costs, for a model of this schema."""
        settings = Settings(
            num_clients=self.max_clients,
            cohort_size=None,
            unit="client",
            noise=self.noise,
            l2_clip_norm=self.l2_clip_norm,
            clipping="flat",
            noise_multiplier=self.noise_multiplier,
            target_epsilon=self.target_epsilon,
            target_delta=self.target_delta,
            num_rounds=self.num_rounds,
            sampling_probability=None,
            num_records=None,
            max_weight=None,
            total_weight=None,
            secure_aggregation=True,
            local_steps=1,
            local_learning_rate=1.0,
            corrupt_fraction=self.corrupt_fraction,
            dropout_fraction=self.dropout_fraction,
            insecure_sampling_seed=None,
        )
        return make_plan(settings, schema.size)

    def settled(self, plan: Plan) -> Terms:
        """With the noise that was calibrated, so that nobody calibrates again."""
        return replace(self, noise_multiplier=plan.noise_multiplier) if plan.private else self

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Terms:
        """Back from `to_bytes`; what does not fit is refused here or by `plan`."""
        try:
            terms = cls(**json.loads(data))
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"terms must be those of a run: {error}") from None
        if terms.to_bytes() != data:
            raise InvalidArgumentError("terms must be in canonical bytes")
        return terms

    def digest(self, arrays: Arrays) -> bytes:
        """What a round's model and these terms are called in `secagg.Config`: 32 bytes."""
        terms = hashlib.sha256(self.to_bytes()).digest()
        return hashlib.sha256(b"fedsec model and terms 1" + terms + model_digest(arrays)).digest()


def schema_of(arrays: Arrays) -> Schema:
    """Floating-point arrays take part; integers, such as BatchNorm's counter, stay as the server has them."""
    return Schema.of(arrays, integers="leave_out")


def ring_of(plan: Plan) -> tuple[int, int]:
    """How many numbers travel, and mod 2 to which power."""
    return plan.mechanism.vector_length, plan.mechanism.modulus_bits


def protects(plan: Plan, parameters: Parameters) -> bool:
    """Whether a session has the survivors that distributed noise is sized for; other noise asks for none."""
    needed = plan.secagg_parameters
    return needed is None or (
        parameters.min_survivors >= needed.min_survivors and parameters.max_corrupt >= needed.max_corrupt
    )


def contribution(
    plan: Plan, before: Arrays, after: Arrays, weight: float, public_key: bytes
) -> npt.NDArray[np.integer[Any]]:
    """The client's side: its update as the integers that are masked.

    Under privacy the update is clipped and `weight` plays no part; without, the weighted update travels
    with the weight itself as one more coordinate. `public_key` is 32 random bytes, the same for all clients
    of the round.

    Raises
    ------
    InvalidArgumentError, InvalidTypeError, NonFiniteError
        Other names, shapes or dtypes than before, a value that is not finite, a weight that is not positive.
    """
    schema = schema_of(before)
    mechanism = plan.mechanism.of_round(public_key)
    update = schema.flatten(after).astype(np.float64) - schema.flatten(before)
    if plan.private:
        clipped = clip_update({"update": torch.from_numpy(update)}, plan.rule.l2_clip_norm)
        return mechanism.encode(clipped.tensors["update"].numpy())
    if not 0.0 < weight < np.inf:
        raise InvalidArgumentError("the weight of a client must be a positive number")
    return mechanism.encode(np.append(update * weight, weight))


def moved(
    plan: Plan, before: Arrays, residues: npt.NDArray[Any], public_key: bytes
) -> tuple[dict[str, npt.NDArray[Any]], float]:
    """The server's side: the arrays moved by the mean of a sum, and what the sum was divided by.

    Noise is added here where it is the server's; nothing else of the sum is to be kept.
    """
    schema = schema_of(before)
    mechanism = plan.mechanism.of_round(public_key)
    released = mechanism.release(mechanism.lift(residues))
    total = float(plan.expected_count if plan.private else released[-1])
    if total <= 0.0:
        raise AggregationAborted(f"the weights of all survivors must sum to more than 0, got {total}")
    after = schema.flatten(before).astype(np.float64) + released[: schema.size] / total
    return {**before, **schema.unflatten(after)}, total
