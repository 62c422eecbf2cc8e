"""What a user asks of a federation, checked before anything is built: refused by name where it does not fit.

A plan (`fedsec.federated.plan`) is made of settings that have passed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from fedsec._checks import open_unit, positive, probability, whole
from fedsec.accounting import NeighboringRelation
from fedsec.clipping import AdaptiveClipping, ClippingRule, FlatClipping
from fedsec.clipping.bounds import RULES, clipping_rule, require_clipping
from fedsec.errors import InvalidArgumentError, InvalidTypeError, UnsupportedError

MIN_COHORT = 3
UNITS = ("client", "record")
NOISES = ("central", "distributed", "local")
# For `secure_aggregation`: real masks from one key that the process makes, to rehearse a run.
SESSION_KEY = "insecure_session_key"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of `Federation` that decide a plan, validated; the defaults are those of `Federation`."""

    num_clients: int
    num_rounds: int | None
    cohort_size: int | None = None
    unit: str = "client"
    noise: str = "central"
    l2_clip_norm: float | None = None
    clipping: str | ClippingRule = "flat"
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    target_delta: float | None = None
    sampling_probability: float | None = None
    num_records: int | None = None
    max_weight: float | None = None
    total_weight: float | None = None
    secure_aggregation: bool | str = True
    corrupt_fraction: float | None = None
    dropout_fraction: float | None = None
    insecure_sampling_seed: int | None = None
    local_steps: int = 1
    local_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        whole("num_clients", self.num_clients, minimum=1)
        if not (isinstance(self.secure_aggregation, bool) or self.secure_aggregation == SESSION_KEY):
            raise InvalidTypeError(
                f"secure_aggregation must be True, False or {SESSION_KEY!r}, got {self.secure_aggregation!r}"
            )
        if self.insecure_sampling_seed is not None:
            whole("insecure_sampling_seed", self.insecure_sampling_seed, minimum=0)
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
        if self.secure_aggregation and self.max_cohort < MIN_COHORT:
            raise InvalidArgumentError(
                f"secure aggregation takes cohorts of at least {MIN_COHORT} clients, got {self.max_cohort}: "
                "a sum of two is one client's update to the other; secure_aggregation=False sums in the clear"
            )
        if self.num_rounds is not None:
            whole("num_rounds", self.num_rounds, minimum=1)
        elif self.target_epsilon is None or self.noise_multiplier is None:
            raise InvalidArgumentError(
                "num_rounds=None runs until the budget is spent: it needs noise_multiplier and target_epsilon"
            )
        self._check_distributed()
        self._check_sampling()
        self._check_privacy()
        self._check_clipping()
        self._check_weights()

    def _check_distributed(self) -> None:
        for name in ("corrupt_fraction", "dropout_fraction"):
            if (value := getattr(self, name)) is not None:
                probability(name, value)
                if self.noise != "distributed":
                    raise InvalidArgumentError(f"{name} belongs to noise='distributed', got {value!r}")
        if self.noise != "distributed":
            return
        if not self.secure_aggregation:
            raise UnsupportedError(
                "noise='distributed' hides clients in the sum of all shares: it needs secure_aggregation=True"
            )
        if self.poisson_clients:
            raise UnsupportedError(
                "Poisson sampling of clients together with noise='distributed': the server sees who takes "
                "part, and how much noise there is would depend on it; use cohort_size, a fixed cohort"
            )

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
        if self.clips != self.private:
            raise InvalidArgumentError(
                "clipping and noise come together: give l2_clip_norm with noise_multiplier or target_epsilon"
            )
        if self.private and self.target_delta is None:
            raise InvalidArgumentError("target_delta must be given with noise, got None")
        if not self.private and (self.noise != "central" or self.target_delta is not None):
            raise InvalidArgumentError(
                f"noise={self.noise!r} and target_delta belong to privacy: give l2_clip_norm, and "
                "noise_multiplier or target_epsilon"
            )
        if self.unit == "client" and self.num_records is not None:
            raise InvalidArgumentError(f"num_records belongs to unit='record', got {self.num_records}")
        if self.unit == "record":
            if not self.clips:
                raise InvalidArgumentError("unit='record' needs l2_clip_norm, got None")
            for name in ("sampling_probability", "num_records"):
                if getattr(self, name) is None:
                    raise InvalidArgumentError(f"unit='record' needs {name}, got None")

    def _check_clipping(self) -> None:
        require_clipping(self.clipping)
        if not isinstance(self.clipping, str) and self.l2_clip_norm is not None:
            raise InvalidArgumentError(
                f"a clipping rule has a clip norm of its own, got l2_clip_norm={self.l2_clip_norm!r} too"
            )
        if not self.clips:
            return
        if self.unit == "client" and not isinstance(self.rule, FlatClipping):
            raise UnsupportedError(
                f"a client's update is clipped as a whole: 'flat' or 'adaptive', got {self.clipping!r}"
            )
        if isinstance(self.rule, AdaptiveClipping) and (self.unit, self.noise) == ("record", "local"):
            raise UnsupportedError(
                "adaptive clipping of records with noise='local': each client would have a bound of its own"
            )

    def _check_weights(self) -> None:
        for name in ("max_weight", "total_weight"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if (self.max_weight is None) is not (self.total_weight is None):
            raise InvalidArgumentError(
                "a weighted mean under privacy needs max_weight, the bound of one client's weight, and "
                f"total_weight, the public sum of all, got {self.max_weight!r} and {self.total_weight!r}"
            )
        if self.max_weight is not None and (self.unit == "record" or not self.private):
            raise InvalidArgumentError(
                "max_weight and total_weight belong to private means of clients' updates: a sum over records "
                "is weighted by itself, and without privacy weights travel with the updates"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, of which `from_dict` makes the same settings."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if not isinstance(self.clipping, str):
            rule: Any = self.clipping
            values["clipping"] = {"rule": type(rule).__name__, **asdict(rule)}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Back from `to_dict`; TypeError for other names, else what the values are refused with."""
        clipping = values.get("clipping")
        if isinstance(clipping, Mapping):
            kinds = {kind.__name__: kind for kind in RULES.values()}
            arguments = dict(clipping)
            _one_of("rule", name := arguments.pop("rule", None), tuple(kinds))
            values = {**values, "clipping": kinds[name](**arguments)}
        return cls(**values)

    @property
    def clips(self) -> bool:
        """Whether contributions are bounded."""
        return self.l2_clip_norm is not None or not isinstance(self.clipping, str)

    @property
    def rule(self) -> ClippingRule:
        """The clipping rule; only where there is one."""
        return clipping_rule(self.clipping, cast(float, self.l2_clip_norm))

    @property
    def private(self) -> bool:
        """Whether there is noise."""
        return self.noise_multiplier is not None or self.target_epsilon is not None

    @property
    def max_cohort(self) -> int:
        """The largest cohort that can be drawn."""
        return self.num_clients if self.cohort_size is None else self.cohort_size

    @property
    def relation(self) -> NeighboringRelation:
        """A fixed cohort's neighbour is a client that contributes zero; Poisson sampling adds or removes."""
        if self.sampling_probability is None:
            return NeighboringRelation.REPLACE_SPECIAL
        return NeighboringRelation.ADD_OR_REMOVE_ONE

    @property
    def poisson_clients(self) -> bool:
        """Whether each client takes part independently with `sampling_probability`."""
        return self.unit == "client" and self.sampling_probability is not None


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidArgumentError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
