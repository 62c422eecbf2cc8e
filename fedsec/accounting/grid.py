"""Which nodes a pair is rounded to: on a lattice, fine around the bulk, further out as coarse as may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec.accounting.numbers import Array
from fedsec.accounting.pairs.base import Pair
from fedsec.accounting.rounding import directed_range

_MOST_NODES = 2**14  # of one pair, far out
_LEAST_STEP = 2.0**-45  # of a lattice, relative to the span of its losses

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Grid:
    """Nodes at the losses origin + h index, ascending."""

    origin: float
    index: Index
    h: float

    @property
    def x(self) -> Array:
        """Losses of the nodes."""
        return np.asarray(self.origin + self.h * self.index, dtype=np.float64)


def nodes(pair: Pair, sign: int, wanted: float, theta: float, fineness: float, tail: float) -> Grid:
    """Nodes for losses of P against Q (+1) or Q against P (-1), on a lattice of step about `wanted`.

    Near the bulk every lattice point is a node. Further out nodes are `fineness` times their distance
    apart, but for what a tilt by theta could tell apart.
    """
    low, high = directed_range(pair, tail, sign)
    h = max(_fitted(pair, wanted), (high - low) * _LEAST_STEP, 1e-290)
    anchor = min(max(sign * _centre(pair, h), low), high)
    if pair.lattice is not None or pair.other_atom is not None:  # no place may be coarse
        fineness = max(h / (high - low) if high > low else 1.0, 1.0 / _MOST_NODES)
    left = _offsets((anchor - low) / h, fineness, 1.0 / h)
    right = _offsets((high - anchor) / h, fineness, 1.0 / ((1.0 + theta) * h))
    return Grid(anchor, np.concatenate((-left[:0:-1], right)), h)


def _centre(pair: Pair, h: float) -> float:
    """The mean loss in the cell around the anchor: where most of the mass is, little needs to be moved."""
    centre = pair.anchor
    if pair.lattice is not None or pair.other_atom is not None:
        return centre
    for _ in range(2):
        cells = pair.cells(np.array([centre - 0.5 * h, centre + 0.5 * h]))
        if cells.loss_error[1] < 1e-3 * h:
            centre = float(cells.loss[1])
    return centre


def _fitted(pair: Pair, wanted: float) -> float:
    """Fit the lattice to the atoms: a multiple of the pair's own, or a part of the distance of two."""
    if pair.lattice is not None:
        return pair.lattice * max(1.0, math.floor(wanted / pair.lattice))
    if pair.other_atom is not None and pair.other_atom != pair.anchor:
        span = abs(pair.other_atom - pair.anchor)
        return span / max(1, math.ceil(span / wanted))
    return wanted


def _offsets(end: float, fineness: float, widest: float) -> Index:
    """Whole numbers from 0 to just beyond `end`, further apart the larger they are."""
    near = 1.0 / fineness
    far = min(max(widest, near, end / (fineness * _MOST_NODES)), end)
    parts: list[npt.NDArray[Any]] = [np.arange(min(near, end) + 1.0)]
    if far > near:
        parts.append(near * np.exp(fineness * np.arange(math.log(far / near) / fineness + 1.0)))
    if end > far:
        parts.append(np.arange(far, end, max(1.0, fineness * far)))
    last = math.ceil(end - 1e-6)
    parts.append(np.array([last, last + 1, last + 2], dtype=np.float64))
    index = np.unique(np.concatenate(parts).astype(np.int64))
    kept: Index = index[index <= last + 2]
    return kept
