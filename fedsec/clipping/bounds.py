"""How much of each record's gradient enters the sum: the clipping rules, and the sensitivity of each.

A rule turns the norms of records' gradients into factors. Whatever it is given, one record adds at most
`l2_sensitivity` to the sum, rounding included: that is what the noise is scaled by.

References
----------
[ACG+16] Abadi et al. Deep Learning with Differential Privacy. CCS 2016, Alg. 1 (flat).
[MRTZ18] McMahan, Ramage, Talwar, Zhang. Learning Differentially Private Recurrent Language Models. 2018,
    sec. 3.2 (per layer).
[ATMR21] Andrew, Thakkar, McMahan, Ramaswamy. Differentially Private Learning with Adaptive Clipping. NeurIPS
    2021, Thm. 1.
[BWZK23a] Bu, Wang, Zha, Karypis. Automatic Clipping: Differentially Private Deep Learning Made Easier and
    Stronger. NeurIPS 2023 (AUTO-S).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch

from fedsec._checks import open_unit, positive, within
from fedsec.clipping.gradients import NORM_SLACK, SUM_SLACK
from fedsec.clipping.updates import FLOAT_SLACK
from fedsec.errors import InvalidArgumentError, InvalidTypeError

# Far enough from the ends of float32 that squares of what matters neither overflow nor vanish in a norm.
MIN_CLIP_NORM, MAX_CLIP_NORM = 1e-8, 1e8

Groups = tuple[tuple[int, ...], ...]


class ClippingRule(Protocol):
    """What a rule has to offer."""

    @property
    def l2_clip_norm(self) -> float:
        """What a record's share is scaled to at most."""
        ...

    @property
    def l2_sensitivity(self) -> float:
        """The most, in L2 norm, that adding or removing one record changes the sum, rounding included."""
        ...

    def factors(self, squared_norms: torch.Tensor, layers: Groups) -> torch.Tensor:
        """The factor of each record's gradient of each parameter.

        Parameters
        ----------
        squared_norms : float64 tensor (parameters, records)
            Finite.
        layers : tuple of tuple of int
            Which parameters belong to one layer; all of them, each once. A layer of none is one without a
            gradient here.

        Returns
        -------
        float64 tensor (parameters, records), zero or above
        """
        ...

    def clipped(self, squared_norms: torch.Tensor) -> int:
        """How many records are beyond the bound: a figure that no guarantee covers."""
        ...


@dataclass(frozen=True)
class _Bound:
    l2_clip_norm: float

    def __post_init__(self) -> None:
        within("l2_clip_norm", self.l2_clip_norm, MIN_CLIP_NORM, MAX_CLIP_NORM)

    @property
    def l2_sensitivity(self) -> float:
        """The clip norm, enlarged by what floating-point rounding may add to a sum in random order: 0.2 %."""
        return self.l2_clip_norm * (1.0 + SUM_SLACK + FLOAT_SLACK)

    @property
    def _reachable(self) -> float:
        """What a norm as computed may be, so that the true one is within the bound."""
        return self.l2_clip_norm * (1.0 - NORM_SLACK)

    def clipped(self, squared_norms: torch.Tensor) -> int:
        """How many records' whole gradients are longer than `l2_clip_norm`."""
        return int((squared_norms.sum(dim=0) > self.l2_clip_norm**2).sum())


@dataclass(frozen=True)
class FlatClipping(_Bound):
    """A record's whole gradient is scaled down to `l2_clip_norm` where it is longer [ACG+16]."""

    def factors(self, squared_norms: torch.Tensor, layers: Groups) -> torch.Tensor:
        """min(1, C / norm), the same for all parameters; see `ClippingRule`."""
        return _limited(squared_norms.sum(dim=0), self._reachable).expand_as(squared_norms)


