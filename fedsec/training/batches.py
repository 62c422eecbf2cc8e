"""Where the records of a step come from, and how they are cut: micro-batches of one physical size.

`Records` reads a data set at the places that `draws` drew. `Declared` cuts the batches of a loader of the
user's own, one a step, of which the user has said how they are drawn (`DeclaredLoader`). `Epochs` is what
`Privacy.loader` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils import _pytree as pytree

from fedsec._checks import whole
from fedsec.errors import InvalidArgumentError, InvalidTypeError, ProtocolError, UnsupportedError
from fedsec.training import draws
from fedsec.training.draws import MicroBatch
from fedsec.training.plan import TrainingPlan

# float64 adds up B records in blocks of min(rows, 64): for two neighbours it errs by less than 2**-20 C as
# long as the number of blocks times B is at most this (docs/training.md, item 4).
_BLOCKS_TIMES_RECORDS = 2**32
_BLOCK = 64


@dataclass(frozen=True)
class DeclaredLoader:
    """A loader of the user's own, and the user's word on how it draws; given to `attach` for the data set.

    Parameters
    ----------
    batches : iterable
        Each iteration gives the batches of an epoch: one a step, never a part of one, with the records first
        in every tensor. A step that draws nobody is a batch of no records.
    sampling : "poisson", "allocation" or "fixed"
        How records come into them, as `attach` describes it, with randomness that nobody can predict. Nothing
        can check that: the guarantee rests on it. What can be seen is checked (sizes, a DataLoader that cuts
        batches of one size).
    population_size : int, optional
        Of the data set, where it is public: for `batch_size` at `attach`.
    """

    batches: Iterable[Any]
    sampling: str
    population_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.batches, Iterable):
            raise InvalidTypeError(f"batches must be an iterable, got {type(self.batches).__name__}")
        if self.population_size is not None:
            whole("population_size", self.population_size, minimum=1)
        sampler = getattr(self.batches, "batch_sampler", None)
        if type(sampler) is torch.utils.data.BatchSampler:
            raise UnsupportedError(
                f"a DataLoader with batch_size={sampler.batch_size} cuts an order of the records into "
                f"batches of one size, and that is not sampling={self.sampling!r}: give it a batch_sampler "
                "that draws, or give attach the data set"
            )


class Cut(NamedTuple):
    """A micro-batch, and what it holds."""

    micro: MicroBatch
    batch: Any


class Records:
    """The records of a data set that this process draws from: `own`, indices into it."""

    def __init__(
        self, dataset: Any, own: draws.Indices, collate_fn: Any, num_workers: int, pin_memory: bool
    ) -> None:
        self._dataset, self._own = dataset, own
        self._collate, self._pin = collate_fn, pin_memory
        self._workers = whole("num_workers", num_workers, minimum=0)
        self.alone = len(own) < 2  # of one record

    def sample(self, count: int) -> Any:
        """A batch of `count` records for the trial, repeated where there are not so many."""
        order = draws.shuffled(self._own)[:count]
        return next(self._read([np.resize(order, count)]))

    def epoch(
        self, plan: TrainingPlan, first: int, left: int, rows: int, most: int
    ) -> tuple[Iterator[Cut], int]:
        """At most `left` steps of an epoch from its step `first` on, and how many micro-batches they are."""
        planned: list[MicroBatch] = []
        for _, step in zip(range(left), draws.epoch(plan, len(self._own), first), strict=False):
            whole("the number of records drawn for a step", len(step), minimum=0, maximum=most)
            planned += draws.micro_batches(step, rows)
        batches = self._read([self._own[micro.indices] for micro in planned])
        return (Cut(*pair) for pair in zip(planned, batches, strict=True)), len(planned)

    def _read(self, indices: list[draws.Indices]) -> Iterator[Any]:
        plain = type(self._dataset) is torch.utils.data.TensorDataset
        if plain and self._collate is None and not self._workers and not self._pin:
            return (self._dataset[torch.from_numpy(rows)] for rows in indices)
        return iter(
            torch.utils.data.DataLoader(
                self._dataset,
                batch_sampler=[rows.tolist() for rows in indices],
                collate_fn=self._collate,
                num_workers=self._workers,
                pin_memory=self._pin,
            )
        )


class Declared:
    """The batches of a declared loader, one a step, in random order and cut like any others."""

    def __init__(self, loader: DeclaredLoader) -> None:
        self._loader = loader
        self.alone = loader.population_size == 1
        self._batches: Iterator[Any] = iter(())
        self._tried: list[Any] = []  # the batch that the trial saw: it is the first step's all the same
        self._stand_in: Any = None

    def sample(self, count: int) -> Any:
        """`count` records of the first batch, repeated where there are not so many."""
        self._batches = iter(self._loader.batches)
        first = next(self._batches, None)
        if first is None or _records(first) < 2:
            raise UnsupportedError(
                "the first batch of a declared loader must hold two records: the trial needs them"
            )
        self._tried = [first]
        order = draws.shuffled(np.arange(_records(first)))[:count]
        return _rows(first, np.resize(order, count))

    def epoch(
        self, plan: TrainingPlan, first: int, left: int, rows: int, most: int
    ) -> tuple[Iterator[Cut], None]:
        """At most `left` steps of an epoch; how many micro-batches they are shows only later."""
        tried, self._tried = self._tried, []
        batches = self._batches if tried else iter(self._loader.batches)
        steps = min(left, plan.steps_an_epoch - first)
        return self._cut(plan, chain(tried, batches), steps, rows, most), None

    def _cut(
        self, plan: TrainingPlan, batches: Iterator[Any], steps: int, rows: int, most: int
    ) -> Iterator[Cut]:
        taken = 0
        for batch in islice(batches, steps):
            count = _records(batch)
            self._require_as_declared(plan, count, most)
            if count:
                self._stand_in = _rows(batch, np.zeros(1, np.int64))
            elif self._stand_in is None:
                raise UnsupportedError("the first batch of a declared loader holds no record")
            for micro in draws.micro_batches(draws.shuffled(np.arange(count)), rows):
                yield Cut(micro, _rows(batch if count else self._stand_in, micro.indices))
            taken += 1
        if plan.sampling == "allocation" and taken < steps:
            raise ProtocolError(f"an epoch of the declared loader has {taken} batches, not {steps}")

    def _require_as_declared(self, plan: TrainingPlan, count: int, most: int) -> None:
        size = self._loader.population_size
        allowed = most if size is None else min(most, size)
        fixed = plan.sampling == "fixed"
        if count > allowed or (fixed and count != plan.expected_batch_size):
            due = f"{plan.expected_batch_size:.0f}" if fixed else f"at most {allowed}"
            raise UnsupportedError(
                f"a batch of the declared loader holds {count} records, not {due} as declared"
            )


class Epochs:
    """Epoch after epoch: each iteration is one, drawn with its first batch or when asked for its length."""

    def __init__(self, begin: Callable[[], tuple[Iterator[Any], int | None]]) -> None:
        self._begin = begin
        self._coming: Iterator[Any] | None = None
        self._length: int | None = None
        self._running = False

    def __iter__(self) -> Iterator[Any]:
        if self._coming is None:
            self._draw()
        batches, self._coming, self._running = self._coming or iter(()), None, True
        yield from batches
        self._running = False

    def __len__(self) -> int:
        """Micro-batches of the running epoch, or of the coming one.

        Raises
        ------
        TypeError
            A declared loader does not say.
        """
        if self._coming is None and not self._running:
            self._draw()
        if self._length is None:
            raise TypeError("a declared loader does not say how many micro-batches its epochs have")
        return self._length

    def _draw(self) -> None:
        self._coming, self._length = self._begin()


def most_records(rows: int) -> int:
    """So many records a step, in micro-batches of `rows`: with more, float64's rounding would count."""
    return isqrt(_BLOCKS_TIMES_RECORDS * min(rows, _BLOCK))


def _records(batch: Any) -> int:
    """How many records a collated batch holds: the first dimension of all its tensors."""
    sizes = {len(leaf) for leaf in pytree.tree_leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.dim()}
    if len(sizes) != 1:
        raise InvalidArgumentError(
            f"every tensor of a declared loader's batch must have the records first, got sizes "
            f"{sorted(sizes)}"
        )
    return sizes.pop()


def _rows(batch: Any, indices: draws.Indices) -> Any:
    order = torch.from_numpy(indices)
    return pytree.tree_map(
        lambda leaf: leaf[order] if isinstance(leaf, torch.Tensor) and leaf.dim() else leaf, batch
    )
