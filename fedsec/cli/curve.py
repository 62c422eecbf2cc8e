"""`fedsec curve`: everything that a plan says about privacy, as numbers and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import click

from fedsec.cli.output import downwards, print_json, print_table, upwards
from fedsec.cli.plan import plan_options, planned, steps_of_noise


@click.command(
    epilog="Example: fedsec curve --noise-multiplier 1.1 --sampling-probability 0.0042667 --steps 3510 "
    "--delta 1e-5 --plot curve.png"
)
@plan_options
@click.option("--plot", "path", help="Write a picture of all three curves: a .png file.")
def curve(as_json: bool, path: str | None, **given: Any) -> None:
    """Print delta over epsilon, the errors of any attack, and epsilon over steps, as curves."""
    from fedsec.report import require_picture
    from fedsec.report.curves import privacy_curves

    target = None if path is None else require_picture(path)
    plan = planned(given, steps_of_noise(given))
    curves = privacy_curves(plan.events(), plan.judge, plan.delta)
    if target is not None:
        from fedsec.report import plots, write_all

        write_all({target: plots.privacy_curves(curves)})
        click.echo(f"wrote {target}", err=True)
    if as_json:
        print_json(curves)
    else:
        _print(curves)


def _print(curves: dict[str, Any]) -> None:
    """A few points of each curve as tables."""
    delta, errors, spent = (curves[name] for name in ("delta_over_epsilon", "tradeoff", "epsilon_over_steps"))
    bounds = zip(delta["delta_lower"][::6], delta["delta_upper"][::6], strict=True)
    between = (f"{downwards(low):g} to {upwards(high):g}" for low, high in bounds)
    misses = (f"{math.floor(1e4 * beta) / 1e4:.4f}" for beta in errors["misses_at_least"])
    cost = (str(upwards(epsilon)) for epsilon in spent["epsilon_upper"][::4])
    _print_points("Delta at epsilon", delta["epsilon"][::6], between)
    _print_points("Misses of any attack, at least, by false alarms", errors["false_alarms"], misses)
    _print_points(f"Epsilon, at most, after steps, at delta {curves['delta']:g}", spent["steps"][::4], cost)


def _print_points(title: str, places: list[float], values: Iterable[str]) -> None:
    print_table(title, {f"{place:.4g}": value for place, value in zip(places, values, strict=True)})
