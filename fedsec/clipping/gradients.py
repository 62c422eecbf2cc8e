"""Each record's gradient of each parameter, held in the form that takes least, and its clipped sum.

A use of a parameter in a forward pass leaves one of two pieces behind:

- `Dense`: the records' own gradients, one row each; for small parameters and whatever has no better form;
- `Outer`: the gradient of a matrix as a sum over positions of left ⊗ right, never formed. Its norms come from
  Gram matrices over positions ("ghost norms" [LTLH22]), its clipped sum is one product of matrices with the
  records' factors in it ("book-keeping" [BWZK23]). An embedding's left side is the numbers of its rows.

Pieces of one parameter are added before the norm is taken, so a weight that is used several times counts
once.

Rounding. What is in the model's own precision belongs to one record alone (its activations, what arrives at
its outputs, its own gradient, a sum over `BLOCK` of its positions), or to one block of `BLOCK` records. All
else is in float64: sums over blocks, over records of several positions, and all that norms rest on; a
parameter's total may be in float32 as long as it rounds seldom. So where the records of a step come in random
order, two neighbouring batches can be laid out such that they differ in two blocks at most, and their sums by
the clipped gradient of one record plus the rounding of it, of these blocks and of the totals, which
`SUM_SLACK` bounds; docs/training.md has the proof. Norms are never below the truth by more than a relative
`NORM_SLACK`, which the rules in `bounds` take off.

References
----------
[LTLH22] Li, Tramèr, Liang, Hashimoto. Large Language Models Can Be Strong Differentially Private Learners.
    ICLR 2022, sec. 4.
[BWZK23] Bu, Wang, Zha, Karypis. Differentially Private Optimization on Large Model at Small Cost. ICML 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedsec import _kernels
from fedsec.errors import InvalidArgumentError, NonFiniteError, ProtocolError

# A record's gradient is formed where it takes at most this many times the memory of what it comes from. Its
# norm then takes less time than Gram matrices, too.
_KEEP = 2
# How many elements are widened to float64 at a time: they stay in the cache.
_WIDENED = 2**18
# So many elements of gradients are formed at a time: less than what backward lets go of.
_FORMED = 2**17
# So many terms go into one call of a kernel, whose time grows faster with more.
_TERMS_A_CALL = 2**12

# So many records are added up in float32. Four such sums (two blocks in each of two neighbours) err by at
# most 4 BLOCK (BLOCK + 2) 2**-24 (1 + 2**-17) of a clipped record, in any order of summation. So many
# positions of one record are, too: that errs by (BLOCK + 2) 2**-24 (1 + 2**-16) of the record's own mass
# (below). A total in float32 that rounds after each of M micro-batches errs by at most N M 2**-24 clipped
# records for N of them: it is widened before N M is above `MOST_ROUNDINGS`.
BLOCK = _kernels.BLOCK
MOST_ROUNDINGS = 2**12
SUM_SLACK = 0.002
# With fewer positions a record's own product costs more than one of all records in float64.
_LEAST_POSITIONS = 16
# Where one of a position's sides is longer, underflow in the other might matter: such a record counts as so
# long that its factor is below the normal numbers, and so 0.
_LONGEST, _ENDLESS = 2.0**40, 2.0**160
# Squares are added in float64: for up to 2**32 coordinates they are off by less.
NORM_SLACK = 2.0**-17

# A record's mass m = sum of |left| |right| over positions bounds what rounding may do to its part of a sum. A
# Gram sum of up to 2**12 terms errs by at most 2**-40 m**2, which is added; and no record counts as shorter
# than 2**-7 m, so that a clipped record's mass is at most 2**7 C. Then float64 errs by N 2**-53 B 2**7 C in a
# sum of B records and N terms a coordinate, in each of two neighbours: by 2**-22 C together, as long as N B
# is at most
_GHOST_SLACK, _LEAST_SHARE = 2.0**-40, 2.0**-14
MAX_TERMS = 2**23


@dataclass
class Dense:
    """The records' own gradients (rows, d); `shape` and `permutation` lead to the parameter's order."""

    values: torch.Tensor
    shape: tuple[int, ...]
    permutation: tuple[int, ...] = ()

    def squared_norms(self) -> torch.Tensor:
        """Squared L2 norms (rows,), float64."""
        return _squares(self.values)

    def add_to(self, total: torch.Tensor, factors: torch.Tensor, *, fresh: bool) -> None:
        """Add the sum of rows times factors (rows,) to a tensor of the parameter's shape, or put it there."""
        if self.permutation:
            flat = total.new_empty(self.values.shape[1], dtype=torch.float64)
            _add_rows(flat, self.values[: len(factors)], factors, fresh=True)
            arranged = self._arranged(flat.unsqueeze(0))[0]
            total.copy_(arranged) if fresh else total.add_(arranged)
        else:
            _add_rows(total.view(-1), self.values[: len(factors)], factors, fresh=fresh)

    def roundings(self) -> int:
        """How often a total rounds in `add_to`."""
        return 1

    def terms(self) -> int:
        """How many numbers meet in one coordinate of the sum."""
        return len(self.values)

    def arranged(self) -> torch.Tensor:
        """The gradients as (rows, *parameter shape)."""
        return self._arranged(self.values)

    def size(self) -> tuple[int, ...]:
        """Of the parameter."""
        return tuple(self._arranged(self.values[:1]).shape[1:])

    def _arranged(self, values: torch.Tensor) -> torch.Tensor:
        arranged = values.view(len(values), *self.shape)
        if self.permutation:
            arranged = arranged.permute(0, *(1 + axis for axis in self.permutation))
        return arranged


