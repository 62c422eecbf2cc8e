"""Noise from a cryptographic generator: the exact release of a private vector, and the samplers.

`release` is what protects people: it rounds to a public grid of powers of two, adds exact integer noise and
stays on the grid, so that no floating-point pattern of the secret gets through [Mir12, HDH+22], and the
noise is scaled up for what the rounding and the integers cost (proofs in docs/noise.md). `grid`,
`integer_sensitivity` and `integer_stddev` are its parts, for whoever adds noise to integers that are on a
grid already, such as a securely aggregated sum.

Each call takes a fresh 32-byte key from the operating system. Forks, threads, `numpy.random.seed` and
`torch.manual_seed` neither repeat nor influence noise. `insecure_key` replaces it in known-answer tests, and
voids every guarantee.

References
----------
[CKS20] Canonne, Kamath, Steinke. The Discrete Gaussian for Differential Privacy. NeurIPS 2020.
[DRS22] Dong, Roth, Su. Gaussian Differential Privacy. JRSS B 84(1), 2022.
[Mir12] Mironov. On Significance of the Least Significant Bits for Differential Privacy. CCS 2012.
[HDH+22] Haney, Desfontaines, Hartman, Shrestha, Hay. Precision-based attacks and interval refining: how to
    break, then fix, differential privacy on finite computers. 2022.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from fedsec import _bell, _kernels
from fedsec._checks import positive, whole
from fedsec._slope import MIN_STDDEV, stddev_for_inverse_slope
from fedsec.errors import FedsecError, InvalidArgumentError, InvalidTypeError, NonFiniteError

__all__ = [
    "discrete_gaussian",
    "gaussian",
    "grid",
    "integer_sensitivity",
    "integer_stddev",
    "poisson",
    "release",
    "skellam",
]

MIN_DISCRETE_STDDEV = 0.1
# Largest stddev per dtype: int64's is the sampler's range; int32's leaves 64 deviations to either side.
MAX_DISCRETE_STDDEV: dict[np.dtype[Any], float] = {
    np.dtype(np.int64): 2.0**40,
    np.dtype(np.int32): 2.0**25,
}

# Means and variances: the smallest, and the largest per dtype.
MIN_MEAN = 2.0**-10
MAX_POISSON_MEAN: dict[np.dtype[Any], float] = {np.dtype(np.int64): 2.0**40, np.dtype(np.int32): 2.0**30}
MAX_SKELLAM_VARIANCE: dict[np.dtype[Any], float] = {np.dtype(np.int64): 2.0**41, np.dtype(np.int32): 2.0**41}

_FLOATS: tuple[np.dtype[Any], ...] = (np.dtype(np.float32), np.dtype(np.float64))
# From the smallest normal number to a tenth of the largest: no variate overflows.
_GAUSSIAN_STDDEVS = {
    dtype: (float(np.finfo(dtype).tiny), float(np.finfo(dtype).max) / 10.0) for dtype in _FLOATS
}
# Rounding may enlarge the sensitivity by a relative 2^-11 (0.049 %), integers the noise by 1 / (24 * 16^2)
# (0.017 %): together less than 0.1 %.
_ROUNDING_SHARE = 2.0**-11
_LEAST_INTEGER_STDDEV = 16.0
# |vector| in grid steps, as in csrc/step.h: leaves room for 2^55 of noise, the sampler's hard limit.
_MAX_STEPS = 2.0**62
_MAX_SIZE = 2**48
_PIECE = 2**16  # elements that get their noise at a time: they stay in the cache


def gaussian(
    size: int | tuple[int, ...],
    stddev: float = 1.0,
    dtype: npt.DTypeLike = np.float32,
    *,
    insecure_key: bytes | None = None,
) -> npt.NDArray[Any]:
    """Continuous Gaussian noise, for simulation and comparison; **not for release**.

    The generator is cryptographic, but adding floating-point noise to a floating-point secret leaks the
    secret through the low bits of the sum: not every sum can be reached from every secret [Mir12, HDH+22].
    To release something, call `release`.

    Parameters
    ----------
    size : int or tuple of int
        Shape of the result.
    stddev : float
        In the unit of the result, rounded to dtype; from its smallest normal number to a tenth of its
        largest.
    dtype : float32 or float64
    insecure_key : 32 bytes, for known-answer tests only

    Returns
    -------
    Independent variates of dtype and shape `size`, computed in dtype to within four units in the last place.
    The tail ends at 9.49 stddev (probability 2^-64). A pair takes 64 bits for float32 and 128 for float64.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
    """
    out = _empty(size, dtype, _FLOATS)
    number = positive("stddev", stddev)
    least, largest = _GAUSSIAN_STDDEVS[out.dtype]
    if not least <= number <= largest:
        raise InvalidArgumentError(f"stddev for {out.dtype} must be in [{least}, {largest}], got {number!r}")
    _kernels.gaussian(out, number, insecure_key)
    return out


def discrete_gaussian(
    size: int | tuple[int, ...],
    stddev: float,
    dtype: npt.DTypeLike = np.int64,
    *,
    insecure_key: bytes | None = None,
) -> npt.NDArray[Any]:
    """Exact discrete Gaussian noise on the integers: Pr[y] proportional to exp(-y^2 / (2 stddev^2)) [CKS20].

    Parameters
    ----------
    size : int or tuple of int
        Shape of the result.
    stddev : float
        The parameter sigma of the law, in integer steps, as the exact value of the double: 0.1 to 2^40 for
        int64, 0.1 to 2^25 for int32. (The law's own standard deviation is a little smaller below 1.)
    dtype : int64 or int32
    insecure_key : 32 bytes, for known-answer tests only

    Returns
    -------
    Independent variates of dtype and shape `size`.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
    FedsecError
        A variate does not fit (probability below exp(-2000) a variate); never wrapped, never cut off.

    Guarantees: the law is exact, given uniform bits; no result depends on floating-point rounding. Three
    variates of 10,000 take times that depend on them [docs/noise.md].
    """
    allowed = _Range("stddev", MIN_DISCRETE_STDDEV, MAX_DISCRETE_STDDEV)
    return _integers(_bell.discrete_gaussian, size, dtype, allowed, stddev, insecure_key)


def skellam(
    size: int | tuple[int, ...],
    variance: float,
    dtype: npt.DTypeLike = np.int64,
    *,
    insecure_key: bytes | None = None,
) -> npt.NDArray[Any]:
    """Skellam noise on the integers: the difference of two Poisson variables of half the variance each.

    Sums of independent Skellam variables are Skellam, and their variances add up: what several parties add
    is noise whose law is known exactly.

    Parameters
    ----------
    size : int or tuple of int
        Shape of the result.
    variance : float
        In squared integer steps, as the exact value of the double: 2^-10 to 2^41.
    dtype : int64 or int32

    Returns
    -------
    Independent variates of dtype and shape `size`; all fit either dtype.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError

    Guarantees: those of `discrete_gaussian`, for every variance: the law is exact, and three variates of
    10,000 take times that depend on them [docs/noise.md].
    """
    allowed = _Range("variance", MIN_MEAN, MAX_SKELLAM_VARIANCE)
    return _integers(_bell.skellam, size, dtype, allowed, variance, insecure_key)


def poisson(
    size: int | tuple[int, ...],
    mean: float,
    dtype: npt.DTypeLike = np.int64,
    *,
    insecure_key: bytes | None = None,
) -> npt.NDArray[Any]:
    """Poisson variates, Pr[y] = exp(-mean) mean^y / y!; with the guarantees of `discrete_gaussian`.

    Parameters
    ----------
    size : int or tuple of int
        Shape of the result.
    mean : float
        As the exact value of the double: 2^-10 to 2^40 for int64, to 2^30 for int32.
    dtype : int64 or int32

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
    """
    allowed = _Range("mean", MIN_MEAN, MAX_POISSON_MEAN)
    return _integers(_bell.poisson, size, dtype, allowed, mean, insecure_key)


def release(
    vector: npt.NDArray[Any],
    l2_sensitivity: float,
    noise_multiplier: float,
    *,
    insecure_key: bytes | None = None,
) -> npt.NDArray[Any]:
    """The vector plus noise, at least as private as an ideal Gaussian of `noise_multiplier`.

    Rounds to multiples of `grid(...)`, adds exact discrete Gaussian noise, returns multiples of the grid.

    Parameters
    ----------
    vector : float32 or float64 array of any shape
        Secret. Finite, and within 2^62 grid steps of zero.
    l2_sensitivity : float
        Positive: the largest l2 distance, over all elements, between the vectors of two neighbours.
    noise_multiplier : float
        Positive: standard deviation of the noise divided by l2_sensitivity.

    Returns
    -------
    A new array of vector's dtype and shape. An empty vector gives an empty array.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        InvalidArgumentError also when the noise would leave the sampler's range (2^40 grid steps).
    NonFiniteError
        Names the first index that is NaN or infinite.

    Guarantees: the release satisfies 1/noise_multiplier-Gaussian differential privacy [DRS22], rounding
    included, under adaptive composition and in any dimension; its noise exceeds
    noise_multiplier * l2_sensitivity by less than 0.1 %. The refusals depend on the secret vector only where
    it is not finite or larger than any that has been clipped.
    """
    checked = _require_floats(vector)
    given = (checked.size, l2_sensitivity, noise_multiplier)
    return next(release_parts([checked], *given, dtype=checked.dtype, insecure_key=insecure_key))


def release_parts(
    parts: Iterable[npt.NDArray[Any]],
    dimension: int,
    l2_sensitivity: float,
    noise_multiplier: float,
    *,
    dtype: npt.DTypeLike,
    scale: float = 1.0,
    insecure_key: bytes | None = None,
) -> Iterator[npt.NDArray[Any]]:
    """`release` of one vector that comes in parts, such as a model's parameters, each when it is asked for.

    Parameters
    ----------
    parts : iterable of float64 arrays, or arrays of dtype
        Secret. Together the vector: one grid for all, and sensitivity and multiplier of the whole.
    dimension : int
        How many elements they have together.
    dtype, scale
        Of what is given: multiples of the grid, times `scale`, rounded to dtype. Both are public.

    Yields
    ------
    For each part a new array of its shape. The other terms are those of `release`.
    """
    sensitivity = positive("l2_sensitivity", l2_sensitivity)
    positive("noise_multiplier", noise_multiplier)
    kind = _require_dtype(dtype, _FLOATS)
    step = grid(sensitivity, max(1, dimension), noise_multiplier)
    stddev = integer_stddev(integer_sensitivity(sensitivity, max(1, dimension), step), noise_multiplier)
    return _released(parts, dimension, _Scales(stddev, step, scale, kind), insecure_key)


class _Scales(NamedTuple):
    """Of a release: the noise's standard deviation in steps, the step, and what is made of both."""

    stddev: float
    step: float
    scale: float
    dtype: np.dtype[Any]


def _released(
    parts: Iterable[npt.NDArray[Any]], dimension: int, scales: _Scales, insecure_key: bytes | None
) -> Iterator[npt.NDArray[Any]]:
    table = _bell.discrete_gaussian(scales.stddev)
    steps = np.empty(min(dimension, _PIECE), np.int64)
    chunks, left = itertools.count(), dimension
    with _kernels.key_of_call(insecure_key) as key:
        for part in parts:
            if (left := left - part.size) < 0:
                raise InvalidArgumentError(f"parts must have {dimension} elements together, got more")
            flat = np.ascontiguousarray(part).reshape(-1)
            released = np.empty(flat.size, scales.dtype)
            for start in range(0, flat.size, _PIECE):
                chunk = slice(start, start + _PIECE)
                values, out = flat[chunk], released[chunk]
                drawn = steps[: values.size]
                _draw_bell(drawn, table, _Words(key, next(chunks), _kernels.best_backend))
                if not _kernels.release(out, values, drawn, scales.step, scales.scale):
                    _refuse(part, scales.step, scales.dtype)
            yield released.reshape(part.shape)


def grid(l2_sensitivity: float, dimension: int, noise_multiplier: float) -> float:
    """The public granularity of a release: a power of two that depends on these three numbers alone.

    The largest g with g * sqrt(dimension) <= 2^-11 * l2_sensitivity, so that rounding costs less than
    0.05 % of noise, and 16 g <= noise_multiplier * l2_sensitivity, so that integers cost less than 0.02 %.

    Parameters
    ----------
    l2_sensitivity : float
        Positive, in the unit of the vector.
    dimension : int
        Number of elements, at least 1.
    noise_multiplier : float
        Positive.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        InvalidArgumentError also for a granularity that no double can hold with all its bits.
    """
    sensitivity = positive("l2_sensitivity", l2_sensitivity)
    multiplier = positive("noise_multiplier", noise_multiplier)
    count = whole("dimension", dimension, minimum=1, maximum=_MAX_SIZE)
    bound = sensitivity * min(_ROUNDING_SHARE / math.sqrt(count), multiplier / _LEAST_INTEGER_STDDEV)
    if bound < 2.0**-1000:
        raise InvalidArgumentError(
            f"l2_sensitivity {sensitivity!r} with dimension {count} and noise_multiplier {multiplier!r} "
            f"needs a grid of {bound!r}, which must be at least 2**-1000"
        )
    return math.ldexp(0.5, math.frexp(bound)[1])


def integer_sensitivity(l2_sensitivity: float, dimension: int, granularity: float) -> float:
    """The l2 sensitivity in grid steps after rounding to nearest, rounded up.

    Rounding moves each coordinate of each neighbour by at most half a step, so two neighbours that were
    `l2_sensitivity` apart are at most l2_sensitivity / granularity + sqrt(dimension) steps apart.
    `granularity` is a power of two, as `grid` returns.
    """
    sensitivity = positive("l2_sensitivity", l2_sensitivity)
    step = positive("granularity", granularity)
    if math.frexp(step)[0] != 0.5:
        raise InvalidArgumentError(f"granularity must be a power of two, got {step!r}")
    count = whole("dimension", dimension, minimum=1, maximum=_MAX_SIZE)
    return _up(sensitivity / step + _up(math.sqrt(count)))


def integer_stddev(l2_sensitivity: float, noise_multiplier: float) -> float:
    """The discrete Gaussian's stddev that makes integers at least as private as a Gaussian, rounded up.

    Parameters
    ----------
    l2_sensitivity : float
        Positive, of the *integer* vector, in integer steps, rounding included.
    noise_multiplier : float
        Positive, of the Gaussian to match. noise_multiplier * l2_sensitivity must be at least 2.

    Returns
    -------
    The smallest stddev (up to a relative 2^-46) with slope * l2_sensitivity <= 1 / noise_multiplier, where
    slope is the proved bound of docs/noise.md; about noise_multiplier * l2_sensitivity + 1/24 of its inverse.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        InvalidArgumentError also when the result is beyond the sampler's 2^40.
    """
    sensitivity = positive("l2_sensitivity", l2_sensitivity)
    multiplier = positive("noise_multiplier", noise_multiplier)
    ideal, largest = _up(sensitivity * multiplier), max(MAX_DISCRETE_STDDEV.values())
    if MIN_STDDEV <= ideal <= largest and (stddev := stddev_for_inverse_slope(ideal)) <= largest:
        return stddev
    raise InvalidArgumentError(
        f"noise_multiplier {multiplier!r} times an integer l2_sensitivity of {sensitivity!r} must be in "
        f"[{MIN_STDDEV}, {largest}], got {ideal!r}"
    )


def draw_bells(
    out: npt.NDArray[Any],
    table: _bell.Bell,
    insecure_key: bytes | None = None,
    exact_only: bool = False,
    backend: _kernels.Backend = _kernels.best_backend,
) -> None:
    """Fills an int32 or int64 array. For tests: integers alone decide what is open; a backend."""
    with _kernels.key_of_call(insecure_key) as key:
        for chunk, piece in _chunks(out, _kernels.BELL_CHUNK):
            _draw_bell(piece, table, _Words(key, chunk, backend), exact_only)


def _draw_bell(out: npt.NDArray[Any], table: _bell.Bell, words: _Words, exact_only: bool = False) -> None:
    """Draws until none of the candidates that C leaves to us is one that does not stand."""
    settled: dict[int, int | None] = {}
    while True:
        refused = sorted(candidate for candidate, value in settled.items() if value is None)
        given = (table.structure, words.key, words.chunk, refused, exact_only, words.backend)
        undecided = _kernels.bells(out, *given)
        for one in undecided:
            if one.candidate not in settled:
                settled[one.candidate] = table.settled(one, words.of_candidate(one.candidate))
        if all(settled[one.candidate] is not None for one in undecided):
            break
    for one in undecided:
        _put(out, one.position, settled[one.candidate])


def _put(out: npt.NDArray[Any], position: int, value: int | None) -> None:
    """Stores a variate; one that does not fit is an error, and nothing is kept."""
    if value is None or not np.iinfo(out.dtype).min <= value <= np.iinfo(out.dtype).max:
        out[...] = 0
        raise FedsecError(f"a variate does not fit {out.dtype}; nothing was kept")
    out[position] = value


def _chunks(out: npt.NDArray[Any], size: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Numbered pieces of an array, of `size` elements at most."""
    flat = out.reshape(-1)
    for start in range(0, flat.size, size):
        yield start // size, flat[start : start + size]


class _Words(NamedTuple):
    """Where words come from: key and chunk, and the backend."""

    key: Any
    chunk: int
    backend: _kernels.Backend

    def of_candidate(self, candidate: int) -> Iterator[int]:
        """What a candidate takes beyond the words that csrc/bell.c has read."""
        words = np.empty(2, "<u8")
        for block in itertools.count(1):
            _kernels.noise_keystream(words, self.key, (self.chunk, candidate, 2), block, self.backend)
            yield from words.tolist()


def _up(number: float) -> float:
    """The next double: above the exact result of one correctly rounded operation."""
    return math.nextafter(number, math.inf)


class _Range(NamedTuple):
    """What a law's parameter may be, by the name that its function gives it."""

    name: str
    least: float
    largest: dict[np.dtype[Any], float]


def _integers(
    table_of: Callable[[float], _bell.Bell],
    size: object,
    dtype: npt.DTypeLike,
    allowed: _Range,
    value: object,
    insecure_key: bytes | None,
) -> npt.NDArray[Any]:
    """A new array of variates of a law whose parameter is `value`."""
    out = _empty(size, dtype, tuple(allowed.largest))
    number, largest = positive(allowed.name, value), allowed.largest[out.dtype]
    if not allowed.least <= number <= largest:
        raise InvalidArgumentError(
            f"{allowed.name} for {out.dtype} must be in [{allowed.least}, {largest}], got {number!r}"
        )
    draw_bells(out, table_of(number), insecure_key)
    return out


def _empty(size: object, dtype: npt.DTypeLike, allowed: tuple[np.dtype[Any], ...]) -> npt.NDArray[Any]:
    shape = size if isinstance(size, tuple) else (size,)
    checked = [whole("size", length, minimum=0, maximum=_MAX_SIZE) for length in shape]
    if len(checked) != 1:
        whole("the number of elements in size", math.prod(checked), minimum=0, maximum=_MAX_SIZE)
    return np.empty(checked, _require_dtype(dtype, allowed))


def _require_dtype(dtype: npt.DTypeLike, allowed: tuple[np.dtype[Any], ...]) -> np.dtype[Any]:
    with suppress(TypeError):
        if dtype is not None and (checked := np.dtype(dtype)) in allowed:
            return checked
    raise InvalidTypeError(f"dtype must be {' or '.join(map(str, allowed))}, got {dtype!r}")


def _require_floats(vector: object) -> npt.NDArray[Any]:
    # A subclass may hide elements (masked arrays): only plain arrays mean what they hold.
    if type(vector) is not np.ndarray:
        raise InvalidTypeError(f"vector must be a plain numpy array, got {type(vector).__name__}")
    if vector.dtype not in _FLOATS:
        raise InvalidTypeError(f"vector must have dtype float32 or float64, got {vector.dtype}")
    return vector


def _refuse(vector: npt.NDArray[Any], step: float, dtype: np.dtype[Any]) -> NoReturn:
    """Say what of a vector cannot be released."""
    bad = np.argwhere(~np.isfinite(vector))
    if len(bad):
        index = tuple(map(int, bad[0]))
        raise NonFiniteError(f"vector must be finite, got {float(vector[index])!r} at index {index}")
    largest = float(np.max(np.abs(vector)))
    with np.errstate(over="ignore"):
        beyond = np.float64(largest) / step > _MAX_STEPS
    if beyond:
        raise InvalidArgumentError(
            f"vector must be within {_MAX_STEPS * step!r} of zero (2**62 steps of {step!r}), "
            f"got a magnitude of {largest!r}"
        )
    raise InvalidArgumentError(f"vector plus noise must fit {dtype}: values or l2_sensitivity are too large")
