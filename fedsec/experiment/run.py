"""An experiment: data, clients, model and federation as a configuration says, run and written down."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.data import Subset, TensorDataset

from fedsec.errors import BudgetExceededError, InvalidArgumentError, MissingExtraError
from fedsec.experiment import models
from fedsec.experiment.config import Algorithm, Config, Training
from fedsec.experiment.folder import Folder
from fedsec.experiment.records import Records, divide, load, loss_of
from fedsec.federated import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    Federation,
    FedYogi,
    Losses,
    RoundMetrics,
    Strategy,
    partition,
    proximal_term,
    simulate,
)
from fedsec.federated.simulation import AGGREGATIONS, mean_phases
from fedsec.report import PrivacyReport, plots

_STRATEGIES: dict[str, type[Strategy]] = {
    "fedavg": FedAvg,
    "fedprox": FedAvg,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}
_MU = 0.01
_EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _MOMENTUM = 1, 32, 0.1, 0.0


@dataclass(frozen=True, eq=False)
class Clients:
    """What all clients do; goes to worker processes as it is."""

    dataset: TensorDataset
    parts: list[Any]
    training: Training
    mu: float
    records: bool
    weighted: bool

    def __call__(self, rnd: Any, client: int) -> None:
        """One client's turn."""
        own = Subset(self.dataset, self.parts[client])
        if self.records:
            rnd.submit_records(client, own, loss_of)
            return
        weight = float(len(own)) if self.weighted else 1.0
        rnd.submit(client, self._trained(rnd.model(), self.parts[client]), weight)

    def _trained(self, start: torch.nn.Module, part: Any) -> torch.nn.Module:
        """SGD over shuffled batches."""
        t, rows = self.training, torch.from_numpy(part)
        local = copy.deepcopy(start)
        optimizer = torch.optim.SGD(
            local.parameters(),
            lr=_LEARNING_RATE if t.learning_rate is None else t.learning_rate,
            momentum=_MOMENTUM if t.momentum is None else t.momentum,
        )
        for _ in range(_EPOCHS if t.epochs is None else t.epochs):
            order = rows[torch.randperm(len(rows))]
            for batch in order.split(_BATCH_SIZE if t.batch_size is None else t.batch_size):  # type: ignore[no-untyped-call]
                inputs, targets = self.dataset[batch]
                optimizer.zero_grad()
                loss = loss_of(local(inputs), targets)
                if self.mu:
                    loss = loss + proximal_term(local, start, self.mu)
                torch.autograd.backward(loss)
                optimizer.step()
        return local


