"""Models in and out: named arrays or tensors as one flat vector, and back, in place.

A schema is what the parties must agree on for a flat vector to mean the same to all of them: names, shapes
and dtypes, in one order, with canonical bytes. Whatever differs from it is refused by name; nothing is
converted silently, left out silently or written in part.

Arrays are numpy's, or tensors that have ``detach``, ``cpu`` and ``numpy`` as torch's do; torch itself is not
imported. bfloat16, which numpy lacks, goes through float32, which holds each of its values exactly.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from fedsec._checks import whole
from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError

MAX_ENTRIES = 1 << 20
MAX_NAME_BYTES = 1024
MAX_DIMENSIONS = 32
MAX_SIZE = 2**48  # elements of one entry, and of all

_VERSION = 1
_HEADER = struct.Struct("<BI")  # version, number of entries
_LENGTH = struct.Struct("<H")  # of a name in bytes
_KIND = struct.Struct("<BB")  # dtype, number of dimensions
_FLOATS = {
    "float16": float(np.finfo(np.float16).max),
    "bfloat16": (2.0 - 2.0**-7) * 2.0**127,
    "float32": float(np.finfo(np.float32).max),
    "float64": float(np.finfo(np.float64).max),
}
# A dtype's place in this list is its code on the wire.
_DTYPES = (
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)

Vector = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Entry:
    """One named array of a model: its shape and its dtype, as numpy calls it, or "bfloat16"."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        _require_name(self.name)
        if self.dtype not in _DTYPES:
            raise InvalidTypeError(f"{self.name} must have one of {', '.join(_DTYPES)}, got {self.dtype}")
        whole(f"the number of dimensions of {self.name}", len(self.shape), minimum=0, maximum=MAX_DIMENSIONS)
        shape = tuple(
            whole(f"a dimension of {self.name}", extent, minimum=0, maximum=MAX_SIZE) for extent in self.shape
        )
        object.__setattr__(self, "shape", shape)

    @property
    def takes_part(self) -> bool:
        """Whether it has a place in the vector: floating-point entries do, integers and booleans do not."""
        return self.dtype in _FLOATS

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


