"""From a pair of laws to masses on a grid of losses, above the truth or below it.

Write R = P/Q for the ratio of a pair. The hockey stick E_Q[(R - e^epsilon)_+] is an average of a convex
function of R under Q, so it grows when masses of Q are spread around their mean and shrinks when they are
merged into their mean; composition with any other pair keeps the inequality. `upper` spreads each cell
over the two nodes around it ("connect the dots" [DGK+22]). `lower` merges the mass around each node and
lets neighbouring atoms exchange mass until each has its mean exactly on its node. What is left over, and
every rounding error, is moved to the side that keeps the inequality. Direction +1 asks about P against Q,
direction -1 about Q against P: there "worse" means a smaller R.

References
----------
[DGK+22] Doroshenko, Ghazi, Kamath, Kumar, Manurangsi, Connect the Dots: Tighter Discrete Approximations
         of Privacy Loss Distributions, PETS 2022 (arXiv 2207.04380).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedsec.accounting.old_pairs import Cells, Pair
from fedsec.accounting.rdp import ROUNDING, Array

_ROUNDS = 4  # of exchange between neighbours; each shrinks what is left by the size of a cell


class Atoms(NamedTuple):
    """Masses of the first law at the nodes, and its mass at infinite loss."""

    mass: Array
    infinite: float


def upper(pair: Pair, x: Array, sign: int) -> Atoms:
    """Return masses of the first law at the ascending nodes x whose hockey stick is never below the truth."""
    q, p, q_error, p_error = pair.cells(x)
    ratio, share = pair.ratio(x), pair.probability
    heavy_q, heavy_p = q + q_error, p + p_error
    inner = slice(1, -1)
    right = _right_share(Cells(q[inner], p[inner], q_error[inner], p_error[inner]), x, ratio, share, sign)
    mass = np.zeros_like(x)
    if sign < 0:
        mass[:-1] += heavy_q[inner] * (1.0 - right)
        mass[1:] += heavy_q[inner] * right
        mass[-1] += heavy_q[-1]
        return Atoms(mass, float(heavy_q[0]))
    first = (1.0 - share) * heavy_q + share * heavy_p
    growth = np.exp(x[1:] - x[:-1])
    right = right * growth / (1.0 - right + right * growth)
    mass[:-1] += first[inner] * (1.0 - right)
    mass[1:] += first[inner] * right
    mass[0] += first[0]
    return Atoms(mass, float(first[-1]))


def _right_share(cells: Cells, x: Array, ratio: Array, share: float, sign: int) -> Array:
    """How much of each cell's mass of Q goes to its right node, so that the mean of R is kept or worse."""
    gap = np.exp(x[:-1]) * np.expm1(x[1:] - x[:-1]) / share
    mean, known = _mean(cells, sign)
    error = 4.0 * ROUNDING * (1.0 + np.abs(ratio[:-1]) + np.abs(ratio[1:]))
    right = _quotient(mean - ratio[:-1] + sign * error, gap, np.nan)
    worst = 1.0 if sign > 0 else 0.0
    return np.clip(np.where(known & np.isfinite(right), right, worst), 0.0, 1.0)


def _mean(cells: Cells, sign: int) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Mean of the noise's P/Q in each cell, in doubt too large (+1) or too small; and where it is known."""
    known = cells.q > 4.0 * cells.q_error + 1e-290
    mean = (cells.p + sign * cells.p_error) / np.where(known, cells.q - sign * cells.q_error, 1.0)
    return mean, known


def lower(pair: Pair, x: Array, sign: int) -> Atoms:
    """Return masses of the first law at the ascending nodes x whose hockey stick is never above the truth."""
    ratio = pair.ratio(x)
    near, far = _halves(pair, x, sign)
    if sign < 0:  # mirrored, so that worse always means a larger ratio
        near, far = ((mass[::-1], -mean[::-1]) for mass, mean in (near, far))
        return Atoms(_merged(near, far, -ratio[::-1])[::-1], 0.0)
    return Atoms(_merged(near, far, ratio) * np.exp(x), 0.0)


