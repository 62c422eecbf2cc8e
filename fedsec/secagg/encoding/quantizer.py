"""From real vectors to the integers that secure aggregation sums, and back.

A value x becomes floor(x / granularity + u) with u uniform in [0, 1): unbiased, and never further than one
step away. The ring is made wide enough for every possible sum, so that none can wrap;
what does not fit the range is refused, never clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import _kernels, masks
from fedsec._checks import positive, whole, within
from fedsec.errors import InvalidArgumentError, NonFiniteError
from fedsec.secagg.encoding import ring

# A level has to be a float64 and an int64 without loss.
_MAX_EXACT_LEVEL = 2**53
_MAX_LEVEL = 2**62
# The core multiplies by the inverse, which has to be a float64 in full precision.
_MIN_GRANULARITY, _MAX_GRANULARITY = 2.0**-1022, 2.0**1022


@dataclass(frozen=True)
class Quantizer:
    """A public grid for the vectors of `num_clients` clients with values in [-max_abs, max_abs].

    Parameters
    ----------
    granularity : float
        The step g of the grid, in [2**-1022, 2**1022].
    max_abs : float
        The largest absolute value of a coordinate of one client; at most 2**53 steps, or 2**62 if the
        granularity is a power of two (the quotient is exact then).
    num_clients : int
        How many vectors a sum may have at most.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        A parameter out of its range, or a sum that would not fit 64 bits.
    """

    granularity: float
    max_abs: float
    num_clients: int

    def __post_init__(self) -> None:
        # Python's own numbers: numpy's would be compared, divided and multiplied in their narrow precision.
        step = within("granularity", self.granularity, _MIN_GRANULARITY, _MAX_GRANULARITY)
        object.__setattr__(self, "granularity", step)
        object.__setattr__(self, "max_abs", positive("max_abs", self.max_abs))
        object.__setattr__(self, "num_clients", whole("num_clients", self.num_clients, minimum=1))
        exact = math.frexp(self.granularity)[0] == 0.5
        largest = _MAX_LEVEL if exact else _MAX_EXACT_LEVEL
        if self.max_abs / self.granularity > largest:
            raise InvalidArgumentError(
                f"max_abs must be at most {largest} steps of {self.granularity!r}, got {self.max_abs!r}"
            )
        if self.modulus_bits > 64:
            raise InvalidArgumentError(
                f"num_clients * max_abs / granularity must be below 2**63, "
                f"got {self.num_clients} * {self.max_abs!r} / {self.granularity!r}"
            )

    @property
    def max_level(self) -> int:
        """The largest absolute value of a quantised coordinate, in steps."""
        return math.ceil(self.max_abs / self.granularity)

    @property
    def modulus_bits(self) -> int:
        """The width of the smallest ring that holds every sum, with its sign."""
        return (self.num_clients * self.max_level).bit_length() + 1

    def quantize(
        self, values: npt.NDArray[np.floating[Any]], *, insecure_key: bytes | None = None
    ) -> npt.NDArray[np.int64]:
        """Stochastic rounding to the grid: (d,) float32 or float64 to int64 levels.

        Unbiased to 2**-32 of a step, with randomness from the operating system expanded by the core's
        generator. A coordinate moves by less than one step, and a multiple of the step not at all; beyond
        2**18 steps that do not count a power of two, the rounding of x / granularity comes on top, 2**-51 of
        it. NaN and infinity raise `NonFiniteError`, values beyond
        `max_abs` `InvalidArgumentError`. `insecure_key` (32 bytes) fixes the randomness, for known-answer
        tests only.
        """
        return self._quantize(values, np.dtype(np.int64), None, insecure_key)

    def residues(
        self, values: npt.NDArray[np.floating[Any]], modulus_bits: int | None = None
    ) -> npt.NDArray[Any]:
        """The same for an upload, in one pass: levels mod 2**modulus_bits, of its `masks.lane_dtype`.

        `modulus_bits` is that of the session, at least (and by default) this quantiser's. Raises what
        `quantize` raises.
        """
        own = self.modulus_bits
        bits = own if modulus_bits is None else whole("modulus_bits", modulus_bits, minimum=own, maximum=64)
        return self._quantize(values, masks.lane_dtype(bits), bits, None)

    def _quantize(
        self, values: object, dtype: np.dtype[Any], modulus_bits: int | None, insecure_key: bytes | None
    ) -> npt.NDArray[Any]:
        array = _kernels.require_array("values", values, (np.float32, np.float64))
        levels = _kernels.quantize(array, self.granularity, self.max_abs, dtype, modulus_bits, insecure_key)
        if levels is None:
            raise self._refusal(array)
        return levels

    def lift(self, residues: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The signed levels of a sum of at most `num_clients` vectors, from its residues (lane dtype).

        A level that no such sum can have raises `InvalidArgumentError`.
        """
        levels = ring.centre(residues, self.modulus_bits)
        bound = self.num_clients * self.max_level
        extreme = max(int(levels.max(initial=0)), -int(levels.min(initial=0)))
        if extreme > bound:
            raise InvalidArgumentError(f"a sum must have levels in [-{bound}, {bound}], got {extreme}")
        return levels

    def dequantize(self, levels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Real values of signed levels, or of the residues of a sum, which are lifted first: (d,) float64.

        Each is the float64 nearest to its level, times the granularity, rounded. `InvalidArgumentError` for a
        residue that no sum can have, and for -2**63.
        """
        _kernels.require_array("levels", levels, (np.int64, masks.lane_dtype(self.modulus_bits)))
        signed = levels.dtype.kind == "i"
        bits, bound = (64, 2**63 - 1) if signed else (self.modulus_bits, self.num_clients * self.max_level)
        values = _kernels.dequantize(levels, bits, self.granularity, bound)
        if values is None:
            if signed:
                raise InvalidArgumentError(f"levels must be above -2**63, got {-(2**63)}")
            self.lift(levels)  # names the level that is refused
            raise AssertionError("the core refused what lift takes")
        return values

    def _refusal(self, values: npt.NDArray[np.floating[Any]]) -> InvalidArgumentError | NonFiniteError:
        finite = np.isfinite(values)
        if not finite.all():
            return NonFiniteError(f"values must be finite, got {values[~finite][0]}")
        # In double precision, like max_abs: single precision would round it to the values' own.
        wide = values.astype(np.float64)
        outside = wide[np.abs(wide) > self.max_abs][0]
        return InvalidArgumentError(f"values must be in [-{self.max_abs}, {self.max_abs}], got {outside}")
