"""The trial before the first step: one record is replaced, and no other record's gradient may change.

It finds what no type of a layer shows: a mean weighted by class or by token, `ignore_index`, a mean over the
batch inside the model. Two micro-batches go through the user's own loop, which differ in one row; nothing of
them is kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from fedsec.errors import UnsupportedError

# Relative difference of norms that rounding may make, and what counts as nothing beside the largest norm.
_TOLERANCE, _NOTHING = 1e-4, 1e-6

# How many records are read beside a micro-batch, and how many of them at most take a place in it in turn.
SPARE, _VARIANTS = 8, 3


def variants(batch: Any, rows: int) -> list[Any]:
    """From `rows` + `SPARE` records: the first `rows`, and the same with row 0 replaced, several times.

    Those that replace it have targets (the last tensor with records counts as that) that differ from the one
    replaced and from each other: by that a mean with weights shows.
    """
    size = rows + SPARE

    def has_records(leaf: Any) -> bool:
        if isinstance(leaf, torch.Tensor):
            return leaf.dim() > 0 and len(leaf) == size
        return type(leaf) in (list, tuple) and len(leaf) == size and not all(map(has_records, leaf))

    leaves, spec = pytree.tree_flatten(batch, is_leaf=has_records)
    held = [leaf for leaf in leaves if has_records(leaf)]
    if not held:
        raise UnsupportedError(
            f"a batch of {size} records holds nothing with {size} records first, so the trial cannot replace "
            "one: collate_fn must give tensors (or lists) with one row a record"
        )
    tensors = [leaf for leaf in held if isinstance(leaf, torch.Tensor)]
    spare = range(rows, size)
    chosen = _different(tensors[-1], spare) if tensors else []
    other = [i for i in spare if any(not _equal(leaf[i], leaf[0]) for leaf in held)]

    def with_first(i: int) -> Any:
        order = [i, *range(1, rows)]
        return pytree.tree_unflatten([_chosen(f, order) if has_records(f) else f for f in leaves], spec)

    return [with_first(i) for i in (0, *(chosen or other[:1] or spare[:1]))]


def _chosen(leaf: Any, order: list[int]) -> Any:
    return leaf[order] if isinstance(leaf, torch.Tensor) else type(leaf)(leaf[i] for i in order)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and isinstance(one, (str, bytes, int, float)) and one == other


def _different(targets: torch.Tensor, spare: range) -> list[int]:
    """A few of the spare records, none with the target of row 0 or of another one."""
    kept = [0]
    for i in spare:
        if len(kept) <= _VARIANTS and not any(torch.equal(targets[i], targets[k]) for k in kept):
            kept.append(i)
    return kept[1:]


class Norms(NamedTuple):
    """Of each record's gradient of each parameter: (parameters, rows)."""

    names: tuple[str, ...]
    norms: torch.Tensor


def compare(first: Norms, second: Norms) -> None:
    """Raise `UnsupportedError` if a row other than the replaced row 0 has another gradient now."""
    before, after = first.norms, second.norms
    if first.names != second.names:
        raise UnsupportedError(
            "the trial before the first step used other parameters when one record was replaced"
        )
    before, after = before[:, 1:], after[:, 1:]
    allowed = _TOLERANCE * before + _NOTHING * before.max(dim=1, keepdim=True).values
    worst = ((before - after).abs() - allowed).amax(dim=1)
    if bool((worst > 0).any()):
        name = first.names[int(worst.argmax())]
        raise UnsupportedError(
            f"replacing one record changed the gradients of others (of {name}): the loss or the model mixes "
            "records "
            "(a mean weighted by class or token, ignore_index, a mean over the batch); give "
            "privacy.backward one loss "
            "a record (reduction='none')"
        )
