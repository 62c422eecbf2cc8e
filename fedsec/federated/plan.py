"""One round's sampler, clipping, rounding, noise and cost, built together and frozen.

What is run is what is accounted: the noise takes its scale from the clipping's own sensitivity, in the
integer units that travel, rounding included; the event describes that noise and that sampler.

Every round costs the same event, whatever was released before, and how many there are at most is fixed
beforehand: by `num_rounds`, or by what `target_epsilon` admits. So the numeric accountant's answer for all
planned rounds holds wherever a run stops, and for whatever reason.

References
----------
[ATMR21] Andrew, Thakkar, McMahan, Ramaswamy. Differentially Private Learning with Adaptive Clipping. NeurIPS
    2021, Thm. 1.
[MRTZ18] McMahan, Ramage, Talwar, Zhang. Learning Differentially Private Recurrent Language Models. 2018,
    sec. 3 (means with a fixed denominator).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import accounting, distributed, secagg
from fedsec.accounting import NeighboringRelation
from fedsec.clipping import AdaptiveClipping, ClippingRule, UpdateClipper
from fedsec.errors import CalibrationError
from fedsec.federated.mechanism import (
    DistributedNoise,
    Mechanism,
    Reals,
    with_noise,
    without_noise,
)
from fedsec.federated.settings import SESSION_KEY, Settings
from fedsec.secagg.local import CORRUPT_FRACTION, DROPOUT_FRACTION, default_parameters
from fedsec.training.plan import epsilon_interval

# Below so many clients a report says that a sum over them is not much cover.
_FEW = 10
_UP = 1.0 + 2.0**-48  # more than what a few products and roots in float64 lose


@dataclass(frozen=True)
class Guarantee:
    """What a run guarantees, and what that rests on.

    Attributes
    ----------
    epsilon, epsilon_lower : float
        Of the rounds charged so far, as if their number had been fixed beforehand: an upper bound, and what
        no analysis of the same events can beat.
    planned_epsilon : float
        Of all planned rounds: this holds wherever one stops, even if that depends on what was released.
    """

    epsilon: float
    epsilon_lower: float
    planned_epsilon: float
    delta: float
    unit: str
    neighboring_relation: str
    noise: str
    noise_multiplier: float
    sampler: str
    rounds_charged: int
    accountant: str
    declared_public: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RecordPlan:
    """What a plan for records adds: how each client draws them, and its own private training, if any."""

    sampling_probability: float
    num_records: int
    expected_records: float  # of one client in one draw
    local_steps: int
    local_learning_rate: float


@dataclass(frozen=True)
class Plan:
    """What happens to one unit's data in one round. Built by `make_plan`.

    Attributes
    ----------
    settings : Settings
        What was asked for.
    dimension : int
        How many numbers of the model are exchanged.
    noise_multiplier : float
        Given or calibrated; 0 without privacy.
    """

    settings: Settings
    dimension: int
    noise_multiplier: float

    # ---- what is run

    @property
    def private(self) -> bool:
        """Whether anything is clipped, noised and charged."""
        return self.settings.private

    @property
    def unit(self) -> str:
        """Whose contribution is bounded."""
        return self.settings.unit

    @property
    def noise(self) -> str:
        """Where noise is added."""
        return self.settings.noise if self.private else "none"

    @property
    def rule(self) -> ClippingRule:
        """How a contribution is bounded; under privacy alone."""
        return self.settings.rule

    @property
    def max_weight(self) -> float | None:
        """The largest weight of one client, where a private mean is weighted."""
        return self.settings.max_weight

    @property
    def records(self) -> RecordPlan | None:
        """For unit="record"."""
        s = self.settings
        if s.unit != "record" or s.num_records is None or s.sampling_probability is None:
            return None
        return RecordPlan(
            sampling_probability=s.sampling_probability,
            num_records=s.num_records,
            expected_records=s.sampling_probability * s.num_records / s.num_clients,
            local_steps=s.local_steps,
            local_learning_rate=s.local_learning_rate,
        )

    @cached_property
    def mechanism(self) -> Mechanism:
        """From a client's vector to integers, and from their sum to what is released."""
        s = self.settings
        if not self.private:
            return without_noise(self.dimension + 1, s.max_cohort)  # and the weight
        if s.unit == "record" and s.noise == "local":
            return without_noise(self.dimension, s.max_cohort)  # the noise is in the client's own steps
        if self.distributed is not None:
            return DistributedNoise(self.distributed)
        units = s.max_cohort if s.unit == "client" else s.num_records or 0
        return with_noise(
            s.noise,
            self.dimension + self._counts,
            self.l2_sensitivity,
            self.noise_multiplier,
            max_sum=units * self.l2_sensitivity,
            num_clients=s.max_cohort,
        )

    @cached_property
    def distributed(self) -> distributed.Plan | None:
        """For noise="distributed": shares, ring and cost; `lines` of it are for people."""
        p = self.secagg_parameters
        if p is None:
            return None
        cohort = distributed.Cohort(p.num_clients, p.min_survivors, p.max_corrupt)
        dimension = self.dimension + self._counts
        if self.records is None:
            return distributed.plan_clients(
                cohort,
                dimension=dimension,
                l2_clip_norm=self.l2_sensitivity,
                noise_multiplier=self.noise_multiplier,
            )
        q = self.records.sampling_probability
        most, excess = distributed.most_drawn(self.records.num_records, q)
        return distributed.plan_records(
            cohort,
            distributed.RecordEncoding(
                dimension, self.l2_sensitivity, most * self.l2_sensitivity, excess_probability=excess
            ),
            noise_multiplier=self.noise_multiplier,
            sampling_probability=q,
            neighboring_relation=self.relation,
        )

    @cached_property
    def secagg_parameters(self) -> secagg.Parameters | None:
        """For noise="distributed", whose shares are sized for the fewest survivors; else each round's own."""
        s = self.settings
        if self.noise != "distributed":
            return None
        corrupt, lost = s.corrupt_fraction, s.dropout_fraction
        if corrupt is None and lost is None:
            return default_parameters(s.max_cohort)
        return secagg.recommend(
            num_clients=s.max_cohort,
            corrupt_fraction=CORRUPT_FRACTION if corrupt is None else corrupt,
            dropout_fraction=DROPOUT_FRACTION if lost is None else lost,
        )

    @property
    def l2_sensitivity(self) -> float:
        """What one unit changes in what is summed, at most, in real units before rounding to the grid.

        A count that travels beside the sum takes a share of the budget: a unit's vector is one coordinate
        longer, and so is what it can change [ATMR21].
        """
        bounded = UpdateClipper(self.rule.l2_clip_norm) if self.unit == "client" else self.rule
        return bounded.l2_sensitivity * math.hypot(1.0, self._count_size / self.rule.l2_clip_norm) * _UP

    @property
    def expected_clients(self) -> float:
        """The public number of clients in a round: the cohort's size, or its mean."""
        s = self.settings
        return s.num_clients * (s.sampling_probability or 0.0) if s.poisson_clients else float(s.max_cohort)

    @property
    def expected_units(self) -> float:
        """The public number of units in a round: clients, or records drawn by all of them."""
        records = self.records
        return self.expected_clients * (1.0 if records is None else records.expected_records)

    @property
    def expected_count(self) -> float:
        """What sums are divided by: public, never the survivors or the realised sample."""
        s = self.settings
        if s.max_weight is not None and s.total_weight is not None:  # in units of the largest weight
            return self.expected_clients / s.num_clients * s.total_weight / s.max_weight
        return self.expected_clients if self.noise == "local" else self.expected_units

    def mean(self, released: Reals) -> Reals:
        """The mean update from a released sum, (d,)."""
        return released[: self.dimension] / self.expected_count

    # ---- adaptive clipping: how many units were within the bound, as one more coordinate

    @property
    def _counts(self) -> int:
        return int(self.private and isinstance(self.rule, AdaptiveClipping))

    @property
    def _count_size(self) -> float:
        """What a unit adds to the count, in the sum's unit, up to its sign.

        With multipliers a of the sum and b of the count, which has sensitivity 1/2 for +-1/2 a unit, noise of
        one standard deviation a C for both makes it +-a C / b.
        """
        rule = self.rule
        if not isinstance(rule, AdaptiveClipping):
            return 0.0
        of_sum, of_count = rule.multipliers(1.0)
        return rule.l2_clip_norm * of_sum / of_count

    def with_count(self, vector: npt.NDArray[Any], num_units: int, num_clipped: int) -> npt.NDArray[Any]:
        """A client's vector, with the units within the bound less those beyond it, where a rule counts."""
        if not self._counts:
            return vector
        return np.append(vector.astype(np.float64), (num_units - 2 * num_clipped) * self._count_size)

    def following(self, released: Reals) -> Plan:
        """The plan of the next round; only an adaptive bound moves, and only by what was released."""
        if not self._counts or not isinstance(self.rule, AdaptiveClipping):
            return self
        within = 0.5 + released[-1] / (2.0 * self._count_size * self.expected_units)
        moved = self.rule.following(float(within))
        return replace(self, settings=replace(self.settings, clipping=moved, l2_clip_norm=None))

    # ---- what it costs

    @property
    def relation(self) -> NeighboringRelation:
        """Between whom the event is priced."""
        return self.settings.relation

    @cached_property
    def event(self) -> accounting.Event | None:
        """What one round costs a unit, at most; with local noise one round of a client its own unit.

        A Gaussian, as which the mechanism's integer noise is at least as private.
        """
        return _event(self.settings, self.noise_multiplier) if self.private else None

    def charged_event(self, survivors: int | None = None) -> accounting.Event | None:
        """What a round with so many survivors costs, for a ledger; by default with the fewest that can be.

        With distributed noise more survivors are more noise; else it is `event`.
        """
        return self.event if self.distributed is None else self.distributed.event(survivors)

    @cached_property
    def planned_charges(self) -> int:
        """How many rounds may be charged at all; 0 without privacy."""
        s = self.settings
        if self.event is None:
            return 0
        admitted = math.inf if s.target_epsilon is None else self.most_charges(s.target_epsilon)
        return int(min(admitted, math.inf if s.num_rounds is None else s.num_rounds))

    def epsilon(self, count: int) -> float:
        """An upper bound on epsilon after `count` charges; infinite without privacy."""
        return self._interval(count)[1]

    def most_charges(self, budget: float) -> int:
        """How many charges a budget admits."""
        if self.event is None or self.epsilon(1) > budget:
            return 0
        try:
            return accounting.calibrate_steps(
                self.event,
                target_epsilon=budget,
                target_delta=self._delta,
                neighboring_relation=self.relation,
            )
        except CalibrationError:  # any number
            return 2**53

    def guarantee(self, count: int) -> Guarantee:
        """The guarantee after `count` charges."""
        s, (lower, upper) = self.settings, self._interval(count)
        return Guarantee(
            epsilon=upper,
            epsilon_lower=lower,
            planned_epsilon=self.epsilon(max(count, self.planned_charges)),
            delta=self._delta,
            unit=self.unit if self.private else "none",
            neighboring_relation=self.relation.name if self.private else "none",
            noise=self.noise,
            noise_multiplier=self.noise_multiplier,
            sampler=_sampler(s),
            rounds_charged=count,
            accountant="PLD",
            declared_public=_declared_public(s),
            warnings=tuple(_warnings(s)),
        )

    @property
    def _delta(self) -> float:
        return self.settings.target_delta or 0.0

    def _interval(self, count: int) -> tuple[float, float]:
        if self.event is None:
            return math.inf, math.inf
        return epsilon_interval(self.event, self.relation, count, self._delta)


