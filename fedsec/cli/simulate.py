"""`fedsec simulate`: a federation that a file describes, and sweeps over what the file says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from fedsec.cli.output import print_json, print_table
from fedsec.errors import MissingExtraError


@click.command(
    epilog="Example: fedsec simulate digits.toml --sweep privacy.target_epsilon=1,2,4,8 --workers 2",
)
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--sweep",
    "swept",
    multiple=True,
    metavar="KEY=VALUE,...",
    help="Run it with each of the values of a key; may be repeated, for all combinations.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Processes in which clients train; 0: this one.",
)
@click.option("--resume", is_flag=True, help="Go on with what is in the output folder.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def simulate(
    config: Path, swept: tuple[str, ...], workers: int, resume: bool, quiet: bool, as_json: bool
) -> None:
    """Run the federation that a TOML file describes, on this machine.

    All keys of a file: docs/simulator.md.
    """
    experiment, torch = _torch()
    torch.set_num_threads(1)
    how: dict[str, Any] = {"workers": workers, "progress": not quiet, "resume": resume}
    if not swept:
        chosen = experiment.read(config)
        result = experiment.Experiment(chosen).run(**how)
        _say_where(chosen, quiet)
        if as_json:
            print_json(result)
        else:
            _print(result)
        return
    from fedsec.experiment.config import document

    values = dict(map(_values, swept))
    sweep = experiment.Sweep(document(config), values, config.parent)
    total = len(sweep.experiments)

    def before(number: int, setting: dict[str, Any]) -> None:
        if not quiet:
            shown = ", ".join(f"{key} {value}" for key, value in setting.items())
            click.echo(f"run {number} of {total}: {shown}", err=True)

    rows = sweep.run(**how, before=before)
    if as_json:
        print_json({"sweep": values, "runs": rows})
    else:
        _print_sweep(list(values), rows)


def _values(text: str) -> tuple[str, list[Any]]:
    """A key and its values, as typed."""
    from fedsec.experiment.config import value_of

    key, given, values = text.partition("=")
    if not given or not values:
        raise click.UsageError(f"--sweep must be KEY=VALUE,..., got {text!r}")
    return key.strip(), [value_of(value.strip()) for value in values.split(",")]


def _print(result: dict[str, Any]) -> None:
    guarantee = result["guarantee"]
    rows = {str(name): f"{result[name]:.4f}" for name in ("accuracy", "loss") if name in result}
    rows |= {
        "epsilon": _bound(result["epsilon"]),
        "delta": f"{guarantee['delta']:g}",
        "unit": guarantee["unit"],
        "noise": f"{guarantee['noise']}, multiplier {guarantee['noise_multiplier']:.4f}",
        "sampler": guarantee["sampler"],
        "rounds": f"{result['rounds']} ({result['rounds_aborted']} aborted); ended by: {result['ended']}",
        "clients": str(result["clients"]),
        "model": f"{result['num_parameters']} parameters",
        "aggregation": result["aggregation"],
        "seconds": f"{result['seconds']:.1f}",
    }
    notes = [f"Note: {warning}." for warning in guarantee["warnings"]]
    print_table("Simulation", rows, "\n".join(notes))


def _print_sweep(keys: list[str], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = [*keys, "accuracy", "loss", "epsilon", "rounds", "seconds"]
    names = [name for name in shown if any(name in row for row in rows)]
    table = Table(title="Sweep", title_justify="left")
    for name in names:
        table.add_column(name.rpartition(".")[2], overflow="fold")
    for row in rows:
        table.add_row(*(_cell(name, row.get(name, "")) for name in names))
    Console(highlight=False, markup=False, emoji=False).print(table)


def _cell(name: str, value: object) -> str:
    if name == "epsilon" and isinstance(value, float):
        return _bound(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bound(epsilon: float | None) -> str:
    return "infinite" if epsilon is None or math.isinf(epsilon) else f"{math.ceil(epsilon * 1e4) / 1e4:.4f}"


def _say_where(chosen: Any, quiet: bool) -> None:
    if chosen.output.folder is not None and not quiet:
        click.echo(f"wrote {chosen.path(chosen.output.folder)}", err=True)


def _torch() -> tuple[Any, Any]:
    """The room that runs experiments, and torch, or the error that names the extra."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("fedsec simulate needs torch: pip install 'fedsec[demo]'") from None
    from fedsec import experiment

    return experiment, torch
