"""How the server moves the model by the mean update: post-processing, free of privacy cost.

References
----------
[MMR+17] McMahan et al. Communication-Efficient Learning of Deep Networks from Decentralized Data. 2017.
[HQB19] Hsu, Qi, Brown. Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification. 2019 (server momentum).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedsec._checks import positive, real
from fedsec.errors import InvalidArgumentError

Vector = npt.NDArray[np.float64]


class Strategy(Protocol):
    """Turns mean updates into steps; what it must remember between rounds lives in `state`."""

    def step(self, mean_update: Vector, state: dict[str, Any]) -> Vector:
        """What to add to the model, (d,), given the mean update (d,)."""
        ...


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging [MMR+17, Alg. 1]: the model moves by the mean update.

    `learning_rate` scales the step; `momentum` in [0, 1) adds heavy-ball momentum at the server [HQB19]:
    v <- momentum * v + mean_update, model <- model + learning_rate * v.
    """

    learning_rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        positive("learning_rate", self.learning_rate)
        if not 0.0 <= real("momentum", self.momentum) < 1.0:
            raise InvalidArgumentError(f"momentum must be in [0, 1), got {self.momentum!r}")

    def step(self, mean_update: Vector, state: dict[str, Any]) -> Vector:
        """The step for one round."""
        state["velocity"] = self.momentum * state.get("velocity", 0.0) + mean_update
        step: Vector = self.learning_rate * state["velocity"]
        return step
