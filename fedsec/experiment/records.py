"""The records of an experiment and who holds which: digits, MNIST, or named arrays of the user's own."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsec._checks import open_unit
from fedsec.demo import data as demo
from fedsec.errors import DataFormatError, InvalidArgumentError
from fedsec.experiment.config import Config, Data
from fedsec.federated import partition

_USUAL = ("x_train", "y_train", "x_test", "y_test")
_TEST_FRACTION = 0.2
_BATCH = 1000


@dataclass(frozen=True, eq=False)
class Records:
    """Inputs and targets, for training and for testing.

    `inputs` are float32 or int64 (n, ...). `targets` are labels, int64 (n,) in [0, num_outputs), or numbers,
    float32 (n, num_outputs). `keys` are the training records' natural keys, if there are any.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    test_inputs: torch.Tensor
    test_targets: torch.Tensor
    num_outputs: int
    keys: npt.NDArray[Any] | None = None

    @property
    def labelled(self) -> bool:
        """Whether targets are labels; otherwise they are numbers."""
        return not self.targets.is_floating_point()

    @torch.no_grad()
    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """The mean loss on the test records, and for labels the share that is right."""
        training = model.training
        model.eval()
        total = right = 0.0
        for start in range(0, len(self.test_targets), _BATCH):
            output = model(self.test_inputs[start : start + _BATCH])
            target = self.test_targets[start : start + _BATCH]
            total += float(loss_of(output, target)) * len(target)
            right += float((output.argmax(dim=1) == target).sum()) if self.labelled else 0.0
        model.train(training)
        count = len(self.test_targets)
        return ({"accuracy": right / count} if self.labelled else {}) | {"loss": total / count}


