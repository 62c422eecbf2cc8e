"""What all rounds of a run have in common: from a model, what its sums are (`fedsec.integrations.task`).

Server and clients make the same plan (`fedsec.federated`) from the same terms. The digest of a session's
model covers the terms and what is asked for, so that clients that were told others derive unrelated masks
and never agree on a set of survivors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fedsec.errors import InvalidArgumentError, ProtocolError, UnsupportedError
from fedsec.federated.plan import Plan, make_plan
from fedsec.federated.settings import Settings
from fedsec.integrations.metrics import Metrics
from fedsec.integrations.task import Arrays, Task, schema_of
from fedsec.secagg import model_digest

TRAIN, EVALUATE = "train", "evaluate"

# What a run may choose. All other settings are as `Settings` has them when nobody says anything, or refused.
_CHOSEN = {
    "num_clients", "num_rounds", "l2_clip_norm", "clipping", "noise_multiplier", "target_epsilon",
    "target_delta", "noise", "corrupt_fraction", "dropout_fraction",
}  # fmt: skip


@dataclass(frozen=True)
class Terms:
    """The terms of a run, with clients as units.

    Parameters
    ----------
    settings : Settings
        `num_clients` is how many take part in a sum at most: the public number that private updates are
        divided by. `num_rounds` is how many sums there are, evaluations among them.
    weighted_by : str
        The metric that weighs clients without privacy: the same for all, as one client that was told
        another could be made to outweigh the rest.
    train_metrics, evaluate_metrics : Metrics
        What clients report beside their updates, and what of a model that they are sent. Without the
        latter nobody evaluates.
    """

    settings: Settings
    weighted_by: str = "num-examples"
    train_metrics: Metrics = Metrics()  # noqa: RUF009 (frozen)
    evaluate_metrics: Metrics = Metrics()  # noqa: RUF009

    def __post_init__(self) -> None:
        for field in fields(Settings):
            value = getattr(self.settings, field.name)
            if field.name not in _CHOSEN and value != field.default:
                raise UnsupportedError(f"{field.name} must be {field.default!r} here, got {value!r}")
        if self.weighted_by in {*self.train_metrics, *self.evaluate_metrics}:
            raise InvalidArgumentError(f"{self.weighted_by!r} weighs the others and is no metric itself")
        if self.train_metrics and self.settings.private:
            raise UnsupportedError(
                "train_metrics under privacy would take a share of the noise that updates are given: name "
                "them in evaluate_metrics, which are charged as sums of their own, or leave them out"
            )

    def task(self, name: str, arrays: Arrays) -> Task:
        """What is summed when a model with these arrays is trained, or evaluated."""
        if name == TRAIN:
            schema = schema_of(arrays)
            return Task(
                make_plan(self.settings, schema.size + len(self.train_metrics)), self.train_metrics, schema
            )
        if name != EVALUATE or not self.evaluate_metrics:
            raise ProtocolError(f"clients of this run do not {name}")
        return Task(self._evaluation(len(self.evaluate_metrics)), self.evaluate_metrics, None)

    def _evaluation(self, num_metrics: int) -> Plan:
        """With the noise multiplier of training: an evaluation costs what a round of training costs."""
        if not self.settings.private:
            return make_plan(self.settings, num_metrics)
        # Each metric, and the count of clients, is between -1 and 1.
        bound = math.sqrt(num_metrics + 1.0)
        settings = replace(self.settings, clipping="flat", l2_clip_norm=bound)
        return make_plan(settings, num_metrics + 1)

    def following(self, plan: Plan) -> Terms:
        """With this plan's bound, which may have moved, and its noise, so that nobody calibrates again."""
        if not plan.private:
            return self
        return replace(self, settings=replace(plan.settings, noise_multiplier=plan.noise_multiplier))

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        said = {
            "settings": self.settings.to_dict(),
            "weighted_by": self.weighted_by,
            "train_metrics": self.train_metrics.bounds,
            "evaluate_metrics": self.evaluate_metrics.bounds,
        }
        return json.dumps(said, sort_keys=True, separators=(",", ":")).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Terms:
        """Back from `to_bytes`; what is not the terms of a run is refused."""
        try:
            said = json.loads(data)
            terms = cls(
                **{
                    **said,
                    "settings": Settings.from_dict(said["settings"]),
                    "train_metrics": _metrics(said["train_metrics"]),
                    "evaluate_metrics": _metrics(said["evaluate_metrics"]),
                }
            )
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            raise InvalidArgumentError(f"terms must be those of a run: {error}") from None
        if terms.to_bytes() != data:
            raise InvalidArgumentError("terms must be in canonical bytes")
        return terms

    def digest(self, task: str, arrays: Mapping[str, Any]) -> bytes:
        """What a session's model, these terms and what is asked for are called in its `secagg.Config`."""
        asked = hashlib.sha256(task.encode() + b"\0" + self.to_bytes()).digest()
        return hashlib.sha256(b"fedsec model and terms 2" + asked + model_digest(arrays)).digest()


def _metrics(said: list[list[Any]]) -> Metrics:
    return Metrics(tuple((name, low, high) for name, low, high in said))
