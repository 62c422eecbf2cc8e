"""Clipping each record's gradient and summing on an integer grid: the unit is the record.

Each record's gradient is clipped, divided by the public granularity and rounded to integers *before* the
sum. Integers add exactly, so the sum's sensitivity is that of one rounded gradient, whatever the order
of the sum and however many records there are.

Gradients come from `torch.func.vmap` in micro-batches of one size, the last one filled up: the rounding of
a matrix product may depend on the shape of a batch, and with it a record's gradient on how many others
there are. What draws at random for each record (Dropout) is refused: the draws of one record would depend
on the others' number, and on `torch.manual_seed`.

References
----------
[ACG+16] Abadi et al. Deep Learning with Differential Privacy. CCS 2016, Alg. 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call, grad, vmap

from fedsec._checks import positive, whole
from fedsec.clipping.layers import refuse_mixing_layers
from fedsec.clipping.updates import FLOAT_SLACK, require_clip_norm
from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError, UnsupportedError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Gradients = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]

# Integers up to 2**53 are exact in float64, which holds the sums.
_EXACT = 2**53


@dataclass(frozen=True, repr=False)
class RecordSum:
    """A sum of clipped and rounded gradients, in grid units, and figures that no guarantee covers."""

    integers: torch.Tensor
    num_records: int
    num_clipped: int


@dataclass(frozen=True)
class RecordClipper:
    """Sums per-record gradients, each clipped to `l2_clip_norm` and rounded to multiples of `granularity`.

    Guarantee: adding or removing one record changes the integer sum by at most `integer_l2_sensitivity`
    in L2 norm: l2_clip_norm / granularity for the clipped gradient and half a unit a coordinate for its
    rounding, rounding of floats included. This rests on a record's gradient being the same in every row
    of a micro-batch of one shape, beside whatever other records; a test holds torch to it.
    """

    l2_clip_norm: float
    granularity: float
    max_physical_batch_size: int = 64

    def __post_init__(self) -> None:
        require_clip_norm(self.l2_clip_norm)
        positive("granularity", self.granularity)
        whole("max_physical_batch_size", self.max_physical_batch_size, minimum=1)

    def integer_l2_sensitivity(self, dimension: int) -> float:
        """The bound above, for a model of `dimension` trainable parameters, in grid units."""
        return self.l2_clip_norm / self.granularity * (1.0 + FLOAT_SLACK) + math.sqrt(dimension) / 2

    def sum(
        self, model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor, loss: Loss
    ) -> RecordSum:
        """The sum over a batch of records.

        Parameters
        ----------
        model : Module
            In the mode (train or eval) that it is in; not changed. Gradients are of the parameters that
            require them, flattened in the order of ``model.named_parameters()``.
        inputs, targets : tensors (n, ...)
            One record a row; n may be 0.
        loss : callable
            ``loss(model(inputs), targets)`` for one record (a batch of one), a single number.

        Returns
        -------
        RecordSum
            `integers`: int64 (dimension,).

        Raises
        ------
        NonFiniteError
            A record's gradient is NaN or infinite, with the parameter's name.
        UnsupportedError
            A layer that mixes records (BatchNorm) or draws at random for each (Dropout) in training mode.
        """
        refuse_mixing_layers(model)
        if len(inputs) != len(targets):
            raise InvalidArgumentError(f"one target a record: {len(inputs)} inputs, {len(targets)} targets")
        parameters = trainable_parameters(model)
        total = torch.zeros(sum(p.numel() for p in parameters.values()), dtype=torch.float64)
        if len(inputs) * self.l2_clip_norm / self.granularity >= _EXACT / 2:
            raise InvalidArgumentError(
                f"a sum of {len(inputs)} records at l2_clip_norm / granularity = "
                f"{self.l2_clip_norm / self.granularity:g} would pass 2**53"
            )
        num_clipped = 0
        gradients_of = per_record_gradients(model, parameters, loss)
        for start in range(0, len(inputs), self.max_physical_batch_size):
            batch = slice(start, start + self.max_physical_batch_size)
            num_clipped += self._add_clipped(
                total, self._gradients(gradients_of, inputs[batch], targets[batch])
            )
        return RecordSum(total.to(torch.int64), len(inputs), num_clipped)

    def _gradients(
        self, gradients_of: Gradients, inputs: torch.Tensor, targets: torch.Tensor
    ) -> dict[str, Any]:
        """The gradients of a micro-batch, computed at full size and cut back to its records."""
        rows = torch.arange(self.max_physical_batch_size).clamp(max=len(inputs) - 1)
        full = gradients_of(inputs[rows], targets[rows])
        return {name: gradient[: len(inputs)] for name, gradient in full.items()}

    def _add_clipped(self, total: torch.Tensor, gradients: dict[str, torch.Tensor]) -> int:
        """Adds a micro-batch's gradients (b, ...), clipped and rounded; returns how many were clipped."""
        flat = [gradient.reshape(len(gradient), -1) for gradient in gradients.values()]
        norms = torch.stack([torch.linalg.vector_norm(g, dim=1, dtype=torch.float64) for g in flat]).norm(
            dim=0
        )
        if not bool(torch.isfinite(norms).all()):
            raise NonFiniteError(f"a record's gradient of {_first_non_finite(gradients)} is not finite")
        scale = torch.clamp(self.l2_clip_norm / norms, max=1.0) / self.granularity
        start = 0
        for g in flat:
            units = (g * scale.to(g.dtype).unsqueeze(1)).round_()
            total[start : start + g.shape[1]] += units.sum(dim=0, dtype=torch.float64)
            start += g.shape[1]
        return int((norms > self.l2_clip_norm).sum())


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that require gradients, detached; refuses a model without any."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise InvalidArgumentError("the model has no parameter that requires gradients")
    for name, parameter in parameters.items():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise InvalidTypeError(f"{name} must be float32 or float64, got {parameter.dtype}")
    return parameters


def per_record_gradients(
    model: torch.nn.Module, parameters: dict[str, torch.Tensor], loss: Loss
) -> Gradients:
    """A function from a micro-batch (b, ...) to the gradients of each record, (b, *parameter.shape)."""
    fixed: dict[str, Any] = {
        name: p.detach() for name, p in model.named_parameters() if name not in parameters
    }
    fixed |= dict(model.named_buffers())

    def record_loss(params: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        output = functional_call(model, params | fixed, (x.unsqueeze(0),))
        value = loss(output, y.unsqueeze(0))
        if value.numel() != 1:
            raise InvalidArgumentError(
                f"the loss of one record must be one number, got shape {tuple(value.shape)}"
            )
        return value.sum()

    batched: Callable[..., dict[str, torch.Tensor]] = vmap(
        grad(record_loss), in_dims=(None, 0, 0), randomness="error"
    )

    def gradients(inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        try:
            return batched(parameters, inputs, targets)
        except RuntimeError as error:
            if "randomness error mode" not in str(error):
                raise
            raise UnsupportedError(
                "the model draws at random for each record (Dropout?): remove that layer, or use eval mode"
            ) from None

    return gradients


def _first_non_finite(gradients: dict[str, torch.Tensor]) -> str:
    """The parameter to blame; every entry may be finite when only the norm overflows."""
    return next((name for name, g in gradients.items() if not bool(torch.isfinite(g).all())), "the model")
