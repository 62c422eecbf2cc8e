"""Laws of likelihood ratios under Q: their sums and products, bounded in convex order from both sides.

`allocation` prices its runs with it. Hockey sticks, of P against Q and of Q against P, are averages over Q
of convex functions of the ratio R = P/Q >= 0. Such averages grow when mass is spread over two values and its
mean kept, and shrink when masses are merged into their mean. Adding an independent variable, or multiplying
by one that is not negative, keeps that order [SS07]. So after each sum or product a law from above is spread
onto nodes, and one from below is merged between them. Every rounding of a mass makes it larger from above
and smaller from below; roundings of values are counted in `loss_error`.

References
----------
[SS07] Shaked, Shanthikumar, Stochastic Orders, Springer 2007.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from fedsec import _kernels
from fedsec.accounting.numbers import UNIT, Array
from fedsec.accounting.pairs.atoms import Atoms
from fedsec.accounting.pairs.base import Pair

LARGEST = 600.0  # losses beyond it count as infinite: their ratios are near overflow
_FINENESS = 1.0 / 96.0  # distance of nodes in the bulk, in deviations
_BULK = 8.0  # deviations from the bulk at which that distance has doubled
_WIDEST = 0.5  # distance of nodes over their values, at most
_CLOSEST = 1e-12  # distance of nodes over their values, at least
_NARROWEST = 1e-15  # deviation of a law that has none
_FLOOR = 1e-300  # products of masses below it are not computed; one step's mass beyond its nodes
_HIGHEST = 2.0 / _FLOOR  # ratios beyond it have less mass than the floor
_SQUARABLE = 1e150  # values beyond it have squares beyond doubles
_FEW = 2**14  # results that are nodes themselves
_MOST_NODES = 4000  # if more were wanted, they are that much further apart
_MANY = 1000  # atoms of a pair that are too many to be nodes
_VAGUE = 1e-9  # error of a loss with which it is not worth keeping

Operation = Literal["sum", "product"]


class Law(NamedTuple):
    """A law of R under Q, or a bound of it."""

    value: Array
    """Ascending, zero or above."""
    mass: Array
    infinite: float
    """What the mean of R has beyond all values: mass of P at infinite loss."""
    finest: float
    """Deviation of log R where it is densest: the scale of nodes far from the bulk."""
    loss_error: float
    """Bound on the relative error of each value."""


class _Shape(NamedTuple):
    """Where a law lies."""

    middle: float
    """Mean of R under Q."""
    spread: float
    """Standard deviation of R under Q."""
    low: float
    """Mean of log R under Q."""
    high: float
    """Mean of log R under P."""
    finest: float


@dataclass(frozen=True, eq=False)
class ManyAtoms(Atoms):
    """Atoms that stand for a density: none of them deserves a node of its own."""

    @property
    def other_atom(self) -> None:  # type: ignore[override]
        """No other atom matters."""
        return None


def law_of(pair: Pair, side: int) -> Law:
    """Return the law of a pair's ratio: from above (side +1) or below (-1)."""
    nodes = np.insert(np.exp(_losses(pair)), 0, 0.0)
    edges = np.log(nodes[1:])
    cells = pair.cells(edges)
    known = (cells.q > 0.0) & (cells.loss_error < _VAGUE)
    value = np.where(known, np.exp(cells.loss), nodes)
    mass = np.where(known, cells.q * (1.0 + side * cells.error), 0.0)
    infinite, zero = pair.infinite
    error = float(cells.loss_error[known].max()) + 2.0 * UNIT * (1.0 + float(np.abs(edges).max()))
    finest = _finest(pair)
    if side < 0:
        return _kept(Law(np.insert(value, 0, 0.0), np.insert(mass, 0, zero), infinite, finest, error), side)
    share = np.maximum((value - nodes) / _widths(nodes), 0.0)
    share[:-1] = np.minimum(share[:-1], 1.0)
    law = _spread(nodes, mass, mass * share, finest, error)
    law.mass[0] += zero + 2.0 * cells.q[~known].sum() + _FLOOR
    vague = infinite + 2.0 * float(cells.p[~known].sum()) + _FLOOR
    return _kept(law._replace(infinite=law.infinite + vague), side)


