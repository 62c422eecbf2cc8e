"""Other simulators with the training of `measure.simulator`, as `fedsec[simulators]` installs them.

pfl runs in this process, like fedsec. Flower's clients are actors of Ray, in processes of their own, which
are counted with Ray's; one actor, so that one client is at work at a time. All in CPU seconds, without
secure aggregation, which neither has for a simulation.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch


class Training(Protocol):
    """A model, and what a client does with a copy of it."""

    model: torch.nn.Module

    def __call__(self, local: torch.nn.Module, client: int) -> None:
        """Trains the copy in place."""
        ...


def missing() -> list[str]:
    """Which of the peers are not installed."""
    return [name for name in ("pfl", "flwr", "ray") if find_spec(name) is None]


def versions() -> dict[str, str]:
    """The releases of those that are."""
    return {name: version(name) for name in ("pfl", "flwr", "ray") if find_spec(name)}


def pfl_round(num_clients: int, train: Training, *, private: bool = False) -> None:
    """Federated averaging by pfl: one round of all clients, on its simulated backend."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel
    from pfl.privacy.gaussian_mechanism import GaussianMechanism
    from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism

    class Averaging(FederatedAveraging):  # type: ignore[misc, unused-ignore]
        """With the training that all sides have in common."""

        def train_one_user(self, initial: Any, model: Any, user_dataset: Any, central_context: Any) -> Any:
            train(model.pytorch_model, int(user_dataset.user_id))
            return model.get_model_difference(initial), Metrics()

    local: Any = copy.deepcopy(train.model)
    local.loss = local.metrics = None  # asked for at construction, and not called here
    wrapped = PyTorchModel(local, torch.optim.SGD, torch.optim.SGD(local.parameters(), lr=1.0))
    users = {str(client): [np.zeros(1, np.float32)] for client in range(num_clients)}
    data = FederatedDataset.from_slices(users, get_user_sampler("minimize_reuse", list(users)))
    noise = CentrallyAppliedPrivacyMechanism(GaussianMechanism(1.0, 1.0))
    backend = SimulatedBackend(data, data, postprocessors=[noise] if private else [])
    said = NNAlgorithmParams(
        central_num_iterations=1, evaluation_frequency=2**31, train_cohort_size=num_clients, val_cohort_size=0
    )
    steps = NNTrainHyperParams(local_learning_rate=0.01, local_num_epochs=1, local_batch_size=None)
    algorithm = Averaging()
    (context,), wrapped, _ = algorithm.get_next_central_contexts(wrapped, 0, said, steps)
    # The first round would evaluate each client before and after its training, whatever the frequency.
    context = replace(context, do_evaluation=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, about how pfl adds noise
        statistics, metrics = backend.gather_results(wrapped, algorithm, central_context=context)
        algorithm.process_aggregated_statistics(context, metrics, wrapped, statistics)


def flower_rounds(num_clients: int, make: Callable[[], Training], turns: int) -> list[float]:
    """Flower's simulation: CPU seconds a client beside its training, in each round after the first.

    Parameters
    ----------
    make : callable
        It is pickled to the actor with every message, so that what it makes must be kept where it is defined.
    """
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    beside: list[float] = []

    def work(message: Any, context: Any) -> Any:
        torch.set_num_threads(1)
        train = make()
        local = copy.deepcopy(train.model)
        local.load_state_dict(message.content["arrays"].to_torch_state_dict())
        started = time.process_time()
        train(local, int(context.node_config["partition-id"]))
        metrics = {"num-examples": 1, "seconds": time.process_time() - started}
        content = {"arrays": ArrayRecord(local.state_dict()), "metrics": MetricRecord(metrics)}
        return Message(RecordDict(content), reply_to=message)

    class Timed(FedAvg):  # type: ignore[misc, unused-ignore]
        """Federated averaging, and what its rounds took."""

        def configure_train(self, *args: Any, **kwargs: Any) -> Any:
            self.started = _cpu_seconds()
            return super().configure_train(*args, **kwargs)

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            done = super().aggregate_train(server_round, replies)
            taken = _cpu_seconds() - self.started
            trained = [reply.content["metrics"]["seconds"] for reply in replies if reply.has_content()]
            if server_round > 1:  # the first one starts the actor
                beside.append((taken - sum(trained)) / len(trained))
            return done

    def serve(grid: Any, _: Any) -> None:
        everybody = {"min_train_nodes": num_clients, "min_available_nodes": num_clients}
        strategy = Timed(fraction_evaluate=0.0, **everybody)
        strategy.start(grid, ArrayRecord(make().model.state_dict()), num_rounds=turns + 1)

    client_app: Any = ClientApp()
    client_app.train()(work)
    server_app: Any = ServerApp()
    server_app.main()(serve)
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's advice
        run_simulation(
            server_app,
            client_app,
            num_clients,
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                "init_args": {"num_cpus": 1, "log_to_driver": False},
            },
        )
    return beside


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Flower's log, telemetry and advice."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _cpu_seconds() -> float:
    """Of this process and all that it has started, those included that have ended (Linux)."""
    ticks, parents = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            values = stat.read_text().rpartition(")")[2].split()
            pid = int(stat.parent.name)
            parents[pid], ticks[pid] = int(values[1]), sum(map(int, values[11:15]))

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_ours(parents[pid]))

    return sum(ticks[pid] for pid in ticks if is_ours(pid)) / os.sysconf("SC_CLK_TCK")
