"""Layers that mix the records of a batch: refused by name, and swapped where there is a stand-in."""

from __future__ import annotations

import torch

from fedsec.errors import UnsupportedError

_BatchNorm = torch.nn.modules.batchnorm._BatchNorm


def refuse_mixing_layers(model: torch.nn.Module) -> None:
    """BatchNorm in training mode mixes the records of a batch: no per-record bound exists."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise UnsupportedError(
                f"{name} ({type(module).__name__}) mixes the records of a batch: use GroupNorm, or eval "
                "mode; "
                "fedsec.clipping.fix(model) swaps it"
            )


def fix(model: torch.nn.Module, max_groups: int = 32) -> torch.nn.Module:
    """Put GroupNorm in the place of every BatchNorm, in place, and return the model.

    Parameters
    ----------
    model : Module
        A BatchNorm itself cannot be swapped in place: its GroupNorm is returned then.
    max_groups : int
        The number of groups is the largest divisor of the channels up to this.

    Returns
    -------
    Module
        Weights and biases are kept; running statistics are dropped. Attach, and make the optimizer, after it.
    """
    if isinstance(model, _BatchNorm):
        return _group_norm(model, max_groups)
    for name, child in list(model.named_children()):
        setattr(model, name, fix(child, max_groups))
    return model


def _group_norm(norm: torch.nn.Module, max_groups: int) -> torch.nn.GroupNorm:
    assert isinstance(norm, _BatchNorm)  # noqa: S101 (for mypy)
    channels = norm.num_features
    groups = max(g for g in range(1, min(max_groups, channels) + 1) if channels % g == 0)
    place = next((t for t in (norm.weight, norm.running_mean) if t is not None), torch.zeros(()))
    swapped = torch.nn.GroupNorm(
        groups, channels, eps=norm.eps, affine=norm.affine, device=place.device, dtype=place.dtype
    )
    if norm.affine:
        swapped.load_state_dict({"weight": norm.weight.detach(), "bias": norm.bias.detach()})
    return swapped.train(norm.training)
