"""The model of an experiment: a small one by name, or whatever a function of the user's makes."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from torch import nn

from fedsec.demo.models import small_cnn
from fedsec.errors import InvalidArgumentError, InvalidTypeError
from fedsec.experiment.config import Config
from fedsec.experiment.records import Records

_HIDDEN = 64


def build(config: Config, records: Records) -> nn.Module:
    """The model, with initial weights from the seed.

    Raises
    ------
    InvalidArgumentError, InvalidTypeError
        A function that cannot be found or makes no Module; a small model that does not fit the records.
    """
    torch.manual_seed(config.seed)
    if config.model.factory is not None:
        return _made(config.model.factory, dict(config.model.arguments or {}), str(config.base.resolve()))
    if not records.inputs.is_floating_point():
        raise InvalidArgumentError(
            f"model.name {config.model.name!r} takes real numbers or bytes, and the inputs are "
            f"{records.inputs.dtype}: use model.factory"
        )
    shape = records.inputs.shape[1:]
    if config.model.name == "cnn":
        return small_cnn(shape, records.num_outputs)
    features = shape.numel()
    if config.model.name == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(features, records.num_outputs))
    hidden = _HIDDEN if config.model.hidden is None else config.model.hidden
    if hidden < 1:
        raise InvalidArgumentError(f"model.hidden must be at least 1, got {hidden}")
    return nn.Sequential(
        nn.Flatten(), nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, records.num_outputs)
    )


def _made(factory: str, arguments: dict[str, Any], folder: str) -> nn.Module:
    """What ``module:function`` makes; modules beside the file are found, too."""
    if folder not in sys.path:
        sys.path.append(folder)
    module, _, name = factory.partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidArgumentError(f"model.factory {factory!r} cannot be imported: {error}") from None
    try:
        model = make(**arguments)
    except TypeError as error:
        raise InvalidTypeError(f"model.factory {factory!r} refuses model.arguments: {error}") from error
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(
            f"model.factory {factory!r} must make a torch.nn.Module, got {type(model).__name__}"
        )
    return model