def _halves(pair: Pair, x: Array, sign: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Mass and mean of R, in doubt too harmless, on the harmless and on the worse side of each node.

    An atom on a node belongs to the worse side. What lies beyond the outermost cells is dropped.
    """
    edges = np.empty(2 * x.size - 1)
    edges[::2], edges[1::2] = x, 0.5 * (x[1:] + x[:-1])
    gaps = np.diff(x, append=x[-1] + 1.0)
    edges[::2] -= sign * 1e-7 * gaps
    cells = Cells(*(part[1:-1] for part in pair.cells(edges)))
    mean, known = _mean(cells, -sign)
    mean = mean - sign * 4.0 * ROUNDING * (1.0 + np.abs(mean) + np.repeat(np.abs(pair.ratio(x)), 2)[1:-1])
    mass = np.where(known, np.maximum(cells.q - cells.q_error, 0.0), 0.0)
    mass, mean = np.concatenate(([0.0], mass, [0.0])), np.concatenate(([0.0], mean, [0.0]))
    mean = np.where(mass > 0.0, mean, np.repeat(pair.ratio(x), 2))
    left, right = (mass[::2], mean[::2]), (mass[1::2], mean[1::2])
    return (left, right) if sign > 0 else (right, left)


def _merged(near: tuple[Array, Array], far: tuple[Array, Array], node: Array) -> Array:
    """Move atoms (mass, mean) to the nodes, merging neighbours; no mean may grow beyond what merging gives.

    Each node has an atom below and one above it, which merge. If the whole lies below its node it takes mass
    from the next one above, otherwise from the one below: as much as brings the mean to the node. What
    cannot be helped so is put on the next node below, which lowers R and hence the hockey stick.
    """
    near, far = _settled(near, far, node)
    mass = near[0] + far[0]
    lift = far[0] * (far[1] - node)
    sink = near[0] * (node - near[1])
    mean = node + _quotient(lift - sink, mass)
    offset = mean - node
    to_right = np.maximum(_after(mean, -np.inf) - node, 0.0)
    to_left = np.maximum(node - _before(mean, np.inf), 0.0)
    own, from_right, from_left = _exchanged(mass, offset, to_right, to_left)
    share = _quotient(own, mass)
    below = offset < 0.0
    kept = _within(share * lift + from_right * to_right, share * sink)
    kept = np.where(below, kept, 1.0)
    fits = _within(own * np.maximum(offset, 0.0), from_left * to_left)
    excess = _after(from_left * (1.0 - fits), 0.0)  # goes back to where it came from
    moved = share * near[0] * (1.0 - kept) + np.where(below, excess, 0.0)
    result: Array = own - share * near[0] * (1.0 - kept) + from_right + from_left * fits
    return np.asarray(np.maximum(result + np.where(below, 0.0, excess), 0.0) + _after(moved, 0.0))


def _settled(
    near: tuple[Array, Array], far: tuple[Array, Array], node: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Put each atom on its true side where doubt has moved its mean across a node.

    One that doubt has moved beyond the next node below is dropped: there is nowhere to put it.
    """
    crossed = np.where(far[1] < node, far[0], 0.0)
    mass = near[0] + crossed
    mean = np.where(crossed > 0.0, _quotient(near[0] * near[1] + crossed * far[1], mass), near[1])
    mass = np.where(mean < _before(node, -np.inf), 0.0, mass)
    return (mass, mean), (far[0] - crossed, np.where(crossed > 0.0, node, far[1]))


def _exchanged(mass: Array, offset: Array, to_right: Array, to_left: Array) -> tuple[Array, Array, Array]:
    """What each node keeps of its own, what it takes from the next one above, and from the one below."""
    own, from_right, from_left = mass, np.zeros_like(mass), np.zeros_like(mass)
    for _ in range(_ROUNDS):
        from_right = _quotient(own * np.maximum(-offset, 0.0), to_right)
        from_left = _quotient(own * np.maximum(offset, 0.0), to_left)
        asked = _before(from_right, 0.0) + _after(from_left, 0.0)
        granted = np.minimum(1.0, _quotient(0.9 * mass, asked, 1.0))
        from_right, from_left = from_right * _after(granted, 0.0), from_left * _before(granted, 0.0)
        own = mass - _before(from_right, 0.0) - _after(from_left, 0.0)
    return own, from_right, from_left


def _within(available: Array, needed: Array) -> Array:
    """The part of what is needed that is available, a little less in doubt; all if nothing is needed."""
    part = np.minimum(1.0, _quotient(np.maximum(available, 0.0), needed, 1.0))
    return np.where(needed > 0.0, part * (1.0 - 4.0 * ROUNDING), 1.0)


def _quotient(a: Array, b: Array, otherwise: float = 0.0) -> Array:
    return np.divide(a, b, out=np.full_like(a, otherwise), where=(b > 0.0) & np.isfinite(b))


def _after(values: Array, last: float) -> Array:
    return np.append(values[1:], last)


def _before(values: Array, first: float) -> Array:
    return np.concatenate(([first], values[:-1]))
