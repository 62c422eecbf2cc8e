"""The command line: a consumer of the public face, nothing else.

Each command imports what it needs in its body, so that `fedsec --help` loads nothing heavy. Commands
raise; `main` is the one place where an error becomes a sentence on standard error and an exit status:
2 for bad input, 130 when interrupted. With `--json` a command prints one JSON object on standard output
and nothing else there. `NO_COLOR` is respected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_CEILING, Context
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fedsec import __version__
from fedsec.errors import FedsecError, MissingExtraError

if TYPE_CHECKING:
    from fedsec.accounting import Event, PLDAccountant, RDPAccountant

_POISSON_ONLY = (
    "This holds for Poisson sampling only. A loader that shuffles the data and cuts batches of fixed size "
    "does not draw such samples, and its epsilon is not this one."
)
_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Whole(click.IntRange):
    """A whole number of at least 1; refusals say so."""

    name = "whole number of at least 1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `fedsec` on the arguments (by default this process's) and return its exit status."""
    try:
        status = commands.main(args=arguments, prog_name="fedsec", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except (FedsecError, OSError) as error:
        return _fail(str(error), 2)
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    click.echo(f"fedsec: {' '.join(message.split())}", err=True)
    return status


@click.group(no_args_is_help=False)
@click.version_option(__version__, prog_name="fedsec")
def commands() -> None:
    """The privacy layer for federated learning."""


def print_json(values: Mapping[str, object]) -> None:
    """Print one JSON object on standard output; what is infinite becomes null, for JSON has no infinity."""
    finite = {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in values.items()}
    click.echo(json.dumps(finite, allow_nan=False))


def print_table(title: str, rows: Mapping[str, object], note: str) -> None:
    """Print names and values as a table on standard output, with a line of plain words under it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, str(value))
    console = Console(highlight=False)
    console.print(table)
    console.print(note)


def _sampling_options(command: _Command) -> _Command:
    """Options of every command that accounts for sampled Gaussian steps."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option("--accountant", type=click.Choice(["pld", "rdp"]), default="rdp", show_default=True),
        click.option("--delta", type=float, required=True, help="In (0, 1)."),
        click.option("--steps", type=_Whole(1, 2**53), required=True, help="How many noisy steps."),
        click.option(
            "--sampling-probability",
            type=float,
            default=1.0,
            show_default=True,
            help="Of each record in each step (Poisson sampling); 1 takes all records in every step.",
        ),
    ):
        command = option(command)
    return command


def _accountant(name: str) -> type[PLDAccountant] | type[RDPAccountant]:
    """The class behind a name on the command line."""
    from fedsec.accounting import PLDAccountant, RDPAccountant

    return PLDAccountant if name == "pld" else RDPAccountant


@commands.command()
@click.option("--noise-multiplier", type=float, required=True, help="Noise stddev over L2 sensitivity.")
@_sampling_options
def epsilon(
    noise_multiplier: float,
    sampling_probability: float,
    steps: int,
    delta: float,
    accountant: str,
    as_json: bool,
) -> None:
    """Print the epsilon that steps of Gaussian noise cost, as an upper bound."""
    step = _step(noise_multiplier, sampling_probability)
    lower, upper = _accountant(accountant)().compose(step, steps).epsilon_interval(delta)
    if as_json:
        print_json({"epsilon_upper": upper, "epsilon_lower": lower, "delta": delta, "accountant": accountant})
    else:
        rows = {"epsilon, at most": _upwards(upper), "delta": delta, "noise multiplier": noise_multiplier}
        _print_budget("What it costs", rows, sampling_probability, steps, accountant)


@commands.command()
@click.option("--target-epsilon", type=float, required=True, help="Positive.")
@_sampling_options
def calibrate(
    target_epsilon: float,
    sampling_probability: float,
    steps: int,
    delta: float,
    accountant: str,
    as_json: bool,
) -> None:
    """Print the least noise multiplier that keeps epsilon within a target."""
    from fedsec.accounting import calibrate_noise_multiplier

    kind = _accountant(accountant)

    noise_multiplier = calibrate_noise_multiplier(
        lambda z: _step(z, sampling_probability),
        count=steps,
        target_epsilon=target_epsilon,
        target_delta=delta,
        accountant=kind,
    )
    upper = kind().compose(_step(noise_multiplier, sampling_probability), steps).epsilon(delta)
    if as_json:
        print_json(
            {
                "noise_multiplier": noise_multiplier,
                "epsilon_upper": upper,
                "delta": delta,
                "accountant": accountant,
            }
        )
    else:
        rows = {
            "noise multiplier": _upwards(noise_multiplier),
            "epsilon, at most": _upwards(upper),
            "delta": delta,
        }
        _print_budget("What it takes", rows, sampling_probability, steps, accountant)


