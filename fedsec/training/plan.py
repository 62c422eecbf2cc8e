"""A training's sampler, clipping rule, noise and cost, built together and frozen.

What is run is what is accounted: the noise takes its scale from the clipping rule's own sensitivity, the
loader draws what the event says, and steps beyond the planned ones are refused before their noise is drawn.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from fedsec import accounting
from fedsec._checks import open_unit, positive, whole
from fedsec.accounting import NeighboringRelation
from fedsec.clipping import ClippingRule
from fedsec.errors import BudgetExceededError, InvalidArgumentError, UnsupportedError

SAMPLINGS = ("poisson", "allocation", "fixed")
NOISES = ("exact", "continuous")

_SHUFFLED = (
    "sampling='shuffled' has no valid bound: a loader that shuffles and cuts batches of fixed size ties "
    "each record's "
    "place to the others', and an epsilon for Poisson samples understates what it gives away; use 'poisson', "
    "'allocation' (each record once an epoch, batches of varying size) or 'fixed' (a fresh sample for each "
    "step)"
)


@dataclass(frozen=True)
class TrainingSpent:
    """What a training has spent, and everything that has to be said with it.

    Attributes
    ----------
    epsilon, epsilon_lower, epsilon_rdp : float
        Of the steps so far, as if their number had been fixed beforehand: the tight upper bound and what no
        analysis of the same events can beat, by `PLDAccountant`, and the upper bound by `RDPAccountant`.
    planned_epsilon : float
        Of all planned steps: this holds wherever one stops, even if that depends on what was seen.
    """

    epsilon: float
    epsilon_lower: float
    epsilon_rdp: float
    planned_epsilon: float
    delta: float
    unit: str
    neighboring_relation: NeighboringRelation
    sampler: str
    steps: int
    planned_steps: int
    noise: str
    noise_multiplier: float
    declared_public: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"epsilon = {self.epsilon:.6g} (RDP: {self.epsilon_rdp:.6g}) at delta = {self.delta:.6g} after "
            f"{self.steps} of {self.planned_steps} steps, which cost {self.planned_epsilon:.6g}",
            f"unit: {self.unit}; neighbours: {self.neighboring_relation.value}; sampler: {self.sampler}",
            f"noise: {self.noise}, multiplier {self.noise_multiplier:.6g}; "
            f"declared public: {', '.join(self.declared_public) or 'nothing'}",
        ]
        return "\n".join((*lines, *self.warnings))


@dataclass(frozen=True)
class TrainingPlan:
    """What happens in each step of a training. Built by `make_plan`.

    Attributes
    ----------
    rule : ClippingRule
        Bounds each record; declares the sensitivity that the noise is scaled by.
    event : Event
        One charge: a step, or with random allocation an epoch.
    steps_a_charge : int
        How many steps one charge pays for.
    population_size : int or None
        The data set's size, where it is public.
    declared : bool
        Whether a loader of the user's own draws, and the sampling is the user's word.
    """

    rule: ClippingRule
    sampling: str
    event: accounting.Event
    steps_a_charge: int
    sampling_probability: float
    population_size: int | None
    expected_batch_size: float
    steps_an_epoch: int
    planned_steps: int
    noise: str
    noise_multiplier: float
    target_delta: float
    relation: NeighboringRelation
    declared: bool = False

    def charges(self, steps: int) -> int:
        """How many charges the first `steps` steps need."""
        return -(-steps // self.steps_a_charge)

    def epsilon(self, steps: int) -> float:
        """An upper bound on epsilon for so many steps, fixed beforehand."""
        return epsilon_interval(self.event, self.relation, self.charges(steps), self.target_delta)[1]

    def require_affordable(self, steps: int) -> None:
        """Raise `BudgetExceededError` if there are to be more than the planned steps."""
        if steps > self.planned_steps:
            raise BudgetExceededError(
                f"all {self.planned_steps} planned steps are taken: epsilon = "
                f"{self.epsilon(self.planned_steps):.6g} "
                f"at delta = {self.target_delta:g} is spent"
            )

    def spent(self, steps: int) -> TrainingSpent:
        """The record of what `steps` steps cost."""
        count, delta = self.charges(steps), self.target_delta
        lower, upper = epsilon_interval(self.event, self.relation, count, delta)
        return TrainingSpent(
            epsilon=upper,
            epsilon_lower=lower,
            epsilon_rdp=_rdp(self.event, self.relation, count, delta),
            planned_epsilon=self.epsilon(self.planned_steps),
            delta=delta,
            unit="one record",
            neighboring_relation=self.relation,
            sampler=self._sampler()
            + (", as declared for a loader of the user's own" if self.declared else ""),
            steps=steps,
            planned_steps=self.planned_steps,
            noise="exact, on a public grid" if self.noise == "exact" else "continuous",
            noise_multiplier=self.noise_multiplier,
            declared_public=("size of the data set",) if self.population_size is not None else (),
            warnings=self._warnings(),
        )

    def _warnings(self) -> tuple[str, ...]:
        said = []
        if self.noise == "continuous":
            said.append("continuous noise on floating-point numbers: for comparison, no guarantee")
        if self.declared:
            said.append("how records are drawn was declared, not checked: the guarantee rests on it")
        return tuple(said)

    def _sampler(self) -> str:
        if self.sampling == "poisson":
            return f"Poisson, probability {self.sampling_probability:.6g}"
        if self.sampling == "allocation":
            return f"each record in one of {self.steps_an_epoch} steps of each epoch, drawn independently"
        return f"{self.expected_batch_size:.0f} of {self.population_size} records, drawn anew for each step"

    def identity(self) -> dict[str, Any]:
        """What a training must share with the one that it goes on with, as plain values."""
        return {
            "clipping": type(self.rule).__name__,
            **asdict(self.rule),  # type: ignore[call-overload]
            "sampling": self.sampling,
            "declared": self.declared,
            "sampling_probability": self.sampling_probability,
            "population_size": self.population_size,
            "expected_batch_size": self.expected_batch_size,
            "steps_an_epoch": self.steps_an_epoch,
            "planned_steps": self.planned_steps,
            "noise": self.noise,
            "noise_multiplier": self.noise_multiplier,
            "target_delta": self.target_delta,
            "neighboring_relation": self.relation.name,
        }


@lru_cache(maxsize=256)
def epsilon_interval(
    event: accounting.Event, relation: NeighboringRelation, count: int, delta: float
) -> tuple[float, float]:
    """Certified bounds on the epsilon of `count` runs that were fixed beforehand."""
    if count == 0:
        return 0.0, 0.0
    accountant = accounting.PLDAccountant(neighboring_relation=relation)
    return accountant.compose(event, count).epsilon_interval(delta)


@lru_cache(maxsize=256)
def _rdp(event: accounting.Event, relation: NeighboringRelation, count: int, delta: float) -> float:
    if count == 0:
        return 0.0
    accountant = accounting.RDPAccountant(neighboring_relation=relation)
    return accountant.compose(event, count).epsilon(delta)


@dataclass(frozen=True)
class _Sampler:
    """How a step's records are drawn, before the noise is known."""

    sampling: str
    probability: float
    population_size: int | None
    expected_batch_size: float
    steps_an_epoch: int

    def event(self, noise_multiplier: float) -> accounting.Event:
        noise = accounting.Gaussian(noise_multiplier)
        if self.sampling == "poisson":
            return accounting.PoissonSampled(noise, self.probability)
        if self.sampling == "allocation":
            return accounting.RandomAllocation(noise, self.steps_an_epoch)
        population = whole("the data set's size", self.population_size, minimum=1)
        return accounting.SampledWithoutReplacement(noise, population, int(self.expected_batch_size))

    @property
    def steps_a_charge(self) -> int:
        return self.steps_an_epoch if self.sampling == "allocation" else 1