def pair_of(law: Law) -> ManyAtoms:
    """Return the pair whose ratio has this law under Q."""
    zero = float(law.mass[law.value == 0.0].sum())
    value, mass = (part[law.value > 0.0] for part in (law.value, law.mass))
    loss, log_q = np.log(value), np.log(mass)
    return ManyAtoms(
        loss, log_q + loss, log_q, loss_error=law.loss_error, infinite=(min(law.infinite, 1.0), zero)
    )


def total(one: Law, count: int, side: int) -> Law:
    """Return the law of the sum of `count` independent ratios, in about 2 log2(count) steps."""
    return _repeated("sum", one, count, side)


def plus(a: Law, b: Law, side: int) -> Law:
    """Return the law of the sum of two independent ratios."""
    return _combined("sum", a, b, side)


def divided(law: Law, count: int) -> Law:
    """Return the law of R / count."""
    infinite = law.infinite / count * (1.0 + 2.0 * UNIT)
    return law._replace(value=law.value / count, infinite=infinite, loss_error=law.loss_error + UNIT)


def power(one: Law, count: int) -> Law:
    """Return the law, from above, of the product of `count` independent ratios."""
    return _repeated("product", one, count, 1)


def times(a: Law, b: Law) -> Law:
    """Return the law, from above, of the product of two independent ratios."""
    return _combined("product", a, b, 1)


def _repeated(operation: Operation, one: Law, count: int, side: int) -> Law:
    law = one
    for bit in bin(count)[3:]:
        law = _combined(operation, law, None, side)
        law = _combined(operation, law, one, side) if bit == "1" else law
    return law


def _combined(operation: Operation, a: Law, other: Law | None, side: int) -> Law:
    """Combine independent ratios, the second with the law of the first if there is no `other`."""
    b = other or a
    nodes = _nodes_of(operation, a, b)
    widths = _widths(nodes)
    laws = a[:2], other and other[:2]
    mass, moment = _kernels.combined_cells(operation, *laws, nodes, 1.0 / widths, _FLOOR)
    doubt = UNIT * (a.value.size + b.value.size + 16.0)
    infinite, finest = a.infinite + b.infinite, max(a.finest, b.finest)
    errors = a.loss_error, b.loss_error
    error = UNIT + (max(errors) if operation == "sum" else sum(errors))
    if side < 0:
        share = np.divide(moment, mass, out=np.zeros_like(mass), where=mass > 0.0)
        error += doubt * float((widths[1:] / nodes[1:])[mass[1:] > 0.0].max(initial=0.0))
        value = nodes + np.minimum(share, 1.0) * widths
        return _kept(Law(value, mass * (1.0 - doubt), infinite, finest, error), side)
    law = _spread(nodes, mass * (1.0 + 2.0 * doubt), moment * (1.0 + doubt), finest, error)
    left_out = a.value.size * b.value.size * _FLOOR
    law.mass[0] += left_out
    return _kept(law._replace(infinite=law.infinite + infinite + left_out * nodes[-1]), side)


def _spread(nodes: Array, mass: Array, moment: Array, finest: float, error: float) -> Law:
    """Move the mass of each cell to its ends, its mean kept; what is beyond the last stays in the mean."""
    spread = np.maximum(mass - moment, 0.0)
    spread[-1] = mass[-1]
    spread[1:] += moment[:-1]
    return Law(nodes, spread, float(moment[-1] * _widths(nodes)[-1]), finest, error)


def _kept(law: Law, side: int) -> Law:
    """Leave out values without mass worth keeping; from above it counts as told at once."""
    p = law.mass * law.value
    kept = (law.mass > 0.0) & ((law.value <= 1.0) | (p > _FLOOR))
    rest = law._replace(value=law.value[kept], mass=law.mass[kept])
    if side < 0:
        return rest
    rest.mass[0] += law.mass[~kept].sum()
    return rest._replace(infinite=rest.infinite + float(p[~kept].sum()))


def _widths(nodes: Array) -> Array:
    """Of the cells from each node on; the last one has no end, so any unit will do."""
    return np.diff(nodes, append=2.0 * nodes[-1])


