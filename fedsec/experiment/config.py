"""What a configuration file may say: tables of keys, each of one type; anything else is refused by name.

Keys are named as the arguments that they become. Whether values make sense together, partitions, losses and
the federation say when they are built; here is what only a file can get wrong: names, types, and keys that
have no effect.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from fedsec.errors import DataFormatError, InvalidArgumentError, InvalidTypeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# For each choice the keys of its table that belong to it; keys that stand here under no choice belong to all.
_PARTITIONS = {
    "iid": ("num_clients",),
    "dirichlet": ("num_clients", "concentration"),
    "shards": ("num_clients", "shards_per_client"),
    "quantity": ("num_clients", "concentration"),
    "by_key": (),
}
_MODELS = {"linear": (), "mlp": ("hidden",), "cnn": ()}
_MOMENTUM = ("learning_rate", "momentum")
_ADAPTIVE = ("learning_rate", "beta1", "tau")
ALGORITHMS = {
    "fedavg": _MOMENTUM,
    "fedprox": (*_MOMENTUM, "mu"),
    "fedavgm": _MOMENTUM,
    "fedadagrad": _ADAPTIVE,
    "fedadam": (*_ADAPTIVE, "beta2"),
    "fedyogi": (*_ADAPTIVE, "beta2"),
}


@dataclass(frozen=True)
class Data:
    """`[data]`: which records."""

    source: str = "digits"
    inputs: str | None = None
    targets: str | None = None
    test_inputs: str | None = None
    test_targets: str | None = None
    test_fraction: float | None = None
    keys: str | None = None


@dataclass(frozen=True)
class Partition:
    """`[partition]`: who holds which of them."""

    kind: str = "iid"
    num_clients: int | None = None
    concentration: float | None = None
    shards_per_client: int | None = None


@dataclass(frozen=True)
class Model:
    """`[model]`: a small one by name, or whatever a function of the user's makes."""

    name: str | None = None
    hidden: int | None = None
    factory: str | None = None
    arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Training:
    """`[training]`: what a client does with the model, where its whole update is what counts."""

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    momentum: float | None = None


@dataclass(frozen=True)
class Algorithm:
    """`[algorithm]`: how the server's model moves."""

    name: str = "fedavg"
    learning_rate: float | None = None
    momentum: float | None = None
    mu: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    tau: float | None = None


@dataclass(frozen=True)
class Privacy:
    """`[privacy]`: what is bounded, and how much noise; empty for none."""

    unit: str = "client"
    l2_clip_norm: float | None = None
    clipping: str = "flat"
    noise: str = "central"
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    target_delta: float | None = None
    local_steps: int = 1
    local_learning_rate: float = 1.0


@dataclass(frozen=True)
class Rounds:
    """`[rounds]`: how many, who is drawn, when to stop."""

    num_rounds: int | None = None
    cohort_size: int | None = None
    sampling_probability: float | None = None
    stop_accuracy: float | None = None
    stop_loss: float | None = None


@dataclass(frozen=True)
class Lost:
    """`[losses]`: who is lost, by chance."""

    dropout: float = 0.0
    straggling: float = 0.0
    phases: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Aggregation:
    """`[aggregation]`: what adds up."""

    secure: bool | str = True
    corrupt_fraction: float | None = None
    dropout_fraction: float | None = None


@dataclass(frozen=True)
class Output:
    """`[output]`: what is left on disk."""

    folder: str | None = None
    include_operator_data: bool = False