class _Place(NamedTuple):
    """Where an entry lies in the vector."""

    entry: Entry
    start: int

    def of(self, vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Its part of a vector, as a view in its shape."""
        return vector[self.start : self.start + self.entry.size].reshape(self.entry.shape)


@dataclass(frozen=True, init=False)
class Schema:
    """Names, shapes and dtypes of a model's arrays, and their one order in a flat vector.

    Parameters
    ----------
    entries : at most 2**20 entries with distinct names
        Kept in ascending order of their names (by code points): the order in which somebody's dictionary
        happens to be does not matter. Floating-point entries make up the vector in that order, each row by
        row. Integer and boolean entries, such as BatchNorm's counter, have no place in it; they are checked
        for, and stay as they are.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Naming the entry; or nothing is left for the vector.
    """

    entries: tuple[Entry, ...]

    def __init__(self, entries: Iterable[Entry]) -> None:
        listed = tuple(sorted(entries, key=lambda entry: entry.name))
        whole("the number of entries", len(listed), minimum=0, maximum=MAX_ENTRIES)
        for before, after in pairwise(listed):
            if before.name == after.name:
                raise InvalidArgumentError(f"names must be distinct, got {before.name} twice")
        size = sum(entry.size for entry in listed if entry.takes_part)
        whole("the number of floating-point elements", size, minimum=1, maximum=MAX_SIZE)
        object.__setattr__(self, "entries", listed)

    @classmethod
    def of(cls, arrays: Mapping[str, Any], *, integers: str = "refuse") -> Schema:
        """The schema of a model.

        Parameters
        ----------
        arrays : mapping of names to numpy arrays or torch tensors
            Such as ``model.state_dict()``. Tied weights count once for every name they have.
        integers : "refuse" or "leave_out"
            What becomes of integer and boolean entries: an error that names one, or they are part of the
            schema and not of the vector.
        """
        if integers not in ("refuse", "leave_out"):
            raise InvalidArgumentError(f'integers must be "refuse" or "leave_out", got {integers!r}')
        schema = cls(_described(arrays))
        if integers == "refuse":
            for entry in schema.entries:
                if not entry.takes_part:
                    raise InvalidTypeError(
                        f"{entry.name} is {entry.dtype} and cannot be averaged; "
                        'leave such entries as they are with integers="leave_out"'
                    )
        return schema

    @cached_property
    def size(self) -> int:
        """d, the length of the vector: the number of floating-point elements."""
        return sum(place.entry.size for place in self._places)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """What `flatten` gives: float64 if any entry is, else float32; it holds every value exactly."""
        wide = any(entry.dtype == "float64" for entry in self.entries)
        return np.dtype(np.float64 if wide else np.float32)

    @cached_property
    def _places(self) -> tuple[_Place, ...]:
        places, start = [], 0
        for entry in self.entries:
            if entry.takes_part:
                places.append(_Place(entry, start))
                start += entry.size
        return tuple(places)

    def require(self, arrays: Mapping[str, Any]) -> None:
        """Checks that a model has just these names, shapes and dtypes; looks at no value.

        Raises
        ------
        InvalidArgumentError
            Names or a shape differ; the message says which.
        InvalidTypeError
            A dtype differs, or something is no array.
        """
        given = {entry.name: entry for entry in _described(arrays)}
        expected = {entry.name: entry for entry in self.entries}
        if given.keys() != expected.keys():
            missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
            raise InvalidArgumentError(
                f"names must be the schema's, got {unknown} beyond it, {missing} missing"
            )
        for name, entry in expected.items():
            if given[name].shape != entry.shape:
                raise InvalidArgumentError(f"{name} must have shape {entry.shape}, got {given[name].shape}")
            if given[name].dtype != entry.dtype:
                raise InvalidTypeError(f"{name} must have dtype {entry.dtype}, got {given[name].dtype}")

    def flatten(self, arrays: Mapping[str, Any], out: Vector | None = None) -> Vector:
        """A model as one vector.

        Parameters
        ----------
        arrays : mapping of names to numpy arrays or torch tensors
            Exactly the schema's names, shapes and dtypes.
        out : array (d,), optional
            Written and returned: C-contiguous, float64, or float32 if `dtype` is.

        Returns
        -------
        array (d,) of `dtype`
            Every value exactly, NaN and infinities too: `Quantizer` refuses those.

        Raises
        ------
        InvalidTypeError, InvalidArgumentError
            As `require`, or about `out`; then nothing was written.
        """
        self.require(arrays)
        vector = np.empty(self.size, self.dtype) if out is None else self._require_out(out)
        for place in self._places:
            place.of(vector)[...] = _values(place.entry, arrays[place.entry.name])
        return vector

    def unflatten(self, vector: Vector, into: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """A vector as a model.

        Parameters
        ----------
        vector : float32 or float64 array (d,)
        into : mapping of names to numpy arrays or torch tensors, optional
            Exactly the schema's; its arrays are written in place, each value rounded to the entry's dtype,
            and it is returned. Integer and boolean entries stay as they are. Tensors change as under
            ``torch.no_grad``.

        Returns
        -------
        `into`, or a dict of new numpy arrays
            The floating-point entries alone; float32 for bfloat16.

        Raises
        ------
        NonFiniteError
            A value is not finite, or beyond what its entry's dtype holds; the message names the entry.
        InvalidTypeError, InvalidArgumentError
            As `require`, or about `vector`; an array is read-only. In each case nothing was written.
        """
        values = self._require_vector(vector)
        if into is None:
            return {place.entry.name: _new(place.entry, place.of(values)) for place in self._places}
        self.require(into)
        for place in self._places:
            _require_writable(place.entry.name, into[place.entry.name])
        for place in self._places:
            _write(into[place.entry.name], place.of(values))
        return into

    def to_bytes(self) -> bytes:
        """Canonical bytes: equal schemas, and only they, have equal bytes.

        One byte of version (1) and the number of entries (4 bytes); for each, in ascending order, the length
        of its name (2), the name in UTF-8, a byte for its dtype, a byte for its number of dimensions, and 8
        bytes for each of those. Integers are little-endian. Dtypes count from 0: float16, bfloat16, float32,
        float64, bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64.
        """
        return _HEADER.pack(_VERSION, len(self.entries)) + b"".join(map(_encode, self.entries))

    @classmethod
    def from_bytes(cls, data: bytes) -> Schema:
        """Back from `to_bytes`; anything but canonical bytes raises `InvalidArgumentError`."""
        if not isinstance(cast(object, data), (bytes, bytearray)):
            raise InvalidTypeError(f"a schema must be bytes, got {type(data).__name__}")
        try:
            schema = cls(_decode(bytes(data)))
        except (struct.error, UnicodeDecodeError, IndexError, InvalidTypeError) as error:
            raise InvalidArgumentError(f"a schema must be whole and of version {_VERSION}: {error}") from None
        if schema.to_bytes() != data:
            raise InvalidArgumentError("a schema must be of exact length, its names in ascending order")
        return schema

    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes under a label: 32 bytes."""
        return hashlib.sha256(b"fedsec schema 1" + self.to_bytes()).digest()

    def _require_out(self, out: object) -> Vector:
        if not isinstance(out, np.ndarray) or out.dtype not in (self.dtype, np.float64):
            found = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
            raise InvalidTypeError(f"out must be an array of {self.dtype} or float64, got {found}")
        if out.shape != (self.size,):
            raise InvalidArgumentError(f"out must have shape ({self.size},), got {out.shape}")
        if not out.flags.c_contiguous or not out.flags.writeable:
            raise InvalidTypeError("out must be contiguous and writable")
        return out

    def _require_vector(self, vector: object) -> Vector:
        if not isinstance(vector, np.ndarray) or vector.dtype not in (np.float32, np.float64):
            found = vector.dtype if isinstance(vector, np.ndarray) else type(vector).__name__
            raise InvalidTypeError(f"vector must be an array of float32 or float64, got {found}")
        if vector.shape != (self.size,):
            raise InvalidArgumentError(f"vector must have shape ({self.size},), got {vector.shape}")
        for place in self._places:
            _require_range(place.entry, place.of(vector))
        return vector


def model_digest(arrays: Mapping[str, Any]) -> bytes:
    """What names a model in `Config.model_digest`: 32 bytes that differ as soon as one bit of it does.

    SHA-256 of the label "fedsec model 1", the canonical bytes of its schema, and the values of all entries in
    ascending order of their names, row by row, little-endian; integers and booleans too, bfloat16 as float32.

    Parameters
    ----------
    arrays : mapping of names to numpy arrays or torch tensors

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Naming the entry that is no array, or of an unknown dtype.
    """
    schema = Schema.of(arrays, integers="leave_out")
    digest = hashlib.sha256(b"fedsec model 1" + schema.to_bytes())
    for entry in schema.entries:
        values = _values(entry, arrays[entry.name])
        digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)
    return digest.digest()


