"""A federation at rest: plain values and tensors, and what makes them those of the same federation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from fedsec._checks import mapping, real, same_as_saved
from fedsec.clipping import AdaptiveClipping
from fedsec.errors import InvalidArgumentError, InvalidTypeError
from fedsec.federated.parameters import ParameterSpace
from fedsec.federated.plan import Plan
from fedsec.federated.settings import Settings
from fedsec.federated.strategies import Strategy

_FORMAT = 1
_KEYS = {"format", "identity", "rounds_started", "l2_clip_norm", "budget", "strategy"}


def identity(settings: Settings, space: ParameterSpace, strategy: Strategy) -> dict[str, Any]:
    """What a federation must share with the one that it goes on with."""
    return {
        **settings.to_dict(),
        "parameters": {name: list(shape) for name, shape in space.shapes.items()},
        "strategy": repr(strategy),
    }


def encode(*, strategy: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """Arrays become tensors."""
    vectors = {
        name: torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
        for name, value in strategy.items()
    }
    return {"format": _FORMAT, **values, "strategy": vectors}


def decode(state: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """The saved values, tensors as arrays; refuses what another federation has saved."""
    if not isinstance(cast(object, state), Mapping) or set(state) != _KEYS:
        raise InvalidTypeError("state must be what state_dict returned")
    if type(state["format"]) is not int or state["format"] != _FORMAT:
        raise InvalidArgumentError(f"format of state must be {_FORMAT}, got {state['format']!r}")
    same_as_saved("federation", state["identity"], expected)
    size = sum(math.prod(shape) for shape in expected["parameters"].values())
    kept = mapping("strategy of state", state["strategy"])
    return {**state, "strategy": {name: _remembered(name, value, size) for name, value in kept.items()}}


def _remembered(name: str, value: Any, size: int) -> Any:
    """What a strategy keeps: plain values, and vectors over the parameters."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.shape != (size,) or not value.is_floating_point() or not bool(value.isfinite().all()):
        raise InvalidArgumentError(
            f"{name} of strategy must hold {size} finite numbers, got {value.dtype} {tuple(value.shape)}"
        )
    return value.detach().cpu().numpy().copy()


def moved(plan: Plan, l2_clip_norm: object) -> Plan:
    """The plan with the bound where it was; only an adaptive one can have moved."""
    if not plan.private or plan.rule.l2_clip_norm == real("l2_clip_norm of state", l2_clip_norm):
        return plan
    if not isinstance(plan.rule, AdaptiveClipping):
        raise InvalidArgumentError(
            f"l2_clip_norm of state must be {plan.rule.l2_clip_norm!r}, got {l2_clip_norm!r}"
        )
    rule = replace(plan.rule, l2_clip_norm=cast(float, l2_clip_norm))  # the rule checks it
    return replace(plan, settings=replace(plan.settings, clipping=rule, l2_clip_norm=None))
