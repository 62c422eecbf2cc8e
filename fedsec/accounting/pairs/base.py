"""What the composition asks of a dominating pair: the masses of two laws in cells of their loss.

A pair of laws (P, Q) dominates a mechanism if no two neighbouring inputs are easier to tell apart, at any
epsilon; products of dominating pairs dominate compositions [ZDW22]. A pair is described through its loss
x = log(P/Q): `rounding` puts its cells on a grid, `pld` composes.

References
----------
[ZDW22] Zhu, Dong, Wang, Optimal Accounting of Differential Privacy via Characteristic Function, AISTATS
        2022 (arXiv 2106.08567).
"""

from __future__ import annotations

import abc
from typing import NamedTuple

from fedsec.accounting.numbers import Array


class Cells(NamedTuple):
    """Two laws in neighbouring cells of the loss x = log(P/Q); all arrays have one entry a cell.

    Masses may underflow to zero, and so may one of the two where the other does not: `loss` is computed
    from logarithms, and stays known where a mass is not.
    """

    p: Array
    """Mass of P."""
    q: Array
    """Mass of Q."""
    error: Array
    """Bound on the relative error of either mass, beyond what underflow does (1e-320)."""
    loss: Array
    """Logarithm of the mass of P over the mass of Q: the loss of the cell merged into one atom."""
    loss_error: Array
    """Bound on the absolute error of `loss`; infinite where it is not known."""


class Pair(abc.ABC):
    """Two laws P and Q of one run of a mechanism, with neighbouring inputs."""

    infinite: tuple[float, float] = (0.0, 0.0)
    """Mass of P where Q has none (loss +infinity), and of Q where P has none (loss -infinity)."""

    lattice: float | None = None
    """If set, every finite loss is `anchor` plus a whole multiple of this."""

    other_atom: float | None = None
    """If set, the finite loss of another atom that deserves a node, beside `anchor`."""

    @property
    @abc.abstractmethod
    def anchor(self) -> float:
        """The finite loss where most of Q lies: it becomes a node of the grid, so it is not moved."""

    @abc.abstractmethod
    def cells(self, x: Array) -> Cells:
        """Return the cells (-inf, x[0]], (x[0], x[1]], ..., (x[-1], inf) for strictly ascending x (n,).

        The result has n + 1 entries; infinite losses are not in it. Cells without mass have loss 0 and an
        infinite `loss_error`. x may hold -infinity at its start, for cells that are empty. Where rounding
        moves an edge, mass may lie beyond its cell, by no more than `loss_error`.
        """

    @abc.abstractmethod
    def range(self, tail: float) -> tuple[float, float]:
        """Return finite losses (low, high) with at most `tail` of each law below low and above high."""

    @abc.abstractmethod
    def sketch(self) -> Array:
        """Return some ten to a few thousand ascending losses that show where both laws lie and bend."""


class Dominance(NamedTuple):
    """What is known of one mechanism under one relation."""

    above: Pair
    """Dominates every two neighbours: compositions of it bound epsilon and delta from above."""
    below: Pair | None
    """Attained by two neighbours, for whole compositions: bounds from below; None if none is known."""
    symmetric: bool
    """Whether Q against P costs the same as P against Q, in both pairs."""
