"""Which records take part in which step, and how they are cut into micro-batches of one size.

Draws come from the operating system, and so does the order of a step's records: the guarantee of the clipped
sums rests on it (docs/training.md). A micro-batch is filled up to its physical size with stand-ins, which
count for nothing: so that a record's own numbers do not depend on how many others there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedsec import sampling
from fedsec.training.plan import TrainingPlan

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class MicroBatch:
    """Indices of `rows` records, of which the first `num_records` count."""

    indices: Indices
    num_records: int
    is_last: bool

    @property
    def rows(self) -> int:
        """The physical size."""
        return len(self.indices)


def epoch(plan: TrainingPlan, size: int, first_step: int) -> Iterator[Indices]:
    """The records of each of the remaining steps of an epoch, each in uniformly random order."""
    steps = plan.steps_an_epoch - first_step
    if plan.sampling == "allocation":
        yield from _allocated(size, plan.steps_an_epoch)
        return
    for _ in range(steps):
        if plan.sampling == "poisson":
            yield shuffled(sampling.poisson(size, plan.sampling_probability))
        else:
            yield shuffled(sampling.fixed_size(size, int(plan.expected_batch_size)))


def _allocated(size: int, steps: int) -> Iterator[Indices]:
    """Each record's step drawn uniformly and independently."""
    chosen = sampling.uniform(size, steps)
    for step in range(steps):
        yield shuffled(np.flatnonzero(chosen == step))


def shuffled(indices: Indices) -> Indices:
    """In uniformly random order."""
    return indices[sampling.permutation(len(indices))]


def micro_batches(drawn: Indices, rows: int) -> Iterator[MicroBatch]:
    """A step's records in micro-batches of `rows`; nobody drawn gives one of stand-ins alone."""
    starts = range(0, max(1, len(drawn)), rows)
    for start in starts:
        part = drawn[start : start + rows]
        stand_in = part[-1] if len(part) else 0
        filled = np.concatenate([part, np.full(rows - len(part), stand_in, np.int64)])
        yield MicroBatch(filled, len(part), is_last=start == starts[-1])