@dataclass
class Outer:
    """A matrix's gradient as a sum over positions of left ⊗ right.

    left: (rows, positions, m), or integers (rows, positions) below `m` that stand for unit vectors; right:
    (rows, positions, n); `shape`: that of the parameter, with m * n elements in the same order.
    """

    left: torch.Tensor
    right: torch.Tensor
    m: int
    shape: tuple[int, ...]

    def size(self) -> tuple[int, ...]:
        """Of the parameter."""
        return self.shape

    @property
    def unit(self) -> bool:
        """Whether the left side is the numbers of rows."""
        return not self.left.is_floating_point()

    def small(self) -> bool:
        """Whether the gradients themselves take little more than the sides."""
        sides = self.left[0].numel() + self.right[0].numel()
        return self.m * self.right.shape[-1] <= _KEEP * sides

    def dense(self) -> Dense:
        """The records' own gradients."""
        if self.unit:
            size = (len(self.left), self.m, self.right.shape[-1])
            index = self.left.unsqueeze(-1).expand_as(self.right)
            values = self.right.new_zeros(size).scatter_add_(1, index, self.right)
        else:
            values = torch.bmm(self.left.mT, self.right)
        return Dense(values.flatten(1), self.shape)

    def formed(self) -> Formed:
        """The same, a few records at a time."""
        parts, squares = [], []
        for rows in _blocks(len(self.left), max(1, _FORMED // (self.m * self.right.shape[2]))):
            parts.append(Outer(self.left[rows], self.right[rows], self.m, self.shape).dense())
            squares.append(parts[-1].squared_norms())  # while it is in the cache
        return Formed(parts, torch.cat(squares))

    def add_to(self, total: torch.Tensor, factors: torch.Tensor, *, fresh: bool) -> None:
        """Add the sum of gradients times factors (rows,) to a tensor like the parameter, or put it there."""
        if self._single():
            self._add_products(total.view(self.m, -1).numpy(), factors.contiguous().numpy(), fresh)
            return
        own = torch.zeros_like(total, dtype=torch.float64)
        self._add_widened(own.view(self.m, -1), factors)
        total.copy_(own) if fresh else total.add_(own)

    def roundings(self) -> int:
        """How often a total rounds in `add_to`."""
        return len(list(self._calls())) if self._single() else 1

    def _single(self) -> bool:
        """Whether products may be in float32, and take less time so."""
        positions = self.right.shape[1]
        fast = positions == 1 or positions >= _LEAST_POSITIONS
        return fast and not self.unit and _for_kernels(self.left) and _for_kernels(self.right)

    def _calls(self) -> Iterator[slice]:
        return _blocks(len(self.left), max(1, _TERMS_A_CALL // self.right.shape[1]))

    def _add_products(self, total: Any, weights: Any, fresh: bool) -> None:
        """Of whole micro-batches, so that no block depends on how many records count."""
        left, right = self.left.contiguous().numpy(), self.right.contiguous().numpy()
        for rows in self._calls():
            given = (left[rows], right[rows], weights[rows])
            _kernels.products(total, *given, fresh=fresh, num_threads=torch.get_num_threads())
            fresh = False

    def _add_widened(self, matrix: torch.Tensor, factors: torch.Tensor) -> None:
        size = self.right[0].numel() + self.left[0].numel()
        # A large total is read and written once a part: so these may be half as large as it is.
        for rows in _blocks(len(factors), max(1, max(_WIDENED, matrix.numel() // 2) // size)):
            left, right = self.left[rows].flatten(0, 1), self.right[rows].flatten(0, 1)
            weights = factors[rows].repeat_interleave(self.right.shape[1]).unsqueeze(1)  # float64
            if self.unit:
                matrix.index_add_(0, left, right * weights)
            elif self.m < right.shape[1]:
                matrix.addmm_((left * weights).T, right.double())
            else:
                matrix.addmm_(left.double().T, right * weights)

    def terms(self) -> int:
        """How many numbers meet in one coordinate of the sum."""
        return self.left.shape[0] * self.left.shape[1]


@dataclass
class Formed:
    """The records' own gradients in parts of a few records, and their squared L2 norms (rows,), float64.

    No part is larger than what backward lets go of, so that it finds its place there: one tensor of them all
    would not.
    """

    parts: list[Dense]
    squares: torch.Tensor

    def squared_norms(self) -> torch.Tensor:
        """Squared L2 norms (rows,), float64."""
        return self.squares

    def add_to(self, total: torch.Tensor, factors: torch.Tensor, *, fresh: bool) -> None:
        """Add the sum of rows times factors (rows,) to a tensor of the parameter's shape, or put it there."""
        own = torch.empty_like(total, dtype=torch.float64)
        start = 0
        for part in self.parts:
            part.add_to(own, factors[start : start + len(part.values)], fresh=start == 0)
            start += len(part.values)
        total.copy_(own) if fresh else total.add_(own)

    def roundings(self) -> int:
        """How often a total rounds in `add_to`."""
        return 1

    def terms(self) -> int:
        """How many numbers meet in one coordinate of the sum."""
        return len(self.squares)

    def arranged(self) -> torch.Tensor:
        """The gradients as (rows, *parameter shape)."""
        return torch.cat([part.arranged() for part in self.parts])

    def size(self) -> tuple[int, ...]:
        """Of the parameter."""
        return self.parts[0].size()


Piece = Dense | Formed | Outer


class Gathered:
    """All pieces of one parameter, brought to as few as possible: what the engine asks for norms and sums."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.outers = _joined([piece for piece in pieces if isinstance(piece, Outer)])
        dense = [piece for piece in pieces if not isinstance(piece, Outer)]
        if dense or all(outer.small() for outer in self.outers):
            dense, self.outers = [*dense, *(outer.dense() for outer in self.outers)], []
        self.dense = _added(dense) if dense else None

    def squared_norms(self) -> torch.Tensor:
        """Squared L2 norms (rows,) of the parameter's gradients, float64."""
        return _ghost_norms(self.outers) if self.dense is None else self.dense.squared_norms()

    def add_to(self, total: torch.Tensor, factors: torch.Tensor, *, fresh: bool) -> None:
        """Add the sum over the first len(factors) records of factor times gradient, or put it there.

        The total, float32 or float64, rounds once.
        """
        parts: Sequence[Piece] = self.outers if self.dense is None else [self.dense]
        terms = sum(part.terms() for part in parts)
        if terms * len(factors) > MAX_TERMS:
            raise InvalidArgumentError(
                f"a sum over {len(factors)} records adds {terms} terms in one coordinate: take smaller "
                "physical batches"
            )
        once = sum(part.roundings() for part in parts) == 1
        own = total if once else torch.empty_like(total, dtype=torch.float64)
        for i, part in enumerate(parts):
            part.add_to(own, factors, fresh=i == 0 and (fresh or not once))
        if not once:
            total.copy_(own) if fresh else total.add_(own)

    def weighted_sum(self, factors: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """What `add_to` adds, in the parameter's shape."""
        piece = self.outers[0] if self.dense is None else self.dense
        total = torch.empty(piece.size(), dtype=dtype, device=factors.device)
        self.add_to(total, factors, fresh=True)
        return total


def _added(pieces: Sequence[Dense | Formed]) -> Dense | Formed:
    if len(pieces) == 1:
        return pieces[0]
    total = pieces[0].arranged().clone()
    for piece in pieces[1:]:
        total += piece.arranged()
    return Dense(total.reshape(len(total), -1), tuple(total.shape[1:]))


def _joined(outers: Sequence[Outer]) -> list[Outer]:
    """At most one piece with dense sides and one with row numbers, positions beside each other."""
    joined = []
    for kind in (False, True):
        same = [outer for outer in outers if outer.unit is kind]
        if len(same) > 1:
            left = torch.cat([outer.left for outer in same], dim=1)
            right = torch.cat([outer.right for outer in same], dim=1)
            joined.append(Outer(left, right, same[0].m, same[0].shape))
        else:
            joined += same
    return joined


def _ghost_norms(outers: Sequence[Outer]) -> torch.Tensor:
    """Squared norms of sums of outer products: the sum of <left_s, left_t> <right_s, right_t> [LTLH22]."""
    first = outers[0]
    if len(outers) == 1 and first.right.shape[1] == 1:
        squares = _squares(first.right[:, 0])
        if first.unit:
            return squares
        others = _squares(first.left[:, 0])
        return _endless_where(torch.maximum(squares, others), squares * others)
    total = torch.zeros(len(first.left), dtype=torch.float64, device=first.right.device)
    size = sum(outer.left[0].numel() + outer.right[0].numel() for outer in outers)
    for rows in _blocks(len(first.left), max(1, _WIDENED // size)):
        total[rows] = _gram_sum([Outer(o.left[rows], o.right[rows], o.m, o.shape) for o in outers])
    return total


def _gram_sum(outers: Sequence[Outer]) -> torch.Tensor:
    total: torch.Tensor | float = 0.0
    mass: torch.Tensor | float = 0.0
    longest: torch.Tensor | None = None
    wide = [Outer(o.left if o.unit else o.left.double(), o.right.double(), o.m, o.shape) for o in outers]
    for i, one in enumerate(wide):
        for j, other in enumerate(wide[: i + 1]):
            left, right = _gram(one.left, other.left), torch.bmm(one.right, other.right.mT)
            products = left * right
            if i == j:  # the lengths' squares are on the diagonals
                mass = mass + products.diagonal(dim1=1, dim2=2).sqrt().sum(dim=1)
                own = torch.maximum(*(gram.diagonal(dim1=1, dim2=2).amax(dim=1) for gram in (left, right)))
                longest = own if longest is None else torch.maximum(own, longest)
            total = total + (1.0 if i == j else 2.0) * products.sum(dim=(1, 2))
    squared_mass = torch.as_tensor(mass) ** 2
    squares = torch.maximum(torch.as_tensor(total) + _GHOST_SLACK * squared_mass, _LEAST_SHARE * squared_mass)
    return squares if longest is None else _endless_where(longest, squares)


def _endless_where(longest: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Squared norms of records, by the square of the longest side that each has."""
    return torch.where(longest > _LONGEST**2, squares.clamp(min=_ENDLESS**2), squares)


def _gram(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Inner products (rows, positions of one, positions of other) of left sides."""
    if one.is_floating_point() and other.is_floating_point():
        return torch.bmm(one, other.mT)
    if one.is_floating_point():
        return torch.gather(one, 2, other.unsqueeze(1).expand(-1, one.shape[1], -1))
    if other.is_floating_point():
        return _gram(other, one).mT
    return (one.unsqueeze(2) == other.unsqueeze(1)).double()


def _for_kernels(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def _squares(values: torch.Tensor) -> torch.Tensor:
    """Squared L2 norms (rows,) of (rows, d), added up in float64."""
    if _for_kernels(values):
        return torch.from_numpy(_kernels.sums_of_squares(values.contiguous().numpy()))
    parts = [values[rows].double() for rows in _blocks(len(values), max(1, _WIDENED // values.shape[1]))]
    return torch.cat([part.square().sum(dim=1) for part in parts])


def _add_rows(total: torch.Tensor, values: torch.Tensor, factors: torch.Tensor, *, fresh: bool) -> None:
    """Add the sum of rows (n, d) times factors (n,), made in float64, to a total (d,), or put it there."""
    if _for_kernels(values):
        given = (values.contiguous().numpy(), factors.contiguous().numpy())
        _kernels.weighted_sum(total.numpy(), *given, fresh=fresh)
    else:
        own = factors @ values.double()
        total.copy_(own) if fresh else total.add_(own)


def _blocks(count: int, step: int) -> Iterator[slice]:
    """Slices of `step` rows, the last one shorter."""
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


class RecordGradients:
    """The gradients of all records of one micro-batch, by parameter; made by `BookKeeper.collect`.

    Attributes
    ----------
    names : tuple of str
        The parameters that any record has a gradient of, in the order of ``model.named_parameters()``.
    squared_norms : float64 tensor (parameters, rows)
        Of each record's gradient of each parameter; norms are never below the truth by
        more than a relative `NORM_SLACK`.
    """

    def __init__(self, gathered: Mapping[str, Gathered], rows: int) -> None:
        self._gathered = dict(gathered)
        self.names = tuple(self._gathered)
        norms = [part.squared_norms() for part in self._gathered.values()]
        self.squared_norms = torch.stack(norms) if norms else torch.zeros(0, rows, dtype=torch.float64)

    def require_finite(self, num_records: int) -> None:
        """Raise NonFiniteError naming a parameter if one of the first records' gradients is not finite."""
        finite = torch.isfinite(self.squared_norms[:, :num_records]).all(dim=1)
        for name, fine in zip(self.names, finite.tolist(), strict=True):
            if not fine:
                raise NonFiniteError(f"a record's gradient of {name} is not finite")

    def spend(
        self, factors: torch.Tensor, totals: dict[str, torch.Tensor], dtype: torch.dtype = torch.float64
    ) -> None:
        """Add to each parameter's total the sum over the first n records of factor times gradient, once.

        A parameter's gradients are let go of as soon as they have been added. A total rounds once a
        micro-batch, however many terms meet in it.

        Parameters
        ----------
        factors : float64 tensor (parameters, n)
            Zero or above, n at most the number of rows.
        totals : dict of names to tensors
            In the parameters' shapes; those that are not in it are taken for zero, and made in `dtype`.

        Raises
        ------
        ProtocolError
            The gradients are spent.
        """
        if len(self._gathered) != len(self.names):
            raise ProtocolError("the gradients of this micro-batch have been added already")
        for name, row in zip(self.names, factors, strict=True):
            part = self._gathered.pop(name)
            if name not in totals:
                totals[name] = part.weighted_sum(row, dtype)
            else:
                part.add_to(totals[name], row, fresh=False)

    def weighted_sums(self, factors: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `spend` adds, by the names of parameters, in float64."""
        return {
            name: part.weighted_sum(row)
            for (name, part), row in zip(self._gathered.items(), factors, strict=True)
        }
