"""Each record's gradient of each parameter, held in the form that takes least, and its clipped sum.

A use of a parameter in a forward pass leaves one of two pieces behind:

- `Dense`: the records' own gradients, one row each; for small parameters and whatever has no better form;
- `Outer`: the gradient of a matrix as a sum over positions of left ⊗ right, never formed. Its norms come from
  Gram matrices over positions ("ghost norms" [LTLH22]), its clipped sum is one product of matrices with the
  records' factors in it ("book-keeping" [BWZK23]). An embedding's left side is the numbers of its rows.

Pieces of one parameter are added before the norm is taken, so a weight that is used several times counts
once.

Rounding. What is in the model's own precision belongs to one record alone (its activations, what arrives at
its outputs, its own gradient, a sum over `POSITIONS` of its positions), or to one block of `BLOCK` records.
All else is in float64: sums over blocks, over records of several positions, and all that norms rest on. So
where the records of a step come in random order, two neighbouring batches can be laid out such that they
differ in two blocks at most, and their sums by the clipped gradient of one record plus the rounding of it and
of these blocks, which `SUM_SLACK` bounds; docs/training.md has the proof. Norms are never below the truth by
more than a relative `NORM_SLACK`, which the rules in `bounds` take off.

References
----------
[LTLH22] Li, Tramèr, Liang, Hashimoto. Large Language Models Can Be Strong Differentially Private Learners.
    ICLR 2022, sec. 4.
[BWZK23] Bu, Wang, Zha, Karypis. Differentially Private Optimization on Large Model at Small Cost. ICML 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from fedsec import _kernels
from fedsec.errors import InvalidArgumentError, NonFiniteError, ProtocolError

# A record's gradient is formed where it takes at most this many times the memory of what it comes from.
_KEEP = 2
# How many elements are widened to float64 at a time: they stay in the cache.
_WIDENED = 2**18
# Squares are added in the model's precision over so many coordinates (half of that for each of the two sides
# of a product), then in float64.
_CHUNK = 128

# So many records are added up in the model's precision. Four such sums (two blocks in each of two neighbours)
# err by at most 4 BLOCK (BLOCK + 2) 2**-24 (1 + 2**-17) of a clipped record in float32, in any order of
# summation. So many positions of one record are, too: that errs by (POSITIONS + 2) 2**-24 (1 + 2**-16) of the
# record's own mass (below).
BLOCK = 64
POSITIONS = 128
SUM_SLACK = 0.002
# With fewer positions a record's own product costs more than one of all records in float64.
_LEAST_POSITIONS = 16
# In float64 whatever is so small that it takes no time.
_SMALL = 2**16
# Where one of a position's sides is longer, underflow in the other might matter: such a record counts as so
# long that its factor is below the normal numbers, and so 0.
_LONGEST, _ENDLESS = 2.0**40, 2.0**160
# (128 + 1) 2**-24 / 2 of a norm in float32, twice (64 + 1) 2**-24 / 2 of the product of two, and far less for
# Gram matrices in float64.
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
        return _squares(self.values, _CHUNK)

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        """Add the sum of rows times factors (rows,) to a float64 tensor of the parameter's shape."""
        values = _for_products(self.values)
        arranged = bool(self.permutation)
        flat = total.new_zeros(values.shape[1]) if arranged else total.view(-1)
        if values.numel() <= _SMALL:
            flat += factors @ values[: len(factors)].double()
        else:
            weights = _narrowed(factors, values).unsqueeze(1)
            _add_products(flat.unsqueeze(0), _in_blocks(weights), _in_blocks(values))
        if arranged:
            total += self._arranged(flat.unsqueeze(0))[0]

    def terms(self) -> int:
        """How many numbers meet in one coordinate of the sum."""
        return len(self.values)

    def arranged(self) -> torch.Tensor:
        """The gradients as (rows, *parameter shape)."""
        return self._arranged(self.values)

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

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        """Add the sum of gradients times factors (rows,) to a float64 tensor of the parameter's shape."""
        matrix = total.view(self.m, self.right.shape[2])
        if self._single() and matrix.numel() >= _SMALL:
            _add_products(matrix, *(_in_groups(side) for side in self._scaled(factors)))
            return
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

    def _single(self) -> bool:
        """Whether products may be in float32, and take less time so."""
        positions = self.right.shape[1]
        fast = positions == 1 or positions >= _LEAST_POSITIONS
        return fast and self.right.dtype == torch.float32 and not self.unit and not _reduced_precision()

    def _scaled(self, factors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both sides of all rows, the smaller one with the factors in it."""
        sides = [self.left, self.right]
        small = 0 if self.m < self.right.shape[2] else 1
        sides[small] = sides[small] * _narrowed(factors, sides[small]).view(-1, 1, 1)
        return sides[0], sides[1]

    def terms(self) -> int:
        """How many numbers meet in one coordinate of the sum."""
        return self.left.shape[0] * self.left.shape[1]


Piece = Dense | Outer


class Gathered:
    """All pieces of one parameter, brought to as few as possible: what the engine asks for norms and sums."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        outers = _joined([piece for piece in pieces if isinstance(piece, Outer)])
        dense = [piece for piece in pieces if isinstance(piece, Dense)]
        if dense or all(outer.small() for outer in outers):
            dense, outers = dense + [outer.dense() for outer in outers], []
        self.outers = outers
        self.dense = _added(dense) if dense else None

    def squared_norms(self) -> torch.Tensor:
        """Squared L2 norms (rows,) of the parameter's gradients, float64."""
        return _ghost_norms(self.outers) if self.dense is None else self.dense.squared_norms()

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        """Add the sum over the first len(factors) records of factor times gradient, in float64."""
        parts = self.outers if self.dense is None else [self.dense]
        terms = sum(part.terms() for part in parts)
        if terms * len(factors) > MAX_TERMS:
            raise InvalidArgumentError(
                f"a sum over {len(factors)} records adds {terms} terms in one coordinate: take smaller "
                "physical batches"
            )
        for part in parts:
            part.add_to(total, factors)

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """What `add_to` adds, in the parameter's shape."""
        like = self.outers[0].right if self.dense is None else self.dense.values
        shape = self.outers[0].shape if self.dense is None else self.dense.arranged().shape[1:]
        total = like.new_zeros(shape, dtype=torch.float64)
        self.add_to(total, factors)
        return total


def _added(pieces: Sequence[Dense]) -> Dense:
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
        squares = _squares(first.right[:, 0], _CHUNK // 2)
        if first.unit:
            return squares
        others = _squares(first.left[:, 0], _CHUNK // 2)
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


def _squares(values: torch.Tensor, chunk: int) -> torch.Tensor:
    """Squared L2 norms (rows,) of (rows, d), float64."""
    size = values.shape[1]
    whole = size // chunk * chunk
    total = values.new_zeros(len(values), dtype=torch.float64)
    if whole:
        chunks = values[:, :whole].view(len(values), -1, chunk)
        total += torch.linalg.vector_norm(chunks, dim=2).double().square_().sum(dim=1)
    if whole < size:
        total += torch.linalg.vector_norm(values[:, whole:], dim=1).double().square_()
    return total


def _narrowed(factors: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Factors in the precision of `like` and for each of its rows, 0 beyond those that there are.

    Those too small for a normal number, of absurd gradients, are 0.
    """
    weights = like.new_zeros(len(like))
    weights[: len(factors)] = torch.where(factors < torch.finfo(like.dtype).tiny, 0.0, factors)
    return weights


def _in_blocks(side: torch.Tensor) -> list[torch.Tensor]:
    """Rows (rows, d) as blocks (n, BLOCK, d), and what is left as one (1, less, d).

    Of whole micro-batches: no block's shape, nor how many there are, depends on how many records count.
    """
    whole = len(side) // BLOCK * BLOCK
    blocks = [side[:whole].reshape(-1, BLOCK, side.shape[1]), side[whole:].unsqueeze(0)]
    return [block for block in blocks if block.numel()]


def _in_groups(side: torch.Tensor) -> list[torch.Tensor]:
    """A side (rows, positions, d) as the groups that a product adds up: records, or a record's positions."""
    if side.shape[1] == 1:
        return _in_blocks(side[:, 0])
    return [side[:, part] for part in _blocks(side.shape[1], POSITIONS)]


def _add_products(total: torch.Tensor, lefts: Sequence[torch.Tensor], rights: Sequence[torch.Tensor]) -> None:
    """Add the sum of left.T @ right over groups (groups, k, m) and (groups, k, n) to a float64 total (m, n).

    Each group's product is in the sides' precision, sums over groups in float64; a few rows of the total at a
    time, so that all of it stays in the cache.
    """
    n = total.shape[1]
    groups = sum(len(left) for left in lefts)
    for rows in _blocks(len(total), max(16, 2 * _WIDENED // (groups * n) // 16 * 16)):
        products = [torch.bmm(left[:, :, rows].mT, right) for left, right in zip(lefts, rights, strict=True)]
        parts = products[0] if len(products) == 1 else torch.cat(products)
        if parts.dtype == torch.float32 and parts.device.type == "cpu":
            _kernels.add_parts(total[rows].numpy(), parts.numpy())
        else:
            total[rows] += parts.sum(dim=0, dtype=torch.float64)


def _for_products(values: torch.Tensor) -> torch.Tensor:
    """In float64, where torch was told to multiply float32 matrices with fewer bits."""
    return values.double() if _reduced_precision() else values


def _reduced_precision() -> bool:
    try:
        settings = [getattr(torch.backends, name).matmul.fp32_precision for name in ("mkldnn", "cuda")]
    except AttributeError:  # torch before 2.9
        return torch.get_float32_matmul_precision() != "highest"
    return any(setting in ("bf16", "tf32") for setting in settings)


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

    def spend(self, factors: torch.Tensor, totals: dict[str, torch.Tensor]) -> None:
        """Add to each parameter's total the sum over the first n records of factor times gradient, once.

        A parameter's gradients are let go of as soon as they have been added. The micro-batch's sum is made
        by itself and then added: so a total rounds once a micro-batch, however many terms meet in it.

        Parameters
        ----------
        factors : float64 tensor (parameters, n)
            Zero or above, n at most the number of rows.
        totals : dict of names to float64 tensors
            In the parameters' shapes; those that are not in it are taken for zero.

        Raises
        ------
        ProtocolError
            The gradients are spent.
        """
        if len(self._gathered) != len(self.names):
            raise ProtocolError("the gradients of this micro-batch have been added already")
        for name, row in zip(self.names, factors, strict=True):
            part = self._gathered.pop(name).weighted_sum(row)
            totals[name] = totals[name].add_(part) if name in totals else part

    def weighted_sums(self, factors: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `spend` adds, by the names of parameters."""
        return {
            name: part.weighted_sum(row)
            for (name, part), row in zip(self._gathered.items(), factors, strict=True)
        }
