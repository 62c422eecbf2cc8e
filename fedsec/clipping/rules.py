"""What a record's gradient is, call by call: linear layers, embeddings, normalisations; and Dropout's masks.

A rule gets the capture and a call's arguments, makes the call with parameters detached, and says what is to
be done with the gradient that arrives at its output. Convolutions, attention and recurrent layers have files
of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from fedsec.clipping.capture import DRAWING, RULES
from fedsec.clipping.gradients import Dense, Outer
from fedsec.clipping.marks import holds_records
from fedsec.errors import UnsupportedError

if TYPE_CHECKING:
    from fedsec.clipping.capture import Capture

Tensor = torch.Tensor


def linear(capture: Capture, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: (..., n) to (..., m)."""
    if capture.source(weight) is None and capture.source(bias) is None:
        return F.linear(x, weight, bias)
    if not holds_records(x):
        return capture.derive(F.linear, x, weight, bias)  # type: ignore[no-any-return]
    return project(capture, x, weight, bias)


def project(
    capture: Capture, x: Tensor, weight: Tensor, bias: Tensor | None, first: int = 0, count: int | None = None
) -> Tensor:
    """Inputs (rows, ..., n) times some rows of a weight (`count` from `first` on), transposed, plus bias."""
    m = weight.shape[0]
    chosen = slice(first, m if count is None else first + count)
    part = None if bias is None else capture.plain(bias)[chosen]
    out = F.linear(x, capture.plain(weight)[chosen], part)
    capture.expect(weight, bias)
    shape, margin = tuple(weight.shape), (first, m - chosen.stop)

    def use(gradient: Tensor, inputs: Tensor) -> None:
        left = capture.by_record(gradient, "a linear layer")
        if any(margin):
            left = F.pad(left, margin)
        if capture.source(bias) is not None:
            capture.add(bias, Dense(left[:, 0] if left.shape[1] == 1 else left.sum(dim=1), (m,)))
        if capture.source(weight) is not None:
            capture.add(weight, Outer(left, capture.by_record(inputs, "a linear layer"), m, shape))

    return capture.mark(capture.tap(out, [x], use))