@dataclass(frozen=True)
class Config:
    """A whole file. Paths are relative to `base`, the folder that it is in."""

    seed: int = 0
    data: Data = field(default_factory=Data)
    partition: Partition = field(default_factory=Partition)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    algorithm: Algorithm = field(default_factory=Algorithm)
    privacy: Privacy = field(default_factory=Privacy)
    rounds: Rounds = field(default_factory=Rounds)
    losses: Lost = field(default_factory=Lost)
    aggregation: Aggregation = field(default_factory=Aggregation)
    output: Output = field(default_factory=Output)
    base: Path = field(default=Path(), compare=False)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InvalidArgumentError(f"seed must be at least 0, got {self.seed}")
        _choice(self.partition, "partition", "kind", self.partition.kind, _PARTITIONS)
        if self.partition.kind != "by_key" and self.partition.num_clients is None:
            raise InvalidArgumentError(f"partition.kind {self.partition.kind!r} needs partition.num_clients")
        _choice(self.algorithm, "algorithm", "name", self.algorithm.name, ALGORITHMS)
        self._check_model()
        self._check_data()
        if self.privacy.unit == "record" and (given := _given(self.training)):
            raise InvalidArgumentError(
                f"training.{given[0]} has no effect with privacy.unit = 'record': a client sends the sum of "
                "its records' clipped gradients, and algorithm.learning_rate is the size of the step"
            )
        if self.privacy.unit == "record" and self.algorithm.name == "fedprox":
            raise InvalidArgumentError("algorithm.name 'fedprox' trains at clients: privacy.unit = 'client'")

    def _check_model(self) -> None:
        model = self.model
        if (model.name is None) is (model.factory is None):
            raise InvalidArgumentError(
                f"model needs one of model.name ({', '.join(_MODELS)}) and model.factory "
                f"('module:function'), got {model.name!r} and {model.factory!r}"
            )
        if model.name is not None:
            _choice(model, "model", "name", model.name, _MODELS)
            if model.arguments is not None:
                raise InvalidArgumentError("model.arguments belongs to model.factory")
        elif model.hidden is not None:
            raise InvalidArgumentError("model.hidden belongs to model.name 'mlp'; use model.arguments")
        elif not _plain_values(model.arguments or {}):
            raise InvalidTypeError(
                "model.arguments must be numbers, texts, lists and tables, "
                f"got {dict(model.arguments or {})!r}"
            )
        elif ":" not in (model.factory or ""):
            raise InvalidArgumentError(f"model.factory must be 'module:function', got {model.factory!r}")

    def _check_data(self) -> None:
        data = self.data
        if not data.source.endswith(".npz"):
            if given := _given(data, but=("source",)):
                raise InvalidArgumentError(f"data.{given[0]} belongs to a data.source that ends in .npz")
        elif (data.test_inputs is None) is not (data.test_targets is None):
            raise InvalidArgumentError("data.test_inputs and data.test_targets come together")
        elif data.test_inputs is not None and data.test_fraction is not None:
            raise InvalidArgumentError("data.test_fraction has no effect where data.test_inputs is given")
        if (self.partition.kind == "by_key") is not (data.keys is not None):
            raise InvalidArgumentError("data.keys and partition.kind = 'by_key' come together")

    def values(self) -> dict[str, Any]:
        """Everything that decides a run, as plain values by table."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if name != "base"}
        del plain["output"]
        return plain

    def path(self, name: str) -> Path:
        """A path of the file, from where the file is."""
        return self.base / name


def read(path: str | os.PathLike[str]) -> Config:
    """The configuration in a TOML file.

    Raises
    ------
    DataFormatError
        The file is missing, unreadable or no TOML.
    InvalidArgumentError, InvalidTypeError
        An unknown key, a value of another type, a key that has no effect; each names the key.
    """
    return parse(document(path), Path(path).parent)


def document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The file as it stands."""
    try:
        with Path(path).open("rb") as file:
            return dict(tomllib.load(file))
    except OSError as error:
        raise DataFormatError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataFormatError(f"{path} is no TOML file: {error}") from None


def parse(document: Mapping[str, Any], base: Path | None = None) -> Config:
    """The same from what a TOML file holds; `base` is where its paths begin."""
    sections: dict[str, Any] = {}
    for name, value in document.items():
        hint = _hints(Config).get(name)
        if hint is None or name == "base":
            raise InvalidArgumentError(_unknown(name))
        sections[name] = (
            _section(name, value, hint) if dataclasses.is_dataclass(hint) else _typed(name, value, hint)
        )
    return Config(**sections, base=Path() if base is None else base)


