"""The rule of RNN, GRU and LSTM, at the function that owns the weights.

torch runs them as one call on flat weights, which `torch.func.vmap` cannot take. Here the input's projection
of all positions is one linear layer, and the hidden one is a linear layer at every position: a weight that is
used several times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from fedsec.clipping.capture import DRAWING, RULES
from fedsec.clipping.rules import dropout, project
from fedsec.errors import UnsupportedError

if TYPE_CHECKING:
    from fedsec.clipping.capture import Capture

Tensor = torch.Tensor
State = tuple[Tensor, ...]
Cell = Callable[[Tensor, Tensor, State], State]


def lstm(capture: Capture, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """`torch._VF.lstm`."""
    return _layers(capture, _lstm_cell, x, *_unpacked(arguments))


def gru(capture: Capture, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """`torch._VF.gru`."""
    return _layers(capture, _gru_cell, x, *_unpacked(arguments))


def rnn_tanh(capture: Capture, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """`torch._VF.rnn_tanh`."""
    return _layers(capture, lambda i, h, _: (torch.tanh(i + h),), x, *_unpacked(arguments))


def rnn_relu(capture: Capture, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """`torch._VF.rnn_relu`."""
    return _layers(capture, lambda i, h, _: (torch.relu(i + h),), x, *_unpacked(arguments))


def _unpacked(arguments: Sequence[Any]) -> Sequence[Any]:
    if isinstance(arguments[0], torch.Tensor) and arguments[0].dim() == 1:
        raise UnsupportedError("packed sequences mix records in one batch: pad them, and mask the loss")
    return arguments


def _lstm_cell(i: Tensor, h: Tensor, state: State) -> State:
    gate_in, gate_forget, candidate, gate_out = (i + h).chunk(4, dim=-1)
    cell = torch.sigmoid(gate_forget) * state[1] + torch.sigmoid(gate_in) * torch.tanh(candidate)
    return torch.sigmoid(gate_out) * torch.tanh(cell), cell


def _gru_cell(i: Tensor, h: Tensor, state: State) -> State:
    (i_reset, i_update, i_new), (h_reset, h_update, h_new) = i.chunk(3, dim=-1), h.chunk(3, dim=-1)
    update = torch.sigmoid(i_update + h_update)
    new = torch.tanh(i_new + torch.sigmoid(i_reset + h_reset) * h_new)
    return ((1.0 - update) * new + update * state[0],)


def _layers(
    capture: Capture, cell: Cell, x: Tensor, hx: Any, weights: Sequence[Tensor], has_biases: bool,
    num_layers: int, p: float, training: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    initial = hx if isinstance(hx, (tuple, list)) else (hx,)
    out = x if batch_first else x.transpose(0, 1)
    directions = 2 if bidirectional else 1
    each = len(weights) // (num_layers * directions)
    last: list[State] = []
    for layer in range(num_layers):
        sides = []
        for direction in range(directions):
            k = layer * directions + direction
            own, state = weights[k * each : (k + 1) * each], tuple(part[k] for part in initial)
            sequence, state = _run(
                capture, cell, capture.mark(out), state, own, has_biases, backwards=direction == 1
            )
            sides.append(sequence)
            last.append(state)
        out = torch.cat(sides, dim=-1)
        if layer < num_layers - 1:
            out = dropout(capture, out, p, training)
    final = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    return (out if batch_first else out.transpose(0, 1), *final)


def _run(
    capture: Capture, cell: Cell, x: Tensor, state: State, weights: Sequence[Tensor], has_biases: bool,
    *, backwards: bool,
) -> tuple[Tensor, State]:  # fmt: skip
    """One layer in one direction over (rows, positions, features)."""
    w_ih, w_hh = weights[:2]
    b_ih, b_hh = weights[2:4] if has_biases else (None, None)
    projection = weights[-1] if len(weights) == (5 if has_biases else 3) else None
    inputs = project(capture, x, w_ih, b_ih)
    outputs: list[Tensor] = []
    for t in range(x.shape[1])[:: -1 if backwards else 1]:
        hidden = project(capture, capture.mark(state[0].contiguous()), w_hh, b_hh)
        state = cell(inputs[:, t], hidden, state)
        if projection is not None:
            state = (project(capture, capture.mark(state[0]), projection, None), *state[1:])
        outputs.append(state[0])
    return torch.stack(outputs[:: -1 if backwards else 1], dim=1), state


def lstm_cell(capture: Capture, x: Tensor, hx: State, *weights: Any) -> State:
    """`torch._VF.lstm_cell`."""
    return _lstm_cell(*_sides(capture, x, hx[0], *weights), hx)[:2]


def gru_cell(capture: Capture, x: Tensor, hx: Tensor, *weights: Any) -> Tensor:
    """`torch._VF.gru_cell`."""
    return _gru_cell(*_sides(capture, x, hx, *weights), (hx,))[0]


def rnn_tanh_cell(capture: Capture, x: Tensor, hx: Tensor, *weights: Any) -> Tensor:
    """`torch._VF.rnn_tanh_cell`."""
    return torch.tanh(torch.add(*_sides(capture, x, hx, *weights)))


def rnn_relu_cell(capture: Capture, x: Tensor, hx: Tensor, *weights: Any) -> Tensor:
    """`torch._VF.rnn_relu_cell`."""
    return torch.relu(torch.add(*_sides(capture, x, hx, *weights)))


def _sides(
    capture: Capture, x: Tensor, hidden: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What a cell adds up, of inputs and hidden states (rows, features)."""
    return (
        project(capture, capture.mark(x), w_ih, b_ih),
        project(capture, capture.mark(hidden), w_hh, b_hh),
    )


for _rule in (lstm, gru, rnn_tanh, rnn_relu, lstm_cell, gru_cell, rnn_tanh_cell, rnn_relu_cell):
    RULES[getattr(torch._VF, _rule.__name__)] = _rule
DRAWING.update(getattr(torch._VF, name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"))
