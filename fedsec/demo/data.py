"""The demo's data: real handwritten digits, bundled or from the user's own files; nothing is downloaded.

First step of the demo: `load` gives a `DataSet`, `partition` splits it among clients, `run` trains on it.
Files are read by `formats`; here their contents are checked and brought to one layout and one scale.

References
----------
[AK98] Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI, 1998 (1,797 images of 8 x 8,
    17 grey levels; scikit-learn bundles them).
[LBBH98] LeCun, Bottou, Bengio, Haffner. Gradient-Based Learning Applied to Document Recognition. 1998
    (MNIST, 28 x 28, 256 grey levels).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from fedsec.demo import formats
from fedsec.demo.formats import Array
from fedsec.errors import DataFormatError, InvalidTypeError, MissingExtraError

_NUM_CLASSES = 10
_DIGITS_MAX = 16
_MNIST_SIDE = 28
# Of every five records of a class, in the order of the data set, the last is for testing.
_TEST_EVERY = 5


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images and labels, for training and for testing.

    Attributes
    ----------
    name : str
        "digits", or the name of the file or directory that was read.
    train_inputs, test_inputs : float32 (n, channels, height, width)
        Grey levels, from -1 (paper) to 1 (ink).
    train_targets, test_targets : int64 (n,)
        Labels in [0, num_classes).
    num_classes : int
    """

    name: str
    train_inputs: npt.NDArray[np.float32]
    train_targets: npt.NDArray[np.int64]
    test_inputs: npt.NDArray[np.float32]
    test_targets: npt.NDArray[np.int64]
    num_classes: int


def load(source: str | os.PathLike[str]) -> DataSet:
    """Loads a data set.

    Parameters
    ----------
    source : str or path
        "digits" for the 1,797 digits that scikit-learn bundles [AK98]: of each class every fifth record
        is for testing (355), the others for training (1,442). Otherwise MNIST [LBBH98], or any other
        data of its shape with ten classes, by its path: an ``.npz`` in Keras' layout, a directory with
        the four IDX files, or the classic gzip of three pickled pairs (training and validation are
        joined). The kind is told from the contents, not from the name. For a directory that is named
        digits write ``./digits``.

    Raises
    ------
    DataFormatError
        A file that is missing, unreadable, of an unknown format, or whose arrays are not images of
        28 x 28 (uint8, or floats in [0, 1]) with as many labels in [0, 9]; names the file.
    MissingExtraError
        scikit-learn is not installed.
    """
    if not isinstance(cast(object, source), (str, os.PathLike)) or not os.fspath(source):
        raise InvalidTypeError(f"source must be 'digits' or a path, got {source!r}")
    if source == "digits":
        return _digits()
    path = Path(source)
    raw = formats.read(path)
    return DataSet(
        path.resolve().name,
        _images(raw.train_inputs, f"{path}: training images"),
        _labels(raw.train_targets, len(raw.train_inputs), f"{path}: training labels"),
        _images(raw.test_inputs, f"{path}: test images"),
        _labels(raw.test_targets, len(raw.test_inputs), f"{path}: test labels"),
        _NUM_CLASSES,
    )


def _digits() -> DataSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("the bundled digits need scikit-learn: pip install 'fedsec[demo]'") from None
    bunch = load_digits()
    inputs = _scaled((bunch.images / _DIGITS_MAX)[:, np.newaxis])
    targets = bunch.target.astype(np.int64)
    test = _every_fifth_of_its_class(targets)
    return DataSet("digits", inputs[~test], targets[~test], inputs[test], targets[test], _NUM_CLASSES)


def _every_fifth_of_its_class(targets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(len(targets), dtype=bool)
    for label in range(_NUM_CLASSES):
        chosen[np.flatnonzero(targets == label)[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
    return chosen


def _images(array: Array, what: str) -> npt.NDArray[np.float32]:
    """Images of any of the layouts that the formats use, as float32 (n, 1, 28, 28) in [-1, 1]."""
    if array.shape[1:] not in ((_MNIST_SIDE, _MNIST_SIDE), (_MNIST_SIDE**2,)) or len(array) == 0:
        raise DataFormatError(f"{what} must have shape (n, 28, 28) or (n, 784), n > 0, got {array.shape}")
    levels = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array
    if levels.dtype.kind != "f":
        raise DataFormatError(f"{what} must be uint8 or floating-point, got {array.dtype}")
    if not (levels.min() >= 0 and levels.max() <= 1):  # also refuses NaN
        raise DataFormatError(f"{what} must be within [0, 1], got [{levels.min()}, {levels.max()}]")
    return _scaled(levels.reshape(-1, 1, _MNIST_SIDE, _MNIST_SIDE))


def _labels(array: Array, num_images: int, what: str) -> npt.NDArray[np.int64]:
    if array.shape != (num_images,):
        raise DataFormatError(f"{what} must have shape ({num_images},), one an image, got {array.shape}")
    if array.dtype.kind not in "iu":
        raise DataFormatError(f"{what} must be whole numbers, got {array.dtype}")
    if not (array.min() >= 0 and array.max() < _NUM_CLASSES):
        raise DataFormatError(f"{what} must be in [0, 9], got [{array.min()}, {array.max()}]")
    return array.astype(np.int64)


def _scaled(levels: Array) -> npt.NDArray[np.float32]:
    """From [0, 1] to [-1, 1]: a public map, where a mean taken over the records would have to be charged."""
    return (2 * levels - 1).astype(np.float32)
