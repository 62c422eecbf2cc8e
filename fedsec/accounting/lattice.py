"""Laws of losses on a lattice: tilted, composed by FFT, and moved to coarser lattices on the way.

With a tilt theta >= 0, T(l) = e^(theta l - M) F(l) is a law where F is the first law of a direction and M
the logarithm of the total. Tilted laws compose by convolution, centred where the answer lies, so that a
small delta is known to as many digits as a large one. A law of many runs is much wider than that of one,
so a composition goes up in stages: some thousand runs on a fine lattice, then the result moves to a
coarser one (rounded above or below the truth, as `rounding` does) and is composed again. What the FFT wraps
around, what lies outside its window (Chernoff) and what floating-point arithmetic may have lost is
charged in `Law.error` and `Law.noise`; `docs/accounting.md` has the proofs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedsec.accounting.grid import Grid, Index
from fedsec.accounting.numbers import UNIT, Array
from fedsec.accounting.rounding import Atoms, Side, merged, right_share

OUTSIDE = 1e-10  # what windows may miss on either side, all in all, in the tilted law
_MOST_POINTS = 2**16  # of one transform, if it can be helped
_MOST_HELD = 2**20  # of one transform that must hold a few runs of a law
COARSER = 8.0
_WIDE = 10.0  # a step at which nothing of a mass e^-l is left to be merged upwards
_ON_NODE = 1e-9  # of a step: an atom that rounding put so close below a node counts as on it
_DEEP = 46.0  # a transform below e^-46 counts as zero
_OUTLINE = 2**11  # blocks of a law that is looked at from afar
_LEAST_BATCH = 4  # runs that one stage takes at least
_EXPONENTS: Array = np.geomspace(2e-3, 64.0, 31, dtype=np.float64)  # of Chernoff bounds, in 1/deviations


@dataclass(frozen=True, eq=False)
class Law:
    """A tilted law at the losses origin + h index, with what may be wrong about it."""

    origin: float
    h: float
    index: Index
    mass: Array
    scale: float
    """M, the logarithm of the total before it was normalised."""
    relative: float
    """Bound on the relative error of each mass times e^scale: rounding that compositions multiply."""
    error: float
    """Bound on the l1 distance of `mass` from what it should be at least (or at most), on top of that."""
    noise: float
    """Bound on the Euclidean norm of the round-off of a transform, on top of both."""
    points: int
    """How many lattice points the round-off is spread over."""
    work: int = 1
    """The largest transform on the way."""

    @property
    def x(self) -> Array:
        """Losses of the atoms."""
        return np.asarray(self.origin + self.h * self.index, dtype=np.float64)

    @property
    def l1(self) -> float:
        """All that may be wrong, as l1 distance."""
        return self.error + self.noise * math.sqrt(self.points)

    def deviation(self) -> float:
        """Standard deviation, up to rounding."""
        index = self.index.astype(np.float64)
        index -= float(self.mass @ index)
        return self.h * math.sqrt(max(float(self.mass @ (index * index)), 0.0))


Runs = Sequence[tuple[Law, int]]


def tilted(grid: Grid, atoms: Atoms, theta: float) -> Law:
    """Tilt masses of the first law at the nodes of a grid."""
    if not np.isfinite(atoms.mass).all():
        raise FloatingPointError("masses that are not finite")
    kept = atoms.mass > 0.0
    origin = grid.origin - atoms.shift
    x, mass, index = grid.x[kept] - atoms.shift, atoms.mass[kept], grid.index[kept]
    if not mass.size:
        return Law(origin, grid.h, np.zeros(1, np.int64), np.ones(1), -math.inf, 0.0, 0.0, 0.0, 1)
    top = max(0.0, float((theta * x).max()) - 600.0)
    weight = mass * np.exp(theta * x - top)
    total = float(weight.sum())
    scale = math.log(total) + top
    if theta * np.abs(x).max() < 600.0:  # full relative accuracy near 0
        scale = math.log1p(float(mass @ np.expm1(theta * x)) + (math.fsum(mass) - 1.0))
    weight /= total
    kept = weight > 0.0
    weight, x, index = weight[kept], x[kept], index[kept]
    relative = 16.0 * UNIT * (1.0 + abs(scale) + float(np.abs(theta * x).max()))
    return _centred(Law(origin, grid.h, index, weight, scale, relative, 0.0, 0.0, 1))


def _centred(law: Law) -> Law:
    """Put the lattice's zero next to the mean."""
    mean = round(float(law.mass @ law.index))
    return replace(law, origin=law.origin + law.h * mean, index=law.index - mean)


