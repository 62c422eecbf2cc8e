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

import logging
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fedsec.clipping.gradients import Dense, Gathered, Outer, Piece, RecordGradients
from fedsec.errors import ProtocolError, UnsupportedError

Tensor = torch.Tensor
_Tree = TypeVar("_Tree")

_LOG = logging.getLogger("fedsec.clipping")
_MARK = "_fedsec_holds_records"
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device)

# Arithmetic that broadcasts: a parameter in it may as well come once for each record.
_BROADCAST = frozenset({
    "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "true_divide", "__radd__", "__rsub__",
    "__rmul__", "__rtruediv__", "rsub", "multiply", "subtract", "divide", "maximum", "minimum", "where",
    "lerp", "addcmul",
})  # fmt: skip
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
        self._seed = secrets.randbits(63) if seed is None else seed
        self._generators: dict[torch.device, torch.Generator] = {}
        self._told: set[str] = set()
        self.arrived = 0

    # ---- the mode

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args, kwargs)
        if not torch.is_grad_enabled():
            return self._passed_on(func, args, kwargs)
        rule = RULES.get(func)
        if rule is not None:
            out = rule(self, *args, **kwargs)
        elif name in _RANDOM:
            raise UnsupportedError(
                f"the model draws from torch's global generator ({name}): draw in the data set, or use "
                "Dropout"
            )
        elif name in _MIXING and (name != "batch_norm" or _training(args, kwargs)):
            raise UnsupportedError(_MIXING[name])
        elif self._touched(args, kwargs):
            out = self._unknown(func, name, args, kwargs)
        else:
            out = func(*args, **kwargs)
        return self._marked(out, args, kwargs)

    def _attribute(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """`x.shape` as it is; `x.T` like any other call."""
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor) or not out.requires_grad or out.is_leaf:
            return self._marked(out, args, kwargs)
        if self._touched(args, kwargs):
            out = self._unknown(func, "attribute", args, kwargs)
        return self._marked(out, args, kwargs)

    def _passed_on(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return self._marked(func(*args, **kwargs), args, kwargs)

    def _marked(self, out: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What is computed from records holds records."""
        if any(holds_records(t) for t in tensors_in((args, kwargs))):
            mark(out)
        return out

    def _touched(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        return any(id(t) in self._sources for t in tensors_in((args, kwargs)))

    # ---- for the rules

    def source(self, tensor: object) -> Source | None:
        """The source that a tensor is, or None."""
        return self._sources.get(id(tensor))

    def plain(self, tensor: Any) -> Any:
        """A parameter without its gradient; anything else as it is."""
        return tensor.detach() if id(tensor) in self._sources else tensor

    def tap(self, out: Tensor, keep: Sequence[Tensor], use: Callable[..., None]) -> Tensor:
        """Have `use(gradient, *keep)` called with what arrives at `out`; returns `out`, or its stand-in."""
        if not out.requires_grad:
            out = _Anchor.apply(out, self._anchor)  # type: ignore[no-untyped-call]
        cell = [[t.detach() for t in keep]]

        def arrived(gradient: Tensor) -> None:
            if not cell:
                raise ProtocolError(
                    "backward went through the same forward pass twice: one backward a micro-batch"
                )
            self.arrived += 1
            with torch.no_grad():
                use(gradient, *cell.pop())

        out.register_hook(arrived)  # type: ignore[no-untyped-call]
        return out

    def expect(self, *tensors: object) -> None:
        """Say that each of these sources will get one piece more."""
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
            piece = piece.dense()
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
        if not any(holds_records(t) for t in tensors):
            return self._derived(func, name, args, kwargs)
        if name in _BROADCAST:
            return self._broadcast(func, args, kwargs)
        return self._each(func, name, args, kwargs)

    def derive(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """A call on parameters alone, for rules that find their data missing."""
        return self._derived(func, getattr(func, "__name__", "?"), args, kwargs)

    def _derived(self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if name in ("expand", "repeat") and (copies := self._copies(name, args)) is not None:
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
        same = own == tuple(sizes[1:]) if name == "expand" else all(size == 1 for size in sizes[1:])
        if name == "expand" and not same:
            same = all(size in (-1, kept) for size, kept in zip(sizes[1:], own, strict=True))
        if not same:
            return None
        out = source.tensor.detach().expand(self.rows, *own).clone()
        self.expect(source.tensor)
        target = source.tensor
        return mark(
            self.tap(out, (), lambda g: self.add(target, Dense(g.reshape(self.rows, -1), tuple(shape))))
        )

    def _broadcast(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        most = max(t.dim() for t in tensors_in((args, kwargs)) if holds_records(t))

        def copied(value: Any) -> Any:
            source = self.source(value) if isinstance(value, Tensor) else None
            return value if source is None else self._once_a_record(source, most)

        return func(*pytree.tree_map(copied, tuple(args)), **pytree.tree_map(copied, dict(kwargs)))

    def _once_a_record(self, source: Source, dims: int) -> Tensor:
        """The tensor with a first dimension of records, to meet one of `dims` dimensions in the same way."""
        shape = tuple(source.tensor.shape)
        if len(shape) == dims and shape[0] == 1:
            shape = shape[1:]
        if len(shape) >= dims:
            raise UnsupportedError(
                f"a parameter of shape {tuple(source.tensor.shape)} meets records of {dims} dimensions: it "
                "would "
                "stretch over several of them; give it fewer dimensions"
            )
        self.expect(source.tensor)
        target, size = source.tensor, tuple(source.tensor.shape)
        stretched = source.tensor.detach().reshape((1,) * (dims - len(shape)) + shape)
        copies = stretched.expand(self.rows, *stretched.shape[1:])
        out = self.tap(
            copies.detach().requires_grad_(),
            (),
            lambda gradient: self.add(target, Dense(gradient.reshape(self.rows, -1), size)),
        )
        return mark(out)

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
                mapped[i] = self._once_a_record(source, source.tensor.dim() + 1)
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
        return pytree.tree_map(lambda value: self._flat(value, name), out)

    def _flat(self, value: Any, name: str) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dim() < 2:
            raise UnsupportedError(
                f"{name} on one record gives no batch of one: it mixes records, or has no batch"
            )
        return value.flatten(0, 1)

    # ---- after backward

    def collect(self) -> RecordGradients:
        """The gradients of all records."""
        for source in reversed(list(self._sources.values())):
            if source.graph is not None and source.pieces:
                self._lead_back(source)
        pieces = {name: self._sources[id(p)].pieces for name, p in self._parameters.items()}
        return RecordGradients({n: Gathered(parts) for n, parts in pieces.items() if parts}, self.rows)

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


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in arguments, in lists and dictionaries too."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, (tuple, list)):  # most arguments: without the way through pytree
        return [tensor for value in tree if not isinstance(value, _PLAIN) for tensor in tensors_in(value)]
    if isinstance(tree, dict):
        return tensors_in(list(tree.values()))
    return [value for value in pytree.tree_leaves(tree) if isinstance(value, Tensor)]


def holds_records(tensor: Tensor) -> bool:
    """Whether a tensor was computed from the model's inputs."""
    return getattr(tensor, _MARK, False)


def mark(tree: _Tree) -> _Tree:
    """Say of all tensors in it that they hold records."""
    for tensor in tensors_in(tree):
        setattr(tensor, _MARK, True)
    return tree


def _training(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether `F.batch_norm(input, mean, var, weight, bias, training)` uses the batch's own statistics."""
    return bool(kwargs.get("training", args[5] if len(args) > 5 else False))


# ---- rules of single calls


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

    return mark(capture.tap(out, [x], use))


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
    product = mark(matmul(capture, x, weight))
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


RULES: dict[Any, Callable[..., Any]] = {
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
if hasattr(F, "rms_norm"):
    RULES[F.rms_norm] = rms_norm
