"""The book-keeping engine: per-record gradients from one forward and one backward of the user's own model.

    keeper = BookKeeper(model)
    keeper.begin(rows=64)                  # the next forward passes are of 64 records
    losses = ...model(x)...                # (64,), one loss a record
    keeper.backward(losses)
    gradients = keeper.collect()           # norms, and sums under any factors

Hooks on the outermost module switch the capture on and off (`capture`); nothing of the model is replaced. A
raw gradient that arrives at a parameter all the same, because it was used in a way that the capture did not
see, is an error: `param.grad` stays None.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import torch
from torch.utils.checkpoint import CheckpointError

from fedsec._checks import whole
from fedsec.clipping import attention, convolution, recurrent, rules  # noqa: F401 (they add their rules)
from fedsec.clipping.bounds import ClippingRule, Groups
from fedsec.clipping.capture import Capture
from fedsec.clipping.gradients import RecordGradients
from fedsec.clipping.layers import refuse_mixing_layers
from fedsec.clipping.marks import tensors_in
from fedsec.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
    ProtocolError,
    UnsupportedError,
)

_ATTACHED = "_fedsec_book_keeper"


class BookKeeper:
    """Captures the gradients of single records in a model's own backward pass.

    Parameters
    ----------
    model : Module
        Not changed; it gets two hooks and its trainable parameters one each, until `close`. Parameters that
        do not require gradients, now, take no part.

    Raises
    ------
    InvalidArgumentError, InvalidTypeError
        No parameter requires gradients, or one is not float32 or float64.
    UnsupportedError
        The model is compiled already, is attached elsewhere, or holds a layer that mixes records (BatchNorm
        in training mode).

    Notes
    -----
    Guarantee: a record's captured gradient is what ``losses[i].backward()`` alone would give, rounding aside,
    and never includes a gradient of which the capture has not seen every use (`NonFiniteError`,
    `UnsupportedError` and `ProtocolError` instead). That a row's numbers do not depend on other rows rests on
    kernels that treat rows of a batch of one shape alike.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        if not isinstance(model, torch.nn.Module):
            raise InvalidTypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        _refuse_compiled(model)
        if getattr(model, _ATTACHED, None) or any(_attached(p) for p in model.parameters()):
            raise UnsupportedError(
                "the model, or a part of it, is attached already: detach the other one first"
            )
        refuse_mixing_layers(model)
        self.model = model
        self.parameters = _trainable(model)
        self.layers = _layers(tuple(self.parameters))
        self._capture: Capture | None = None
        self._open = False
        self._depth = 0
        self._running = object()  # stands for this one among those that keep compiled code from running
        weakref.finalize(self, _let_compiled, self._running)
        self._versions: dict[str, int] = {}
        self._buffers: dict[str, tuple[torch.Tensor, int]] = {}
        self._handles: list[Any] = [
            model.register_forward_pre_hook(_Inert(self._enter), with_kwargs=True),
            model.register_forward_hook(_Inert(self._leave), always_call=True),
        ]
        for name, parameter in self.parameters.items():
            handle = parameter.register_hook(_Inert(_refusal(name)))  # type: ignore[no-untyped-call]
            self._handles.append(handle)
        object.__setattr__(model, _ATTACHED, _Inert(None))

    def close(self) -> None:
        """Take the hooks off; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.drop()
        self.model.__dict__.pop(_ATTACHED, None)

    @property
    def dimension(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters.values())

    def begin(self, rows: int, *, seed: int | None = None, plain_backward: bool = False) -> None:
        """Say that the next forward passes are of `rows` records; what was not collected is dropped.

        With `plain_backward` every backward pass through them counts, of whoever's; otherwise that of
        `backward` alone, so that `torch.autograd.grad` is free for other uses.
        """
        whole("rows", rows, minimum=1)
        self.drop()
        _keep_uncompiled(self._running)
        self._capture = Capture(self.parameters, rows, seed)
        self._capture.listening = plain_backward
        self._open = True
        self._versions = {name: p._version for name, p in self.parameters.items()}
        self._buffers = {name: (buffer, buffer._version) for name, buffer in self.model.named_buffers()}
        for parameter in self.parameters.values():
            parameter.grad = None

    def compile_again(self) -> None:
        """Let compiled code run compiled, as it does not from `begin` to `collect` or `drop`."""
        _let_compiled(self._running)

    def drop(self) -> None:
        """Forget what was captured."""
        if self._depth and self._capture is not None:  # the model was interrupted
            self._capture.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self.compile_again()
        self._depth = 0
        self._capture = None
        self._open = False

    def backward(self, losses: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Run backward from one loss a record, (rows,), each with weight 1, or its own of 0 or 1.

        Raises
        ------
        InvalidArgumentError, InvalidTypeError
            Not a tensor of that shape.
        NonFiniteError
            A loss is NaN or infinite.
        """
        capture = self._active()
        rows = capture.rows
        if not isinstance(losses, torch.Tensor):
            raise InvalidTypeError(f"losses must be a tensor, got {type(losses).__name__}")
        if tuple(losses.shape) != (rows,):
            raise InvalidArgumentError(
                f"losses must be one loss a record (reduction='none'), shape ({rows},), got "
                f"{tuple(losses.shape)}"
            )
        chosen = torch.ones_like(losses) if weights is None else weights.to(losses)
        if not bool(torch.isfinite(losses.detach()[chosen != 0]).all()):
            worst = losses.detach()[~torch.isfinite(losses.detach())][0].item()
            raise NonFiniteError(f"losses must be finite, got {worst}")
        if not losses.requires_grad:
            raise InvalidArgumentError("losses do not depend on the model: was it run on this micro-batch?")
        listening, capture.listening = capture.listening, True
        try:
            losses.backward(gradient=chosen)  # type: ignore[no-untyped-call]
        except CheckpointError as error:
            raise UnsupportedError(f"checkpointing cannot be followed record by record: {error}") from None
        finally:
            capture.listening = listening

    @property
    def arrived(self) -> bool:
        """Whether any backward pass has come through since `begin`, counted or not."""
        return self._capture is not None and self._capture.arrived > 0

    def collect(self) -> RecordGradients:
        """The gradients of all records since `begin`, once.

        Raises
        ------
        ProtocolError
            No backward was run, or parameters changed in between.
        UnsupportedError
            The model wrote to a buffer (running statistics), which no noise protects.
        """
        capture = self._active()
        for name, parameter in self.parameters.items():
            if parameter._version != self._versions[name]:
                raise ProtocolError(f"{name} was changed between forward and backward")
        for name, buffer in self.model.named_buffers():
            before, version = self._buffers.get(name, (None, 0))
            if before is not buffer or version != buffer._version:
                raise UnsupportedError(
                    f"the model changed its buffer {name}, which would hold private values without noise: "
                    "track_running_stats=False, or eval mode"
                )
        if not capture.taken:
            raise ProtocolError("no backward has run since the micro-batch began")
        self.drop()
        return capture.collect()

    def _active(self) -> Capture:
        if self._capture is None:
            raise ProtocolError("no micro-batch has begun, or it has been collected")
        return self._capture

    # ---- hooks on the outermost module

    def _enter(self, _module: Any, args: Any, kwargs: Any) -> None:
        if self._open and self._capture is not None and torch.is_grad_enabled():
            if self._depth == 0:
                self._require_the_same_parameters()
                self._mark_records((args, kwargs), self._capture)
                self._capture.__enter__()  # type: ignore[no-untyped-call]
            self._depth += 1

    @staticmethod
    def _mark_records(inputs: Any, capture: Capture) -> None:
        rows = capture.rows
        held = [t for t in tensors_in(inputs) if t.dim() and len(t) and len(t) % rows == 0]
        if not held:
            raise UnsupportedError(
                f"no input of the model has the {rows} records of the batch first (batch_first=True)"
            )
        capture.mark(held)

    def _require_the_same_parameters(self) -> None:
        for name, parameter in self.parameters.items():
            _require_wide(name, parameter)
            if not parameter.requires_grad:
                raise UnsupportedError(f"{name} was frozen after attach: detach, and attach again")
        ours = {id(p) for p in self.parameters.values()}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and id(parameter) not in ours:
                raise UnsupportedError(f"{name} was thawed or added after attach: detach, and attach again")

    def _leave(self, *_: Any) -> None:
        if self._depth:
            self._depth -= 1
            if self._depth == 0 and self._capture is not None:
                self._capture.__exit__(None, None, None)  # type: ignore[no-untyped-call]