def value_of(text: str) -> Any:
    """A value as one would type it: TOML, or a bare word for a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text


def keys() -> Iterator[str]:
    """All keys, with their tables."""
    for name, hint in _hints(Config).items():
        if dataclasses.is_dataclass(hint):
            yield from (f"{name}.{one.name}" for one in dataclasses.fields(hint))
        elif name != "base":
            yield name


def _section(name: str, table: object, kind: Any) -> Any:
    if not isinstance(table, Mapping):
        raise InvalidTypeError(f"{name} must be a table [{name}], got {table!r}")
    hints, values = _hints(kind), {}
    for key, value in table.items():
        if key not in hints:
            raise InvalidArgumentError(_unknown(f"{name}.{key}"))
        values[key] = _typed(f"{name}.{key}", value, hints[key])
    return kind(**values)


def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _unknown(name: str) -> str:
    """The refusal of a key, with the one that was most likely meant."""
    tables = {key.partition(".")[0] for key in keys()}
    section, _, key = name.partition(".")
    if key and section in tables:  # of its own table if one is near, else the same name elsewhere
        own = [known for known in keys() if known.startswith(f"{section}.")]
        elsewhere = [known for known in keys() if known.partition(".")[2] == key]
        near = elsewhere or difflib.get_close_matches(name, own, n=1, cutoff=0.0)
    else:
        near = difflib.get_close_matches(section, sorted(tables), n=1, cutoff=0.0)
    return f"unknown key {name!r}; the nearest known one is {near[0]!r}"


def _typed(name: str, value: Any, hint: Any) -> Any:
    """A value of the type that its key has; nothing is converted but whole numbers to real ones."""
    kinds = [kind for kind in _kinds(hint) if kind is not type(None)]
    for kind in kinds:
        if get_origin(kind) is tuple:
            if isinstance(value, list) and all(isinstance(part, str) for part in value):
                return tuple(value)
        elif kind is float:
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
        elif isinstance(value, get_origin(kind) or kind) and (kind is bool or not isinstance(value, bool)):
            return value
    raise InvalidTypeError(
        f"{name} must be {' or '.join(_NAMES[_plain(kind)] for kind in kinds)}, got {value!r}"
    )


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    tuple: "a list of texts",
    Mapping: "a table",
}


def _plain(kind: Any) -> Any:
    origin = get_origin(kind)
    return kind if origin is None else tuple if origin is tuple else Mapping


def _kinds(hint: Any) -> Sequence[Any]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _plain_values(value: Any) -> bool:
    """Whether JSON can hold it, so that a run can be told from another."""
    if isinstance(value, Mapping):
        return all(map(_plain_values, value.values()))
    if isinstance(value, list):
        return all(map(_plain_values, value))
    return isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


def _given(section: Any, but: Sequence[str] = ()) -> list[str]:
    """The keys that have a value where none is the rule."""
    return [
        one.name
        for one in dataclasses.fields(section)
        if one.name not in but and getattr(section, one.name) != one.default
    ]


def _choice(section: Any, table: str, key: str, value: str, choices: Mapping[str, tuple[str, ...]]) -> None:
    """Refuses an unknown choice, and keys that belong to another one."""
    if value not in choices:
        raise InvalidArgumentError(f"{table}.{key} must be one of {', '.join(choices)}, got {value!r}")
    others = {name for names in choices.values() for name in names} - set(choices[value])
    for name in _given(section, but=(key,)):
        if name in others:
            whose = ", ".join(choice for choice, names in choices.items() if name in names)
            raise InvalidArgumentError(f"{table}.{name} belongs to {whose}, and {table}.{key} is {value!r}")
