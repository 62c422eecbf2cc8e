"""`fedsec epsilon`, `fedsec calibrate`, `fedsec curve`: what a plan costs, and what a target allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fedsec.cli.output import Whole, downwards, print_json, print_table, upwards
from fedsec.cli.plan import Plan, plan_options, planned, steps_of_noise

if TYPE_CHECKING:
    from fedsec.accounting import Event, PrivacySpent

_EXPLAIN = click.option("--explain", is_flag=True, help="Say in words what the terms mean.")


@click.command(
    epilog="Example: fedsec epsilon --event 'PoissonSampled(Gaussian(1.1), 256/60000) * 3510' --delta 1e-5"
)
@plan_options
@click.option("--group-size", type=Whole(1, 10_000), default=1, help="For so many units at once.")
@_EXPLAIN
def epsilon(as_json: bool, explain: bool, group_size: int, **given: Any) -> None:
    """Print the epsilon that a plan costs: an upper bound, and by PLD a lower one."""
    plan = planned(given, steps_of_noise(given))
    spent = plan.judge().compose(plan.event()).privacy_spent(plan.delta, group_size)
    if as_json:
        print_json(_record(spent))
    else:
        _print_spent("What it costs", {}, plan.event(), spent, explain)


@click.command(
    epilog="Example: fedsec calibrate --for steps --target-epsilon 3 --noise-multiplier 1.1 "
    "--sampling-probability 0.0042667 --delta 1e-5"
)
@click.option("--target-epsilon", type=float, required=True, help="Positive.")
@click.option(
    "--for",
    "wanted",
    type=click.Choice(["noise", "steps", "sampling-probability", "batch-size"]),
    default="noise",
    show_default=True,
    help="What to look for. In --event it is called z, q or b; steps repeat all events.",
)
@click.option("--population-size", type=Whole(1, 2**53), help="Of which a batch is drawn.")
@plan_options
@_EXPLAIN
def calibrate(wanted: str, target_epsilon: float, as_json: bool, explain: bool, **given: Any) -> None:
    """Print the parameter that just keeps epsilon within a target: least noise, most steps or data."""
    question = _QUESTIONS[wanted]
    plan = planned(given, question.usual(given), unknown=question.unknown)
    answer = question.solve(
        plan,
        target_epsilon=target_epsilon,
        target_delta=plan.delta,
        neighboring_relation=plan.relation,
        accountant=plan.accountant,
    )
    event = question.event(plan, answer)
    spent = plan.judge().compose(event).privacy_spent(plan.delta)
    if as_json:
        print_json({question.key: answer, **_record(spent)})
    else:
        found = {question.label: question.rounded(answer)}
        _print_spent("What it takes", found, event, spent, explain)


class _Question(NamedTuple):
    """One thing to calibrate: its name in expressions, what is asked, and how the answer is shown."""

    unknown: str
    usual: Callable[[Mapping[str, Any]], str]
    solve: Callable[..., float]
    event: Callable[[Plan, float], Event]
    key: str
    label: str
    rounded: Callable[[float], float] = int


def _solve_noise(plan: Plan, **target: Any) -> float:
    from fedsec.accounting import calibrate_noise_multiplier

    return calibrate_noise_multiplier(lambda z: plan.event(z=z), **target)


def _solve_steps(plan: Plan, **target: Any) -> int:
    from fedsec.accounting import calibrate_steps

    return calibrate_steps(plan.event(), **target)


def _solve_sampling_probability(plan: Plan, **target: Any) -> float:
    from fedsec.accounting import calibrate_sampling_probability

    return calibrate_sampling_probability(lambda q: plan.event(q=q), **target)


def _solve_batch_size(plan: Plan, **target: Any) -> int:
    from fedsec.accounting import calibrate_batch_size

    population = int(plan.numbers["population"])
    return calibrate_batch_size(lambda b: plan.event(b=b), population_size=population, **target)


def _repeated(plan: Plan, count: float) -> Event:
    from fedsec.accounting import Repeated

    return Repeated(plan.event(), int(count))


_QUESTIONS = {
    "noise": _Question(
        unknown="z",
        usual=steps_of_noise,
        solve=_solve_noise,
        event=lambda plan, z: plan.event(z=z),
        key="noise_multiplier",
        label="noise multiplier, at least",
        rounded=upwards,
    ),
    "steps": _Question(
        unknown="",
        usual=lambda given: steps_of_noise(given).removesuffix(" * n"),
        solve=_solve_steps,
        event=_repeated,
        key="steps",
        label="steps, at most",
    ),
    "sampling-probability": _Question(
        unknown="q",
        usual=lambda given: "PoissonSampled(Gaussian(z), q) * n",
        solve=_solve_sampling_probability,
        event=lambda plan, q: plan.event(q=q),
        key="sampling_probability",
        label="sampling probability, at most",
        rounded=downwards,
    ),
    "batch-size": _Question(
        unknown="b",
        usual=lambda given: "PoissonSampled(Gaussian(z), b / population) * n",
        solve=_solve_batch_size,
        event=lambda plan, b: plan.event(b=b),
        key="batch_size",
        label="batch size, at most",
    ),
}


def _record(spent: PrivacySpent) -> dict[str, object]:
    """What was spent, for machines."""
    return {
        "epsilon_upper": spent.epsilon,
        "epsilon_lower": spent.epsilon_lower,
        "delta": spent.delta,
        "accountant": spent.accountant.removesuffix("Accountant").lower(),
        "unit": spent.unit,
        "samplers": spent.samplers,
    }


def _print_spent(
    title: str, found: Mapping[str, object], event: Event, spent: PrivacySpent, explain: bool
) -> None:
    """Print what was asked and found, with the relation and the sampler in words."""
    setting = {
        "epsilon, at most": upwards(spent.epsilon),
        "epsilon, at least": downwards(spent.epsilon_lower) or "0 (no better is known)",
        "delta": spent.delta,
        "what is done": _in_words(event),
        "sampler": "\n".join(spent.samplers) or "none: every unit takes part in every step",
        "relation": spent.unit,
        "accountant": spent.accountant.removesuffix("Accountant"),
    }
    print_table(title, {**found, **setting}, _note(spent))
    if explain:
        print_table("What the words mean", _TERMS)


def _in_words(event: Event) -> str:
    """The mechanisms of an event, one a line, each with how often it runs."""
    from fedsec.accounting.events import leaves

    lines = [repr(leaf) if count == 1 else f"{leaf!r} * {count}" for leaf, count in leaves(event)]
    return "\n".join(lines) or "nothing"


def _note(spent: PrivacySpent) -> str:
    if not spent.samplers:
        return "Sampling is not counted: this holds for any order of the units."
    return (
        "This holds for the sampler above only. A loader that shuffles the data and cuts batches of fixed "
        "size does not draw such samples, and its epsilon is not this one."
    )


_TERMS = {
    "epsilon": "through one unit, no outcome becomes likelier than by the factor e^epsilon, but for delta",
    "delta": "the probability by which that may fail; far below one over the number of units",
    "unit": "what the noise multiplier refers to: one record, or all records of one client",
    "relation": "in what the two data sets differ that must not be told apart",
    "noise multiplier": "standard deviation of the noise over the L2 sensitivity to one unit "
    "(Laplace: scale over the L1 sensitivity)",
    "sampler": "how a step's units are drawn; the guarantee rests on it",
    "PLD": "privacy loss distributions: both bounds are certified, for plans fixed beforehand",
    "RDP": "Rényi differential privacy: an upper bound only",
}
