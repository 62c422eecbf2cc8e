"""A whole federation on this machine: who is lost when, what each round measured, and where that is written.

`simulate` drives a `Federation` as a deployment would, one client at a time, or as many as there are worker
processes: a contribution is masked and added as soon as it is there, so that memory holds one client's update
beside the sum. Cohorts, noise and
masks come from the operating system as always; partitions, models and the schedule of lost clients come
from seeds.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from fedsec._checks import probability, whole
from fedsec.errors import AggregationAborted, InvalidArgumentError, InvalidTypeError
from fedsec.federated.aggregation import Schedule, uploads
from fedsec.federated.federation import Federation
from fedsec.federated.plan import Guarantee
from fedsec.federated.round import PHASES, OperatorFigures, Round, RoundReport
from fedsec.federated.settings import SESSION_KEY
from fedsec.federated.workers import Contribute, Train, trainer

Evaluate = Callable[[torch.nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Losses:
    """Who is lost in which round and phase, by chance; the same seed gives the same losses for a cohort.

    Parameters
    ----------
    dropout : float in [0, 1]
        The probability that a client is lost, at one of `phases`, uniformly.
    straggling : float in [0, 1]
        The probability that one who is not is too late with its upload, which then does not count.
    phases : tuple of str
    seed : int
    """

    dropout: float = 0.0
    straggling: float = 0.0
    phases: tuple[str, ...] = ("advertise", "share", "upload", "unmask")
    seed: int = 0

    def __post_init__(self) -> None:
        probability("dropout", self.dropout)
        probability("straggling", self.straggling)
        whole("seed", self.seed, minimum=0)
        for phase in self.phases or ("none",):
            if phase not in PHASES:
                raise InvalidArgumentError(f"phases must be of {', '.join(PHASES)}, got {phase!r}")

    def __call__(self, round_id: int, cohort: tuple[int, ...]) -> dict[int, str]:
        """The lost clients of a round, each with its phase."""
        rng = np.random.default_rng((self.seed, round_id))
        dropped = rng.random(len(cohort)) < self.dropout
        late = rng.random(len(cohort)) < self.straggling
        phases = rng.choice(self.phases, len(cohort))
        lost = {c: str(phase) for c, phase, is_lost in zip(cohort, phases, dropped, strict=True) if is_lost}
        return lost | {c: "upload" for c, too in zip(cohort, late, strict=True) if too and c not in lost}


@dataclass(frozen=True)
class RoundMetrics:
    """What one round of a simulation gave.

    `metrics` are what `evaluate` returned; `report` is the round's own, None if it was aborted.
    """

    round_id: int
    epsilon: float
    metrics: Mapping[str, float]
    seconds: float
    report: RoundReport | None = field(repr=False)

    @property
    def aborted(self) -> bool:
        """Whether too few clients were left."""
        return self.report is None

    @property
    def operator_only(self) -> OperatorFigures | None:
        """Exact figures that no guarantee covers; None for a round that was aborted."""
        return None if self.report is None else self.report.operator_only

    def record(self, include_operator_data: bool = False) -> dict[str, Any]:
        """Flat values for a line of CSV or JSON; what no guarantee covers only when asked for."""
        plain = {"round": self.round_id, "aborted": self.aborted, "epsilon": self.epsilon, **self.metrics}
        if not include_operator_data:
            return plain
        figures = self.operator_only
        return plain | {
            "seconds": self.seconds,
            "survivors": len(figures.survivors) if figures else 0,
            "dropped": len(figures.dropped) if figures else None,
            "clipped_fraction": figures.clipped_fraction if figures else None,
            "bytes_per_client": figures.bytes_per_client if figures else None,
            **{f"seconds_{part}": (figures.seconds if figures else {}).get(part) for part in _PARTS},
            **{
                f"seconds_{phase}_{side}": (figures.phases if figures else {}).get(phase, {}).get(side)
                for phase in PHASES
                for side in _SIDES
            },
        }


_PARTS = ("masking", "unmasking", "noise")
_SIDES = ("client", "server")


def mean_phases(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Seconds of secure aggregation by phase, the mean over rounds: {phase: {"client": s, "server": s}}.

    From records with operator data; phases that no round has are left out.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        for phase in PHASES:
            for side in _SIDES:
                if (seconds := record.get(f"seconds_{phase}_{side}")) is not None:
                    found.setdefault(phase, {}).setdefault(side, []).append(seconds)
    return {
        phase: {side: sum(taken) / len(taken) for side, taken in sides.items()}
        for phase, sides in found.items()
    }


@dataclass(frozen=True)
class Simulation:
    """What a simulation gave.

    `aggregation` says what the masks were; a rehearsal is never called the protocol. `bytes_per_client` is
    the most that one client sent in a round, summed over rounds.
    """

    guarantee: Guarantee
    aggregation: str
    history: tuple[RoundMetrics, ...] = field(repr=False)
    seconds: float
    bytes_per_client: float

    @property
    def aborted(self) -> int:
        """How many rounds had too few survivors."""
        return sum(one.aborted for one in self.history)

    def record(self, include_operator_data: bool = False) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "guarantee": asdict(self.guarantee),
            "aggregation": self.aggregation,
            "rounds": [one.record(include_operator_data) for one in self.history],
            **({"bytes_per_client": self.bytes_per_client} if include_operator_data else {}),
        }


def simulate(
    federation: Federation,
    contribute: Contribute,
    *,
    losses: Schedule | Mapping[int, Mapping[int, str]] | None = None,
    evaluate: Evaluate | None = None,
    on_round: Callable[[RoundMetrics], object] | None = None,
    stop: Callable[[RoundMetrics], bool] | None = None,
    log: str | Path | None = None,
    include_operator_data: bool = False,
    progress: bool = False,
    workers: int = 0,
    seed: int | None = None,
) -> Simulation:
    """Runs all rounds of a federation on this machine.

    Parameters
    ----------
    federation : Federation
        Its model is trained in place.
    contribute : callable
        ``contribute(rnd, client)`` trains one client and hands in what it has: ``rnd.submit(client, ...)`` or
        ``rnd.submit_records(client, ...)``. It is called for clients that live to upload, one at a time; one
        for which it submits nothing is lost at its upload. With `workers` it is pickled, once, and so are its
        data; what it changes stays in the process where it runs, which is always the same for one client.
    losses : Losses, a callable, or {round: {client: phase}}, optional
        Who is lost. A round with too few survivors is aborted, and counts as one of the rounds.
    evaluate : callable, optional
        ``evaluate(model)`` after each round: a dictionary of numbers, on public data.
    on_round : callable, optional
        Hears of each round's `RoundMetrics`.
    stop : callable, optional
        True ends the run; see `Federation.rounds` for what that does to the guarantee.
    log : path, optional
        A ``.csv`` or ``.jsonl`` file that is written round by round; an older one is replaced.
    include_operator_data : bool
        Whether the log has figures that no guarantee covers, such as the number of survivors.
    progress : bool
        A bar on the terminal, on standard error.
    workers : int >= 0
        In how many processes clients are trained, each with one thread of torch and at most one update on its
        way; 0: in this one. A script that asks for some must do so under ``if __name__ == "__main__"``.
    seed : int >= 0, optional
        Seeds the global generators of Python, numpy and torch for each client's turn, so that what clients
        learn from the same model is the same in every run, with any number of workers. Cohorts, rounding,
        noise and masks are the operating system's all the same.

    Returns
    -------
    Simulation

    Raises
    ------
    InvalidArgumentError, InvalidTypeError
        An argument is not what it should be.
    BudgetExceededError
        As for `Federation.rounds`. Whatever `contribute` raises is passed on.
    WorkerLostError
        A worker process has been killed, or could not start.
    """
    for name, call in {"contribute": contribute, "evaluate": evaluate, "stop": stop}.items():
        if call is not None and not callable(call):
            raise InvalidTypeError(f"{name} must be callable, got {call!r}")
    history: list[RoundMetrics] = []
    hearers: list[Callable[[RoundMetrics], object]] = [history.append]
    started = time.perf_counter()
    whole("workers", workers, minimum=0)
    if seed is not None:
        whole("seed", seed, minimum=0)
    with (
        _log(log, include_operator_data) as written,
        _bar(federation, progress) as shown,
        trainer(contribute, workers, seed) as train,
    ):
        hearers += [one for one in (written, shown, on_round) if one is not None]
        halted = None if stop is None else (lambda _report: bool(stop(history[-1])))
        for rnd in federation.rounds(stop=halted, lost=_schedule(losses)):
            metrics = _run(federation, rnd, train, evaluate)
            for hear in hearers:
                hear(metrics)
    sent = [one.operator_only.bytes_per_client for one in history if one.operator_only]
    return Simulation(
        guarantee=federation.spent(),
        aggregation=AGGREGATIONS[federation.settings.secure_aggregation],
        history=tuple(history),
        seconds=time.perf_counter() - started,
        bytes_per_client=sum(sent),
    )


# What the masks of a federation are, in words.
AGGREGATIONS = {
    True: "secure aggregation, all parties in one process",
    False: "sums in the clear",
    SESSION_KEY: "a rehearsal: masks from one session key, which hide nothing from whoever runs it",
}


def _run(federation: Federation, rnd: Round, train: Train, evaluate: Evaluate | None) -> RoundMetrics:
    started = time.perf_counter()
    report = _finished(rnd, train)
    return RoundMetrics(
        round_id=rnd.round_id,
        epsilon=(federation.spent() if report is None else report.released).epsilon,
        metrics=dict(evaluate(federation.model)) if evaluate is not None else {},
        seconds=time.perf_counter() - started,
        report=report,
    )


def _finished(rnd: Round, train: Train) -> RoundReport | None:
    """The round's report, or None where too few clients were left."""
    try:
        train(rnd, [client for client in rnd.cohort if uploads(client, rnd.drops)])
        return rnd.finish()
    except AggregationAborted:
        return None