def loss_of(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of labels, or the mean square of what numbers are missed by."""
    if target.is_floating_point():
        return torch.nn.functional.mse_loss(output, target)
    return torch.nn.functional.cross_entropy(output, target)


def load(config: Config) -> Records:
    """The records that a configuration names.

    Raises
    ------
    DataFormatError
        Naming the file, the array and what is wrong.
    """
    if config.data.source.endswith(".npz"):
        return _own(config.path(config.data.source), config.data, config.seed)
    digits = config.data.source == "digits"
    found = demo.load("digits" if digits else config.path(config.data.source))
    return Records(
        torch.from_numpy(found.train_inputs),
        torch.from_numpy(found.train_targets),
        torch.from_numpy(found.test_inputs),
        torch.from_numpy(found.test_targets),
        found.num_classes,
    )


def divide(records: Records, config: Config) -> list[npt.NDArray[np.int64]]:
    """Each client's records, as indices."""
    p, count, seed = config.partition, len(records.targets), config.seed
    clients = p.num_clients or 0
    if p.kind in ("dirichlet", "shards") and not records.labelled:
        raise InvalidArgumentError(f"partition.kind {p.kind!r} goes by labels, and the targets are numbers")
    labels = records.targets.numpy()
    if p.kind == "iid":
        return partition.iid(count, clients, seed)
    if p.kind == "by_key":
        return list(partition.by_key(records.keys).values()) if records.keys is not None else []
    if p.kind == "shards":
        each = 2 if p.shards_per_client is None else p.shards_per_client
        return partition.shards(labels, clients, each, seed)
    concentration = 1.0 if p.concentration is None else p.concentration
    if p.kind == "quantity":
        return partition.quantity(count, clients, concentration, seed)
    return partition.dirichlet(labels, clients, concentration, seed)


def _own(path: Path, names: Data, seed: int) -> Records:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = _named(path, archive, names)
    except DataFormatError:
        raise
    except FileNotFoundError:
        raise DataFormatError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataFormatError(f"{path}: cannot be read: {str(error) or type(error).__name__}") from None
    keys = arrays.pop("keys", None)
    if "test_inputs" not in arrays:
        fraction = open_unit(
            "data.test_fraction", _TEST_FRACTION if names.test_fraction is None else names.test_fraction
        )
        arrays, keys = _split(arrays, keys, fraction, seed)
    labelled = arrays["targets"].dtype.kind in "iub"
    outputs = (
        int(max(arrays["targets"].max(), arrays["test_targets"].max())) + 1
        if labelled
        else int(np.prod(arrays["targets"].shape[1:], dtype=int))
    )
    return Records(
        _inputs(path, arrays["inputs"]),
        _targets(path, arrays["targets"], outputs),
        _inputs(path, arrays["test_inputs"]),
        _targets(path, arrays["test_targets"], outputs),
        outputs,
        keys,
    )


def _named(path: Path, archive: Any, names: Data) -> dict[str, npt.NDArray[Any]]:
    """The arrays by what they are for, each checked to be there and as long as its partner."""
    wanted = {
        part: getattr(names, part) or usual
        for part, usual in zip(("inputs", "targets", "test_inputs", "test_targets"), _USUAL, strict=True)
    }
    given = names.inputs is not None or names.targets is not None
    if names.test_inputs is None and (names.test_fraction is not None or given):
        del wanted["test_inputs"], wanted["test_targets"]  # a part of the records is for testing
    if names.keys is not None:
        wanted["keys"] = names.keys
    missing = [name for name in wanted.values() if name not in archive]
    if missing:
        raise DataFormatError(
            f"{path}: has no array named {', '.join(missing)}; there are {', '.join(archive) or 'none'}"
        )
    arrays = {part: archive[name] for part, name in wanted.items()}
    for part, length in (("inputs", "targets"), ("test_inputs", "test_targets"), ("keys", "targets")):
        if part in arrays and (
            arrays[part].ndim == 0 or len(arrays[part]) != len(arrays[length]) or not len(arrays[part])
        ):
            raise DataFormatError(
                f"{path}: {wanted[part]} and {wanted[length]} must be equally many records, at least one, "
                f"got shapes {arrays[part].shape} and {arrays[length].shape}"
            )
    return arrays


def _split(
    arrays: dict[str, npt.NDArray[Any]], keys: npt.NDArray[Any] | None, fraction: float, seed: int
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[Any] | None]:
    """A part of the records, drawn by the seed, is for testing."""
    count = len(arrays["targets"])
    order = np.random.default_rng(seed).permutation(count)
    held = round(fraction * count)
    if not 0 < held < count:
        raise InvalidArgumentError(
            f"data.test_fraction must leave records to train and to test, got {fraction} of {count} records"
        )
    test, train = np.sort(order[:held]), np.sort(order[held:])
    split = {name: arrays[name][train] for name in ("inputs", "targets")}
    split |= {f"test_{name}": arrays[name][test] for name in ("inputs", "targets")}
    return split, None if keys is None else keys[train]


def _inputs(path: Path, array: npt.NDArray[Any]) -> torch.Tensor:
    """Bytes are grey levels, other whole numbers indices, and real ones what they are."""
    if array.dtype == np.uint8:
        return torch.from_numpy(array.astype(np.float32) / 255)
    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    return _finite(path, "inputs", array)


def _targets(path: Path, array: npt.NDArray[Any], outputs: int) -> torch.Tensor:
    if array.dtype.kind not in "iub":
        return _finite(path, "targets", array).reshape(len(array), outputs)
    if array.ndim != 1 or array.min() < 0:
        raise DataFormatError(
            f"{path}: labels must be whole numbers (n,) from 0, got shape {array.shape}, least {array.min()}"
        )
    return torch.from_numpy(array.astype(np.int64))


def _finite(path: Path, what: str, array: npt.NDArray[Any]) -> torch.Tensor:
    if array.dtype.kind != "f":
        raise DataFormatError(f"{path}: {what} must be numbers, got {array.dtype}")
    single = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataFormatError(f"{path}: {what} must be finite, in single precision")
    return torch.from_numpy(single)