class _Inert:
    """A hook that copies and pickles of the model hold as one that does nothing."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __bool__(self) -> bool:
        return True

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return None if self._call is None else self._call(*arguments, **keywords)

    def __deepcopy__(self, _memo: Any) -> _Nothing:
        return _Nothing()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Nothing, ()


class _Nothing:
    def __bool__(self) -> bool:
        return False

    def __call__(self, *_arguments: Any, **_keywords: Any) -> None:
        return None


def _refusal(name: str) -> Any:
    def refuse(_gradient: torch.Tensor) -> NoReturn:
        raise UnsupportedError(
            f"a gradient of the whole batch reached {name}: it was used outside of the model's forward, "
            "under checkpointing or in a way that cannot be split by record; or this batch is not one of "
            "privacy.loader()"
        )

    return refuse


def _refuse_compiled(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            which = f"its module {name}" if name else "the model"
            raise UnsupportedError(f"{which} is compiled already: attach first, then torch.compile")


# A capture sees nothing of a compiled call, so compiled code runs as it was written while any capture is open
# in the whole process. A capture may be interrupted and forgotten, and captures need not nest.
_uncompiled_for: set[object] = set()
_stances: list[AbstractContextManager[Any]] = []


def _keep_uncompiled(token: object) -> None:
    if not hasattr(torch.compiler, "set_stance"):
        return
    _uncompiled_for.add(token)
    if not _stances and "torch._dynamo" in sys.modules:  # else nothing was compiled
        _stances.append(torch.compiler.set_stance("force_eager"))


def _let_compiled(token: object) -> None:
    _uncompiled_for.discard(token)
    while _stances and not _uncompiled_for:
        _stances.pop().__exit__(None, None, None)


def _trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise InvalidArgumentError("the model has no parameter that requires gradients")
    for name, parameter in parameters.items():
        _require_wide(name, parameter)
    return parameters


def _require_wide(name: str, parameter: torch.Tensor) -> None:
    if hasattr(parameter, "to_local") or hasattr(parameter, "_sharded_size"):
        raise UnsupportedError(
            f"{name} is spread over processes ({type(parameter).__name__}, FSDP): its records' "
            "gradients meet in no process; train with whole parameters in each process"
        )
    if parameter.dtype not in (torch.float32, torch.float64):
        raise InvalidTypeError(f"{name} must be float32 or float64, got {parameter.dtype}")


def _attached(parameter: torch.Tensor) -> bool:
    hooks = getattr(parameter, "_backward_hooks", None) or {}
    return any(isinstance(hook, _Inert) for hook in hooks.values())


def _layers(names: tuple[str, ...]) -> Groups:
    """Parameters by the module that owns them."""
    owners: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        owners.setdefault(name.rpartition(".")[0], []).append(i)
    return tuple(tuple(rows) for rows in owners.values())


def clipped_sum(
    keeper: BookKeeper, gradients: RecordGradients, rule: ClippingRule, num_records: int, scale: float = 1.0,
    into: dict[str, torch.Tensor] | None = None, dtype: torch.dtype = torch.float64,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """The sum over the first `num_records` records of what a rule leaves of `scale` times each gradient.

    The gradients are spent: each is let go of as soon as it has been added.

    Parameters
    ----------
    into : dict of names to float32 or float64 tensors, optional
        What the sum is added to; parameters that are not in it are taken for zero.
    dtype : float64, or float32
        Of what is not in `into`. The caller makes sure that float32 rounds seldom enough (`MOST_ROUNDINGS` of
        `gradients`).

    Returns
    -------
    dict of names to tensors
        `into`, or a new one: every trainable parameter in its shape, zero where no record has a gradient. One
        record adds at most ``rule.l2_sensitivity`` in L2 norm over all of them.

    Raises
    ------
    NonFiniteError
        A record's gradient is NaN or infinite.
    ProtocolError
        The gradients are spent.
    """
    totals = {} if into is None else into
    if num_records > 0:
        gradients.require_finite(num_records)
        squares = gradients.squared_norms[:, :num_records] * scale**2
        places, everything = {name: i for i, name in enumerate(gradients.names)}, list(keeper.parameters)
        layers = tuple(  # those without a gradient count, so that no share depends on what else is used
            tuple(places[everything[i]] for i in layer if everything[i] in places) for layer in keeper.layers
        )
        gradients.spend(rule.factors(squares, layers) * scale, totals, dtype)
    for name, parameter in keeper.parameters.items():
        if name not in totals:
            totals[name] = torch.zeros_like(
                parameter, dtype=dtype, memory_format=torch.contiguous_format
            ).detach()
    return totals