def make_plan(
    rule: ClippingRule,
    size: int | None,
    *,
    sampling: str,
    batch_size: int | None,
    sampling_probability: float | None,
    expected_batch_size: float | None,
    epochs: int | None,
    steps: int | None,
    noise: str,
    noise_multiplier: float | None,
    target_epsilon: float | None,
    target_delta: float,
    relation: NeighboringRelation,
    declared: bool = False,
) -> TrainingPlan:
    """The plan for a data set of `size` records, None where that is private; calibrates noise or steps."""
    if noise not in NOISES:
        raise InvalidArgumentError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")
    sampler = _sampler(sampling, size, batch_size, sampling_probability, expected_batch_size)
    delta = open_unit("target_delta", target_delta)
    planned = _planned(sampler, epochs, steps)
    accounting.PLDAccountant(neighboring_relation=relation).compose(
        sampler.event(1.0)
    )  # refused by name, or fine
    z, planned = _settled(sampler, planned, noise_multiplier, target_epsilon, delta, relation)
    return TrainingPlan(
        rule=rule,
        sampling=sampling,
        event=sampler.event(z),
        steps_a_charge=sampler.steps_a_charge,
        sampling_probability=sampler.probability,
        population_size=sampler.population_size,
        expected_batch_size=sampler.expected_batch_size,
        steps_an_epoch=sampler.steps_an_epoch,
        planned_steps=planned,
        noise=noise,
        noise_multiplier=z,
        target_delta=delta,
        relation=relation,
        declared=declared,
    )


