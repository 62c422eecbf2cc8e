"""The demo on a terminal and on paper: a progress bar, tables, and a report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedsec.demo import run as demo
from fedsec.errors import MissingExtraError
from fedsec.report import Report, plots, write, write_all

_RELATIONS = {"ADD_OR_REMOVE_ONE": "one record added or removed"}
_NOISES = {
    "central": "central: added by the server to the securely aggregated sum",
    "distributed": "distributed: in shares of the clients, inside the securely aggregated sum",
    "local": "local: added by each client before anything leaves it",
}
_PARTS = {
    "training": "training and clipping, all clients",
    "masking": "masking, one client",
    "unmasking": "collecting and unmasking, server",
    "noise": "noise, server",
    "total": "private training, everything",
    "without privacy": "the same without privacy",
}


@contextmanager
def progress_bar(console: Console, rounds: int) -> Iterator[Callable[[demo.Progress], None]]:
    """A bar with round, accuracy, epsilon and survivors; yields the callback that moves it."""
    columns = (
        TextColumn("round"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("accuracy {task.fields[accuracy]:.3f}  epsilon {task.fields[epsilon]:.2f}"),
        TextColumn("survivors {task.fields[survivors]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=rounds, accuracy=0.0, epsilon=0.0, survivors="-")
        yield lambda step: bar.update(
            task,
            completed=step.round_id,
            accuracy=step.accuracy,
            epsilon=step.epsilon,
            survivors="none, aborted" if step.aborted else step.survivors,
        )


def report(result: demo.Result) -> Report:
    """The result as a report."""
    return Report(
        title=f"fedsec demo: {result.dataset}",
        tables={
            "Result": _result_table(result),
            "Guarantee": _guarantee_table(result),
            "Time": _time_table(result),
        },
        notes=(_guarantee_sentence(result), _NOT_COVERED, *_warnings(result)),
        record=record(result),
    )


def record(result: demo.Result) -> dict[str, Any]:
    """The result as one JSON object."""
    options = result.options
    return {
        "dataset": result.dataset,
        "accuracy": result.accuracy,
        "accuracy_without_privacy": result.accuracy_without_privacy,
        "epsilon": result.guarantee.epsilon,
        "delta": result.guarantee.delta,
        "neighboring_relation": result.guarantee.neighboring_relation,
        "sampler": result.guarantee.sampler,
        "noise": result.guarantee.noise,
        "noise_multiplier": result.guarantee.noise_multiplier,
        "accountant": result.guarantee.accountant,
        "declared_public": list(result.guarantee.declared_public),
        "warnings": list(result.guarantee.warnings),
        "rounds": options.rounds,
        "rounds_charged": result.guarantee.rounds_charged,
        "rounds_aborted": result.aborted,
        "clients": options.clients,
        "dropped": result.lost,
        "dropped_a_round": options.lost_a_round,
        "num_parameters": result.num_parameters,
        "num_train": result.num_train,
        "num_test": result.num_test,
        "recipe": dataclasses.asdict(result.recipe),
        "seed": options.seed,
        "seconds": result.seconds["total"],
        "seconds_by_part": result.seconds,
        "bytes_per_client": result.bytes_per_client,
        "history": [dataclasses.asdict(step) for step in result.history],
    }


def print_tables(console: Console, shown: Report) -> None:
    """The tables and notes of a report on a terminal."""
    for heading, rows in shown.tables.items():
        table = Table(title=heading, title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column()
        for name, value in rows.items():
            table.add_row(name, value)
        console.print(table)
    for note in shown.notes:
        console.print(note)


def save(shown: Report, result: demo.Result, target: Path, include_operator_data: bool = False) -> bool:
    """Writes the report: a privacy report for .html, else a record of the demo with a picture beside it.

    Returns whether there is a picture, for which matplotlib must be installed.
    """
    if target.suffix == ".html":
        text = result.privacy.html(include_operator_data=include_operator_data)
        write_all({target: text.encode()})
        return "<svg" in text
    try:
        picture = plots.accuracy_and_epsilon(
            [step.accuracy for step in result.history],
            [step.epsilon for step in result.history],
            result.accuracy_without_privacy,
            shown.title,
        )
    except MissingExtraError:
        picture = None
    write(shown, target, picture)
    return picture is not None


def _result_table(result: demo.Result) -> dict[str, str]:
    options = result.options
    return {
        "data set": f"{result.dataset} ({result.num_train} training records, {result.num_test} test records)",
        "clients": f"{options.clients}, {options.lost_a_round} lost in each round at a random phase "
        f"({result.lost} losses in all)",
        "rounds": f"{options.rounds} ({result.aborted} aborted)",
        "model": f"CNN with {result.num_parameters} parameters",
        "accuracy, private": f"{result.accuracy:.4f}",
        "accuracy, the same without privacy": f"{result.accuracy_without_privacy:.4f}",
    }


def _guarantee_table(result: demo.Result) -> dict[str, str]:
    guarantee = result.guarantee
    return {
        "epsilon": f"{_rounded_up(guarantee.epsilon)} (upper bound, by {guarantee.accountant})",
        "delta": f"{guarantee.delta:g}",
        "unit": "one record" + (", towards its own client alone" if guarantee.noise == "local" else ""),
        "neighbours": _RELATIONS[guarantee.neighboring_relation],
        "sampler": guarantee.sampler,
        "noise": f"{_NOISES[guarantee.noise]}, multiplier {guarantee.noise_multiplier:.4f}",
        "rounds charged": str(guarantee.rounds_charged),
        "declared public": ", ".join(guarantee.declared_public),
    }


def _time_table(result: demo.Result) -> dict[str, str]:
    parts = {_PARTS[name]: f"{seconds:.2f} s" for name, seconds in result.seconds.items()}
    return parts | {"bytes a client sent, all rounds": f"{result.bytes_per_client:,.0f}"}


def _guarantee_sentence(result: demo.Result) -> str:
    guarantee = result.guarantee
    return (
        f"Whoever sees every released model learns at most epsilon = {_rounded_up(guarantee.epsilon)} "
        f"(delta = {guarantee.delta:g}) about whether any one record was in the training data."
    )


def _warnings(result: demo.Result) -> list[str]:
    return [f"Note: {warning}." for warning in result.guarantee.warnings]


_NOT_COVERED = (
    "Not covered: accuracy on the test records, which are taken as public; the numbers of clients and "
    "records, how records are spread over clients, who took part and when."
)


def _rounded_up(epsilon: float) -> str:
    return f"{math.ceil(epsilon * 1e4) / 1e4:.4f}" if math.isfinite(epsilon) else "infinite"
