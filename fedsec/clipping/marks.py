"""Which tensors hold records: what is computed from a model's inputs, call by call.

A mark is the number of the micro-batch, so a tensor that outlives its own (a hidden state that is carried on)
is known. Marks say what holds records and not where: that records stay first, and in their order, is for the
rules to check, and calls that choose among records by what is in them are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from fedsec.errors import UnsupportedError

Tensor = torch.Tensor
_Tree = TypeVar("_Tree")

_MARK = "_fedsec_holds_records"
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device)

# Calls that pick elements by what is in them, and leave no place to the rest.
_FILTERS = frozenset({
    "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "take", "masked_scatter",
    "masked_scatter_",
})  # fmt: skip
# Calls along a dimension (second argument) at places that a tensor (third argument) says.
_PICKS = frozenset({
    "index_select", "gather", "take_along_dim", "index_add", "index_add_", "index_copy", "index_copy_",
    "index_fill", "index_fill_", "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce",
    "scatter_reduce_", "index_reduce", "index_reduce_",
})  # fmt: skip
_READS = frozenset({"index_select", "gather", "take_along_dim", "__getitem__"})
_CONSTANTS = frozenset({"new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"})


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
    return bool(getattr(tensor, _MARK, 0))


def mark(tree: _Tree, batch: int) -> _Tree:
    """Say of all tensors in it that they hold records of the micro-batch of this number, from 1."""
    for tensor in tensors_in(tree):
        setattr(tensor, _MARK, batch)
    return tree


def follow(name: str, out: Any, args: Sequence[Any], kwargs: Mapping[str, Any], batch: int) -> None:
    """After a call: what is computed from records holds records, and so does what they are written to.

    Raises
    ------
    UnsupportedError
        Records of another micro-batch are in it, or it picks records by what is in them.
    """
    marks = {getattr(t, _MARK, 0) for t in tensors_in((args, kwargs))} - {0}
    if not marks:
        return
    if marks != {batch}:
        raise UnsupportedError(
            f"{name} uses what was computed from an earlier micro-batch (a hidden state, a cache): a step "
            "may depend on its own records alone; begin each batch from constants"
        )
    _require_places(name, args, kwargs)
    if name in _CONSTANTS:
        return
    mark(out, batch)
    if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
        _mark_whole(args[0], batch)
    if "out" in kwargs:
        _mark_whole(kwargs["out"], batch)


def _mark_whole(written: Any, batch: int) -> None:
    for tensor in tensors_in(written):
        mark([tensor] if tensor._base is None else [tensor, tensor._base], batch)


def _require_places(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Each record keeps its place: which one stands where must not depend on what is in them."""
    if name in _FILTERS:
        moved = any(holds_records(t) for t in tensors_in(args))
    elif name in _PICKS:
        moved = _picks(name, args, kwargs)
    elif name in ("__getitem__", "__setitem__"):
        moved = _indexes(name, args)
    elif name == "where":
        moved = len(args) + len(kwargs) == 1
    else:
        return
    if moved:
        raise UnsupportedError(
            f"{name} chooses records, or positions across them, by what is in them: afterwards a row is no "
            "longer a record; mask instead, or sort and filter in the data set"
        )


def _picks(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    index = kwargs.get("index", kwargs.get("indices", args[2] if len(args) > 2 else None))
    if isinstance(dim, Tensor):  # take_along_dim(input, indices, dim)
        dim, index = index, dim
    if not isinstance(index, Tensor) or not holds_records(index) or not isinstance(args[0], Tensor):
        return False
    if name in _READS and not holds_records(args[0]):  # rows of a table
        return False
    return dim is None or (isinstance(dim, int) and dim % max(1, args[0].dim()) == 0)


def _indexes(name: str, args: Sequence[Any]) -> bool:
    given = args[1] if isinstance(args[1], tuple) else (args[1],)
    first = next((index for index in given if index is not None), None)
    if not isinstance(first, Tensor) or not holds_records(first):
        return False
    if name in _READS and not holds_records(args[0]):
        return False
    aligned = name == "__setitem__" and first.dtype == torch.bool  # `x[x > 3] = 0`: each where it is
    return not (aligned and not (isinstance(args[2], Tensor) and args[2].dim()))
