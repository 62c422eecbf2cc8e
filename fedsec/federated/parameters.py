"""Which tensors of a model take part, and their one order as a flat vector.

With the client as unit: every floating-point entry of the state dict, BatchNorm's running statistics
among them. With the record as unit: the trainable parameters. In both, frozen parameters and integer
buffers stay as the server has them, and a tensor with several names (tied weights) counts once.

`secagg.Schema` is the flat vector of those who have no model of torch to ask: it cannot know what is tied or
frozen, orders by name instead of as the model does (which per-record clipping shares), and takes the dtypes
that numpy can read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsec.errors import InvalidArgumentError, InvalidTypeError


@dataclass(frozen=True)
class ParameterSpace:
    """Names and shapes of the tensors that take part, in the order of the flat vector."""

    shapes: dict[str, torch.Size]
    frozen: frozenset[str]

    @classmethod
    def of_state(cls, model: torch.nn.Module) -> ParameterSpace:
        """All floating-point entries of the state dict but frozen parameters."""
        frozen = frozenset(name for name, p in model.named_parameters() if not p.requires_grad)
        entries = {name: t for name, t in _distinct(model) if t.is_floating_point() and name not in frozen}
        return cls._of(entries, frozen)

    @classmethod
    def of_trainable(cls, model: torch.nn.Module) -> ParameterSpace:
        """The trainable parameters alone, in the order of ``model.named_parameters()``."""
        frozen = frozenset(name for name, p in model.named_parameters() if not p.requires_grad)
        return cls._of({name: p for name, p in model.named_parameters() if p.requires_grad}, frozen)

    @classmethod
    def _of(cls, entries: Mapping[str, torch.Tensor], frozen: frozenset[str]) -> ParameterSpace:
        if not entries:
            raise InvalidArgumentError("the model has no floating-point tensor that could be trained")
        return cls({name: tensor.shape for name, tensor in entries.items()}, frozen)

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
        """The client's update: local minus start; refuses other names, shapes, or changed frozen tensors."""
        state, origin = _state_of(local), start.state_dict()
        if state.keys() != origin.keys():
            odd = sorted(state.keys() ^ origin.keys())
            raise InvalidArgumentError(
                f"the local model must have the names of the global one, differs in {odd}"
            )
        for name, tensor in state.items():
            if tensor.shape != origin[name].shape:
                raise InvalidArgumentError(
                    f"{name} must have shape {tuple(origin[name].shape)}, got {tuple(tensor.shape)}"
                )
            if tensor.dtype != origin[name].dtype:
                raise InvalidTypeError(f"{name} must have dtype {origin[name].dtype}, got {tensor.dtype}")
            if name in self.frozen and not torch.equal(tensor.cpu(), origin[name].cpu()):
                raise InvalidArgumentError(f"{name} is frozen, but the local model changed it")
        return {name: state[name].detach().cpu() - origin[name].cpu() for name in self.shapes}

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


def _state_of(local: object) -> Mapping[str, torch.Tensor]:
    if isinstance(local, torch.nn.Module):
        local = local.state_dict()
    if not isinstance(local, Mapping):
        raise InvalidTypeError(f"a local model must be a Module or a state dict, got {type(local).__name__}")
    for name, tensor in local.items():
        if not isinstance(tensor, torch.Tensor):
            raise InvalidTypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    return local