def _sampler(
    sampling: str, size: int | None, batch_size: int | None, probability: float | None, expected: float | None
) -> _Sampler:
    if sampling == "shuffled":
        raise UnsupportedError(_SHUFFLED)
    if sampling not in SAMPLINGS:
        raise InvalidArgumentError(f"sampling must be one of {', '.join(SAMPLINGS)}, got {sampling!r}")
    if (batch_size is None) is (probability is None):
        raise InvalidArgumentError(
            f"give batch_size, which declares the data set's size public, or sampling_probability, got "
            f"batch_size={batch_size!r}, sampling_probability={probability!r}"
        )
    if batch_size is not None:
        return _public_sampler(sampling, size, batch_size, expected)
    if sampling != "poisson":
        raise InvalidArgumentError(f"sampling={sampling!r} needs batch_size: it rests on the data set's size")
    q = positive("sampling_probability", probability)
    if q > 1.0:
        raise InvalidArgumentError(f"sampling_probability must be in (0, 1], got {q!r}")
    if expected is None:
        raise InvalidArgumentError(
            "sampling_probability keeps the data set's size private: give expected_batch_size, a public "
            "number that "
            "sums are divided by"
        )
    return _Sampler(sampling, q, None, positive("expected_batch_size", expected), math.ceil(1.0 / q))


def _public_sampler(sampling: str, size: int | None, batch_size: int, expected: float | None) -> _Sampler:
    if size is None:
        raise InvalidArgumentError(
            "batch_size needs the population_size of the declared loader; without it give "
            "sampling_probability"
        )
    if expected is not None:
        raise InvalidArgumentError(
            "expected_batch_size goes with sampling_probability; batch_size says it already"
        )
    batch = whole("batch_size", batch_size, minimum=1)
    if batch > size:
        raise InvalidArgumentError(
            f"batch_size must be at most the {size} records of the data set, got {batch}"
        )
    steps = -(-size // batch)
    if sampling == "allocation":
        return _Sampler(sampling, 1.0 / steps, size, size / steps, steps)
    return _Sampler(sampling, batch / size, size, float(batch), steps)


def _planned(sampler: _Sampler, epochs: int | None, steps: int | None) -> int | None:
    if epochs is not None and steps is not None:
        raise InvalidArgumentError(f"give epochs or steps, not both, got epochs={epochs!r}, steps={steps!r}")
    if epochs is not None:
        return whole("epochs", epochs, minimum=1) * sampler.steps_an_epoch
    if steps is None:
        return None
    count = whole("steps", steps, minimum=1)
    if count % sampler.steps_a_charge:
        raise InvalidArgumentError(
            f"steps must fill epochs of {sampler.steps_a_charge} steps with sampling='allocation', got "
            f"{count}"
        )
    return count


def _settled(
    sampler: _Sampler,
    planned: int | None,
    noise_multiplier: float | None,
    target_epsilon: float | None,
    delta: float,
    relation: NeighboringRelation,
) -> tuple[float, int]:
    """Noise multiplier and number of steps, one of them calibrated where it is not given."""
    if noise_multiplier is None and target_epsilon is None:
        raise InvalidArgumentError("give target_epsilon or noise_multiplier")
    target = None if target_epsilon is None else positive("target_epsilon", target_epsilon)
    if noise_multiplier is None:
        if planned is None:
            raise InvalidArgumentError("give epochs or steps: the noise for a target depends on them")
        z = accounting.calibrate_noise_multiplier(
            sampler.event,
            count=planned // sampler.steps_a_charge,
            target_epsilon=positive("target_epsilon", target),
            target_delta=delta,
            neighboring_relation=relation,
        )
        return z, planned
    z = positive("noise_multiplier", noise_multiplier)
    if planned is None:
        if target is None:
            raise InvalidArgumentError("give epochs or steps, or a target_epsilon that they follow from")
        charges = accounting.calibrate_steps(
            sampler.event(z), target_epsilon=target, target_delta=delta, neighboring_relation=relation
        )
        return z, charges * sampler.steps_a_charge
    if target is not None:
        cost = epsilon_interval(sampler.event(z), relation, planned // sampler.steps_a_charge, delta)[1]
        if cost > target:
            raise BudgetExceededError(
                f"{planned} steps at noise_multiplier {z!r} cost epsilon = {cost!r}, above target_epsilon "
                f"{target!r}"
            )
    return z, planned