class PerLayerClipping(_Bound):
    """Each layer's part is clipped on its own, to `l2_clip_norm` / sqrt(number of layers) [MRTZ18]."""

    def factors(self, squared_norms: torch.Tensor, layers: Groups) -> torch.Tensor:
        """min(1, C / sqrt(L) / norm of the layer); see `ClippingRule`."""
        result = torch.empty_like(squared_norms)
        for layer in layers:
            rows = list(layer)
            if not rows:
                continue
            result[rows] = _limited(squared_norms[rows].sum(dim=0), self._reachable / len(layers) ** 0.5)
        return result


@dataclass(frozen=True)
class AutomaticClipping(_Bound):
    """Each record's gradient is normalised: C / (norm + gamma), so that no threshold is tuned [BWZK23a].

    `gamma` keeps records apart whose gradients are tiny; its unit is that of a gradient's norm.
    """

    gamma: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        within("gamma", self.gamma, MIN_CLIP_NORM, MAX_CLIP_NORM)

    def factors(self, squared_norms: torch.Tensor, layers: Groups) -> torch.Tensor:
        """C / (norm + gamma), the same for all parameters; see `ClippingRule`."""
        norms = squared_norms.sum(dim=0).sqrt()
        return (self._reachable / (norms + self.gamma)).expand_as(squared_norms)


@dataclass(frozen=True)
class AdaptiveClipping(FlatClipping):
    """Flat clipping whose bound follows a quantile of the records' norms [ATMR21].

    Each step also releases, with noise, how many records were within the bound; the next step's bound is then
    C exp(-learning_rate (fraction within - target_quantile)). `budget_share` of a step's 1/z^2 pays for that
    count, so the sum's noise multiplier is z / sqrt(1 - budget_share): both together cost what z says.
    """

    target_quantile: float = 0.5
    learning_rate: float = 0.2
    budget_share: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        open_unit("target_quantile", self.target_quantile)
        positive("learning_rate", self.learning_rate)
        open_unit("budget_share", self.budget_share)

    def multipliers(self, noise_multiplier: float) -> tuple[float, float]:
        """Noise multipliers a of the sum and b of the count, rounded up: 1/a^2 + 1/b^2 <= 1/z^2."""
        up = noise_multiplier * (1.0 + 2.0**-48)
        return up / math.sqrt(1.0 - self.budget_share), up / math.sqrt(self.budget_share)

    def following(self, fraction_within: float) -> AdaptiveClipping:
        """The rule of the next step, after a released fraction (noise may take it out of [0, 1])."""
        excess = min(1.0, max(0.0, fraction_within)) - self.target_quantile
        bound = self.l2_clip_norm * math.exp(-self.learning_rate * excess)
        return replace(self, l2_clip_norm=min(MAX_CLIP_NORM, max(MIN_CLIP_NORM, bound)))


# By the name that federations and training loops know them by.
RULES: dict[str, type[_Bound]] = {
    "flat": FlatClipping,
    "per_layer": PerLayerClipping,
    "automatic": AutomaticClipping,
    "adaptive": AdaptiveClipping,
}


def require_clipping(clipping: object) -> None:
    """Refuses what is neither a name nor one of our rules: another's sensitivity is a promise, unchecked."""
    if isinstance(clipping, str):
        if clipping not in RULES:
            raise InvalidArgumentError(f"clipping must be one of {', '.join(RULES)}, got {clipping!r}")
    elif type(clipping) not in RULES.values():
        raise InvalidTypeError(f"clipping must be a name or a rule of fedsec.clipping, got {clipping!r}")


def clipping_rule(clipping: str | ClippingRule, l2_clip_norm: float) -> ClippingRule:
    """A rule by name, with this bound; a rule has its own."""
    require_clipping(clipping)
    if not isinstance(clipping, str):
        return clipping
    make = cast("type[FlatClipping]", RULES[clipping])
    return make(l2_clip_norm)


def _limited(squares: torch.Tensor, bound: float) -> torch.Tensor:
    return torch.clamp(bound / squares.sqrt(), max=1.0)
