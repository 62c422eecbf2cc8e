"""The rule of convolutions: a record's gradient of the kernel is its output gradient times its patches.

Patches are laid out for a few records at a time, in the order in which they lie closest in memory, and
multiplied at once; only where the kernel is large against the image are they kept for ghost norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from fedsec.clipping.capture import RULES
from fedsec.clipping.gradients import Dense, Outer, Piece
from fedsec.clipping.marks import holds_records
from fedsec.errors import UnsupportedError

if TYPE_CHECKING:
    from fedsec.clipping.capture import Capture

Tensor = torch.Tensor

_KEEP = 2  # as in `gradients`
_CHANNELS_LAST = 8  # from so many channels on, patches of whole channel vectors are copied faster
_RECORDS = 8  # at a time


def conv1d(
    capture: Capture, x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any =
    0, dilation: Any = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """`F.conv1d`: (rows, channels, length)."""
    return _convolved(capture, F.conv1d, 1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    capture: Capture, x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any =
    0, dilation: Any = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """`F.conv2d`: (rows, channels, height, width)."""
    return _convolved(capture, F.conv2d, 2, x, weight, bias, stride, padding, dilation, groups)


def _convolved(
    capture: Capture, call: Any, dims: int, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any,
    padding: Any, dilation: Any, groups: int,
) -> Tensor:  # fmt: skip
    if capture.source(weight) is None and capture.source(bias) is None:
        return call(x, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-any-return]
    if not holds_records(x):
        derived: Tensor = capture.derive(call, x, weight, bias, stride, padding, dilation, groups)
        return derived
    if x.dim() != dims + 2:
        raise UnsupportedError(f"a convolution needs a batch of records first, got shape {tuple(x.shape)}")
    out = call(x, capture.plain(weight), capture.plain(bias), stride, padding, dilation, groups)
    capture.expect(weight, bias)
    kernel = Kernel(weight, dims, stride, padding, dilation, groups)

    def use(gradient: Tensor, inputs: Tensor) -> None:
        positions = gradient.flatten(2)
        if capture.source(bias) is not None:
            sums = capture.by_record(positions.sum(dim=2), "a convolution").sum(dim=1)
            capture.add(bias, Dense(sums, (len(weight),)))
        if capture.source(weight) is not None:
            capture.add(weight, kernel.piece(capture.rows, inputs, positions))

    return capture.mark(capture.tap(out, [x], use))


class Kernel:
    """A convolution's geometry, in two dimensions always."""

    def __init__(
        self, weight: Tensor, dims: int, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> None:
        self.shape = tuple(weight.shape)
        self.size = self._pair(weight.shape[2:], dims, 1)
        self.stride, self.dilation = self._pair(stride, dims, 1), self._pair(dilation, dims, 1)
        self.groups = groups
        self.margins = self._margins(padding, dims)

    @staticmethod
    def _pair(value: Any, dims: int, missing: int) -> tuple[int, int]:
        values = tuple(value) if isinstance(value, Sequence) else (int(value),) * dims
        values = values * dims if len(values) < dims else values
        return (missing, int(values[0])) if dims == 1 else (int(values[0]), int(values[1]))

    def _margins(self, padding: Any, dims: int) -> tuple[int, int, int, int]:
        """Left, right, top, bottom; "same" puts the odd one at the end, as torch does."""
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.size, strict=True)]
            (top, left), (height, width) = [t // 2 for t in total], total
            return left, width - left, top, height - top
        top, left = (0, 0) if padding == "valid" else self._pair(padding, dims, 0)
        return left, left, top, top

    def piece(self, rows: int, x: Tensor, gradient: Tensor) -> Piece:
        """The gradients of the kernel from inputs (b, c, [h,] w) and output gradients (b, m, positions)."""
        images = F.pad(x if x.dim() == 4 else x.unsqueeze(2), self.margins)
        m, n = self.shape[0], self.shape[1] * self.size[0] * self.size[1]
        kept = m * n <= _KEEP * (x[0].numel() + gradient[0].numel()) * (len(x) // rows)
        if kept or self.groups > 1:
            return self._dense(rows, images, gradient)
        patches = self._patches(images, channels_last=False).mT
        left, right = (side.reshape(rows, -1, side.shape[-1]) for side in (gradient.mT, patches))
        return Outer(left, right, m, self.shape)

    def _dense(self, rows: int, images: Tensor, gradient: Tensor) -> Dense:
        last = self.groups == 1 and images.shape[1] >= _CHANNELS_LAST
        parts = []
        for start in range(0, len(images), _RECORDS):
            chunk = slice(start, start + _RECORDS)
            parts.append(self._multiplied(images[chunk], gradient[chunk], channels_last=last))
        values = torch.cat(parts)
        if len(values) > rows:
            values = values.view(rows, -1, values.shape[1]).sum(dim=1)
        if not last:
            return Dense(values, self.shape)
        c, (height, width) = self.shape[1], self.size
        permutation = (0, 3, 1, 2) if len(self.shape) == 4 else (0, 2, 1)
        shape = (
            (len(self._rows()), height, width, c) if len(self.shape) == 4 else (len(self._rows()), width, c)
        )
        return Dense(values, shape, permutation)

    def _rows(self) -> range:
        return range(self.shape[0])

    def _multiplied(self, images: Tensor, gradient: Tensor, *, channels_last: bool) -> Tensor:
        """(b, m * n) from padded images (b, c, h, w) and output gradients (b, m, positions)."""
        b, m, positions = gradient.shape
        patches = self._patches(images, channels_last=channels_last)
        if channels_last:
            return torch.bmm(gradient, patches).flatten(1)
        grouped = patches.reshape(b * self.groups, -1, positions)
        left = gradient.reshape(b * self.groups, m // self.groups, positions)
        return torch.bmm(left, grouped.mT).reshape(b, -1)

    def _patches(self, images: Tensor, *, channels_last: bool) -> Tensor:
        """(b, c * kh * kw, positions), or (b, positions, kh * kw * c)."""
        (kh, kw), (sh, sw), (dh, dw) = self.size, self.stride, self.dilation
        b, c, h, w = images.shape
        out = ((h - dh * (kh - 1) - 1) // sh + 1, (w - dw * (kw - 1) - 1) // sw + 1)
        if channels_last:
            images = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        batch, channel, row, column = images.stride()
        windows = images.as_strided(
            (b, c, kh, kw, *out), (batch, channel, dh * row, dw * column, sh * row, sw * column),
            images.storage_offset(),
        )  # fmt: skip
        if channels_last:
            return windows.permute(0, 4, 5, 2, 3, 1).reshape(b, out[0] * out[1], kh * kw * c)
        return windows.reshape(b, c * kh * kw, out[0] * out[1])


RULES[torch.conv1d] = conv1d
RULES[torch.conv2d] = conv2d