def _described(arrays: object) -> Iterator[Entry]:
    if not isinstance(arrays, Mapping):
        raise InvalidTypeError(f"a model must be a mapping of names to arrays, got {type(arrays).__name__}")
    for name, value in arrays.items():
        _require_name(name)
        if not _is_array(value) and not _is_tensor(value):
            raise InvalidTypeError(f"{name} must be a numpy array or a tensor, got {type(value).__name__}")
        yield Entry(name, tuple(value.shape), _dtype_name(value))


def _require_name(name: object) -> None:
    if not isinstance(name, str):
        raise InvalidTypeError(f"names of arrays must be texts, got {name!r}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        length = -1
    if not 0 <= length <= MAX_NAME_BYTES:
        raise InvalidArgumentError(f"names must take at most {MAX_NAME_BYTES} bytes of UTF-8, got {name!r}")


def _is_array(value: object) -> bool:
    # A masked array's hidden values would come to light.
    return isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)


def _is_tensor(value: object) -> bool:
    return not isinstance(value, np.ndarray) and all(
        hasattr(value, name) for name in ("detach", "cpu", "numpy", "new_tensor", "shape", "dtype")
    )


def _dtype_name(value: Any) -> str:
    return str(value.dtype.name if _is_array(value) else value.dtype).removeprefix("torch.")


def _values(entry: Entry, value: Any) -> npt.NDArray[Any]:
    """The values as a numpy array; where there is no dtype for them, in float32."""
    if _is_array(value):
        return np.asarray(value, np.float32 if entry.dtype == "bfloat16" else None)
    try:
        tensor = value.detach().cpu()
        return cast(npt.NDArray[Any], (tensor.float() if entry.dtype == "bfloat16" else tensor).numpy())
    except (TypeError, RuntimeError) as error:
        raise InvalidTypeError(f"{entry.name} must be a dense tensor with values: {error}") from None


def _new(entry: Entry, part: Vector) -> npt.NDArray[Any]:
    return part.astype(np.float32 if entry.dtype == "bfloat16" else entry.dtype)


def _write(target: Any, part: Vector) -> None:
    if _is_array(target):
        np.copyto(target, part, casting="unsafe")  # within range, and rounded on purpose
    else:
        target.detach().copy_(target.detach().new_tensor(part))


def _require_writable(name: str, target: Any) -> None:
    if _is_array(target) and not target.flags.writeable:
        raise InvalidTypeError(f"{name} must be writable")


def _require_range(entry: Entry, part: Vector) -> None:
    if not part.size:
        return
    least, most = float(part.min()), float(part.max())  # NaN if one is
    limit = _FLOATS[entry.dtype]
    if not -limit <= least <= most <= limit:
        raise NonFiniteError(f"{entry.name} must stay within +-{limit:.4g}, got {least} to {most}")


def _encode(entry: Entry) -> bytes:
    name = entry.name.encode()
    kind = _KIND.pack(_DTYPES.index(entry.dtype), len(entry.shape))
    return _LENGTH.pack(len(name)) + name + kind + struct.pack(f"<{len(entry.shape)}Q", *entry.shape)


def _decode(data: bytes) -> Iterator[Entry]:
    """The entries that canonical bytes hold; each is checked before the next is read."""
    version, number = _HEADER.unpack_from(data)
    if version != _VERSION or number > MAX_ENTRIES:
        raise InvalidArgumentError(
            f"a schema must be of version {_VERSION}, got {version} with {number} entries"
        )
    position = _HEADER.size
    for _ in range(number):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        name = data[position : position + length].decode()
        code, dimensions = _KIND.unpack_from(data, position + length)
        position += length + _KIND.size
        shape = struct.unpack_from(f"<{dimensions}Q", data, position)
        position += 8 * dimensions
        yield Entry(name, shape, _DTYPES[code])