def moved(law: Law, h: float, theta: float, side: int) -> Law:
    """Move a law to a lattice of step h: above the truth (+1) by spreading, below (-1) by merging."""
    if h == law.h:
        return law
    heavy = _heaviest(law, h)
    position = (law.index - heavy) * (law.h / h)
    doubt = 4.0 * UNIT * float(np.abs(position).max())
    node = np.floor(position + (0.0 if side > 0 else _ON_NODE))
    offset = np.clip((position - node) * h, 0.0, h)
    shift = side * h * (doubt + (0.0 if side > 0 else _ON_NODE))
    first = int(node.min())
    place = (node - first).astype(np.int64)
    size = int(place.max()) + 2
    rounded = _spread if side > 0 else _gathered
    mass = rounded(law.mass, place, offset, size, h, theta)
    total = float(mass.sum())
    if not 0.0 < total < math.inf:
        raise FloatingPointError(f"a law moved to steps of {h} is out of range")
    total = max(total, 1.0)  # what a lower law lost stays lost: errors refer to what it was
    index = np.arange(first, first + size)[mass > 0.0]
    mass = mass[mass > 0.0] / total
    relative = law.relative + 32.0 * UNIT + 2.0 * theta * h * doubt
    scale = law.scale + math.log(total) + theta * shift
    return _centred(
        Law(
            law.origin + law.h * heavy + shift,
            h,
            index,
            mass,
            scale,
            relative,
            law.l1 / total,
            0.0,
            1,
            law.work,
        )
    )


def _heaviest(law: Law, h: float) -> float:
    """The mean index in a coarse cell around the heaviest atom: there a node saves most."""
    heaviest = law.index[int(np.argmax(law.mass))]
    around = np.abs(law.index - heaviest) * (2.0 * law.h) <= h
    mass = law.mass[around]
    total = float(mass.sum())
    return float(mass @ law.index[around]) / total if total > 0.0 else float(heaviest)


def _spread(mass: Array, place: Index, offset: Array, size: int, h: float, theta: float) -> Array:
    """Share every atom among the two nodes around it, its mean kept."""
    right = right_share(offset, h)
    left = np.bincount(place, mass * np.exp(-theta * offset) * (1.0 - right), size)
    return np.asarray(left + np.bincount(place + 1, mass * np.exp(theta * (h - offset)) * right, size))


def _gathered(mass: Array, place: Index, offset: Array, size: int, h: float, theta: float) -> Array:
    """Merge the atoms around each node, in the first law itself, as far as doubles reach from the mean."""
    upper = offset >= 0.5 * h if h < _WIDE else np.zeros_like(place, dtype=bool)
    node = place + upper
    offset = offset - h * upper
    middle = float(mass @ place)
    reach = np.abs(node - middle) * (theta * h) < 600.0
    first = np.where(reach, mass * np.exp(-theta * (np.where(reach, (node - middle) * h, 0.0) + offset)), 0.0)
    near, far = (_side(node[part], first[part], offset[part], size) for part in (upper, ~upper))
    atoms = merged(near, far, np.full(size - 1, h))
    exponent = np.minimum(theta * h * (np.arange(size) - middle), 600.0)
    return np.asarray(atoms * np.exp(exponent) * (np.abs(exponent) < 600.0))


def _side(node: Index, mass: Array, offset: Array, size: int) -> Side:
    """Gather masses of the first law at nodes, with their mean offset."""
    held = np.bincount(node, mass, size).astype(np.float64)
    level = np.bincount(node, mass * -np.expm1(-offset), size)
    return Side(held, np.divide(level, held, out=np.zeros_like(held), where=held > 0.0))


