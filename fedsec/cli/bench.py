"""`fedsec bench`: the measurements that `bench/` makes, on this machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from fedsec.cli.output import print_json


@click.command(epilog="Example: fedsec bench masks --json")
@click.argument(
    "what",
    type=click.Choice(
        ["masks", "noise", "secagg", "distributed", "accounting", "training", "simulator", "all"]
    ),
    default="all",
)
@click.option(
    "--quick",
    is_flag=True,
    help="Smaller sizes for secagg and simulator, no large model for training: not minutes, but seconds.",
)
@click.option("--quiet", is_flag=True, help="Do not say what is being measured.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(what: str, quick: bool, quiet: bool, as_json: bool) -> None:
    """Measure this machine: seconds, and ratios to numpy, torch and other packages in the same run."""
    from fedsec.measure import accounting, distributed, figures, masks, noise

    say = _nothing if quiet else _say
    rooms: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], list[str]]]] = {
        "masks": (masks.masked_sum, masks.describe),
        "noise": (noise.samplers, noise.describe),
        "secagg": (partial(figures.figures, quick, say), figures.describe),
        "distributed": (distributed.pipelines, distributed.describe),
        "accounting": (accounting.accountant, accounting.describe),
        "training": (partial(_training, quick), _describe_training),
        "simulator": (partial(_simulator, quick, say), _describe_simulator),
    }
    chosen = rooms if what == "all" else {what: rooms[what]}
    results = {name: measure() for name, (measure, _) in chosen.items()}
    if as_json:
        print_json(results)
    else:
        for name, result in results.items():
            click.echo("\n".join(rooms[name][1](result)))


def _training(quick: bool) -> dict[str, Any]:
    from fedsec.measure import training  # needs torch

    return training.steps([*training.MODELS] if quick else [*training.MODELS, *training.LARGE])


def _describe_training(result: dict[str, Any]) -> list[str]:
    from fedsec.measure import training

    return training.describe(result)


def _simulator(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    from fedsec.measure import simulator  # needs torch

    return simulator.figures(quick, say)


def _describe_simulator(result: dict[str, Any]) -> list[str]:
    from fedsec.measure import simulator

    return simulator.describe(result)


def _say(name: str) -> None:
    click.echo(f"measuring: {name}", err=True)


def _nothing(name: str) -> None:
    pass
