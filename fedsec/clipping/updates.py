"""Clipping a client's whole update to a flat L2 norm: the unit is the client.

What counts as the update [MRTZ18, sec. 3.1]:

- all floating-point tensors of a state dict together, BatchNorm's running statistics among them;
- integer and boolean buffers (BatchNorm's ``num_batches_tracked``) do not: they are left out, so that
  they never leave the client;
- frozen parameters are left out by the schema that makes the update (`fedsec.federated`);
- complex tensors are refused.

References
----------
[MRTZ18] McMahan, Ramage, Talwar, Zhang. Learning Differentially Private Recurrent Language Models. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch

from fedsec._checks import within
from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError

# Covers the rounding of norms and of the scaling itself for up to 2**32 coordinates: a float64 sum of d
# squares is off by at most d * 2**-53 relatively, a float32 product by 2**-24.
FLOAT_SLACK = 2.0**-20

# Far from both ends of float32 and float64, so that neither squares in a norm nor clipped values underflow
# by as much as the slack.
MIN_CLIP_NORM, MAX_CLIP_NORM = 1e-30, 1e30


@dataclass(frozen=True)
class ClippedUpdate:
    """A clipped update: its floating-point tensors, the norm before clipping, and whether it was clipped."""

    tensors: dict[str, torch.Tensor] = field(repr=False)
    l2_norm: float = field(repr=False)
    clipped: bool


def require_clip_norm(value: float) -> float:
    """A clip norm for which the declared sensitivities hold whatever is clipped."""
    return within("l2_clip_norm", value, MIN_CLIP_NORM, MAX_CLIP_NORM)


@dataclass(frozen=True)
class UpdateClipper:
    """Scales a client's update to an L2 norm of at most `l2_clip_norm`.

    Guarantee: the update's norm, and so the change of a sum when one client's update is replaced by
    zero, added or removed, is at most `l2_sensitivity` (rounding included).
    """

    l2_clip_norm: float

    def __post_init__(self) -> None:
        require_clip_norm(self.l2_clip_norm)

    @property
    def l2_sensitivity(self) -> float:
        """The clip norm, enlarged by what floating-point rounding may add."""
        return self.l2_clip_norm * (1.0 + FLOAT_SLACK)

    def clip(self, update: Mapping[str, torch.Tensor]) -> ClippedUpdate:
        """Clips an update; see `clip_update`."""
        tensors = floating_tensors(update)
        norm = l2_norm(tensors)
        if norm <= self.l2_clip_norm:
            return ClippedUpdate(tensors, norm, clipped=False)
        # In float64: the scale of a huge float32 update is subnormal in float32, and off by a third.
        scale = self.l2_clip_norm / norm
        scaled = {name: (tensor.double() * scale).to(tensor.dtype) for name, tensor in tensors.items()}
        return ClippedUpdate(scaled, norm, clipped=True)


def clip_update(update: Mapping[str, torch.Tensor], l2_clip_norm: float) -> ClippedUpdate:
    """Clips a state dict of differences to a flat L2 norm.

    Parameters
    ----------
    update : mapping of names to tensors
        Floating-point tensors of any shape (half precision is widened to float32); integer and boolean
        tensors are left out.
    l2_clip_norm : float in [1e-30, 1e30]

    Returns
    -------
    ClippedUpdate
        New tensors, or the given ones where nothing had to change. The zero update stays zero.

    Raises
    ------
    NonFiniteError
        NaN or infinity, with the tensor's name.
    InvalidTypeError
        Not a mapping, a value that is not a dense tensor, or a complex one.
    InvalidArgumentError
        No floating-point tensor at all, or a clip norm outside [1e-30, 1e30].
    """
    return UpdateClipper(l2_clip_norm).clip(update)


def floating_tensors(update: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The finite floating-point tensors of a state dict, detached, in float32 or float64."""
    if not isinstance(cast(object, update), Mapping):
        raise InvalidTypeError(
            f"an update must be a mapping of names to tensors, got {type(update).__name__}"
        )
    tensors = {}
    for name, tensor in update.items():
        if not isinstance(cast(object, tensor), torch.Tensor) or tensor.layout is not torch.strided:
            given = getattr(tensor, "layout", type(tensor).__name__)
            raise InvalidTypeError(f"{name} must be a dense tensor, got {given}")
        if tensor.is_complex():
            raise InvalidTypeError(f"{name} must be real, got {tensor.dtype}")
        if tensor.is_floating_point():
            tensors[name] = _widened(_finite(name, tensor.detach()))
    if not tensors:
        raise InvalidArgumentError("the update has no floating-point tensor")
    return tensors


def l2_norm(tensors: Mapping[str, torch.Tensor]) -> float:
    """The flat L2 norm over all tensors, accumulated in float64; inf refused like any other overflow."""
    squares = [float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in tensors.values()]
    norm = math.hypot(*squares)
    if not math.isfinite(norm):
        raise NonFiniteError(f"the update's l2 norm must be finite, got {norm}")
    return norm


def _finite(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(tensor).all()):
        worst = tensor[~torch.isfinite(tensor)].flatten()[0].item()
        raise NonFiniteError(f"{name} must be finite, got {worst}")
    return tensor


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