def matmul(capture: Capture, x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    """`x @ weight` for a matrix: (..., m) to (..., n)."""
    if capture.source(weight) is None or weight.dim() != 2 or not holds_records(x) or x.dim() < 2 or options:
        return _other(capture, torch.matmul, x, weight, **options)  # type: ignore[no-any-return]
    out = torch.matmul(x, capture.plain(weight))
    capture.expect(weight)

    def use(gradient: Tensor, inputs: Tensor) -> None:
        left, right = capture.by_record(inputs, "a product"), capture.by_record(gradient, "a product")
        capture.add(weight, Outer(left, right, weight.shape[0], tuple(weight.shape)))

    return capture.tap(out, [x], use)


def addmm(capture: Capture, bias: Tensor, x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    """`torch.addmm(bias, x, weight)`, as in GPT-2's Conv1D."""
    if options or bias.dim() != 1 or not holds_records(x) or capture.source(weight) is None:
        return _other(capture, torch.addmm, bias, x, weight, **options)  # type: ignore[no-any-return]
    product = capture.mark(matmul(capture, x, weight))
    out = product + capture.plain(bias)
    if capture.source(bias) is None:
        return out  # type: ignore[no-any-return]
    capture.expect(bias)
    size = (len(bias),)
    return capture.tap(
        out, (), lambda g: capture.add(bias, Dense(capture.by_record(g, "a product").sum(dim=1), size))
    )


def _other(capture: Capture, func: Any, *args: Any, **kwargs: Any) -> Any:
    if capture._touched(args, kwargs):
        return capture._unknown(func, func.__name__, args, kwargs)
    return func(*args, **kwargs)


def embedding(
    capture: Capture,
    indices: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`F.embedding`: row numbers (rows, ...) to (rows, ..., n)."""
    if capture.source(weight) is None:
        return F.embedding(indices, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    for name, given in (
        ("max_norm", max_norm),
        ("scale_grad_by_freq", scale_grad_by_freq),
        ("sparse", sparse),
    ):
        if given:
            raise UnsupportedError(
                f"Embedding({name}={given!r}) depends on the whole batch: leave {name} out"
            )
    if not holds_records(indices):
        return capture.derive(F.embedding, indices, weight, padding_idx)  # type: ignore[no-any-return]
    out = F.embedding(indices, capture.plain(weight), padding_idx)
    capture.expect(weight)

    def use(gradient: Tensor, chosen: Tensor) -> None:
        rows = capture.by_record(chosen.unsqueeze(-1), "an embedding").squeeze(-1)
        right = capture.by_record(gradient, "an embedding")
        if padding_idx is not None:
            right = right * (rows != padding_idx % weight.shape[0]).unsqueeze(-1)
        capture.add(weight, Outer(rows, right, weight.shape[0], tuple(weight.shape)))

    return capture.tap(out, [indices], use)


def layer_norm(
    capture: Capture, x: Tensor, normalized_shape: Any, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`F.layer_norm`."""
    return _normalized(
        capture, lambda t, w, b: F.layer_norm(t, normalized_shape, w, b, eps), x, weight, bias, last=True
    )


def rms_norm(
    capture: Capture, x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """`F.rms_norm`."""
    return _normalized(
        capture, lambda t, w, _: F.rms_norm(t, normalized_shape, w, eps), x, weight, None, last=True
    )


def group_norm(
    capture: Capture, x: Tensor, num_groups: int, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`F.group_norm`: channels are the second dimension."""
    return _normalized(
        capture, lambda t, w, b: F.group_norm(t, num_groups, w, b, eps), x, weight, bias, last=False
    )


def _normalized(
    capture: Capture, norm: Callable[..., Tensor], x: Tensor, weight: Tensor | None, bias: Tensor | None,
    *, last: bool,
) -> Tensor:  # fmt: skip
    """Affine normalisation: the gradient of the weight is that of the output times the normalised input."""
    if capture.source(weight) is None and capture.source(bias) is None:
        return norm(x, weight, bias)
    if not holds_records(x):
        raise UnsupportedError(
            "a normalisation of something that holds no records: freeze it, or compute it once"
        )
    out = norm(x, capture.plain(weight), capture.plain(bias))
    capture.expect(weight, bias)

    def sums(values: Tensor, like: Tensor) -> Dense:
        """Over all positions of a record that share an element of the parameter."""
        if last:
            folded = values.reshape(capture.rows, -1, like.numel()).sum(dim=1)
        else:
            folded = values.reshape(capture.rows, -1, like.numel(), math.prod(values.shape[2:])).sum(
                dim=(1, 3)
            )
        return Dense(folded, tuple(like.shape))

    def use(gradient: Tensor, inputs: Tensor) -> None:
        capture.by_record(gradient, "a normalisation")
        if capture.source(bias) is not None:
            capture.add(bias, sums(gradient, bias))  # type: ignore[arg-type]
        if capture.source(weight) is not None:
            capture.add(weight, sums(gradient * norm(inputs, None, None), weight))  # type: ignore[arg-type]

    return capture.tap(out, [x], use)


def dropout(
    capture: Capture, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """`F.dropout` with masks from the capture's own generator."""
    return _dropped(capture, x, p, training, inplace, x.shape)


def channel_dropout(
    capture: Capture, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """`F.dropout1d` to `F.dropout3d`: whole channels."""
    return _dropped(capture, x, p, training, inplace, (*x.shape[:2], *(1,) * (x.dim() - 2)))


def _dropped(
    capture: Capture, x: Tensor, p: float, training: bool, inplace: bool, shape: Sequence[int]
) -> Tensor:
    if not training or p == 0.0:
        return x
    keep = torch.empty(shape, dtype=x.dtype, device=x.device)
    keep.bernoulli_(1.0 - p, generator=capture.generator(x.device))
    if p < 1.0:
        keep /= 1.0 - p
    return x.mul_(keep) if inplace else x * keep


RULES.update(
    {
        F.linear: linear,
        torch.matmul: matmul,
        torch.Tensor.matmul: matmul,
        torch.Tensor.__matmul__: matmul,
        torch.mm: matmul,
        torch.Tensor.mm: matmul,
        torch.addmm: addmm,
        F.embedding: embedding,
        F.layer_norm: layer_norm,
        F.group_norm: group_norm,
        F.dropout: dropout,
        F.dropout1d: channel_dropout,
        F.dropout2d: channel_dropout,
        F.dropout3d: channel_dropout,
    }
)
DRAWING.update({F.dropout, F.dropout1d, F.dropout2d, F.dropout3d})
if hasattr(F, "rms_norm"):
    RULES[F.rms_norm] = rms_norm
