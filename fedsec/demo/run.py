"""The main job: private, securely aggregated training on real handwritten digits, in one process.

Each round every client draws a Poisson sample of its own records, sums their clipped gradients, and the
sums are securely aggregated; the server sees only the total, adds noise and steps. A share of the
clients is lost in each round, each at a random phase of the protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import TensorDataset

from fedsec import sampling
from fedsec._checks import real, whole
from fedsec.demo.data import DataSet
from fedsec.demo.models import Recipe, recipe, small_cnn
from fedsec.errors import InvalidArgumentError
from fedsec.federated import FedAvg, Federation, Guarantee, Round, RoundMetrics, Simulation, simulate
from fedsec.federated.aggregation import Schedule
from fedsec.federated.partition import dirichlet
from fedsec.federated.round import PHASES
from fedsec.report import PrivacyReport

# Label skew of the clients [Hsu, Qi, Brown 2019]: moderate, most clients lack some digits.
CONCENTRATION = 1.0
# Enough test records to follow a run by; the final accuracy takes them all.
_PROGRESS_RECORDS = 1000


@dataclass(frozen=True)
class Options:
    """What a user may choose of the demo."""

    clients: int = 10
    rounds: int = 100
    dropout: float = 0.1
    target_epsilon: float = 3.0
    target_delta: float = 1e-5
    noise: str = "central"
    seed: int = 0

    def __post_init__(self) -> None:
        whole("clients", self.clients, minimum=2, maximum=255)
        whole("rounds", self.rounds, minimum=1)
        whole("seed", self.seed, minimum=0)
        if not 0.0 <= real("dropout", self.dropout) <= 1.0:
            raise InvalidArgumentError(f"dropout must be in [0, 1], got {self.dropout!r}")

    @property
    def lost_a_round(self) -> int:
        """Exactly this many clients are lost in each round."""
        return round(self.dropout * self.clients)


@dataclass(frozen=True)
class Progress:
    """One round, for a progress bar and for the curves of a report."""

    round_id: int
    accuracy: float
    epsilon: float
    survivors: int
    aborted: bool


@dataclass(frozen=True)
class Result:
    """What a run of the demo measured."""

    dataset: str
    options: Options
    recipe: Recipe
    num_parameters: int
    num_train: int
    num_test: int
    accuracy: float
    accuracy_without_privacy: float
    guarantee: Guarantee
    aborted: int
    lost: int
    seconds: dict[str, float]
    bytes_per_client: float
    history: list[Progress] = field(repr=False)
    privacy: PrivacyReport = field(repr=False)


def run(
    data: DataSet, options: Options, on_round: Callable[[Progress], None] = lambda progress: None
) -> Result:
    """Trains with privacy, then the same without, and returns what was measured.

    `on_round` is called after each private round. Torch threads are the caller's to set.
    """
    started = time.perf_counter()
    chosen = recipe(data)
    shards = _shards(data, options)
    private, done = _train_privately(data, shards, options, chosen, on_round)
    trained = time.perf_counter()
    plain = _train_plainly(data, shards, options, chosen)
    reached = {"accuracy on test records": accuracy(private.model, data)}
    return Result(
        dataset=data.name,
        options=options,
        recipe=chosen,
        num_parameters=private.plan.dimension,
        num_train=len(data.train_targets),
        num_test=len(data.test_targets),
        accuracy=reached["accuracy on test records"],
        accuracy_without_privacy=accuracy(plain.model, data),
        guarantee=private.spent(),
        lost=options.lost_a_round * len(done.history),
        aborted=done.aborted,
        seconds=_seconds(done)
        | {"total": trained - started, "without privacy": time.perf_counter() - trained},
        bytes_per_client=done.bytes_per_client,
        history=[_progress(metrics) for metrics in done.history],
        privacy=PrivacyReport.of(
            private,
            title=f"Privacy report: fedsec demo, {data.name}",
            results={"data set": data.name, **reached},
            rounds=[metrics.report for metrics in done.history if metrics.report is not None],
        ),
    )


def _train_privately(
    data: DataSet,
    shards: list[TensorDataset],
    options: Options,
    chosen: Recipe,
    on_round: Callable[[Progress], None],
) -> tuple[Federation, Simulation]:
    federation = Federation(
        _model(data, options),
        num_clients=options.clients,
        num_rounds=options.rounds,
        unit="record",
        l2_clip_norm=chosen.l2_clip_norm,
        target_epsilon=options.target_epsilon,
        target_delta=options.target_delta,
        noise=options.noise,
        dropout_fraction=options.dropout if options.noise == "distributed" else None,
        sampling_probability=chosen.sampling_probability,
        num_records=len(data.train_targets),
        strategy=FedAvg(chosen.learning_rate, chosen.momentum),
    )

    def contribute(rnd: Round, client: int) -> None:
        rnd.submit_records(client, shards[client], cross_entropy)

    done = simulate(
        federation,
        contribute,
        losses=_losses(options),
        evaluate=lambda model: {"accuracy": accuracy(model, data, _PROGRESS_RECORDS)},
        on_round=lambda metrics: on_round(_progress(metrics)),
    )
    return federation, done


def _train_plainly(
    data: DataSet, shards: list[TensorDataset], options: Options, chosen: Recipe
) -> Federation:
    """The same sampling, rounds and losses of clients, without clipping, noise or masks."""
    federation = Federation(
        _model(data, options),
        num_clients=options.clients,
        num_rounds=options.rounds,
        secure_aggregation=False,
        strategy=FedAvg(momentum=chosen.momentum),
    )

    def contribute(rnd: Round, client: int) -> None:
        local, weight = _plain_step(rnd.model(), shards[client], chosen)
        if weight:
            rnd.submit(client, local, weight)

    simulate(federation, contribute, losses=_losses(options))
    return federation


def _plain_step(model: torch.nn.Module, shard: TensorDataset, chosen: Recipe) -> tuple[torch.nn.Module, int]:
    """One step of SGD on a Poisson sample, and the sample's size, the client's weight in the mean."""
    inputs, targets = shard[torch.from_numpy(sampling.poisson(len(shard), chosen.sampling_probability))]
    if len(targets):
        optimizer = torch.optim.SGD(model.parameters(), lr=chosen.plain_learning_rate)
        torch.autograd.backward(torch.nn.functional.cross_entropy(model(inputs), targets))
        optimizer.step()
    return model, len(targets)


def _losses(options: Options) -> Schedule:
    """The same number of clients is lost in each round, at random phases."""

    def lost(round_id: int, cohort: tuple[int, ...]) -> dict[int, str]:
        rng = np.random.default_rng((options.seed, round_id))
        gone = rng.choice(cohort, options.lost_a_round, replace=False)
        return {int(client): str(rng.choice(PHASES)) for client in gone}

    return lost


def _progress(metrics: RoundMetrics) -> Progress:
    figures = metrics.operator_only
    return Progress(
        round_id=metrics.round_id,
        accuracy=metrics.metrics["accuracy"],
        epsilon=metrics.epsilon,
        survivors=len(figures.survivors) if figures else 0,
        aborted=metrics.aborted,
    )


def _seconds(done: Simulation) -> dict[str, float]:
    """By part, all rounds together."""
    total: dict[str, float] = {}
    for metrics in done.history:
        for part, seconds in (metrics.operator_only.seconds if metrics.operator_only else {}).items():
            total[part] = total.get(part, 0.0) + seconds
    return total


def accuracy(model: torch.nn.Module, data: DataSet, limit: int | None = None) -> float:
    """The share of (the first `limit`) test records that the model labels right."""
    inputs, targets = torch.from_numpy(data.test_inputs[:limit]), torch.from_numpy(data.test_targets[:limit])
    with torch.no_grad():
        batches = zip(inputs.split(1000), targets.split(1000), strict=True)  # type: ignore[no-untyped-call]
        right = sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in batches)
    return right / len(targets)


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One loss a record."""
    return torch.nn.functional.cross_entropy(output, target, reduction="none")


def _model(data: DataSet, options: Options) -> torch.nn.Module:
    torch.manual_seed(options.seed)
    return small_cnn(data.train_inputs.shape[1:], data.num_classes)


def _shards(data: DataSet, options: Options) -> list[TensorDataset]:
    inputs, targets = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_targets)
    parts = dirichlet(data.train_targets, options.clients, CONCENTRATION, options.seed)
    return [TensorDataset(inputs[part], targets[part]) for part in parts]
