"""One round's sampler, clipper, rounding, noise and cost, built together and frozen.

What is run is what is accounted: the noise takes its scale from the clipper's own sensitivity, in the
integer units that travel, rounding included; the event describes that noise and that sampler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from fedsec import accounting, noise, secagg
from fedsec._checks import open_unit, positive, probability, whole
from fedsec.accounting import NeighboringRelation
from fedsec.clipping import RecordClipper, UpdateClipper
from fedsec.errors import InvalidArgumentError, UnsupportedError
from fedsec.secagg.shamir import MAX_SHARES

UNITS = ("client", "record")
NOISES = ("central", "local")

# Without privacy nothing is clipped, so the range of an update is not known beforehand: |weight * update|
# up to 2**24 a coordinate, at whatever resolution a 64-bit ring leaves (2**-31 for a hundred clients).
_OPEN_RANGE = 2.0**24
# A discrete Gaussian passes 64 standard deviations with probability below exp(-2048).
_TAIL = 64.0


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

    def guarantee(self, count: int) -> Guarantee:
        """The guarantee after `count` charges."""
        return Guarantee(
            epsilon=self.epsilon(count),
            delta=self.target_delta,
            unit=self.unit,
            neighboring_relation=self.relation.name,
            noise=self.noise if self.private else "none",
            noise_multiplier=self.noise_multiplier,
            sampler=self.sampler,
            rounds_charged=count,
            accountant="RDP",
            declared_public=self.declared_public,
        )


@lru_cache(maxsize=4096)
def _epsilon(event: accounting.Event, relation: NeighboringRelation, count: int, delta: float) -> float:
    if count == 0:
        return 0.0
    accountant = accounting.RDPAccountant(neighboring_relation=relation)
    return accountant.compose(event, count).epsilon(delta)


@dataclass(frozen=True)
class Settings:
    """The arguments of `Federation` that decide a plan, validated."""

    num_clients: int
    cohort_size: int | None
    unit: str
    noise: str
    l2_clip_norm: float | None
    noise_multiplier: float | None
    target_epsilon: float | None
    target_delta: float | None
    num_rounds: int | None
    sampling_probability: float | None
    num_records: int | None
    secure_aggregation: bool
    local_steps: int
    local_learning_rate: float

    def __post_init__(self) -> None:
        whole("num_clients", self.num_clients, minimum=1)
        _one_of("unit", self.unit, UNITS)
        _one_of("noise", self.noise, NOISES)
        whole("local_steps", self.local_steps, minimum=1)
        positive("local_learning_rate", self.local_learning_rate)
        if self.local_steps > 1 and (self.unit, self.noise) != ("record", "local"):
            raise UnsupportedError(
                "local_steps are private steps of a client: unit='record' with noise='local'"
            )
        if self.cohort_size is not None:
            whole("cohort_size", self.cohort_size, minimum=1, maximum=self.num_clients)
        if self.secure_aggregation and not 2 <= self.max_cohort <= MAX_SHARES:
            raise InvalidArgumentError(
                f"secure aggregation takes cohorts of 2 to {MAX_SHARES} clients, got {self.max_cohort}: "
                "set cohort_size, or secure_aggregation=False"
            )
        if self.num_rounds is not None:
            whole("num_rounds", self.num_rounds, minimum=1)
        elif self.target_epsilon is None or self.noise_multiplier is None:
            raise InvalidArgumentError(
                "num_rounds=None runs until the budget is spent: it needs noise_multiplier and target_epsilon"
            )
        self._check_sampling()
        self._check_privacy()

    def _check_sampling(self) -> None:
        if self.sampling_probability is not None:
            q = probability("sampling_probability", self.sampling_probability)
            if q == 0.0:
                raise InvalidArgumentError(
                    "sampling_probability must be in (0, 1], got 0.0: nobody would take part"
                )
        if self.num_records is not None:
            whole("num_records", self.num_records, minimum=1)
        if self.unit == "client" and self.sampling_probability is not None:
            if self.cohort_size is not None:
                raise InvalidArgumentError(
                    "give cohort_size (fixed) or sampling_probability (Poisson), not both"
                )
            if self.noise == "local" or not self.private:
                raise UnsupportedError("Poisson sampling of clients is accounted under noise='central' alone")
            if self.secure_aggregation:
                raise UnsupportedError(
                    "Poisson sampling of clients together with secure aggregation: a round that aborts would "
                    "tell how many were drawn; use cohort_size, or secure_aggregation=False"
                )

    def _check_privacy(self) -> None:
        given = {name: getattr(self, name) for name in ("noise_multiplier", "target_epsilon")}
        for name, value in {**given, "l2_clip_norm": self.l2_clip_norm}.items():
            if value is not None:
                positive(name, value)
        if self.target_delta is not None:
            open_unit("target_delta", self.target_delta)
        if (self.l2_clip_norm is not None) != self.private:
            raise InvalidArgumentError(
                "clipping and noise come together: give l2_clip_norm with noise_multiplier or target_epsilon"
            )
        if self.private and self.target_delta is None:
            raise InvalidArgumentError("target_delta must be given with noise, got None")
        if self.unit == "record":
            for name in ("l2_clip_norm", "sampling_probability", "num_records"):
                if getattr(self, name) is None:
                    raise InvalidArgumentError(f"unit='record' needs {name}, got None")

    @property
    def private(self) -> bool:
        """Whether there is noise."""
        return self.noise_multiplier is not None or self.target_epsilon is not None

    @property
    def max_cohort(self) -> int:
        """The largest cohort that can be drawn."""
        return self.num_clients if self.cohort_size is None else self.cohort_size

    @property
    def poisson_clients(self) -> bool:
        """Whether each client takes part independently with `sampling_probability`."""
        return self.unit == "client" and self.sampling_probability is not None


def make_plan(settings: Settings, dimension: int) -> Plan:
    """The plan for a model of `dimension` coordinates; calibrates the noise where only a target is given."""
    if not settings.private:
        return _open_plan(settings, dimension)
    build = _client_plan if settings.unit == "client" else _record_plan
    return build(settings, dimension, settings.noise_multiplier or _calibrated(settings))


def _open_plan(settings: Settings, dimension: int) -> Plan:
    return Plan(
        dimension=dimension,
        unit="client",
        noise="none",
        relation=NeighboringRelation.REPLACE_SPECIAL,
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
        relation=NeighboringRelation.REPLACE_SPECIAL if q is None else NeighboringRelation.ADD_OR_REMOVE_ONE,
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
        max_abs=num_records * (clip_norm + clipper.granularity),
        num_clients=1,
    )
    return Plan(
        dimension=dimension,
        unit="record",
        noise=settings.noise,
        relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
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
    )


def _given(value: float | None) -> float:
    """A setting that the checks above have made sure of."""
    if value is None:
        raise AssertionError("Settings has let a plan through without a value that it needs")
    return value


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidArgumentError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
