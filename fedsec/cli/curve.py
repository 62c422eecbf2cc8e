"""`fedsec curve`: everything that a plan says about privacy, as numbers and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from fedsec.cli.output import downwards, print_json, print_table, upwards
from fedsec.cli.plan import Plan, plan_options, planned, steps_of_noise
from fedsec.errors import UnsupportedError

if TYPE_CHECKING:
    from fedsec.accounting import Event, PLDAccountant, RDPAccountant

_EPSILONS, _STEPS = 61, 25  # points of curves
_FALSE_ALARMS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_BEYOND = 2.0  # how many times epsilon(delta) the first curve goes


@click.command(
    epilog="Example: fedsec curve --noise-multiplier 1.1 --sampling-probability 0.0042667 --steps 3510 "
    "--delta 1e-5 --plot curve.png"
)
@plan_options
@click.option("--plot", "path", help="Write a picture of all three curves: a .png file.")
def curve(as_json: bool, path: str | None, **given: Any) -> None:
    """Print delta over epsilon, the errors of any attack, and epsilon over steps, as curves."""
    from fedsec.report import require_picture

    target = None if path is None else require_picture(path)
    plan = planned(given, steps_of_noise(given))
    curves = _curves(plan)
    if target is not None:
        from fedsec.report import plots, write_all

        write_all({target: plots.privacy_curves(curves)})
        click.echo(f"wrote {target}", err=True)
    if as_json:
        print_json(curves)
    else:
        _print(curves)


def _curves(plan: Plan) -> dict[str, Any]:
    """The numbers of all three curves."""
    spent = plan.judge().compose(plan.event())
    if math.isinf(spent.epsilon(plan.delta)):
        raise UnsupportedError(f"there is no curve: epsilon is infinite at delta {plan.delta:g}")
    return {
        "delta": plan.delta,
        "accountant": type(spent).__name__.removesuffix("Accountant").lower(),
        "delta_over_epsilon": _delta_over_epsilon(spent, plan.delta),
        "tradeoff": _tradeoff(spent),
        "epsilon_over_steps": _epsilon_over_steps(plan),
    }


def _delta_over_epsilon(spent: PLDAccountant | RDPAccountant, delta: float) -> dict[str, list[float]]:
    end = _BEYOND * spent.epsilon(delta) or 1.0
    epsilons = [end * i / (_EPSILONS - 1) for i in range(_EPSILONS)]
    lower, upper = spent.curve(epsilons)
    return {"epsilon": epsilons, "delta_lower": lower.tolist(), "delta_upper": upper.tolist()}


def _tradeoff(spent: PLDAccountant | RDPAccountant) -> dict[str, list[float]]:
    misses = [spent.tradeoff(alpha) for alpha in _FALSE_ALARMS]
    return {"false_alarms": list(_FALSE_ALARMS), "misses_at_least": misses}


def _epsilon_over_steps(plan: Plan) -> dict[str, list[float]]:
    """Epsilon at moments of the plan, its events in the order in which they were given."""
    schedule = [_step(event) for event in plan.events()]
    total = sum(count for _, count in schedule)
    moments = sorted({max(1, total * i // (_STEPS - 1)) for i in range(_STEPS)})
    bounds = [_until(plan, schedule, moment).epsilon_interval(plan.delta) for moment in moments]
    lower, upper = zip(*bounds, strict=True)
    return {"steps": moments, "epsilon_lower": list(lower), "epsilon_upper": list(upper)}


def _step(event: Event) -> tuple[Event, int]:
    from fedsec.accounting import Repeated

    return (event.event, event.count) if isinstance(event, Repeated) else (event, 1)


def _until(plan: Plan, schedule: list[tuple[Event, int]], moment: int) -> PLDAccountant | RDPAccountant:
    """What was spent after so many steps."""
    spent = plan.judge()
    for event, count in schedule:
        if moment > 0:
            spent.compose(event, min(count, moment))
        moment -= count
    return spent


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