def composed(laws: Runs, h: float, theta: float, side: int, fineness: float) -> Law:
    """Compose laws, each with its count; where there are several they meet on a lattice of step h."""
    done = [_powered(law, count, theta, side, fineness) for law, count in laws]
    if len(done) == 1:
        return done[0]
    h = max(h, *(int(law.index[-1] - law.index[0]) * law.h / _MOST_HELD for law in done))
    return _held([(moved(law, h, theta, side), 1) for law in done], OUTSIDE, theta, side)


def _powered(law: Law, count: int, theta: float, side: int, fineness: float) -> Law:
    """Compose one law with itself, in stages as long as one transform would not hold it.

    Merging pays where many atoms meet in a cell: a lattice becomes coarser by `COARSER` at least.
    """
    rest: list[Law] = []
    while count > 1 or rest:
        runs = [(law, count), *((part, 1) for part in rest)]
        width = _width(runs)
        batches = min(math.ceil(count / COARSER**2), math.ceil(1.2 * (width / _MOST_POINTS) ** 2))
        if width <= _MOST_POINTS or batches == 1:
            return _held(runs, OUTSIDE, theta, side)
        size, left = divmod(count, batches)
        lost = OUTSIDE / (batches + 1)
        stage = _held([(law, size)], lost, theta, side)
        more = [_held([(law, left)], lost, theta, side)] if left else []
        h = max(fineness * stage.deviation(), COARSER * stage.h, *(part.h for part in (*more, *rest)))
        law, *rest = (moved(part, h, theta, side) for part in (stage, *more, *rest))
        count = batches
    return law


def _held(runs: Runs, lost: float, theta: float, side: int) -> Law:
    """Compose by one transform; laws too wide for the largest one move to a coarser lattice first."""
    first, last = _window(runs, lost)
    while last - first > _MOST_HELD:
        h = runs[0][0].h * max(2.0, 1.2 * (last - first) / _MOST_HELD)
        runs = [(moved(law, h, theta, side), count) for law, count in runs]
        first, last = _window(runs, lost)
    return _convolved(runs, first, last, lost)


def trimmed(law: Law, lost: float) -> Law:
    """Cut off what has less than `lost` on either side."""
    below, above = np.cumsum(law.mass), np.cumsum(law.mass[::-1])[::-1]
    kept = (below > lost) & (above > lost)
    return replace(law, index=law.index[kept], mass=law.mass[kept], error=law.error + 2.0 * lost)


def excess(law: Law) -> float:
    """By how much a law is too wide for a few runs to fit into the largest transform."""
    return int(law.index[-1] - law.index[0]) * _LEAST_BATCH / _MOST_HELD


def _width(runs: Runs) -> int:
    first, last = _window(runs, OUTSIDE)
    return last - first


def _window(runs: Runs, lost: float) -> tuple[int, int]:
    """First and last index between which a composition lies, but for `lost` on either side (Chernoff)."""
    variance = sum(count * float(law.mass @ law.index.astype(np.float64) ** 2) for law, count in runs)
    exponents: Array = _EXPONENTS / max(math.sqrt(variance), 1.0)
    ends = []
    for sign in (1, -1):
        total, most = np.zeros_like(exponents), 0.0
        for law, count in runs:
            index, mass = _outline(law, sign)
            total += count * (cumulant(exponents, index, mass) + law.relative)
            most += count * float(index.max())
        ends.append(min(float(np.min((total - math.log(lost)) / exponents)), most))
    return -math.ceil(ends[1]) - 1, math.ceil(ends[0]) + 1