def _losses(pair: Pair) -> Array:
    """The losses that become nodes: the pair's own, if they are few."""
    low, high = np.clip(pair.range(_FLOOR), -LARGEST, LARGEST)
    if isinstance(pair, Atoms) and pair.loss.size < _MANY:
        return pair.loss
    if pair.lattice is not None and (high - low) / pair.lattice < _MANY:
        first, last = (round((end - pair.anchor) / pair.lattice) for end in (low, high))
        return pair.anchor + pair.lattice * np.arange(first, last + 1)
    y = pair.sketch()
    cells = pair.cells(y)
    law = Law(np.exp(np.clip(cells.loss, -LARGEST, LARGEST)), cells.q, 0.0, _finest(pair), 0.0)
    return np.log(_nodes(math.exp(low), math.exp(high), _shape(law))[1:])


def _finest(pair: Pair) -> float:
    """Deviation of the loss under Q or under P, whichever is smaller."""
    cells = pair.cells(pair.sketch())
    known = np.isfinite(cells.loss_error)
    return max(min(_deviation(cells.loss[known], mass[known]) for mass in (cells.p, cells.q)), _NARROWEST)


def _deviation(x: Array, mass: Array) -> float:
    middle = x @ mass / mass.sum()
    return math.sqrt((x - middle) ** 2 @ mass / mass.sum())


def _shape(law: Law) -> _Shape:
    known = (law.mass > 0.0) & (law.value > 0.0)
    value, q = law.value[known], law.mass[known]
    p, loss = q * value, np.log(value)
    middle = p.sum() / q.sum()
    spread = _deviation(np.minimum(value, _SQUARABLE), q)
    return _Shape(middle, spread, loss @ q / q.sum(), loss @ p / p.sum(), law.finest)


@np.errstate(over="ignore")
def _nodes_of(operation: Operation, a: Law, b: Law) -> Array:
    """Zero, and ascending nodes from the least positive result to the greatest."""
    combine = np.add if operation == "sum" else np.multiply
    few = a.value.size * b.value.size <= _FEW
    values = (law.value if few else law.value[[0, 1, -1]] for law in (a, b))
    results = combine.outer(*values)
    results = np.append(results[results > 0.0], 1.0 if results.max() == 0.0 else results.max())
    results = np.unique(np.clip(results, 1.0 / _HIGHEST, _HIGHEST))
    if few:
        return np.insert(results[np.diff(results, prepend=0.0) > _CLOSEST * results], 0, 0.0)
    shapes = _shape(a), _shape(b)
    shape = _shape_of_sum(*shapes) if operation == "sum" else _shape_of_product(*shapes)
    return _nodes(results[0], results[-1], shape)


def _shape_of_sum(a: _Shape, b: _Shape) -> _Shape:
    high = max(np.logaddexp(a.high, math.log(b.middle)), np.logaddexp(b.high, math.log(a.middle)))
    spread = math.hypot(a.spread, b.spread)
    return _Shape(a.middle + b.middle, spread, np.logaddexp(a.low, b.low), high, max(a.finest, b.finest))


def _shape_of_product(a: _Shape, b: _Shape) -> _Shape:
    spread = math.hypot(a.spread * b.middle, b.spread * a.middle, a.spread * b.spread)
    return _Shape(a.middle * b.middle, spread, a.low + b.low, a.high + b.high, max(a.finest, b.finest))


@np.errstate(over="ignore")
def _nodes(low: float, high: float, shape: _Shape) -> Array:
    """Zero, and nodes from low to high: even in the bulk of R, even in its logarithm further out."""
    spread, finest = min(max(shape.spread, _NARROWEST), _SQUARABLE), shape.finest
    around = shape.middle + spread * np.sinh(np.linspace(-20.0, 20.0, 4001))
    x = np.concatenate((np.geomspace(low, high, 4001), around))
    x = np.unique(np.append(x[(x > low) & (x < high)], (low, high)))
    y = np.log(x)
    outside = np.maximum(np.maximum(shape.low - y, y - shape.high), 0.0)
    far = x * np.minimum(finest * _growth(outside / finest), _WIDEST / _FINENESS)
    near = spread * _growth((x - shape.middle) / spread)
    density = 1.0 / np.maximum(_FINENESS * np.minimum(far, near), _CLOSEST * x)
    index = np.insert(np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(x)), 0, 0.0)
    size = min(math.ceil(index[-1]), _MOST_NODES) + 1
    nodes = np.interp(np.linspace(0.0, index[-1], size), index, x)
    nodes[0], nodes[-1] = low, high
    return np.insert(nodes, 0, 0.0)


def _growth(distance: Array) -> Array:
    return 1.0 + (distance / _BULK) ** 4
