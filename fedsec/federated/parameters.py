"""Which tensors of a model take part, and their one order as a flat vector.

With the client as unit: every floating-point entry of the state dict, BatchNorm's running statistics
among them. With the record as unit: the trainable parameters. In both, frozen parameters and integer
buffers stay as the server has them, and a tensor with several names (tied weights) counts once.

With chosen names only those are exchanged, and everything else is each client's own: adapters beside a frozen
model [HSW+22], or shared layers under local ones [AAS+19].

`secagg.Schema` is the flat vector of those who have no model of torch to ask: it cannot know what is tied or
frozen, orders by name instead of as the model does (which per-record clipping shares), and takes the dtypes
that numpy can read.

References
----------
[AAS+19] Arivazhagan, Aggarwal, Singh, Choudhary. Federated Learning with Personalization Layers. 2019.
[HSW+22] Hu et al. LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsec.errors import InvalidArgumentError, InvalidTypeError

# Names or patterns of names (`fnmatch`); None: all.
Chosen = str | Sequence[str] | None


@dataclass(frozen=True)
class ParameterSpace:
    """Names and shapes of the tensors that take part, in the order of the flat vector.

    `local`: everything else is the clients' own, and is not looked at.
    """

    shapes: dict[str, torch.Size]
    frozen: frozenset[str]
    local: bool = False

    @classmethod
    def of_state(cls, model: torch.nn.Module, chosen: Chosen = None) -> ParameterSpace:
        """All floating-point entries of the state dict but frozen parameters, or the chosen ones of them."""
        frozen = _frozen(model)
        entries = {name: t for name, t in _distinct(model) if t.is_floating_point() and name not in frozen}
        return cls._of(entries, frozen, chosen)

    @classmethod
    def of_trainable(cls, model: torch.nn.Module, chosen: Chosen = None) -> ParameterSpace:
        """The trainable parameters alone, in the order of ``model.named_parameters()``."""
        entries = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return cls._of(entries, _frozen(model), chosen)

    @classmethod
    def _of(
        cls, entries: Mapping[str, torch.Tensor], frozen: frozenset[str], chosen: Chosen
    ) -> ParameterSpace:
        if not entries:
            raise InvalidArgumentError("the model has no floating-point tensor that could be trained")
        if chosen is not None:
            entries = _chosen(entries, chosen)
        return cls({name: tensor.shape for name, tensor in entries.items()}, frozen, chosen is not None)

    @property
    def dimension(self) -> int:
        """The length of the flat vector."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def flatten(self, tensors: Mapping[str, torch.Tensor]) -> npt.NDArray[Any]:
        """Tensors as one vector (d,), float64 if any is, else float32."""
        flat = [tensors[name].detach().cpu().flatten() for name in self.shapes]
        return torch.cat([t.to(torch.promote_types(t.dtype, torch.float32)) for t in flat]).numpy()

    def unflatten(self, vector: npt.NDArray[np.float64]) -> dict[str, torch.Tensor]:
        """A vector (d,) as tensors (float64)."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = torch.from_numpy(vector).split(sizes)  # type: ignore[no-untyped-call]
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def difference(self, local: object, start: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The client's update: local minus start; refuses other names, shapes, or changed frozen tensors.

        Where only chosen tensors are exchanged, `local` may hold them alone, and whatever else it likes.
        """
        state, origin = _state_of(local), start.state_dict()
        if not self.local and state.keys() != origin.keys():
            odd = sorted(state.keys() ^ origin.keys())
            raise InvalidArgumentError(
                f"the local model must have the names of the global one, differs in {odd}"
            )
        for name in self.shapes if self.local else origin:
            if name not in state:
                raise InvalidArgumentError(f"the local model must hold {name}, which is exchanged")
            _require_alike(name, state[name], origin[name])
            if name in self.frozen and not torch.equal(state[name].cpu(), origin[name].cpu()):
                raise InvalidArgumentError(f"{name} is frozen, but the local model changed it")
        return {name: state[name].detach().cpu() - origin[name].cpu() for name in self.shapes}

    def require_trainable(self, model: torch.nn.Module) -> None:
        """Refuses a model whose trainable parameters are not what they were."""
        now = {name: p for name, p in model.named_parameters() if p.requires_grad and name in self.shapes}
        coordinates = sum(p.numel() for p in now.values())
        if coordinates != self.dimension or (not self.local and self.frozen != _frozen(model)):
            raise InvalidArgumentError(
                f"the model must keep the trainable parameters that the federation was made with: "
                f"{self.dimension} coordinates, got {coordinates}"
            )

    def add_(self, model: torch.nn.Module, step: npt.NDArray[np.float64]) -> None:
        """Adds a step (d,) to the model's tensors, in place."""
        entries = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            for name, part in self.unflatten(step).items():
                entries[name].add_(part.to(entries[name]))


def _distinct(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Entries of the state dict under their first name."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = model.state_dict()
    return ((name, tensor) for name, tensor in named.items() if name in state)


def _frozen(model: torch.nn.Module) -> frozenset[str]:
    return frozenset(name for name, p in model.named_parameters() if not p.requires_grad)


def _chosen(entries: Mapping[str, torch.Tensor], chosen: str | Sequence[str]) -> dict[str, torch.Tensor]:
    """The entries that a name or a pattern of names matches; each of them must match one."""
    patterns = [chosen] if isinstance(chosen, str) else list(chosen)
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise InvalidTypeError(f"parameters must be a pattern of names or a list of them, got {chosen!r}")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in entries):
            raise InvalidArgumentError(
                f"parameters must match names of trainable tensors, got {pattern!r}; there are "
                f"{', '.join(list(entries)[:10])}"
            )
    return {
        name: tensor
        for name, tensor in entries.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def _require_alike(name: str, tensor: torch.Tensor, origin: torch.Tensor) -> None:
    if tensor.shape != origin.shape:
        raise InvalidArgumentError(f"{name} must have shape {tuple(origin.shape)}, got {tuple(tensor.shape)}")
    if tensor.dtype != origin.dtype:
        raise InvalidTypeError(f"{name} must have dtype {origin.dtype}, got {tensor.dtype}")


def _state_of(local: object) -> Mapping[str, torch.Tensor]:
    if isinstance(local, torch.nn.Module):
        local = local.state_dict()
    if not isinstance(local, Mapping):
        raise InvalidTypeError(f"a local model must be a Module or a state dict, got {type(local).__name__}")
    for name, tensor in local.items():
        if not isinstance(tensor, torch.Tensor):
            raise InvalidTypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    return local
