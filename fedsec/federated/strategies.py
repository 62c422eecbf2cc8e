"""How the server moves the model by the mean update, and FedProx's term for a client's own loss.

A strategy is a value; what it remembers between rounds is the federation's. It sees released means alone, so
it is post-processing and costs no privacy, momentum included.

References
----------
[MMR+17] McMahan et al. Communication-Efficient Learning of Deep Networks from Decentralized Data. 2017.
[HQB19] Hsu, Qi, Brown. Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification. 2019 (server momentum).
[LSZ+20] Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith. Federated Optimization in Heterogeneous Networks. MLSys
    2020 (FedProx).
[RCZ+21] Reddi et al. Adaptive Federated Optimization. ICLR 2021.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from fedsec._checks import non_negative, positive, real
from fedsec.errors import InvalidArgumentError, InvalidTypeError

Vector = npt.NDArray[np.float64]


class Strategy(Protocol):
    """Turns mean updates into steps; what it must remember between rounds lives in `state`."""

    def step(self, mean_update: Vector, state: dict[str, Any]) -> Vector:
        """What to add to the model, (d,), given the mean update (d,).

        `state` is empty before the first round; vectors (d,) in it are saved with the federation.
        """
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
        _below_one("momentum", self.momentum)

    def step(self, mean_update: Vector, state: dict[str, Any]) -> Vector:
        """The step for one round."""
        state["velocity"] = self.momentum * state.get("velocity", 0.0) + mean_update
        step: Vector = self.learning_rate * state["velocity"]
        return step


@dataclass(frozen=True)
class FedAvgM(FedAvg):
    """Federated averaging with server momentum [HQB19], 0.9 unless said otherwise."""

    momentum: float = 0.9


@dataclass(frozen=True)
class _Adaptive(abc.ABC):
    """A step of its own size for each coordinate [RCZ+21, Alg. 2].

    With D the mean update of a round:

        m <- beta1 m + (1 - beta1) D,    v <- (a rule of D^2),
        model <- model + learning_rate m / (sqrt(v) + tau)

    from m = 0 and v = tau^2. There is no correction of the start, as in the paper.

    Parameters
    ----------
    learning_rate : float > 0
        The paper's eta: about what a coordinate moves in a round while its updates keep their sign.
    beta1 : float in [0, 1)
    tau : float > 0
        How much adaptivity: coordinates whose updates are small beside tau move by learning_rate / tau times
        their mean. Under privacy it should not be below the noise of the mean, or noise is amplified.
    """

    learning_rate: float = 0.1
    beta1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        positive("learning_rate", self.learning_rate)
        positive("tau", self.tau)
        _below_one("beta1", self.beta1)

    def step(self, mean_update: Vector, state: dict[str, Any]) -> Vector:
        """The step for one round."""
        start = np.full_like(mean_update, self.tau**2)
        state["mean"] = self.beta1 * state.get("mean", 0.0) + (1.0 - self.beta1) * mean_update
        state["square"] = self._square(state.get("square", start), mean_update**2)
        step: Vector = self.learning_rate * state["mean"] / (np.sqrt(state["square"]) + self.tau)
        return step

    @abc.abstractmethod
    def _square(self, square: Vector, new: Vector) -> Vector:
        """The new v, after a round whose mean update has the squares `new`."""


@dataclass(frozen=True)
class FedAdagrad(_Adaptive):
    """Adagrad at the server [RCZ+21, Alg. 2]: v <- v + D^2. As there, `beta1` is 0 unless said otherwise."""

    beta1: float = 0.0

    def _square(self, square: Vector, new: Vector) -> Vector:
        return square + new


@dataclass(frozen=True)
class _Forgetful(_Adaptive, abc.ABC):
    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        _below_one("beta2", self.beta2)


@dataclass(frozen=True)
class FedAdam(_Forgetful):
    """Adam at the server [RCZ+21, Alg. 2]: v <- beta2 v + (1 - beta2) D^2."""

    def _square(self, square: Vector, new: Vector) -> Vector:
        return self.beta2 * square + (1.0 - self.beta2) * new


@dataclass(frozen=True)
class FedYogi(_Forgetful):
    """Yogi at the server [RCZ+21, Alg. 2]: v <- v - (1 - beta2) D^2 sign(v - D^2)."""

    def _square(self, square: Vector, new: Vector) -> Vector:
        moved: Vector = square - (1.0 - self.beta2) * new * np.sign(square - new)
        return moved


def proximal_term(
    local: torch.nn.Module | Iterable[torch.Tensor],
    start: torch.nn.Module | Iterable[torch.Tensor],
    mu: float,
) -> torch.Tensor:
    """FedProx's term for a client's loss: mu / 2 times the squared distance from the global model [LSZ+20].

    It holds clients with unlike data near the model that they were given; the server's side is `FedAvg`.

        start = rnd.model()
        local = copy.deepcopy(start)
        loss = criterion(local(x), y) + fedsec.federated.proximal_term(local, start, mu=0.01)

    Parameters
    ----------
    local, start : Module, or tensors in one order
        Of a module the trainable parameters count. Gradients flow to `local` alone.
    mu : float >= 0

    Returns
    -------
    A tensor with one element. Add it to a loss of the whole batch, not to those of single records.
    """
    weight = non_negative("mu", mu)
    pairs = list(zip(_trained(local), _trained(start), strict=True))
    if not pairs:
        raise InvalidArgumentError("the model has no parameter that requires gradients")
    squares = [(mine - theirs.detach()).square().sum() for mine, theirs in pairs]
    return weight / 2.0 * torch.stack(squares).sum()


def require_strategy(strategy: object) -> None:
    """Refuses what cannot step a model."""
    if isinstance(strategy, type) or not callable(getattr(strategy, "step", None)):
        raise InvalidTypeError(
            f"strategy must be an object with a step method, like FedAvg(), got {strategy!r}"
        )


def _trained(model: torch.nn.Module | Iterable[torch.Tensor]) -> list[torch.Tensor]:
    if isinstance(model, torch.nn.Module):
        return [p for p in model.parameters() if p.requires_grad]
    return list(model)


def _below_one(name: str, value: object) -> None:
    if not 0.0 <= real(name, value) < 1.0:
        raise InvalidArgumentError(f"{name} must be in [0, 1), got {value!r}")
