"""What a node's owner insists on, whoever plans the run: the table `[policy]` of its node.toml.

A server's plan says how updates are clipped, what noise they get and how often they are asked for. Each
session is held against the policy before the app works for it (`NodePolicy.cost`), and what it costs is
charged to the node's own ledger (`distributed.ClientBudget`) before the contribution leaves. Neither needs to
believe the server, but for noise that the server is to add.

Refusals say the value, what is taken, and the line that would take it; the server hears their class alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from fedsec import distributed
from fedsec._checks import open_unit, positive
from fedsec.accounting import Ledger, NeighboringRelation
from fedsec.distributed import FixedCost
from fedsec.errors import InvalidArgumentError, InvalidTypeError, PolicyError
from fedsec.secagg import Config, Policy

if TYPE_CHECKING:  # torch, which most messages of a session do without
    from fedsec.federated.plan import Plan
    from fedsec.integrations.task import Task
    from fedsec.integrations.terms import Terms

EXACT = "none"
NOISES = (EXACT, "central", "distributed", "local")

_TARGETS = {"target_epsilon": 3.0, "target_delta": 1e-5}
_PRECISION = 1.0 - 2.0**-40  # to which plans size shares of noise for a multiplier


@dataclass(frozen=True, kw_only=True)
class NodePolicy:
    """The least that a node takes.

    Parameters
    ----------
    max_corrupt, min_survivors : int
        Of each session, as for `secagg.Policy`: so many clients at least may work for the server, so many are
        in any sum.
    noise : list of "central", "distributed", "local"; or ["none"]
        Which noise is enough. By default what clients add themselves: in shares, of which those count that
        are sure to be in the sum, or each enough for itself. "central" trusts the server to add it. ["none"]
        gives exact sums, and so has no budget.
    target_epsilon, target_delta : float
        What all that ever leaves this node may cost, training and evaluations of all runs together, against
        an empty contribution in its place. Fixed with the node's first session.
    min_noise_multiplier : float, optional
        So much noise at least for each contribution, in multiples of what it can change; else the budget
        alone decides.
    metrics : list of str
        Which numbers of the app's replies may be summed: metrics, and the weight of an exact mean.

    Raises
    ------
    InvalidArgumentError, InvalidTypeError
    """

    max_corrupt: int
    min_survivors: int
    noise: tuple[str, ...] = ("distributed", "local")
    target_epsilon: float | None = None  # 3.0 where there is noise
    target_delta: float | None = None  # 1e-5
    min_noise_multiplier: float | None = None
    metrics: tuple[str, ...] = ("num-examples",)

    def __post_init__(self) -> None:
        _ = self.session
        for name in ("noise", "metrics"):
            object.__setattr__(self, name, _words(name, getattr(self, name)))
        if not self.noise or not set(self.noise) <= set(NOISES):
            raise InvalidArgumentError(f"noise must be of {', '.join(NOISES)}, got {list(self.noise)}")
        if not self.private:
            self._require_exact()
            return
        for name, value in _TARGETS.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        positive("target_epsilon", self.target_epsilon)
        open_unit("target_delta", self.target_delta)
        if self.min_noise_multiplier is not None:
            positive("min_noise_multiplier", self.min_noise_multiplier)

    def _require_exact(self) -> None:
        if self.noise != (EXACT,):
            raise InvalidArgumentError(
                f"noise must be {EXACT!r} alone or without it, for exact sums leave no budget to keep, "
                f"got {list(self.noise)}"
            )
        for name in (*_TARGETS, "min_noise_multiplier"):
            if getattr(self, name) is not None:
                raise InvalidArgumentError(
                    f"{name} belongs to noise, got {getattr(self, name)!r} with noise = [{EXACT!r}]"
                )

    @property
    def private(self) -> bool:
        """Whether nothing leaves without noise, and so a budget is kept."""
        return EXACT not in self.noise

    @property
    def session(self) -> Policy:
        """What is asked of a configuration."""
        return Policy(max_corrupt=self.max_corrupt, min_survivors=self.min_survivors)

    def ledger(self, path: str | os.PathLike[str]) -> Ledger:
        """The node's ledger, made or opened; `LedgerError` for one with other targets."""
        return Ledger(
            path,
            target_epsilon=self.target_epsilon or 0.0,
            target_delta=self.target_delta or 0.0,
            # Of all that `Terms` plan: a client of a fixed cohort, which may contribute nothing instead.
            neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
            accountant="gdp",
        )

    def cost(self, terms: Terms, task: Task, config: Config) -> distributed.Plan | FixedCost | None:
        """What a session costs this client, if it is enough for this policy; None for an exact sum.

        Raises
        ------
        PolicyError
            It is not. Nothing has happened.
        """
        plan = task.plan
        if plan.noise not in self.noise:
            kept = (*self.noise, plan.noise) if self.private and plan.private else (plan.noise,)
            raise _refusal(f"noise is {plan.noise!r}", "noise", self.noise, kept)
        # The weight of a private mean is public; that of an exact one is summed as a metric is.
        for name in task.metrics if plan.private else (*task.metrics, terms.weighted_by):
            if name not in self.metrics:
                raise _refusal(
                    f"the metric {name!r} is asked for", "metrics", self.metrics, (*self.metrics, name)
                )
        cost = _cost(plan, config)
        multiplier = plan.noise_multiplier
        if isinstance(cost, distributed.Plan):
            multiplier = cost.effective_noise_multiplier
        least = self.min_noise_multiplier or 0.0
        if not multiplier >= least * _PRECISION:
            what = f"the noise multiplier is {multiplier:.6g}"
            # Three digits of something below, so that the line takes what was refused.
            raise _refusal(what, "min_noise_multiplier", least, float(f"{0.99 * multiplier:.3g}"))
        return cost

    def to_toml(self) -> str:
        """The lines of the table, what is not given left out."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return "".join(f"{_line(name, value)}\n" for name, value in said.items() if value is not None)


def _cost(plan: Plan, config: Config) -> distributed.Plan | FixedCost | None:
    """By the survivors and the corrupt of the session, which the policy has judged, not by the plan's."""
    if plan.event is None:
        return None
    if plan.distributed is None:
        return FixedCost(plan.event, plan.relation)
    p = config.parameters
    cohort = distributed.Cohort(p.num_clients, p.min_survivors, p.max_corrupt)
    return replace(plan.distributed, cohort=cohort)


def _words(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise InvalidTypeError(f"{name} must be a list of strings, got {value!r}")
    if len(set(value)) < len(value) or not all(one.isprintable() for one in value):
        raise InvalidArgumentError(f"{name} must be printable words, each once, got {value!r}")
    return tuple(value)


def _refusal(what: str, name: str, taken: Any, other: Any) -> PolicyError:
    return PolicyError(f"{what}; this node has {_line(name, taken)}, to take it: {_line(name, other)}")


def _line(name: str, value: Any) -> str:
    """A line of TOML: what JSON writes of numbers, printable words and lists is such."""
    return f"{name} = {json.dumps(value, ensure_ascii=False)}"
