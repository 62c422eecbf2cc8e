"""The options that say what is done and how it is judged, shared by `epsilon`, `calibrate` and `curve`.

Whatever is typed becomes expressions (`expressions`) with names for numbers: without `--event` it is
`PoissonSampled(Gaussian(z), q) * n`, and `--noise-multiplier`, `--sampling-probability`, `--steps` give z, q
and n. A name without a number and a number without a name are refused; what `calibrate` looks for is a name.
A configuration file holds the same options; the command line goes before it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fedsec.cli.expressions import names_in, parse
from fedsec.cli.output import Whole

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from fedsec.accounting import Event, NeighboringRelation, PLDAccountant, RDPAccountant

_Command = TypeVar("_Command", bound=Callable[..., Any])
_RELATIONS = {
    "add-remove": "ADD_OR_REMOVE_ONE",
    "replace-one": "REPLACE_ONE",
    "zero-out": "REPLACE_SPECIAL",
}
_KEYS = {"z": "noise_multiplier", "q": "sampling_probability", "n": "steps", "population": "population_size"}


@dataclass(frozen=True)
class Plan:
    """What is done, as expressions and the numbers in them, and how it is judged."""

    texts: tuple[str, ...]
    numbers: Mapping[str, float]
    delta: float
    relation: NeighboringRelation
    accountant: type[PLDAccountant] | type[RDPAccountant]

    def events(self, **unknown: float) -> list[Event]:
        """The events as given; `unknown` is the number that is looked for."""
        return [parse(text, {**self.numbers, **unknown}) for text in self.texts]

    def event(self, **unknown: float) -> Event:
        """All events together."""
        from fedsec.accounting import Composed

        events = self.events(**unknown)
        return events[0] if len(events) == 1 else Composed(events)

    def judge(self) -> PLDAccountant | RDPAccountant:
        """A fresh accountant."""
        return self.accountant(neighboring_relation=self.relation)


def planned(given: Mapping[str, Any], usual: str, *, unknown: str = "") -> Plan:
    """Make a plan of the options; without `--event` it is the usual one. `unknown` is what is looked for."""
    from fedsec import accounting

    numbers = {name: given[key] for name, key in _KEYS.items() if given.get(key) is not None}
    texts = given["event"] or (usual,)
    used = {name for text in texts for name in names_in(text)} | ({"population"} if unknown == "b" else set())
    _check_names(used, numbers.keys(), unknown)
    return Plan(
        texts=tuple(texts),
        numbers=numbers,
        delta=given["delta"],
        relation=accounting.NeighboringRelation[_RELATIONS[given["relation"]]],
        accountant=getattr(accounting, f"{given['accountant'].upper()}Accountant"),
    )


def steps_of_noise(given: Mapping[str, Any]) -> str:
    """Steps of Gaussian noise, on Poisson samples if there is a probability."""
    return (
        "Gaussian(z) * n" if given["sampling_probability"] is None else "PoissonSampled(Gaussian(z), q) * n"
    )


def _check_names(used: AbstractSet[str], known: AbstractSet[str], unknown: str) -> None:
    """Each name has a number or is the one that is looked for; each number has a name."""
    if unknown in known:
        raise click.UsageError(f"{_option(unknown)} is what is looked for: leave it out")
    for name in sorted(used - known - {unknown}):
        if name in _KEYS:
            raise click.UsageError(f"Missing option '{_option(name)}'.")
        raise click.UsageError(f"--event must not hold {name!r}, which stands for nothing here")
    for name in sorted(known - used):
        raise click.UsageError(f"{_option(name)} has no place: write {name} where --event needs it")
    if unknown and unknown not in used:
        raise click.UsageError(f"--event must hold {unknown}, which is what is looked for")


def _option(name: str) -> str:
    return "--" + _KEYS[name].replace("_", "-")


def plan_options(command: _Command) -> _Command:
    """Options of every command that accounts for a plan."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option("--accountant", type=click.Choice(["pld", "rdp"]), default="pld", show_default=True),
        click.option(
            "--relation",
            type=click.Choice(list(_RELATIONS)),
            default="add-remove",
            show_default=True,
            help="What neighbouring data sets differ in.",
        ),
        click.option("--delta", type=float, required=True, help="In (0, 1)."),
        click.option("--steps", type=Whole(1, 2**53), metavar="n", help="How many noisy steps."),
        click.option(
            "--sampling-probability",
            type=float,
            metavar="q",
            help="Of each unit in each step (Poisson sampling); without it all units are in every step.",
        ),
        click.option("--noise-multiplier", type=float, metavar="z", help="Noise stddev over L2 sensitivity."),
        click.option(
            "--config",
            type=click.Path(exists=True, dir_okay=False),
            is_eager=True,
            expose_value=False,
            callback=_configure,
            help="A TOML file of options; those on the command line go before it.",
        ),
        click.option(
            "--event",
            multiple=True,
            metavar="EXPRESSION",
            help="What is done instead of Gaussian steps, such as 'Laplace(2) * 10'; may be repeated.",
        ),
    ):
        command = option(command)
    return command


def _configure(context: click.Context, _: click.Parameter, path: str | None) -> None:
    """Take the options in a file for defaults."""
    if path is None:
        return
    try:
        with open(path, "rb") as file:
            contents = tomllib.load(file)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{path} is no TOML file: {error}") from None
    known = {option.name for option in context.command.params if option.expose_value}
    context.default_map = {
        key: value
        for name, given in contents.items()
        for key, value in [_configured(path, name, given, known)]
    }


def _configured(path: str, name: str, value: object, known: AbstractSet[str | None]) -> tuple[str, object]:
    """A key, and its value as it would be typed."""
    key = name.replace("-", "_")
    if key not in known or name not in (key, key.replace("_", "-")):
        raise click.UsageError(f"{path} has the unknown key {name!r}")
    values = value if isinstance(value, list) and key == "event" else [value]
    if any(isinstance(part, bool) or not isinstance(part, (str, int, float)) for part in values):
        raise click.UsageError(f"{path}: {name} must be a number or a text, got {value!r}")
    return key, [str(part) for part in values] if key == "event" else str(value)
