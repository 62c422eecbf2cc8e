"""From cells of a loss to atoms on nodes, above the truth or below it.

Asked in one direction, a pair has a first and a second law and the loss l = log(first / second). Its hockey
stick E_first[(1 - e^(epsilon - l))_+] is, for given masses of both laws, largest when the masses are spread
and smallest when they are merged; it also grows with each loss. Composition with any other pair keeps the
inequality. `upper` spreads each cell over the two nodes around it, with both masses kept ("connect the
dots" [DGK+22]). `lower` merges what is around each node and lets neighbours exchange mass until each has
its mean exactly on its node. What is left over, and every rounding error, moves to the side that keeps the
inequality. Means are means of e^-l under the first law.

References
----------
[DGK+22] Doroshenko, Ghazi, Kamath, Kumar, Manurangsi, Connect the Dots: Tighter Discrete Approximations
         of Privacy Loss Distributions, PETS 2022 (arXiv 2207.04380).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedsec.accounting.numbers import ROUNDING, Array
from fedsec.accounting.pairs.base import Pair

_ROUNDS = 12  # of exchange between neighbours; each shrinks what is left by the size of a cell
_WIDEST = 10.0  # distance across which mass is not merged: e^10 2^-53 of it would be lost to rounding
_UNDERFLOW = 1e-320  # absolute error of masses that doubles can hardly hold
_NEGLIGIBLE = 1e-9  # doubt, relative to the distance of nodes, that may shift a whole law
_VISIBLE = 1e-6  # offset of a mean, relative to the distance of nodes, that is worth a move
_LIGHT = 0.25  # a neighbour with a smaller part of a node's mass is too light to balance it
_MARGIN = 1e-7  # of a cell: atoms that rounding puts next to a node count as on it


class Atoms(NamedTuple):
    """Masses of the first law at the nodes less `shift`, and its mass at infinite loss."""

    mass: Array
    infinite: float
    shift: float = 0.0


class Side(NamedTuple):
    """Masses of the first law on one side of their nodes.

    `offset` is 1 - e^-(l - node) for the mean loss l of the mass: negative below the node.
    """

    mass: Array
    offset: Array


class Directed(NamedTuple):
    """Cells of the loss in one direction; as `pairs.Cells`."""

    mass: Array
    error: Array
    loss: Array
    loss_error: Array


def directed(pair: Pair, x: Array, sign: int) -> Directed:
    """Cells between the ascending losses x of P against Q (+1) or of Q against P (-1)."""
    if sign > 0:
        cells = pair.cells(x)
        return Directed(cells.p, cells.error, cells.loss, cells.loss_error)
    cells = pair.cells(-x[::-1])
    return Directed(cells.q[::-1], cells.error[::-1], -cells.loss[::-1], cells.loss_error[::-1])


def infinite_mass(pair: Pair, sign: int) -> float:
    """Mass of the first law where the second has none."""
    return pair.infinite[0 if sign > 0 else 1]


def directed_range(pair: Pair, tail: float, sign: int) -> tuple[float, float]:
    """Finite losses in one direction, beyond which lies at most `tail`."""
    low, high = pair.range(tail)
    return (low, high) if sign > 0 else (-high, -low)


def upper(pair: Pair, x: Array, sign: int) -> Atoms:
    """Return masses at the ascending nodes x whose hockey stick is never below the truth."""
    cells = directed(pair, x, sign)
    heavy = cells.mass * (1.0 + cells.error) + _UNDERFLOW
    gap = np.diff(x)
    doubt = cells.loss_error[1:-1] + ROUNDING * np.abs(x[1:])
    shift = _shift(doubt, gap)  # what rounding puts beyond the end of its cell must not be cut off
    right = right_share(np.clip(cells.loss[1:-1] + doubt - x[:-1], 0.0, gap), gap)
    mass = np.zeros_like(x)
    mass[:-1] = heavy[1:-1] * (1.0 - right)
    mass[1:] += heavy[1:-1] * right
    mass[0] += heavy[0]
    return Atoms(mass, float(heavy[-1]) + infinite_mass(pair, sign) * (1.0 + ROUNDING), -shift)


def _shift(doubt: Array, gap: Array) -> float:
    """Doubt that is small against the distance of nodes: the whole law moves by it instead."""
    return 2.0 * float(np.max(doubt, initial=0.0, where=doubt < _NEGLIGIBLE * gap.min()))


def right_share(offset: Array, gap: Array | float) -> Array:
    """How much of a mass that lies `offset` above its left node goes to the right one, `gap` above it."""
    return np.asarray(np.expm1(-offset) / np.expm1(-gap))


def lower(pair: Pair, x: Array, sign: int) -> Atoms:
    """Return masses at the ascending nodes x whose hockey stick is never above the truth."""
    gap = np.diff(x)
    edges = np.empty(2 * x.size - 1)
    edges[::2] = x - _MARGIN * np.append(gap, gap[-1])
    edges[1::2] = 0.5 * (x[1:] + x[:-1])
    cells = directed(pair, edges, sign)
    light = np.maximum(cells.mass * (1.0 - cells.error) - _UNDERFLOW, 0.0)
    node = np.repeat(x, 2)
    least = np.concatenate(([-np.inf], edges)) - _MARGIN * np.repeat(np.append(gap, gap[-1]), 2)
    doubt = cells.loss_error + ROUNDING * np.abs(node)
    shift = _shift(doubt, gap)
    loss = np.maximum(cells.loss - doubt + shift, least)  # an atom on a node must not fall off it
    light[0] = 0.0  # below the first node there is no place
    offset = np.where(light > 0.0, -np.expm1(-np.maximum(loss - node, -_WIDEST)), 0.0)
    fallen = np.where(loss - node < -_WIDEST, light, 0.0)[2::2]  # goes to the next node below as it is
    offset[1:-1:2] = _quotient(light[1:-1:2] * offset[1:-1:2], light[1:-1:2] + fallen)
    light[1:-1:2] += fallen
    light[2::2] -= fallen
    infinite = infinite_mass(pair, sign) * (1.0 - ROUNDING)
    mass = merged(Side(light[::2], offset[::2]), Side(light[1::2], offset[1::2]), gap)
    return Atoms(mass, infinite, shift)


def merged(near: Side, far: Side, gap: Array) -> Array:
    """Move masses below (near) and above (far) each node to the nodes, merging neighbours.

    Both sides of a node merge. If their mean is below the node it takes mass from the next one above,
    otherwise from the one below: as much as brings the mean to the node. Where that one is too light, at
    the edge of the law, the node gives away mass instead. What cannot be helped so goes to the next node
    below. `gap` holds the distances of the nodes.
    """
    near, far = _pushed(*_settled(near, far, gap), gap)
    mass = near.mass + far.mass
    lift = far.mass * far.offset
    sink = near.mass * -near.offset
    offset = _quotient(lift - sink, mass)
    to_right = np.append(-np.expm1(-gap) + np.exp(-gap) * offset[1:], 0.0)  # of the mean above, as offset
    wide = np.minimum(gap, _WIDEST)
    to_left = np.append(
        0.0, (np.expm1(wide) - np.exp(wide) * offset[:-1]) * (wide == gap)
    )  # below, as -offset
    own, from_right, from_left = _exchanged(mass, offset, to_right, to_left)
    share = _quotient(own, mass)
    below = offset < 0.0
    kept = np.where(below, _within(share * lift + from_right * to_right, share * sink), 1.0)
    fits = _within(own * np.maximum(offset, 0.0), from_left * to_left)
    excess = _after(from_left * (1.0 - fits))  # goes back to where it came from
    moved = share * near.mass * (1.0 - kept) + np.where(below, excess, 0.0)
    result = own - share * near.mass * (1.0 - kept) + from_right + from_left * fits
    return np.asarray(np.maximum(result + np.where(below, 0.0, excess), 0.0) + _after(moved))


def _settled(near: Side, far: Side, gap: Array) -> tuple[Side, Side]:
    """Put each mass on its true side where doubt has moved its mean across a node.

    One that doubt has moved beyond the next node below is dropped: there is nowhere to put it.
    """
    crossed = np.where(far.offset < 0.0, far.mass, 0.0)
    mass = near.mass + crossed
    offset = _quotient(near.mass * near.offset + crossed * far.offset, mass)
    mass = np.where(offset < np.append(0.0, -np.expm1(np.minimum(gap, _WIDEST))), 0.0, mass)
    return Side(mass, offset), Side(far.mass - crossed, np.maximum(far.offset, 0.0))


def _pushed(near: Side, far: Side, gap: Array) -> tuple[Side, Side]:
    """Let a node whose lighter neighbour could not balance it give mass to the heavier one."""
    mass = near.mass + far.mass
    surplus = far.mass * far.offset + near.mass * near.offset
    light_left, light_right = _before(mass) < _LIGHT * mass, _after(mass) < _LIGHT * mass
    visible = surplus > _VISIBLE * mass * np.minimum(
        np.append(gap, 1.0), 1.0
    )  # not an atom that is on its node
    up = np.where(visible & light_left & ~light_right, _quotient(surplus, far.offset), 0.0)
    down = np.where((surplus < 0.0) & light_right & ~light_left, _quotient(-surplus, -near.offset), 0.0)
    up[-1] = down[0] = 0.0
    wide = np.minimum(gap, _WIDEST)
    up[:-1][wide < gap] = 0.0
    down[1:][wide < gap] = 0.0
    arrived_up = np.append(0.0, np.exp(wide) * far.offset[:-1] - np.expm1(wide))
    arrived_down = np.append(np.exp(-wide) * near.offset[1:] - np.expm1(-wide), 0.0)
    near = _joined(Side(near.mass - down, near.offset), Side(_before(up), arrived_up))
    return near, _joined(Side(far.mass - up, far.offset), Side(_after(down), arrived_down))


def _joined(one: Side, other: Side) -> Side:
    mass = one.mass + other.mass
    return Side(mass, _quotient(one.mass * one.offset + other.mass * other.offset, mass))


def _exchanged(mass: Array, offset: Array, to_right: Array, to_left: Array) -> tuple[Array, Array, Array]:
    """What each node keeps of its own, what it takes from the next one above, and from the one below."""
    own, from_right, from_left = mass, np.zeros_like(mass), np.zeros_like(mass)
    for _ in range(_ROUNDS):
        from_right = _quotient(own * np.maximum(-offset, 0.0), to_right)
        from_left = _quotient(own * np.maximum(offset, 0.0), to_left)
        asked = _before(from_right) + _after(from_left)
        granted = np.minimum(1.0, _quotient(0.9 * mass, asked, 1.0))
        from_right, from_left = from_right * _after(granted), from_left * _before(granted)
        own = mass - _before(from_right) - _after(from_left)
    return own, from_right, from_left


def _within(available: Array, needed: Array) -> Array:
    """The part of what is needed that is available, a little less in doubt; all if nothing is needed."""
    part = np.minimum(1.0, _quotient(np.maximum(available, 0.0), needed, 1.0))
    return np.where(needed > 0.0, part * (1.0 - 4.0 * ROUNDING), 1.0)


def _quotient(a: Array, b: Array, otherwise: float = 0.0) -> Array:
    return np.divide(a, b, out=np.full_like(a, otherwise), where=b > 0.0)


def _after(values: Array) -> Array:
    return np.append(values[1:], 0.0)


def _before(values: Array) -> Array:
    return np.concatenate(([0.0], values[:-1]))