def _schedule(losses: Schedule | Mapping[int, Mapping[int, str]] | None) -> Schedule:
    if losses is None:
        return lambda _round_id, _cohort: {}
    if isinstance(losses, Mapping):
        planned = losses
        return lambda round_id, cohort: {
            client: phase for client, phase in planned.get(round_id, {}).items() if client in cohort
        }
    if not callable(losses):
        raise InvalidTypeError(f"losses must be Losses, a callable or a mapping by round, got {losses!r}")
    return losses


@contextmanager
def _log(path: str | Path | None, operator: bool) -> Iterator[Callable[[RoundMetrics], object] | None]:
    """Writes each round's line as soon as it is known."""
    if path is None:
        yield None
        return
    kind = Path(path).suffix
    if kind not in (".csv", ".jsonl"):
        raise InvalidArgumentError(f"log must end in .csv or .jsonl, got {str(path)!r}")
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        write = _csv_lines(file) if kind == ".csv" else lambda row: file.write(_json_line(row))

        def hear(metrics: RoundMetrics) -> None:
            write(metrics.record(operator))
            file.flush()

        yield hear


def _json_line(row: dict[str, Any]) -> str:
    """JSON has no infinity, which epsilon is without privacy, and no NaN: they become null."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"


def _csv_lines(file: IO[str]) -> Callable[[dict[str, Any]], object]:
    writer: csv.DictWriter[str] | None = None

    def write(row: dict[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
        writer.writerow(row)

    return write


@contextmanager
def _bar(federation: Federation, wanted: bool) -> Iterator[Callable[[RoundMetrics], object] | None]:
    columns = (
        TextColumn("round"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("epsilon {task.fields[epsilon]:.3g} {task.fields[metrics]}"),
        TimeRemainingColumn(),
    )
    with _progress(columns) if wanted else nullcontext() as bar:
        if bar is None:
            yield None
            return
        task = bar.add_task(
            "",
            total=federation.settings.num_rounds or federation.plan.planned_charges,
            epsilon=0.0,
            metrics="",
        )

        def hear(one: RoundMetrics) -> None:
            shown = " ".join(f"{name} {value:.4g}" for name, value in one.metrics.items())
            bar.update(task, completed=one.round_id, epsilon=one.epsilon, metrics=shown)

        yield hear


def _progress(columns: Iterable[ProgressColumn]) -> Progress:
    """On standard error, and only where somebody looks."""
    console = Console(stderr=True)
    return Progress(
        *columns, console=console, transient=True, disable=not (console.is_terminal or console.is_jupyter)
    )
