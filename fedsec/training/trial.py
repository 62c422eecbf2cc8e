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
    """From more than `rows` records: the first `rows`, and the same with row 0 replaced, several times.

    Those that replace it have targets (the last tensor with records counts as that) that differ from the one
    replaced and from each other: by that a mean with weights shows.
    """
    size = max(
        (len(t) for t in pytree.tree_leaves(batch) if isinstance(t, torch.Tensor) and t.dim()), default=0
    )
    tensors = [t for t in pytree.tree_leaves(batch) if _has_records(t, size)]
    spare = list(range(rows, size))
    chosen = _different(tensors[-1], spare) if tensors else []

    def with_first(i: int) -> Any:
        order = torch.tensor([i, *range(1, rows)])
        return pytree.tree_map(lambda leaf: leaf[order] if _has_records(leaf, size) else leaf, batch)

    return [with_first(i) for i in (0, *(chosen or spare[:1]))]


def _has_records(leaf: Any, count: int) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and len(leaf) == count


def _different(targets: torch.Tensor, spare: list[int]) -> list[int]:
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
