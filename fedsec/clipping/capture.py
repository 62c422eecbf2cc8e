"""What a forward pass does with parameters, seen call by call, and undone record by record in backward.

While the model runs, a torch function mode sees every call that a trainable parameter takes part in. The call
is made with the parameter detached, so that autograd computes no gradient of it, and what arrives at the
call's output in backward leaves a piece of each record's gradient behind (`gradients`). It follows which
tensors come from the model's inputs, and so tells a batch of records from a constant of the same size:

- a call that a rule is known for (`RULES`, `attention`, `recurrent`) is captured in its own way;
- a call on parameters alone (a slice, a transpose, a weight norm) gives a derived parameter, whose gradients
  are led back through that call later;
- arithmetic that broadcasts a parameter over records gets the parameter once for each record;
- any other call is made record by record through `torch.func.vmap`, and one line in the log says so.

Whatever this misses sends a gradient to the parameter itself, where `bookkeeping` refuses it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fedsec._kernels import fresh_seed
from fedsec.clipping import marks
from fedsec.clipping.gradients import Dense, Gathered, Outer, Piece, RecordGradients
from fedsec.clipping.marks import holds_records, tensors_in
from fedsec.errors import ProtocolError, UnsupportedError

Tensor = torch.Tensor
_Tree = TypeVar("_Tree")

_LOG = logging.getLogger("fedsec.clipping")
_BATCHES = itertools.count(1)

# Arithmetic that broadcasts: a parameter in it may as well come once for each record.
_BROADCAST = frozenset({
    "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "true_divide", "__radd__", "__rsub__",
    "__rmul__", "__rtruediv__", "rsub", "multiply", "subtract", "divide", "maximum", "minimum", "where",
    "lerp", "addcmul",
})  # fmt: skip
_COPIES = frozenset({"expand", "broadcast_to", "repeat", "tile"})
# Calls that take no more than a kind or a device from the records that they are given.
_LIKE = frozenset({"type_as", "to"})
# Draws of torch's own generator; `F.dropout` and its kin have rules.
_RANDOM = frozenset({
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli",
    "bernoulli_", "multinomial", "normal", "normal_", "uniform_", "random_", "exponential_", "cauchy_",
    "geometric_", "log_normal_", "poisson", "rrelu", "rrelu_", "dropout", "dropout_", "native_dropout",
    "feature_dropout", "feature_dropout_", "alpha_dropout", "alpha_dropout_", "feature_alpha_dropout",
    "fractional_max_pool2d", "fractional_max_pool3d", "gumbel_softmax",
})  # fmt: skip
_MIXING = {
    "batch_norm": "BatchNorm mixes the records of a batch: fedsec.clipping.fix(model) puts GroupNorm in "
    "its place",
    "embedding_renorm_": "max_norm changes an embedding by what is in the batch: leave it out",
}


class _Anchor(torch.autograd.Function):
    """Makes a tensor that needs no gradient take part in backward, so that its hook is called."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, _anchor: Tensor) -> Tensor:
        ctx.mark_dirty(out)
        return out

    @staticmethod
    def backward(_ctx: Any, *_gradients: Tensor) -> tuple[None, None]:
        return None, None


class Source:
    """A parameter, or something computed from parameters alone, and the pieces its uses left behind."""

    def __init__(
        self, tensor: Tensor, graph: Tensor | None = None, leaves: Mapping[str, Tensor] | None = None
    ):
        self.tensor = tensor
        self.graph = graph
        self.leaves = dict(leaves or {})
        self.pieces: list[Piece] = []
        self.uses = 0