def _outline(law: Law, sign: int) -> tuple[Array, Array]:
    """Indices in one direction and their masses, gathered in blocks at the far end of each."""
    step = -(-law.index.size // _OUTLINE)
    starts = np.arange(0, law.index.size, step)
    index = np.maximum.reduceat(sign * law.index, starts).astype(np.float64)
    return index, np.add.reduceat(law.mass, starts)


def cumulant(theta: Array, loss: Array, mass: Array) -> Array:
    """Logarithm of E[e^(theta loss)] for masses that sum to 1, to full relative accuracy near 0."""
    exponent = np.multiply.outer(theta, loss)
    top = exponent.max(axis=1)
    near = top < 600.0
    with np.errstate(divide="ignore"):
        total = np.log1p(np.maximum(np.expm1(np.where(near[:, None], exponent, 0.0)) @ mass, -1.0))
    near &= total > -30.0
    if not near.all():
        with np.errstate(divide="ignore"):
            far = exponent[~near] + np.log(mass)
        peak = far.max(axis=1)
        total[~near] = peak + np.log(np.exp(far - peak[:, None]).sum(axis=1))
    return np.asarray(total)


def _convolved(runs: Runs, first: int, last: int, lost: float) -> Law:
    """One FFT a law, its logarithm times the count, and one FFT back to the indices first to last."""
    from scipy import fft

    size = int(fft.next_fast_len(max(last - first + 1, 16), real=True))
    unit = 8.0 * UNIT * math.log2(size)
    factors = [_Factor(law, count, size, unit) for law, count in runs]
    log_size = sum((factor.log_size for factor in factors), np.zeros(size // 2 + 1))
    seen = np.flatnonzero(log_size > -_DEEP)  # of a smooth law few frequencies are
    magnitude = np.exp(log_size[seen])
    angles = [factor.angle(seen) for factor in factors]
    transform = np.zeros(size // 2 + 1, dtype=np.complex128)
    transform[seen] = magnitude * np.exp(1j * sum(angles, np.zeros(seen.size)))
    mass = np.roll(np.maximum(fft.irfft(transform, size), 0.0), -first)
    if not mass.any():
        raise FloatingPointError("nothing is left of a law")
    spread = sum((np.abs(angle) for angle in angles), 1.0 - log_size[seen])
    noise = (
        unit * _norm(magnitude, size) + _norm(8.0 * UNIT * spread * magnitude, size) + 2.0 * math.exp(-_DEEP)
    )
    noise += sum(factor.noise(log_size) for factor in factors)
    return Law(
        origin=math.fsum(count * law.origin for law, count in runs),
        h=runs[0][0].h,
        index=np.arange(first, first + size),
        mass=mass,
        scale=math.fsum(count * law.scale for law, count in runs),
        relative=sum(count * law.relative for law, count in runs),
        error=2.0 * lost + sum(count * law.l1 for law, count in runs),
        noise=noise,
        points=size,
        work=max(size, *(law.work for law, _ in runs)),
    )


def _norm(transform: Array, size: int) -> float:
    """Euclidean norm of the law whose real transform has these absolute values, or less."""
    return math.sqrt(2.0 * float(transform @ transform) / size)


class _Factor:
    """The transform of one law to the power of its count, as logarithm, and what its round-off may do.

    Of a narrow law the transform of the law minus its unit is taken, of others that of the law: whichever
    is smaller errs less.
    """

    def __init__(self, law: Law, count: int, size: int, unit: float) -> None:
        from scipy import fft

        f = np.bincount(law.index % size, weights=law.mass, minlength=size)
        total = float(f.sum())
        narrow = f[0] > 0.5
        if narrow:
            f[0] -= total
        w = fft.rfft(f)
        if narrow:
            w += total
        with np.errstate(divide="ignore"):
            of_one = 0.5 * np.log(w.real**2 + w.imag**2)
        self._count, self._size, self._transform = count, size, w
        self._of_one = np.maximum(np.minimum(of_one, 0.0), -1e3)
        self.log_size = count * self._of_one
        self._error = tuple(unit * float(norm) + 4.0 * UNIT for norm in (np.abs(f).sum(), np.linalg.norm(f)))

    def angle(self, places: Index) -> Array:
        """Angle of the power at some frequencies."""
        w = self._transform[places]
        return np.asarray(self._count * np.arctan2(w.imag, w.real))

    def noise(self, log_size: Array) -> float:
        """Bound the Euclidean norm that errors of the transform leave in the composition.

        An error e of the transform phi becomes count e (|phi| + |e|)^(count - 1) times the other factors;
        each e is at most a multiple of the l1 norm, and all together of the Euclidean norm, of the law.
        """
        each, together = self._error
        if self._count == 1:
            return each
        others = log_size - self.log_size
        raised = (self._count - 1) * np.minimum(np.log(np.exp(self._of_one) + each), 0.0)
        return self._count * min(each * _norm(np.exp(others + raised), self._size), together)