def make_plan(settings: Settings, dimension: int) -> Plan:
    """The plan for a model of `dimension` coordinates; calibrates the noise where only a target is given."""
    z = 0.0 if not settings.private else settings.noise_multiplier or _calibrated(settings)
    plan = Plan(settings, dimension, z)
    _ = plan.mechanism  # refused now, or fine
    return plan


def _event(settings: Settings, z: float) -> accounting.Event:
    event: accounting.Event = accounting.Gaussian(z)
    if settings.sampling_probability is not None:
        event = accounting.PoissonSampled(event, settings.sampling_probability)
    return accounting.Repeated(event, settings.local_steps) if settings.local_steps > 1 else event


def _calibrated(settings: Settings) -> float:
    """The smallest noise multiplier that keeps all planned rounds within the target."""
    return accounting.calibrate_noise_multiplier(
        lambda z: _event(settings, z),
        count=settings.num_rounds or 0,
        target_epsilon=settings.target_epsilon or 0.0,
        target_delta=settings.target_delta or 0.0,
        neighboring_relation=settings.relation,
    )


def _sampler(settings: Settings) -> str:
    q = settings.sampling_probability
    if not settings.private:
        return "fixed cohort"
    if q is None:
        return "fixed cohort, no amplification"
    return f"Poisson over {settings.unit}s, probability {q:g}"


def _declared_public(settings: Settings) -> tuple[str, ...]:
    if not settings.private:
        return ()
    names = ["number of clients"]
    names += [] if settings.poisson_clients else ["cohort size"]
    names += ["number of records"] if settings.unit == "record" else []
    names += ["fewest survivors", "most corrupt clients"] if settings.noise == "distributed" else []
    names += ["sum of all weights", "largest weight"] if settings.max_weight is not None else []
    return tuple(names)


def _warnings(settings: Settings) -> Iterator[str]:
    """What is only simulated; what an aggregation gives away, whatever noise does for who sees models."""
    if settings.insecure_sampling_seed is not None:
        yield "simulation, no guarantee: cohorts were drawn from a seed"
    if settings.secure_aggregation == SESSION_KEY:
        yield "simulation: masks came from one session key, which hides nothing from whoever runs it"
    if settings.private and settings.noise != "central":
        return
    if not settings.secure_aggregation:
        yield "the server sees each client's contribution"
        return
    if settings.private:
        yield "the server sees the exact sum before it adds noise"
    else:
        yield "sums are exact: two cohorts that differ in one client give that client's update away"
    if settings.max_cohort < _FEW:
        yield f"a sum over at most {settings.max_cohort} clients says much about each of them"