def _step(noise_multiplier: float, sampling_probability: float) -> Event:
    from fedsec.accounting import Gaussian, PoissonSampled

    return PoissonSampled(Gaussian(noise_multiplier), sampling_probability)


def _print_budget(
    title: str, rows: Mapping[str, object], sampling_probability: float, steps: int, accountant: str
) -> None:
    """Print what was asked and found, with the relation and the sampler in words."""
    sampled = sampling_probability < 1.0
    sampler = (
        f"Poisson: each record joins each step independently, with probability {sampling_probability:g}"
        if sampled
        else "none: every record takes part in every step"
    )
    setting = {
        "steps": steps,
        "sampler": sampler,
        "relation": "one record is added or removed",
        "accountant": f"{accountant.upper()} (upper bound, rounded up)",
    }
    note = _POISSON_ONLY if sampled else "Sampling is not counted: this holds for any order of the records."
    print_table(title, {**rows, **setting}, note)


def _upwards(value: float) -> float:
    """Six significant digits of a value, rounded up: neither a bound nor noise may shrink in print."""
    return float(Context(prec=6, rounding=ROUND_CEILING).create_decimal(value))


@commands.command()
@click.option(
    "--data", default="digits", show_default=True, help="digits, or a path: MNIST as .npz, IDX, .pkl.gz."
)
@click.option("--clients", type=int, default=10, show_default=True)
@click.option("--rounds", type=int, default=100, show_default=True)
@click.option("--dropout", type=float, default=0.1, show_default=True, help="Share of clients lost a round.")
@click.option("--target-epsilon", type=float, default=3.0, show_default=True)
@click.option("--delta", type=float, default=1e-5, show_default=True)
@click.option("--noise", default="central", show_default=True, help="central, or local: trusting nobody.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of model, partition and lost clients.")
@click.option("--threads", type=_Whole(1), default=1, show_default=True, help="Of torch.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--report", "path", help="Write a report, .md or .json, and a picture beside it.")
def demo(data: str, threads: int, as_json: bool, path: str | None, **choices: Any) -> None:
    """Train privately on real handwritten digits, securely aggregated, in this process."""
    from fedsec.report import require_target

    target = None if path is None else require_target(path)
    torch = _torch()
    from rich.console import Console

    from fedsec.demo import run, show
    from fedsec.demo.data import load

    torch.set_num_threads(threads)
    options = run.Options(target_delta=choices.pop("delta"), **choices)
    dataset = load(data)
    with show.progress_bar(Console(stderr=True), options.rounds) as on_round:
        result = run.run(dataset, options, on_round)
    report = show.report(result)
    if target is not None:
        drawn = show.save(report, result, target)
        beside = " and its .png" if drawn else "; a picture needs matplotlib: pip install 'fedsec[plot]'"
        click.echo(f"wrote {target}{beside}", err=True)
    if as_json:
        click.echo(report.json(), nl=False)
    else:
        show.print_tables(Console(highlight=False), report)


@commands.command()
@click.argument("what", type=click.Choice(["masks", "noise", "secagg", "accounting", "all"]), default="all")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(what: str, as_json: bool) -> None:
    """Measure this machine: seconds, and ratios to numpy and torch in the same run."""
    from fedsec.measure import accounting, masks, noise, secagg

    rooms: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], list[str]]]] = {
        "masks": (masks.masked_sum, masks.describe),
        "noise": (noise.samplers, noise.describe),
        "secagg": (secagg.aggregation, secagg.describe),
        "accounting": (accounting.accountant, accounting.describe),
    }
    chosen = rooms if what == "all" else {what: rooms[what]}
    results = {name: measure() for name, (measure, _) in chosen.items()}
    if as_json:
        print_json(results)
    else:
        for name, result in results.items():
            click.echo("\n".join(rooms[name][1](result)))


def _torch() -> Any:
    """The torch module, or the error that names the extra."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("fedsec demo needs torch: pip install 'fedsec[demo]'") from None
    return torch
