"""The ring of integers mod 2^b: residues of signed and unsigned vectors, their centred lift.

Vectors enter the protocol as residues in the lane of `masks.lane_dtype(modulus_bits)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import _kernels, masks
from fedsec.errors import InvalidArgumentError, InvalidTypeError


def to_residues(vector: npt.NDArray[Any], modulus_bits: int) -> npt.NDArray[Any]:
    """A new array of residues mod 2^b, in the lane dtype, of an integer vector (d,).

    Signed dtypes may hold -2^(b-1) to 2^(b-1) - 1, negative values standing for 2^b + value; unsigned
    dtypes 0 to 2^b - 1. Any other value raises `InvalidArgumentError`, any other dtype or shape
    `InvalidTypeError`: nothing wraps, and floats are for the quantizer.
    """
    dtype = masks.lane_dtype(modulus_bits)
    require_fits(vector, modulus_bits)
    residues = _kernels.room(len(vector), dtype)
    np.copyto(residues, vector, casting="unsafe")
    if modulus_bits < 8 * dtype.itemsize:
        residues &= dtype.type(2**modulus_bits - 1)
    return residues


def require_fits(vector: npt.NDArray[Any], modulus_bits: int) -> None:
    """Raises what `to_residues` raises, and makes nothing."""
    require_integers(vector)
    low, high = _allowed(vector.dtype, modulus_bits)
    if low <= np.iinfo(vector.dtype).min and np.iinfo(vector.dtype).max <= high:
        return
    for extreme in (vector.min(initial=0), vector.max(initial=0)):
        if not low <= int(extreme) <= high:
            raise InvalidArgumentError(f"vector must hold values in [{low}, {high}], got {extreme}")


def centre(residues: npt.NDArray[Any], modulus_bits: int) -> npt.NDArray[np.int64]:
    """The representatives in [-2^(b-1), 2^(b-1)) of residues mod 2^b (lane dtype), as int64."""
    dtype = masks.lane_dtype(modulus_bits)
    _kernels.require_array(f"residues mod 2**{modulus_bits}", residues, (dtype,))
    # Sign extension: the top bit of the residue goes to the top of the word, and back with its sign.
    shift = 64 - modulus_bits
    lifted: npt.NDArray[np.int64] = (residues.astype(np.uint64) << np.uint64(shift)).view(np.int64) >> shift
    return lifted


def require_integers(vector: object) -> npt.NDArray[Any]:
    """A numpy vector of an integer dtype."""
    if not isinstance(vector, np.ndarray):
        raise InvalidTypeError(f"vector must be a numpy array of integers, got {type(vector).__name__}")
    if vector.dtype.kind not in "iu":
        raise InvalidTypeError(f"vector must have an integer dtype, got {vector.dtype}")
    if vector.ndim != 1:
        raise InvalidTypeError(f"vector must have one dimension, got shape {vector.shape}")
    return vector


def _allowed(dtype: np.dtype[Any], modulus_bits: int) -> tuple[int, int]:
    if dtype.kind == "u":
        return 0, 2**modulus_bits - 1
    return -(2 ** (modulus_bits - 1)), 2 ** (modulus_bits - 1) - 1
