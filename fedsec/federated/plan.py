"""One round's sampler, clipper, rounding, noise and cost, built together and frozen.

What is run is what is accounted: the noise takes its scale from the clipper's own sensitivity, in the
integer units that travel, rounding included; the event describes that noise and that sampler.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from fedsec import accounting, noise, secagg
from fedsec.accounting import NeighboringRelation
from fedsec.clipping import RecordClipper, UpdateClipper
from fedsec.clipping.updates import FLOAT_SLACK
from fedsec.federated.settings import Settings

# Without privacy nothing is clipped, so the range of an update is not known beforehand: |weight * update|
# up to 2**24 a coordinate, at whatever resolution a 64-bit ring leaves (2**-31 for a hundred clients).
_OPEN_RANGE = 2.0**24
# A discrete Gaussian passes 64 standard deviations with probability below exp(-2048).
_TAIL = 64.0
# Below so many clients a report says that a sum over them is not much cover.
_FEW = 10


@dataclass(frozen=True)
class Guarantee:
    """What a run guarantees, and what that rests on."""

    epsilon: float
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

    clipper: RecordClipper
    sampling_probability: float
    num_records: int
    expected_batch: float
    local_steps: int
    local_learning_rate: float


@dataclass(frozen=True)
class Plan:
    """What happens to one unit's data in one round. Built by `make_plan`."""

    dimension: int
    unit: str
    noise: str
    relation: NeighboringRelation
    sampler: str
    event: accounting.Event | None
    noise_multiplier: float
    target_delta: float
    clipper: UpdateClipper | None
    quantizer: secagg.Quantizer
    integer_stddev: float
    expected_count: float
    declared_public: tuple[str, ...]
    records: RecordPlan | None = None
    warnings: tuple[str, ...] = ()

    @property
    def vector_length(self) -> int:
        """The length of the integer vector that travels: without privacy, one longer for the weight."""
        return self.dimension + (0 if self.private else 1)

    @property
    def private(self) -> bool:
        """Whether anything is clipped, noised and charged."""
        return self.event is not None

    def epsilon(self, count: int) -> float:
        """An upper bound on epsilon after `count` charges; infinite without privacy."""
        if self.event is None:
            return math.inf
        return _epsilon(self.event, self.relation, count, self.target_delta)

    def most_charges(self, budget: float) -> int:
        """How many charges a budget admits."""
        above = 1
        while self.epsilon(above) <= budget:
            above *= 2
        return bisect_right(range(above), budget, key=self.epsilon) - 1

    def guarantee(self, count: int) -> Guarantee:
        """The guarantee after `count` charges."""
        return Guarantee(
            epsilon=self.epsilon(count),
            delta=self.target_delta,
            unit=self.unit if self.private else "none",
            neighboring_relation=self.relation.name if self.private else "none",
            noise=self.noise if self.private else "none",
            noise_multiplier=self.noise_multiplier,
            sampler=self.sampler,
            rounds_charged=count,
            accountant="RDP",
            declared_public=self.declared_public,
            warnings=self.warnings,
        )


@lru_cache(maxsize=4096)
def _epsilon(event: accounting.Event, relation: NeighboringRelation, count: int, delta: float) -> float:
    if count == 0:
        return 0.0
    accountant = accounting.RDPAccountant(neighboring_relation=relation)
    return accountant.compose(event, count).epsilon(delta)


def make_plan(settings: Settings, dimension: int) -> Plan:
    """The plan for a model of `dimension` coordinates; calibrates the noise where only a target is given."""
    return replace(_bare_plan(settings, dimension), warnings=tuple(_warnings(settings)))


def _bare_plan(settings: Settings, dimension: int) -> Plan:
    if not settings.private:
        return _open_plan(settings, dimension)
    build = _client_plan if settings.unit == "client" else _record_plan
    return build(settings, dimension, settings.noise_multiplier or _calibrated(settings))


def _warnings(settings: Settings) -> Iterator[str]:
    """What an aggregation gives away by itself, whatever the noise does for those who see models."""
    if settings.private and settings.noise == "local":
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


def _open_plan(settings: Settings, dimension: int) -> Plan:
    return Plan(
        dimension=dimension,
        unit="client",
        noise="none",
        relation=settings.relation,
        sampler="fixed cohort",
        event=None,
        noise_multiplier=0.0,
        target_delta=settings.target_delta or 0.0,
        clipper=None,
        quantizer=_open_quantizer(settings.max_cohort),
        integer_stddev=0.0,
        expected_count=float(settings.max_cohort),
        declared_public=(),
    )