class Experiment:
    """A configuration with everything built that can be refused: records, clients, model, federation.

    Parameters
    ----------
    config : Config
    records : Records, optional
        Those that the configuration names, where they have been loaded before.

    Raises
    ------
    FedsecError
        What data, partitions, models and federations refuse.
    """

    def __init__(self, config: Config, records: Records | None = None) -> None:
        _check_training(config.training)
        self.config = config
        self.records = load(config) if records is None else records
        self.parts = divide(self.records, config)
        self.federation = _federation(config, self.records, len(self.parts))
        self._losses = Losses(
            **{k: v for k, v in asdict(config.losses).items() if v is not None}, seed=config.seed
        )
        if config.rounds.stop_accuracy is not None and not self.records.labelled:
            raise InvalidArgumentError("rounds.stop_accuracy needs labels, and the targets are numbers")

    def run(self, *, workers: int = 0, progress: bool = False, resume: bool = False) -> dict[str, Any]:
        """Runs all rounds, or those that are left, and returns what `result.json` holds.

        Parameters
        ----------
        workers : int
            Processes in which clients train; see `simulate`.
        progress : bool
            A bar on standard error, where that is a terminal.
        resume : bool
            Whether to go on where a run with this configuration, in the same folder, was ended.

        Raises
        ------
        InvalidArgumentError
            The folder holds a run already, or one of another configuration.
        """
        output, folder = self.config.output, self.folder(resume=resume)
        if folder is not None and (done := folder.result()) is not None:
            self._require_same(done["config"])
            return done
        rows = self._resumed(folder)
        reports: list[Any] = []

        def hear(metrics: RoundMetrics) -> None:
            rows.append(metrics.record(output.include_operator_data))
            if metrics.report is not None and output.include_operator_data:
                reports.append(metrics.report)
            if folder is not None:
                folder.add(rows[-1], self._state(rows))

        started = time.perf_counter()
        ended = self._train(hear, workers, progress)
        result = self._result(rows, ended, time.perf_counter() - started)
        if folder is not None:
            folder.save(self._state(rows))  # a target that was reached is charged as all planned rounds
            folder.finish(result, rows, self._files(result, rows, reports))
        return result

    def folder(self, *, resume: bool) -> Folder | None:
        """Where the run goes; refused if there is one already, but to go on with it."""
        path = self.config.output.folder
        return None if path is None else Folder(self.config.path(path), resume=resume)

    def _train(self, hear: Any, workers: int, progress: bool) -> str:
        """Why the run ended."""
        rounds, last = self.config.rounds, ""

        def stop(metrics: RoundMetrics) -> bool:
            nonlocal last
            reached = metrics.metrics
            if rounds.stop_accuracy is not None and reached["accuracy"] >= rounds.stop_accuracy:
                last = "the accuracy to stop at was reached"
            elif rounds.stop_loss is not None and reached["loss"] <= rounds.stop_loss:
                last = "the loss to stop at was reached"
            return bool(last)

        try:
            simulate(
                self.federation,
                Clients(
                    TensorDataset(self.records.inputs, self.records.targets),
                    self.parts,
                    self.config.training,
                    _mu(self.config.algorithm),
                    records=self.config.privacy.unit == "record",
                    weighted=not self.federation.settings.private,
                ),
                losses=self._losses,
                evaluate=self.records.evaluate,
                on_round=hear,
                stop=stop,
                progress=progress,
                workers=workers,
                seed=self.config.seed,
            )
        except BudgetExceededError as error:
            return f"the budget: {error}"
        return last or ("all rounds" if rounds.num_rounds is not None else "the budget is spent")

    # ---- what is written down

    def _result(self, rows: list[dict[str, Any]], ended: str, seconds: float) -> dict[str, Any]:
        guarantee = asdict(self.federation.spent())
        reached = self.records.evaluate(self.federation.model)
        return {
            **reached,
            "epsilon": guarantee["epsilon"],
            "delta": guarantee["delta"],
            "rounds": len(rows),
            "rounds_aborted": sum(bool(row["aborted"]) for row in rows),
            "ended": ended,
            "clients": len(self.parts),
            "num_parameters": self.federation.plan.dimension,
            "num_train": len(self.records.targets),
            "num_test": len(self.records.test_targets),
            "seconds": seconds,
            "aggregation": AGGREGATIONS[self.federation.settings.secure_aggregation],
            "guarantee": guarantee,
            "config": _plain(self.config),
            "history": rows,
        }

    def _files(
        self, result: Mapping[str, Any], rows: list[dict[str, Any]], reports: list[Any]
    ) -> dict[str, bytes]:
        """The privacy report of a private run, and pictures where matplotlib is installed."""
        files = {}
        if self.federation.settings.private:
            report = PrivacyReport.of(
                self.federation,
                title="Privacy report of a simulated federation",
                results={
                    "data": self.config.data.source,
                    **{f"{name} on test records": value for name, value in self._reached(result).items()},
                    "rounds": result["rounds"],
                    "ended": result["ended"],
                    "aggregation": result["aggregation"],
                },
                rounds=reports,
            )
            operator = self.config.output.include_operator_data
            files["report.html"] = report.html(include_operator_data=operator).encode()
        try:
            return files | self._pictures(rows)
        except MissingExtraError:
            return files

    def _reached(self, result: Mapping[str, Any]) -> dict[str, float]:
        return {name: result[name] for name in ("accuracy", "loss") if name in result}

    def _pictures(self, rows: list[dict[str, Any]]) -> dict[str, bytes]:
        title = f"{self.config.data.source}, {self.config.algorithm.name}"
        epsilon = [row["epsilon"] for row in rows]
        files = {}
        if self.records.labelled:
            reached = [row["accuracy"] for row in rows]
            files["rounds.png"] = plots.accuracy_and_epsilon(reached, epsilon, None, title)
        elif self.federation.settings.private:
            files["rounds.png"] = plots.epsilon_over_rounds(epsilon, title)
        if self.records.labelled:
            counts = partition.label_counts(self.records.targets.numpy(), self.parts)
            files["labels.png"] = plots.label_counts(counts)
        if phases := mean_phases(rows):
            files["phases.png"] = plots.aggregation_by_phase(phases)
        return files

    # ---- at rest

    def _state(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "config": _plain(self.config),
            "rows": rows,
            "model": self.federation.model.state_dict(),
            "federation": self.federation.state_dict(),
        }

    def _resumed(self, folder: Folder | None) -> list[dict[str, Any]]:
        """The rounds so far, with the federation as it was after them."""
        state = None if folder is None else folder.state()
        rows: list[dict[str, Any]] = []
        if state is not None:
            self._require_same(state["config"])
            self.federation.model.load_state_dict(state["model"])
            self.federation.load_state_dict(state["federation"])
            rows = list(state["rows"])
        if folder is not None:
            folder.begin(rows)
        return rows

    def _require_same(self, theirs: Mapping[str, Any]) -> None:
        mine = _plain(self.config)
        for table in sorted(mine.keys() | theirs.keys()):
            ours, saved = mine.get(table), theirs.get(table)
            if ours != saved:
                raise InvalidArgumentError(
                    f"output.folder holds a run of another configuration: {table} is {saved!r} there, "
                    f"and {ours!r} now"
                )


def _plain(config: Config) -> dict[str, Any]:
    """The configuration as JSON would give it back."""
    return {
        table: {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        if isinstance(values, dict)
        else values
        for table, values in config.values().items()
    }


def _federation(config: Config, records: Records, clients: int) -> Federation:
    privacy, rounds = asdict(config.privacy), asdict(config.rounds)
    secure = asdict(config.aggregation)
    return Federation(
        models.build(config, records),
        num_clients=clients,
        **{name: rounds[name] for name in ("num_rounds", "cohort_size", "sampling_probability")},
        **privacy,
        num_records=len(records.targets) if config.privacy.unit == "record" else None,
        secure_aggregation=secure.pop("secure"),
        **secure,
        strategy=_strategy(config.algorithm),
    )


def _strategy(algorithm: Algorithm) -> Strategy:
    given = {name: v for name, v in asdict(algorithm).items() if name not in ("name", "mu") and v is not None}
    return _STRATEGIES[algorithm.name](**given)


def _mu(algorithm: Algorithm) -> float:
    if algorithm.name != "fedprox":
        return 0.0
    return _MU if algorithm.mu is None else algorithm.mu


def _check_training(training: Training) -> None:
    for name, value in asdict(training).items():
        if value is not None and not (value >= 0 if name == "momentum" else value > 0):
            allowed = "at least 0" if name == "momentum" else "positive"
            raise InvalidArgumentError(f"training.{name} must be {allowed}, got {value!r}")
