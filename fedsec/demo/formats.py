"""The three file formats in which MNIST goes round, read without executing anything in them.

`read` tells the format from the contents and returns the arrays as they are; `data` checks their shapes
and values. No file is expanded beyond `MAX_BYTES`, whatever its compression promises.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from fedsec.demo.unpickle import read_array_pairs
from fedsec.errors import DataFormatError

Array = npt.NDArray[Any]

# MNIST in float64 takes 0.41 GiB; more than a GiB is not MNIST, but an accident or an attack.
MAX_BYTES = 2**30

_KERAS_NAMES = ("x_train", "y_train", "x_test", "y_test")
_IDX_NAMES = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_UNREADABLE = (OSError, EOFError, ValueError, MemoryError, RuntimeError, zlib.error, zipfile.BadZipFile)


class Raw(NamedTuple):
    """The four arrays of a file, of any shape and numeric dtype."""

    train_inputs: Array
    train_targets: Array
    test_inputs: Array
    test_targets: Array


def read(path: Path) -> Raw:
    """Reads a directory of IDX files, an ``.npz``, or a pickled gzip.

    Raises
    ------
    DataFormatError
        Naming the file and what is wrong with it.
    """
    try:
        return _reader(path)(path)
    except DataFormatError:
        raise
    except _UNREADABLE as error:
        raise DataFormatError(f"{path}: cannot be read: {str(error) or type(error).__name__}") from error


def _reader(path: Path) -> Callable[[Path], Raw]:
    if path.is_dir():
        return _read_idx
    if not path.exists():
        raise DataFormatError(f"{path}: no such file or directory")
    with path.open("rb") as file:
        magic = file.read(2)
    if magic == b"PK":
        return _read_npz
    if magic == b"\x1f\x8b":
        return _read_pickled
    raise DataFormatError(
        f"{path}: unknown format; expected MNIST as .npz, as a directory with its four IDX files, "
        "or as a pickled gzip (mnist.pkl.gz)"
    )


def _read_npz(path: Path) -> Raw:
    """Keras' layout: x_train, y_train, x_test and y_test."""
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
    if total > MAX_BYTES:
        raise DataFormatError(f"{path}: expands to {total} bytes, more than {MAX_BYTES}")
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in _KERAS_NAMES if name in arrays}
    missing = [name for name in _KERAS_NAMES if not isinstance(found.get(name), np.ndarray)]
    if missing:
        raise DataFormatError(f"{path}: has no array named {', '.join(missing)}")
    return Raw(*(found[name] for name in _KERAS_NAMES))


def _read_idx(path: Path) -> Raw:
    """The four files of the original distribution, plain or gzipped."""
    return Raw(*(_read_idx_file(_find_idx(path, name), 3 if "images" in name else 1) for name in _IDX_NAMES))


def _find_idx(directory: Path, name: str) -> Path:
    rank = 3 if "images" in name else 1
    spellings = [f"{name}{dot}idx{rank}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
    for spelling in spellings:
        if (directory / spelling).is_file():
            return directory / spelling
    raise DataFormatError(f"{directory}: has none of {', '.join(spellings)}")


def _read_idx_file(path: Path, rank: int) -> Array:
    """Two zero bytes, the type (8: uint8), the rank, the big-endian shape, then the bytes, row-major."""
    contents = _contents(path)
    header = struct.Struct(f">4s{rank}I")
    if len(contents) < header.size:
        raise DataFormatError(f"{path}: truncated within its header, {len(contents)} bytes")
    magic, *shape = header.unpack_from(contents)
    if magic != bytes([0, 0, 8, rank]):
        raise DataFormatError(f"{path}: not an IDX file of uint8 and rank {rank}, starts with {magic.hex()}")
    if len(contents) != header.size + math.prod(shape):
        raise DataFormatError(
            f"{path}: says shape {tuple(shape)}, but holds {len(contents) - header.size} bytes of data"
        )
    return np.frombuffer(contents, np.uint8, offset=header.size).reshape(shape)


def _read_pickled(path: Path) -> Raw:
    """Three pairs (inputs, targets): training and validation, which are joined, and test."""
    try:
        train, valid, test = read_array_pairs(_contents(path), 3)
    except DataFormatError as error:
        raise DataFormatError(f"{path}: {error}") from error
    inputs, targets = (_joined(*both, path) for both in zip(train, valid, strict=True))
    return Raw(inputs, targets, *test)


def _joined(first: Array, second: Array, path: Path) -> Array:
    """One after the other, of one dtype: a single wide element would widen all others to its size."""
    if first.dtype != second.dtype:
        raise DataFormatError(f"{path}: training and validation data are {first.dtype} and {second.dtype}")
    return np.concatenate((first, second))


def _contents(path: Path) -> bytes:
    """The file's bytes, decompressed if gzipped; reading stops at MAX_BYTES."""
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return _bounded(gzip.GzipFile(fileobj=file) if gzipped else file, path)


def _bounded(stream: BinaryIO | gzip.GzipFile, path: Path) -> bytes:
    contents = io.BytesIO()
    while chunk := stream.read(2**20):
        contents.write(chunk)
        if contents.tell() > MAX_BYTES:
            raise DataFormatError(f"{path}: expands to more than {MAX_BYTES} bytes")
    return contents.getvalue()