def _client_plan(settings: Settings, dimension: int, z: float) -> Plan:
    """A client's clipped update against zero, rounded stochastically to the grid."""
    clipper = UpdateClipper(_given(settings.l2_clip_norm))
    granularity = noise.grid(clipper.l2_sensitivity, dimension, z)
    # Stochastic rounding moves a coordinate by less than one step, and leaves zero where it is: the same
    # bound as for two neighbours that are both rounded to nearest.
    sensitivity = noise.integer_sensitivity(clipper.l2_sensitivity, dimension, granularity)
    stddev = noise.integer_stddev(sensitivity, z)
    own_noise = _TAIL * stddev * granularity if settings.noise == "local" else 0.0
    q = settings.sampling_probability
    return Plan(
        dimension=dimension,
        unit="client",
        noise=settings.noise,
        relation=settings.relation,
        sampler="fixed cohort, no amplification" if q is None else f"Poisson over clients, probability {q:g}",
        event=_event(settings, z),
        noise_multiplier=z,
        target_delta=_given(settings.target_delta),
        clipper=clipper,
        quantizer=secagg.Quantizer(
            granularity=granularity,
            max_abs=clipper.l2_sensitivity + own_noise,
            num_clients=settings.max_cohort,
        ),
        integer_stddev=stddev,
        expected_count=float(settings.max_cohort) if q is None else settings.num_clients * q,
        declared_public=("number of clients", "cohort size") if q is None else ("number of clients",),
    )


def _record_plan(settings: Settings, dimension: int, z: float) -> Plan:
    """A record's clipped gradient inside its client's sum, rounded before the sum."""
    clip_norm, num_records = _given(settings.l2_clip_norm), int(_given(settings.num_records))
    q = _given(settings.sampling_probability)
    clipper = RecordClipper(clip_norm, noise.grid(clip_norm, dimension, z))
    local = settings.noise == "local"
    # All records together: however they are spread over the clients, the sum fits the ring.
    pooled = secagg.Quantizer(
        granularity=clipper.granularity,
        max_abs=num_records * (clip_norm * (1.0 + FLOAT_SLACK) + clipper.granularity),
        num_clients=1,
    )
    return Plan(
        dimension=dimension,
        unit="record",
        noise=settings.noise,
        relation=settings.relation,
        sampler=f"Poisson over records, probability {q:g}",
        event=_event(settings, z),
        noise_multiplier=z,
        target_delta=_given(settings.target_delta),
        clipper=None,
        quantizer=_open_quantizer(settings.max_cohort) if local else pooled,
        integer_stddev=noise.integer_stddev(clipper.integer_l2_sensitivity(dimension), z),
        expected_count=settings.max_cohort * (1.0 if local else q * num_records / settings.num_clients),
        declared_public=("number of clients", "cohort size", "number of records"),
        records=RecordPlan(
            clipper=clipper,
            sampling_probability=q,
            num_records=num_records,
            expected_batch=q * num_records / settings.num_clients,
            local_steps=settings.local_steps,
            local_learning_rate=settings.local_learning_rate,
        ),
    )


def _open_quantizer(num_clients: int) -> secagg.Quantizer:
    """The finest power-of-two grid on which the open range of `num_clients` fits a 64-bit ring."""
    granularity = 2.0 ** (math.ceil(math.log2(num_clients * _OPEN_RANGE)) - 61)
    return secagg.Quantizer(granularity=granularity, max_abs=_OPEN_RANGE, num_clients=num_clients)


def _event(settings: Settings, z: float) -> accounting.Event:
    """What one round costs a unit (central noise), or one round of a client costs its own unit (local)."""
    event: accounting.Event = accounting.Gaussian(z)
    if settings.sampling_probability is not None:
        event = accounting.PoissonSampled(event, settings.sampling_probability)
    return accounting.Repeated(event, settings.local_steps) if settings.local_steps > 1 else event


def _calibrated(settings: Settings) -> float:
    """The smallest noise multiplier that keeps all planned rounds within the target."""
    return accounting.calibrate_noise_multiplier(
        lambda z: _event(settings, z),
        count=int(_given(settings.num_rounds)),
        target_epsilon=_given(settings.target_epsilon),
        target_delta=_given(settings.target_delta),
        neighboring_relation=settings.relation,
        accountant=accounting.RDPAccountant,
    )


def _given(value: float | None) -> float:
    """A setting that the checks above have made sure of."""
    if value is None:
        raise AssertionError("Settings has let a plan through without a value that it needs")
    return value
