"""From a contribution to the integers that noise is added to, and back from their sum.

`ClientEncoding` takes a client's whole update: clipped, rotated by public signs and blockwise Walsh-Hadamard
transforms, so that its weight is spread evenly [SYKM17], and rounded at random to integers whose squared norm
is *counted*, in integers, against a public bound [KLS21, Alg. 1]. Nothing before that count matters to
privacy: not the clipping, not the rotation, no rounding of a float. `RecordEncoding` takes a silo's sum of
clipped records, which must not be rounded anew until it fits: what is retried would depend on all of its
records.

References
----------
[KLS21]  Kairouz, Liu, Steinke. The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
         Aggregation. ICML 2021 (arXiv 2102.06387).
[SYKM17] Suresh, Yu, Kumar, McMahan. Distributed Mean Estimation with Limited Communication. ICML 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import _kernels
from fedsec._checks import positive, probability, whole, within
from fedsec.errors import FedsecError, InvalidArgumentError, InvalidTypeError, NonFiniteError

Levels = npt.NDArray[Any]  # int32 or int64

MAX_DIMENSION = 2**32
MIN_CLIP_NORM, MAX_CLIP_NORM = 1e-30, 1e30

# c / (granularity * sqrt(length)): what is chosen if nothing is said, and what is taken. Up to the largest
# the bound leaves so much room over the clip norm that truncation meets it in spite of single precision.
CLIENT_FINENESS = 8.0
MIN_FINENESS, MAX_FINENESS = 2.0**-6, 64.0
# For records each coordinate moves by up to a step, whatever the record: 1/400 of the norm.
RECORD_FINENESS = 400.0

_LARGEST_BLOCK = 2**16
_PADDING_SHARE = 64  # at most 1/64 of a vector is padding, unless it is short
_RETRIES = 40  # each fails with probability 0.61 at most, hardly ever with more than 0.2 [KLS21, Prop. 22]
_MAX_STEPS = 2.0**50
_SINGLE = 1e-20, 1e20  # norms for which single precision holds a scaled vector


@dataclass(frozen=True)
class ClientEncoding:
    """A client's vector of `dimension` reals as integers, in steps of `granularity`.

    Parameters
    ----------
    dimension : int
        Length of the vector, in [1, 2^32].
    l2_clip_norm : float
        In [1e-30, 1e30]; longer vectors are scaled down to it.
    granularity : float, optional
        In the unit of the vector; by default l2_clip_norm / (8 sqrt(length)). Coarser takes fewer bits and
        costs more: `squared_bound`.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError

    Guarantees: what `encode` returns has a squared norm of at most `squared_bound`, counted in integers; the
    zero vector becomes zero. So a contribution and nothing at all are `l2_sensitivity` steps apart, at most.
    """

    dimension: int
    l2_clip_norm: float
    granularity: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "dimension", whole("dimension", self.dimension, minimum=1, maximum=MAX_DIMENSION)
        )
        norm = within("l2_clip_norm", self.l2_clip_norm, MIN_CLIP_NORM, MAX_CLIP_NORM)
        object.__setattr__(self, "l2_clip_norm", norm)
        root = math.sqrt(self.length)
        step = self.granularity or norm / (CLIENT_FINENESS * root)
        object.__setattr__(self, "granularity", positive("granularity", step))
        if not MIN_FINENESS / (1.0 + 1e-9) <= self.steps / root <= MAX_FINENESS * (1.0 + 1e-9):
            finest, coarsest = norm / (MAX_FINENESS * root), norm / (MIN_FINENESS * root)
            raise InvalidArgumentError(
                f"granularity must be in [{finest:g}, {coarsest:g}] for an l2_clip_norm of {norm:g} and "
                f"{self.length} coordinates, got {step!r}"
            )

    @cached_property
    def block(self) -> int:
        """Coordinates that are rotated together: the largest power of two that needs little padding."""
        block = 1
        while block < _LARGEST_BLOCK and -self.dimension % (2 * block) * _PADDING_SHARE <= self.dimension:
            block *= 2
        return block

    @cached_property
    def length(self) -> int:
        """Length of the integer vector: `dimension` and its padding."""
        return self.dimension + -self.dimension % self.block

    @property
    def steps(self) -> float:
        """The clip norm in steps."""
        return self.l2_clip_norm / self.granularity

    @cached_property
    def squared_bound(self) -> int:
        """The largest squared norm, in steps, that leaves `encode`.

        min((R + sqrt(d))^2, R^2 + d/4 + sqrt(2 ln(1/beta)) (R + sqrt(d)/2)), R the clip norm in steps, d the
        length, beta = e^(-1/2) [KLS21, eq. (1)]. A rounding at random exceeds it with probability beta at
        most.
        """
        norm, root = self.steps, math.sqrt(self.length)
        bound = math.floor(min((norm + root) ** 2, norm * norm + 0.25 * self.length + norm + 0.5 * root))
        return bound if self.length > 1 else math.isqrt(bound) ** 2

    @property
    def l2_sensitivity(self) -> float:
        """The largest norm that leaves `encode`, in steps, rounded up."""
        bound = max(1, self.squared_bound)
        root = math.isqrt(bound)
        return float(root) if root * root == bound else math.nextafter(math.sqrt(bound), math.inf)

    @property
    def signal_variance(self) -> float:
        """Of a coordinate after the rotation, over its random signs; at most, and subgaussian with it.

        All weight in one block is the worst case. In squared steps, for one contribution; the float32
        rotation's own rounding included.
        """
        return self.steps * self.steps / self.block * (1.0 + 2.0**-12)

    def encode(self, vector: npt.NDArray[np.floating[Any]], rotation_key: bytes) -> Levels:
        """Integers (length,) for a vector (dimension,) of float32 or float64.

        `rotation_key` are 32 public bytes, the same for all clients of a round, fresh for each round.

        Raises
        ------
        InvalidTypeError
            Not a plain array (dimension,) of these types, or a key that is not 32 bytes.
        NonFiniteError
            NaN or infinity, with its index.
        """
        key = _require_key(rotation_key)
        padded, scale = self._in_steps(_required(vector, self.dimension))
        _kernels.rotate(padded, self.block, key, scale=scale)
        levels = _kernels.round_conditionally(padded, 1.0, self.squared_bound, _RETRIES)
        padded.fill(0)
        if levels is None:
            raise FedsecError("a truncated vector is longer than its bound; nothing leaves")
        return levels

    def rotate_back(self, values: npt.NDArray[np.float32], rotation_key: bytes) -> npt.NDArray[np.float32]:
        """The vector (dimension,) that rotated values (length,) stand for; they are changed in place."""
        _kernels.rotate(values, self.block, _require_key(rotation_key), back=True)
        return values[: self.dimension]

    def _in_steps(self, array: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.float32], float]:
        """The vector, padded, and its factor: then it is in steps, and no longer than the clip norm."""
        padded = _kernels.room(self.length, np.dtype(np.float32))
        padded[self.dimension :] = 0.0
        if array.dtype == np.float32:
            padded[: self.dimension] = array
            norm = _kernels.l2_norm(padded)
            if norm == 0.0 or _SINGLE[0] <= norm <= _SINGLE[1]:
                return padded, min(1.0 / self.granularity, self.steps / norm) if norm else 1.0
        # In double precision, divided by the largest element first, so that no square overflows or vanishes.
        largest = float(np.abs(array).max()) or 1.0
        wide = array.astype(np.float64) / largest
        norm = max(1.0, float(np.linalg.norm(wide)))
        padded[: self.dimension] = wide * min(largest / self.granularity, self.steps / norm)
        return padded, 1.0


@dataclass(frozen=True)
class RecordEncoding:
    """A silo's sum of clipped records, (dimension,), as integers in steps of `granularity`.

    Rounded at random, once, by uniform numbers that do not depend on the records: floor(a + u) and floor(b +
    u) differ by less than |a - b| + 1, so a record moves the integers by its norm in steps and one step a
    coordinate, at most. There is no rotation, which would round in floats whose errors grow with the sum, not
    with one record.

    Parameters
    ----------
    dimension : int
        Length of the vector, in [1, 2^32].
    l2_clip_norm : float
        In [1e-30, 1e30]: how much adding or removing a record moves the real sum, floating-point errors
        included.
    max_sum : float
        No coordinate of the sum over all silos is larger: what the ring is made wide enough for.
    granularity : float, optional
        A power of two; by default the largest for which rounding costs no more than 1/400 of noise.
    excess_probability : float
        With what probability a coordinate is larger than `max_sum` nevertheless; see `most_drawn`.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
    """

    dimension: int
    l2_clip_norm: float
    max_sum: float
    granularity: float = 0.0
    excess_probability: float = 0.0

    def __post_init__(self) -> None:
        count = whole("dimension", self.dimension, minimum=1, maximum=MAX_DIMENSION)
        norm = within("l2_clip_norm", self.l2_clip_norm, MIN_CLIP_NORM, MAX_CLIP_NORM)
        positive("max_sum", self.max_sum)
        probability("excess_probability", self.excess_probability)
        bound = norm / (RECORD_FINENESS * math.sqrt(count))
        step = positive("granularity", self.granularity or math.ldexp(0.5, math.frexp(bound)[1]))
        if math.frexp(step)[0] != 0.5 or step > norm:
            raise InvalidArgumentError(
                f"granularity must be a power of two, at most the l2_clip_norm of {norm:g}, got {step!r}"
            )
        if self.max_sum / step > _MAX_STEPS:
            raise InvalidArgumentError(
                f"max_sum must be at most 2**50 steps of {step!r}, got {self.max_sum!r}"
            )
        object.__setattr__(self, "granularity", step)

    @property
    def length(self) -> int:
        """Length of the integer vector: there is no padding."""
        return self.dimension

    @property
    def l2_sensitivity(self) -> float:
        """By how many steps a record moves the integers, at most, rounded up."""
        # The core adds the uniform number in double precision: a step may become 1 + 2^-40 of one.
        root = math.sqrt(self.dimension) * (1.0 + 2.0**-20)
        return math.nextafter(self.l2_clip_norm / self.granularity + root, math.inf)

    def largest_level(self, num_clients: int) -> int:
        """No coordinate of the integer sum is larger, nor is any with more noise."""
        return math.ceil(self.max_sum / self.granularity) + num_clients

    def encode(self, vector: npt.NDArray[np.floating[Any]]) -> Levels:
        """Integers (dimension,) for a silo's sum (dimension,) of float32 or float64.

        Raises
        ------
        InvalidTypeError
            Not a plain array (dimension,) of these types.
        NonFiniteError, InvalidArgumentError
            NaN or infinity, with its index; a sum of more than 2^50 steps. One beyond `max_sum` is taken, as
            it may come of a rare draw: the ring may wrap around.
        """
        array = _required(vector, self.dimension)
        levels = _kernels.quantize(array, self.granularity, _MAX_STEPS * self.granularity)
        if levels is None:
            raise InvalidArgumentError(
                f"vector must be within 2**50 steps of {self.granularity!r}, "
                f"got {float(np.abs(array).max())!r}"
            )
        return levels


def _required(vector: object, dimension: int) -> npt.NDArray[np.floating[Any]]:
    """A finite vector of that length."""
    array = _kernels.require_array("vector", vector, (np.float32, np.float64))
    if array.size != dimension:
        raise InvalidTypeError(f"vector must have length {dimension}, got {array.size}")
    if not math.isfinite(float(array.max()) - float(array.min())) and not np.isfinite(array).all():
        index = int(np.flatnonzero(~np.isfinite(array))[0])
        raise NonFiniteError(f"vector must be finite, got {float(array[index])!r} at index {index}")
    return array


def _require_key(rotation_key: object) -> bytes:
    if not isinstance(rotation_key, bytes) or len(rotation_key) != _kernels.SEED_BYTES:
        raise InvalidTypeError(f"rotation_key must be {_kernels.SEED_BYTES} bytes, got {rotation_key!r}")
    return rotation_key