class Capture(TorchFunctionMode):
    """The uses of parameters in the forward passes of one micro-batch of `rows` records.

    Parameters
    ----------
    parameters : mapping of names to parameters
        The trainable ones.
    rows : int
        Records in the micro-batch: the first dimension of whatever holds them.
    seed : int
        Of the model's own draws (Dropout): from the operating system, the same for two passes that are
        compared.
    """

    def __init__(self, parameters: Mapping[str, Tensor], rows: int, seed: int | None = None) -> None:
        super().__init__()
        self.rows = rows
        self._names = {id(p): name for name, p in parameters.items()}
        self._leaves: dict[str, Tensor] = {}
        self._sources = {id(p): Source(p) for p in parameters.values()}
        self._parameters = dict(parameters)
        self._anchor = torch.zeros((), requires_grad=True)
        self._seed = fresh_seed() if seed is None else seed
        self._generators: dict[torch.device, torch.Generator] = {}
        self._told: set[str] = set()
        self._batch = next(_BATCHES)
        self.listening = False
        self.arrived = self.taken = 0

    # ---- the mode

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args, kwargs)
        rule = RULES.get(func)
        if name in _RANDOM and rule is None:
            raise UnsupportedError(
                f"the model draws from torch's global generator ({name}): draw in the data set, or use "
                "Dropout"
            )
        if torch._C._functorch.peek_interpreter_stack() is not None and self._touched(args, kwargs):
            raise UnsupportedError(f"a parameter within a transform of torch.func ({name}) has no rule")
        if not torch.is_grad_enabled() and func not in DRAWING:
            out = func(*args, **kwargs)
        elif rule is not None:
            out = rule(self, *args, **kwargs)
        elif name in _MIXING and (name != "batch_norm" or _training(args, kwargs)):
            raise UnsupportedError(_MIXING[name])
        elif self._touched(args, kwargs):
            out = self._unknown(func, name, args, kwargs)
        else:
            out = func(*args, **kwargs)
        marks.follow(name, out, args, kwargs, self._batch)
        return out

    def _attribute(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """`x.shape` as it is; `x.T` like any other call."""
        out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            if out.requires_grad and not out.is_leaf and self._touched(args, kwargs):
                out = self._unknown(func, "attribute", args, kwargs)
            marks.follow("attribute", out, args, kwargs, self._batch)
        return out

    def _touched(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        return any(id(t) in self._sources for t in tensors_in((args, kwargs)))

    # ---- for the rules

    def mark(self, tree: _Tree) -> _Tree:
        """Say of all tensors in it that they hold records."""
        return marks.mark(tree, self._batch)

    def source(self, tensor: object) -> Source | None:
        """The source that a tensor is, or None."""
        return self._sources.get(id(tensor))

    def plain(self, tensor: Any) -> Any:
        """A parameter without its gradient; anything else as it is."""
        return tensor.detach() if id(tensor) in self._sources else tensor

    def tap(self, out: Tensor, keep: Sequence[Tensor], use: Callable[..., None]) -> Tensor:
        """Have `use(gradient, *keep)` called with what arrives at `out`; returns `out`, or its stand-in.

        Both are widened to float32 where the call ran in less (autocast): norms and sums rest on it.
        """
        if not torch.is_grad_enabled():
            return out
        if not out.requires_grad:
            out = _Anchor.apply(out, self._anchor)  # type: ignore[no-untyped-call]
        cell = [[(t.detach(), t._version) for t in keep]]

        def arrived(gradient: Tensor) -> None:
            if torch.is_grad_enabled():
                raise UnsupportedError("gradients of gradients (create_graph=True) cannot be split by record")
            self.arrived += 1
            if not self.listening:  # the user's own torch.autograd.grad
                return
            if not cell:
                raise ProtocolError(
                    "backward went through the same forward pass twice: one backward a micro-batch"
                )
            self.taken += 1
            kept = cell.pop()
            if any(tensor._version != version for tensor, version in kept):
                raise UnsupportedError("an input of a layer was changed in place after the layer had used it")
            with torch.no_grad():
                use(_widened(gradient), *(_widened(tensor) for tensor, _ in kept))

        out.register_hook(arrived)  # type: ignore[no-untyped-call]
        return out

    def expect(self, *tensors: object) -> None:
        """Say that each of these sources will get one piece more."""
        if not torch.is_grad_enabled():
            return
        for tensor in tensors:
            source = self.source(tensor)
            if source is not None:
                source.uses += 1

    def add(self, tensor: object, piece: Piece) -> None:
        """Take in a piece; where it is the only one of its parameter and small, as gradients at once."""
        source = self.source(tensor)
        if source is None:
            return
        if isinstance(piece, Outer) and source.uses == 1 and piece.small():
            piece = piece.formed()
        source.pieces.append(piece)

    def by_record(self, tensor: Tensor, what: str) -> Tensor:
        """Reshape (k * rows, ..., n) to (rows, positions, n)."""
        if tensor.dim() == 0 or tensor.shape[0] == 0 or tensor.shape[0] % self.rows:
            raise UnsupportedError(
                f"the first dimension in {what} must be the {self.rows} records of the batch "
                "(batch_first=True), "
                f"got shape {tuple(tensor.shape)}"
            )
        return tensor.reshape(self.rows, -1, tensor.shape[-1])

    def generator(self, device: torch.device) -> torch.Generator:
        """Of the model's own draws: seeded by the operating system, untouched by torch.manual_seed."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]

    # ---- calls without a rule

    def _unknown(self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        tensors = tensors_in((args, kwargs))
        if name in _LIKE or not any(holds_records(t) for t in tensors):
            return self._derived(func, name, args, kwargs)
        if name in _BROADCAST:
            return self._broadcast(func, args, kwargs)
        return self._each(func, name, args, kwargs)

    def derive(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """A call on parameters alone, for rules that find their data missing."""
        return self._derived(func, getattr(func, "__name__", "?"), args, kwargs)

    def _derived(self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if (
            name in ("expand", "broadcast_to", "repeat", "tile")
            and (copies := self._copies(name, args)) is not None
        ):
            return copies
        leaves: dict[str, Tensor] = {}

        def graph(value: Any) -> Any:
            source = self.source(value) if isinstance(value, Tensor) else None
            if source is None:
                return value
            if source.graph is None:
                name = self._names[id(value)]
                leaves[name] = self._leaf(name)
                return leaves[name]
            leaves.update(source.leaves)
            return source.graph

        out = func(*pytree.tree_map(graph, tuple(args)), **pytree.tree_map(graph, dict(kwargs)))
        return pytree.tree_map(lambda value: self._registered(value, leaves), out)

    def _leaf(self, name: str) -> Tensor:
        if name not in self._leaves:
            self._leaves[name] = self._parameters[name].detach().requires_grad_()
        return self._leaves[name]

    def _registered(self, value: Any, leaves: Mapping[str, Tensor]) -> Any:
        if not isinstance(value, Tensor) or not value.requires_grad:
            return value
        known = next((leaf for leaf in leaves if value is leaves[leaf]), None)
        if known is not None:  # `p.contiguous()` is `p`
            return self._parameters[known]
        shown = value.detach().requires_grad_()
        shown.register_hook(_refuse_derived)  # type: ignore[no-untyped-call]
        self._sources[id(shown)] = Source(shown, value, leaves)
        return shown

    def _copies(self, name: str, args: Sequence[Any]) -> Tensor | None:
        """`p.expand(rows, -1, -1)` and `p.repeat(rows, 1, 1)`: the parameter once for each record."""
        source, sizes = self.source(args[0]), args[1:] if len(args) > 2 else tuple(args[1])
        if source is None or not sizes or sizes[0] != self.rows:
            return None
        shape, extra = source.tensor.shape, len(sizes) - source.tensor.dim()
        if extra not in (0, 1) or (extra == 0 and shape[0] != 1):
            return None
        own = tuple(shape) if extra else tuple(shape[1:])
        allowed = [(-1, kept) if name in ("expand", "broadcast_to") else (1,) for kept in own]
        if not all(size in sizes_kept for size, sizes_kept in zip(sizes[1:], allowed, strict=True)):
            return None
        return self._copied(source, own)

    def _copied(self, source: Source, own: Sequence[int]) -> Tensor:
        """The tensor once for each record, (rows, *own)."""
        self.expect(source.tensor)
        target, size = source.tensor, tuple(source.tensor.shape)
        copies = target.detach().reshape(1, *own).expand(self.rows, *own)
        return self.mark(
            self.tap(
                copies.detach().requires_grad_(),
                (),
                lambda gradient: self.add(target, Dense(gradient.reshape(self.rows, -1), size)),
            )
        )

    def _broadcast(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        held = max((t for t in tensors_in((args, kwargs)) if holds_records(t)), key=Tensor.dim)

        def copied(value: Any) -> Any:
            source = self.source(value) if isinstance(value, Tensor) else None
            return value if source is None else self.meeting(source, held)

        return func(*pytree.tree_map(copied, tuple(args)), **pytree.tree_map(copied, dict(kwargs)))

    def meeting(self, source: Source, held: Tensor) -> Tensor:
        """The tensor once for each row of `held`, a tensor of records, to meet it in arithmetic."""
        dims, shape = held.dim(), tuple(source.tensor.shape)
        rows = len(held) if dims else 0
        if rows == 0 or rows % self.rows:
            raise UnsupportedError(
                f"the first dimension of what meets a parameter must be the {self.rows} records of the "
                f"batch, got shape {tuple(held.shape)}"
            )
        if source.graph is not None and len(shape) == dims and shape[0] == rows > 1:
            return self._row_by_row(source)
        if len(shape) == dims and shape[0] == 1:
            shape = shape[1:]
        if len(shape) >= dims:
            raise UnsupportedError(
                f"a parameter of shape {tuple(source.tensor.shape)} meets records of {dims} dimensions: it "
                "would "
                "stretch over several of them; give it fewer dimensions"
            )
        copies = self._copied(source, ((1,) * (dims - 1 - len(shape)) + shape))
        return copies if rows == self.rows else copies.repeat_interleave(rows // self.rows, 0)

    def _row_by_row(self, source: Source) -> Tensor:
        """Something of parameters alone that has a row for each record (an initial state of zeros)."""
        self.expect(source.tensor)
        target, size = source.tensor, tuple(source.tensor.shape)

        def use(gradient: Tensor) -> None:
            own = gradient.reshape(self.rows, -1)
            values = own.new_zeros(self.rows, *own.shape)
            values.diagonal(dim1=0, dim2=1).copy_(own.T)
            self.add(target, Dense(values.flatten(1), size))

        return self.mark(self.tap(target.detach().requires_grad_(), (), use))

    def _each(self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The call for each record on its own, as a batch of one."""
        if name not in self._told:
            self._told.add(name)
            _LOG.warning(
                "%s has no rule for gradients of single records: it runs through torch.func.vmap", name
            )
        flat, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        mapped: dict[int, Tensor] = {}
        sources: list[int] = []
        for i, value in enumerate(flat):
            source = self.source(value) if isinstance(value, Tensor) else None
            if source is not None:
                mapped[i] = self._copied(source, tuple(source.tensor.shape))
                sources.append(i)
            elif isinstance(value, Tensor) and holds_records(value):
                self.by_record(value.unsqueeze(-1), name)
                mapped[i] = value.view(self.rows, -1, *value.shape[1:])

        def one(*values: Tensor) -> Any:
            own = list(flat)
            for i, value in zip(mapped, values, strict=True):
                own[i] = value
            arguments, keywords = pytree.tree_unflatten(own, spec)
            return func(*arguments, **keywords)

        out = torch.func.vmap(one, randomness="error")(*mapped.values())
        plain = [self.plain(value) for value in flat]
        arguments, keywords = pytree.tree_unflatten(plain, spec)
        return self._as_called(name, out, func, arguments, keywords)

    def _as_called(self, name: str, out: Any, func: Any, args: Any, kwargs: Any) -> Any:
        """What came record by record, if the call itself gives the same."""
        found, spec = pytree.tree_flatten(out)
        if not name.endswith("_") or name.endswith("__"):  # not twice in place
            with torch.no_grad():
                expected = pytree.tree_leaves(func(*args, **kwargs))
        else:
            expected = [None] * len(found)
        flat = []
        for value, want in zip(found, expected, strict=True):
            joined = value.flatten(0, 1) if isinstance(value, Tensor) and value.dim() > 1 else value
            if isinstance(want, Tensor) and not _alike(joined, want):
                raise UnsupportedError(
                    f"{name} gives something else for the batch than for its records one by one: it mixes "
                    "records, or has no batch of them first"
                )
            flat.append(joined)
        return pytree.tree_unflatten(flat, spec)

    # ---- after backward

    def collect(self) -> RecordGradients:
        """The gradients of all records."""
        for source in reversed(list(self._sources.values())):
            if source.graph is not None and source.pieces:
                self._lead_back(source)
        gathered = {}
        for name, parameter in self._parameters.items():
            source = self._sources[id(parameter)]
            pieces, source.pieces = source.pieces, []  # the graph holds on to the capture
            if pieces:
                gathered[name] = Gathered(pieces)
        return RecordGradients(gathered, self.rows)

    def _lead_back(self, source: Source) -> None:
        """From the gradients of something derived to those of the parameters it came from."""
        gathered = Gathered(source.pieces)
        dense = gathered.dense
        if dense is None:
            dense = Gathered([outer.dense() for outer in gathered.outers]).dense
        graph = source.graph
        if dense is None or graph is None:
            return
        with torch.enable_grad():
            back = torch.autograd.grad(
                graph,
                list(source.leaves.values()),
                dense.arranged().reshape(self.rows, *graph.shape),
                is_grads_batched=True,
                retain_graph=True,
                allow_unused=True,
            )
        for name, gradient in zip(source.leaves, back, strict=True):
            if gradient is not None:
                shape = tuple(gradient.shape[1:])
                self._sources[id(self._parameters[name])].pieces.append(
                    Dense(gradient.reshape(self.rows, -1), shape)
                )


def _refuse_derived(_gradient: Tensor) -> None:
    raise UnsupportedError(
        "something computed from parameters alone reached the loss without meeting a record (a penalty on "
        "weights?): "
        "use the optimizer's weight_decay"
    )


def _widened(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _alike(found: Any, expected: Tensor) -> bool:
    """The same up to rounding."""
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    low = expected.dtype in (torch.bfloat16, torch.float16)
    size = float(expected.detach().abs().amax()) if expected.numel() else 0.0
    return torch.allclose(
        found.detach(), expected, rtol=0.0, atol=(0.05 if low else 1e-3) * size, equal_nan=True
    )


def _training(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether `F.batch_norm(input, mean, var, weight, bias, training)` uses the batch's own statistics."""
    return bool(kwargs.get("training", args[5] if len(args) > 5 else False))


# Filled by `rules`, `convolution`, `attention` and `recurrent`.
RULES: dict[Any, Callable[..., Any]] = {}
# Those that draw, and so are called where no gradients are asked for, too.
DRAWING: set[Any] = set()
